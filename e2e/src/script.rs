//! Lists of kubectl commands and what each must print.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::eventually;

/// What the output must contain (parts between `|`), and the command. A command after `! ` must fail. `FILES` stands for
/// a folder, `POD` for the name of the newest pod labelled `app=primary`.
pub type Step = (&'static str, &'static str);

/// Within which a read must print what is expected.
const SOON: Duration = Duration::from_secs(60);
/// Commands that change nothing: they are given until it is true.
const READS: &[&str] = &["get", "describe", "logs", "events", "exec"];

/// Runs the commands in order, each whatever became of those before.
///
/// # Errors
/// What those that failed printed.
pub fn play(kubectl: &dyn Fn() -> Command, files: &Path, steps: &[Step]) -> Result<()> {
    let mut failures = Vec::new();
    for (expected, command) in steps {
        let verb = command.split_whitespace().next().unwrap_or_default();
        let attempt = || step(kubectl, files, expected, command);
        let done = match READS.contains(&verb) {
            true => eventually(SOON, "the output", attempt),
            false => attempt(),
        };
        if let Err(error) = done {
            failures.push(format!("kubectl {command}: {error:#}"));
        }
    }
    ensure!(
        failures.is_empty(),
        "{} commands failed\n{}",
        failures.len(),
        failures.join("\n")
    );
    Ok(())
}

fn step(kubectl: &dyn Fn() -> Command, files: &Path, expected: &str, command: &str) -> Result<()> {
    let (command, fails) = match command.strip_prefix("! ") {
        Some(command) => (command, true),
        None => (command, false),
    };
    let mut command = command.replace("FILES", &files.to_string_lossy());
    if command.contains("POD") {
        let query =
            "get pods -l app=primary --sort-by=.metadata.creationTimestamp -o jsonpath={.items[-1:].metadata.name}";
        command = command.replace("POD", &run(kubectl, query)?.1);
    }
    let (ok, text) = run(kubectl, &command)?;
    ensure!(
        ok != fails,
        "{}: {text}",
        if ok { "it did not fail" } else { "it failed" }
    );
    for part in expected.split('|') {
        ensure!(text.contains(part), "no {part:?} in\n{text}");
    }
    Ok(())
}

/// Whether it went well, and all it printed.
fn run(kubectl: &dyn Fn() -> Command, command: &str) -> Result<(bool, String)> {
    let mut kubectl = kubectl();
    let output = kubectl
        .args(command.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .context("kubectl")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

/// The client's minor version; `None` where there is no kubectl.
///
/// # Errors
/// When it does not say.
pub fn kubectl_minor() -> Result<Option<u32>> {
    let Ok(output) = Command::new("kubectl")
        .args(["version", "--client", "-o", "json"])
        .output()
    else {
        return Ok(None);
    };
    let version: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    Ok(Some(minor.trim_end_matches('+').parse()?))
}
