//! `cargo xtask test`: every stage in order, one summary at the end.
//!
//! A stage that cannot run is a failure, never a silent skip (the recorded cases, which a stranger's clone does not
//! have, are skipped aloud); the last line is `N passed, N failed`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{fuzz, oracle, tidy};

/// Time of the fuzz targets in a test run.
const FUZZ_SECONDS: f64 = 25.0;
/// Their seed in a test run; `cargo xtask fuzz` hunts with others.
const FUZZ_SEED: u64 = 2026;
/// The package whose tests run one at a time, on real containers.
const E2E: &str = "coxswain-e2e";

/// What a stage counted.
#[derive(Default, Clone, Copy)]
struct Count {
    passed: usize,
    failed: usize,
}

/// Runs all stages; true when nothing failed.
pub fn run() -> Result<bool> {
    let mut total = Count::default();
    let mut stage = |name: &str, result: Result<Count>, start: Instant| {
        let count = result.unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Count { passed: 0, failed: 1 }
        });
        println!(
            "== {name}: {} passed, {} failed ({:.0} s)",
            count.passed,
            count.failed,
            start.elapsed().as_secs_f64()
        );
        total.passed += count.passed;
        total.failed += count.failed;
    };
    let mut timed = |name: &str, work: &dyn Fn() -> Result<Count>| {
        println!("== {name}");
        let start = Instant::now();
        stage(name, work(), start);
    };
    timed("format", &|| check(&["fmt", "--all", "--check"]));
    timed("clippy", &|| {
        check(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ])
    });
    timed("tidy", &|| Ok(of(tidy::run()?)));
    timed("unit", &|| {
        let targets = tidy::test_targets(|package| package != E2E)?;
        cargo_test(&[&["--lib", "--bins"], selected(&targets).as_slice()].concat(), &[])
    });
    timed("fuzz", &|| Ok(of(fuzz::run(FUZZ_SECONDS, Some(FUZZ_SEED))?)));
    timed("build", &|| {
        // With `--tests` the dependencies have the features of the tests' builds, and are not compiled again.
        check(&["build", "--workspace", "--bins", "--tests", "--locked", "--quiet"])
    });
    timed("oracle", &|| {
        if !oracle::available() {
            println!("oracle: skipped, the recorded cases are not beside this checkout (../shared/oracle)");
            return Ok(Count::default());
        }
        let report = oracle::run(None)?;
        Ok(Count {
            passed: report.passed(),
            failed: report.failed(),
        })
    });
    timed("e2e", &|| {
        let targets = tidy::test_targets(|package| package == E2E)?;
        cargo_test(&selected(&targets), &["--test-threads=1"])
    });
    println!("\n{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

fn of(ok: bool) -> Count {
    Count {
        passed: usize::from(ok),
        failed: usize::from(!ok),
    }
}

fn check(arguments: &[&str]) -> Result<Count> {
    Ok(of(Command::new(env!("CARGO")).args(arguments).status()?.success()))
}

fn selected(targets: &[String]) -> Vec<&str> {
    targets.iter().flat_map(|name| ["--test", name.as_str()]).collect()
}

/// Runs `cargo test` and counts from its `test result:` lines, showing all it prints. Always for the whole workspace:
/// a selection of packages would have features of its own, for which every dependency is compiled again.
fn cargo_test(targets: &[&str], for_tests: &[&str]) -> Result<Count> {
    let mut child = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .args(targets)
        .arg("--")
        .args(for_tests)
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("no output to read")?;
    let mut count = Count::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result:") {
            count.passed += number_before(result, " passed");
            count.failed += number_before(result, " failed");
        }
    }
    if !child.wait()?.success() && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

fn number_before(text: &str, word: &str) -> usize {
    text.split(word)
        .next()
        .and_then(|head| head.rsplit(' ').next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}
