//! Python programs, as people install them, against a server without nodes: the client, an operator, and what the
//! conformance suite asks of the API.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use coxswain_e2e::{Cluster, Server, busybox};

/// The versions that the scripts were written against.
const PACKAGES: [&str; 2] = ["kubernetes==37.0.2", "kopf==1.45.2"];

fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("run {command:?}"))
}

/// A Python with the client, made once and kept between runs; `None` where it cannot be installed.
fn python() -> Result<Option<PathBuf>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = folder.join("bin/python");
    let has_client = |python: &Path| run(Command::new(python).args(["-c", "import kubernetes, yaml, kopf"]));
    if python.exists() && has_client(&python)?.status.success() {
        return Ok(Some(python));
    }
    let made = run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    if !made.is_ok_and(|output| output.status.success()) {
        return Ok(None);
    }
    let mut install = Command::new("timeout");
    install.args(["120", "bin/pip", "install", "--quiet"]).args(PACKAGES);
    let installed = run(install.current_dir(&folder))?;
    Ok(installed.status.success().then_some(python))
}

/// Runs a script with its arguments and shows what it prints.
fn finish(python: &Path, name: &str, kubeconfig: &Path, arguments: &[&str]) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
    let mut command = Command::new("timeout");
    command.arg("300").arg(python).arg(script).arg(kubeconfig);
    let output = run(command.args(arguments))?;
    let (shown, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{shown}{errors}");
    println!("{shown}");
    Ok(())
}

/// Runs a script against a server of its own; none where the packages cannot be had.
fn script(python: Option<PathBuf>, name: &str) -> Result<Option<Server>> {
    let Some(python) = python else {
        println!("skipped: the Python packages {PACKAGES:?} are not installed and cannot be downloaded");
        return Ok(None);
    };
    let server = Server::bare()?;
    finish(&python, name, &server.kubeconfig(), &[])?;
    Ok(Some(server))
}

#[test]
fn python_client_handles_every_kind() -> Result<()> {
    script(python()?, "every_kind.py").map(|_| ())
}

#[test]
fn a_kopf_operator_reconciles() -> Result<()> {
    script(python()?, "operator_kopf.py").map(|_| ())
}

/// Whether there is the kubectl with which scripts read the kubeconfig.
fn has_kubectl() -> bool {
    let found = Command::new("kubectl").arg("version").output().is_ok();
    if !found {
        println!("skipped: kubectl, which reads the kubeconfig, is not installed");
    }
    found
}

#[test]
fn conformance_descriptions_hold() -> Result<()> {
    if !has_kubectl() {
        return Ok(());
    }
    script(Some(PathBuf::from("python3")), "conformance").map(|_| ())
}

#[test]
fn what_is_deleted_at_once_leaves_nothing() -> Result<()> {
    if !has_kubectl() {
        return Ok(());
    }
    script(Some(PathBuf::from("python3")), "at_once.py").map(|_| ())
}

#[test]
fn conformance_descriptions_hold_with_a_node() -> Result<()> {
    const IMAGE: &str = "busybox:1.35";
    if !has_kubectl() {
        return Ok(());
    }
    let cluster = Cluster::up(&[busybox(IMAGE, &["sh"])?])?;
    finish(
        Path::new("python3"),
        "conformance",
        &cluster.kubeconfig(),
        &["--image", IMAGE],
    )
}

#[test]
fn idle_connections_disturb_nobody() -> Result<()> {
    const MIB_MAX: u64 = 500;
    if !has_kubectl() {
        return Ok(());
    }
    let server = script(Some(PathBuf::from("python3")), "idle_connections.py")?.context("no packages are needed")?;
    let peak = server.peak_memory_mib()?;
    ensure!(peak < MIB_MAX, "the server took {peak} MiB");
    Ok(())
}
