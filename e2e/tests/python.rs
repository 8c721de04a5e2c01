//! The Python client, as people install it, and what the conformance descriptions ask, against a server without nodes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use coxswain_e2e::Server;

/// The version that the script was written against.
const CLIENT: &str = "kubernetes==37.0.2";

fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("run {command:?}"))
}

/// A Python with the client, made once and kept between runs; `None` where it cannot be installed.
fn python() -> Result<Option<PathBuf>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = folder.join("bin/python");
    let has_client = |python: &Path| run(Command::new(python).args(["-c", "import kubernetes, yaml"]));
    if python.exists() && has_client(&python)?.status.success() {
        return Ok(Some(python));
    }
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    if !made.is_ok_and(|output| output.status.success()) {
        return Ok(None);
    }
    let install = ["120", "bin/pip", "install", "--quiet", CLIENT];
    let installed = run(Command::new("timeout").args(install).current_dir(&folder))?;
    Ok(installed.status.success().then_some(python))
}

#[test]
fn python_client_handles_every_kind() -> Result<()> {
    let Some(python) = python()? else {
        println!("skipped: the Python client is not installed and cannot be downloaded");
        return Ok(());
    };
    let server = Server::bare()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/every_kind.py");
    let output = run(Command::new("timeout")
        .arg("180")
        .arg(python)
        .arg(script)
        .arg(server.kubeconfig()))?;
    let (shown, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{shown}{errors}");
    println!("{shown}");
    Ok(())
}

#[test]
fn conformance_descriptions_hold() -> Result<()> {
    if Command::new("kubectl").arg("version").output().is_err() {
        println!("skipped: kubectl, which reads the kubeconfig, is not installed");
        return Ok(());
    }
    let server = Server::bare()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/conformance.py");
    let output = run(Command::new("timeout")
        .args(["180", "python3"])
        .arg(script)
        .arg(server.kubeconfig()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}
