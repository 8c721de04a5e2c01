//! A machine that has joined a cluster as a node.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::binary;
use crate::eventually;
use crate::servers::Servers;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// `coxswain agent` in the namespace of the servers' network that is nobody's; stopped and taken away when dropped.
pub struct Agent {
    folder: PathBuf,
    process: Option<Child>,
}

impl Agent {
    /// Joins through one of the servers and waits for a Ready node.
    ///
    /// # Errors
    /// What it printed, when it does not become ready.
    pub fn join(servers: &Servers, through: usize, name: &str) -> Result<Self> {
        let network = servers
            .network
            .as_ref()
            .context("the servers have no network of their own")?;
        let place = servers.count();
        let kubeconfig = servers.kubeconfig(through);
        let token = Command::new(binary("coxswain")?)
            .args(["token", "create", "--kubeconfig"])
            .arg(&kubeconfig)
            .output()?;
        let token = String::from_utf8(token.stdout)?;
        let token = token.lines().next().context("there is no token")?;
        let folder = servers.folder().join(name);
        fs::create_dir_all(&folder)?;
        let log = File::create(folder.join("log"))?;
        // `ip netns exec` would hide the control groups.
        let process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", network.namespace(place)))
            .arg(binary("coxswain")?)
            .args(["agent", "--token", token, "--node-name", name])
            .args([
                "--join",
                &format!("{}:{}", network.address(through), servers.api_port(through)),
            ])
            .args(["--node-ip", &network.address(place)])
            .arg("--data-dir")
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let process = Some(process);
        let agent = Self { folder, process };
        eventually(READY_WITHIN, "a ready node", || {
            let text = fs::read_to_string(agent.folder.join("log"))?;
            match text.contains(" ready in ") {
                true => Ok(()),
                false => bail!("{text}"),
            }
        })?;
        Ok(agent)
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.join("log")).unwrap_or_default());
        }
        if let Some(mut process) = self.process.take() {
            let _ = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM);
            let _ = process.wait();
        }
        if let Ok(coxswain) = binary("coxswain") {
            let _ = purge(&coxswain, &self.data_dir());
        }
    }
}

fn purge(coxswain: &Path, data_dir: &Path) -> std::io::Result<std::process::Output> {
    Command::new(coxswain)
        .args(["down", "--purge", "--data-dir"])
        .arg(data_dir)
        .output()
}
