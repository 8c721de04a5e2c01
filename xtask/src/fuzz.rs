//! `cargo xtask fuzz`: every fuzz target for its share of the time, from one printed seed.
//!
//! Targets are tests whose names contain `fuzz_`; see the crate `coxswain-fuzz`. What a target finds is printed by it and
//! saved; an input that ended the whole process is found here, in the file where it was noted before it was tried.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

/// What a target of `small_languages` and the like shares with others in its test.
const TARGETS_EACH: usize = 2;

/// Runs every target; true when nothing was found.
pub fn run(seconds: f64, seed: Option<u64>) -> Result<bool> {
    let seed = match seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let tests = tests()?;
    let folder = folder()?;
    let each = seconds / (tests * TARGETS_EACH) as f64;
    println!(
        "fuzz: seed {seed}, {tests} tests, {each:.2} s for each target, finds go to {}",
        folder.display()
    );
    let status = cargo(&["--test-threads=1", "--nocapture"])
        .env("COXSWAIN_FUZZ_SECONDS", each.to_string())
        .env("COXSWAIN_FUZZ_SEED", seed.to_string())
        .env("COXSWAIN_FUZZ_DIR", &folder)
        .status()?;
    for found in found(&folder)? {
        println!(
            "fuzz: found {}, again with `cargo xtask fuzz --seed {seed}`",
            found.display()
        );
    }
    Ok(status.success())
}

/// `cargo test` of the targets, with arguments for the tests themselves.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    // The whole workspace, as for the unit tests, so that nothing is built twice.
    command.args(["test", "--tests", "--workspace"]);
    command.args(["--locked", "--quiet", "--no-fail-fast", "--", "fuzz_"]);
    command.args(arguments);
    command
}

/// How many tests have targets.
fn tests() -> Result<usize> {
    let output = cargo(&["--list"]).output()?;
    ensure!(
        output.status.success(),
        "the fuzz targets do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let tests = text.lines().filter(|line| line.ends_with(": test")).count();
    ensure!(tests > 0, "no test is called fuzz_");
    Ok(tests)
}

/// An empty folder for finds, below cargo's own.
fn folder() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let folder = std::env::current_dir()?.join(target).join("fuzz");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

fn found(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        found.push(entry?.path());
    }
    found.sort();
    Ok(found)
}
