//! `cargo xtask sim`: as many runs of the simulation at once as there are processors.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

/// Seeds given to one process; far more than a long run uses.
const SEEDS_EACH: u64 = 1 << 32;

/// Runs until the hours have passed in simulated clusters; true when no promise was broken.
pub fn run(hours: f64, seed: Option<u64>) -> Result<bool> {
    let build = [
        "build",
        "--release",
        "-p",
        "coxswain-sim",
        "--message-format=json-render-diagnostics",
    ];
    let output = Command::new(env!("CARGO"))
        .args(build)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("the simulation does not build");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let binary = messages
        .filter_map(|message| message["executable"].as_str().map(str::to_owned))
        .next_back()
        .context("cargo names no binary")?;
    let seed = match seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let processes = std::thread::available_parallelism()?.get() as u64;
    println!("seeds from {seed}, {processes} processes");
    let start = |number: u64| {
        Command::new(&binary)
            .arg("--hours")
            .arg((hours / processes as f64).to_string())
            .arg("--seed")
            .arg((seed + number * SEEDS_EACH).to_string())
            .spawn()
    };
    let running: Vec<_> = (0..processes).map(start).collect::<Result<_, _>>()?;
    let mut good = true;
    for mut process in running {
        good &= process.wait()?.success();
    }
    Ok(good)
}
