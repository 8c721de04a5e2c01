//! An API server without nodes, for tests that need no containers.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cluster::{binary, free_port};
use crate::eventually;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running `coxswain server --bare`, removed when dropped.
pub struct Server {
    dir: TempDir,
    daemon: Child,
}

impl Server {
    /// Starts one in a temporary folder on a free port.
    ///
    /// # Errors
    /// When it is not built, or what it printed when it does not become ready.
    pub fn bare() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("coxswain-e2e-").tempdir()?;
        let log = std::fs::File::create(dir.path().join("server.log"))?;
        let mut command = Command::new(binary("coxswain")?);
        command
            .args(["server", "--bare", "--listen", &format!("127.0.0.1:{}", free_port()?)])
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .arg("--kubeconfig")
            .arg(dir.path().join("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let daemon = command.spawn().context("start the server")?;
        let server = Self { dir, daemon };
        eventually(READY_WITHIN, "a ready server", || {
            let text = std::fs::read_to_string(server.dir.path().join("server.log"))?;
            if text.contains("Control plane ready") {
                return Ok(());
            }
            bail!("{text}")
        })?;
        Ok(server)
    }

    /// The most memory that it has used, in MiB.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn peak_memory_mib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line
            .and_then(|text| text.trim().strip_suffix(" kB"))
            .context("no VmHWM")?;
        Ok(kib.parse::<u64>()? / 1024)
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.daemon.id().cast_signed()), Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}
