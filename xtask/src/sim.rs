//! `cargo xtask sim`: the simulation in release mode, on all processors.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

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
    let jobs = std::thread::available_parallelism()?.get();
    let (hours, seed, jobs) = (hours.to_string(), seed.to_string(), jobs.to_string());
    let mut simulation = Command::new(&binary);
    simulation.args(["run", "--hours", &hours, "--seed", &seed, "--jobs", &jobs]);
    Ok(simulation.status()?.success())
}
