//! Starting, breaking and removing one cluster.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use coxswain_oci::Image;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::eventually;

const READY_WITHIN: Duration = Duration::from_secs(60);
/// How many pairs of ports there are to give.
const PORTS: u16 = 10_000;

/// A running cluster, removed when dropped.
pub struct Cluster {
    dir: TempDir,
    daemon: Option<Child>,
    api_port: u16,
    agent_port: u16,
}

/// What a command printed.
#[derive(Debug)]
pub struct Outcome {
    pub ok: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    fn of(output: &Output) -> Self {
        Self {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A program that this workspace builds, or the one in the folder that `COXSWAIN_BINARIES` names.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("COXSWAIN_BINARIES") {
        return Ok(PathBuf::from(folder).join(name));
    }
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("no target folder")?;
    let path = folder.join(name);
    if !path.exists() {
        bail!(
            "{} is not built: run `cargo build --workspace --bins` first",
            path.display()
        );
    }
    Ok(path)
}

/// A port that nothing listens on, nor on the next, where a server that is not told otherwise listens for others. Both are below
/// those that systems give to outgoing connections and to listeners that ask for any, and each pair is given once.
pub(crate) fn free_port() -> Result<u16> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % u32::from(PORTS))?;
    for _ in 0..PORTS {
        let port = 10_000 + 2 * ((own + GIVEN.fetch_add(1, Ordering::Relaxed) % PORTS) % PORTS);
        let is_free = |port: u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        if is_free(port) && is_free(port + 1) {
            return Ok(port);
        }
    }
    bail!("no port is free between 10000 and 30000")
}

impl Cluster {
    /// Starts a cluster with `images` at hand and waits for a Ready node.
    ///
    /// # Errors
    /// What `coxswain up` printed, when it fails.
    pub fn up(images: &[Image]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("coxswain-e2e-").tempdir()?;
        let store = dir.path().join("data/images");
        std::fs::create_dir_all(&store)?;
        for (number, image) in images.iter().enumerate() {
            std::fs::write(store.join(format!("{number}.tar")), image.to_archive()?)?;
        }
        let mut cluster = Self {
            dir,
            daemon: None,
            api_port: free_port()?,
            agent_port: free_port()?,
        };
        cluster.start()?;
        Ok(cluster)
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("daemon.log")
    }

    /// The `up` command of this cluster.
    ///
    /// # Errors
    /// When the daemon is not built.
    pub fn up_command(&self) -> Result<Command> {
        let mut command = Command::new(binary("coxswain")?);
        command
            .arg("up")
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(["--listen", &format!("0.0.0.0:{}", self.api_port)])
            .args(["--agent-port", &self.agent_port.to_string()]);
        Ok(command)
    }

    /// Starts the daemon (again) and waits until it says that the cluster is ready.
    ///
    /// # Errors
    /// What it printed, when it does not become ready.
    pub fn start(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let begin = log.metadata()?.len();
        let mut daemon = self
            .up_command()?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let ready = eventually(READY_WITHIN, "a ready cluster", || {
            let text = std::fs::read_to_string(self.log_path())?;
            let since = text.get(usize::try_from(begin)?..).unwrap_or_default();
            if since.contains("Cluster ready") {
                return Ok(());
            }
            bail!("{since}")
        });
        if ready.is_err() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        ready?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Kills the daemon as the power button would: nothing is told, nothing flushed.
    ///
    /// # Errors
    /// When it was not running.
    pub fn crash(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("the daemon does not run")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Runs an unmodified kubectl.
    ///
    /// # Errors
    /// When it is not installed or exits with an error; its message.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        finish(self.try_kubectl(arguments)?, "kubectl", arguments)
    }

    /// Runs an unmodified kubectl and returns whatever comes.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Outcome> {
        self.client(Path::new("kubectl"), arguments)
    }

    /// Runs our `ctl`.
    ///
    /// # Errors
    /// When it exits with an error; its message.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        finish(self.try_ctl(arguments)?, "ctl", arguments)
    }

    /// Runs our `ctl` and returns whatever comes.
    ///
    /// # Errors
    /// When it is not built.
    pub fn try_ctl(&self, arguments: &[&str]) -> Result<Outcome> {
        self.client(&binary("ctl")?, arguments)
    }

    /// An unmodified kubectl that talks to this cluster.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        self.command(Path::new("kubectl"))
    }

    /// Our `ctl`, talking to this cluster.
    ///
    /// # Errors
    /// When it is not built.
    pub fn ctl_command(&self) -> Result<Command> {
        Ok(self.command(&binary("ctl")?))
    }

    /// A command that talks to this cluster.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn client(&self, program: &Path, arguments: &[&str]) -> Result<Outcome> {
        let output = self
            .command(Path::new("timeout"))
            .arg("120")
            .arg(program)
            .args(arguments)
            .output()
            .with_context(|| format!("run {}", program.display()))?;
        Ok(Outcome::of(&output))
    }

    /// One object, or an error when it is not there.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn object(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// Fetches a page from this machine.
    ///
    /// # Errors
    /// When nothing answers within two seconds.
    pub fn fetch(&self, url: &str) -> Result<String> {
        let output = Command::new("curl")
            .args(["-sS", "--fail", "--max-time", "2", url])
            .output()
            .context("run curl")?;
        finish(Outcome::of(&output), "curl", &[url])
    }

    /// Stops the cluster as a user does.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn down(&mut self, purge: bool) -> Result<String> {
        let mut command = Command::new(binary("coxswain")?);
        command.arg("down").arg("--data-dir").arg(self.data_dir());
        if purge {
            command.arg("--purge");
        }
        let output = command.output()?;
        if let Some(mut daemon) = self.daemon.take() {
            if !output.status.success() {
                let _ = daemon.kill();
            }
            daemon.wait()?;
        }
        finish(Outcome::of(&output), "coxswain", &["down"])
    }

    /// What the daemon printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

fn finish(outcome: Outcome, program: &str, arguments: &[&str]) -> Result<String> {
    if outcome.ok {
        return Ok(outcome.stdout);
    }
    bail!(
        "{program} {}: {}{}",
        arguments.join(" "),
        outcome.stdout,
        outcome.stderr
    )
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's output:\n{}", self.log());
        }
        if let Err(error) = self.down(true) {
            eprintln!("cleaning up: {error:#}");
            if let Some(pid) = self.pid() {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
        }
    }
}
