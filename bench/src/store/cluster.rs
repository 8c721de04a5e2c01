//! Members of etcd or of our store as processes on this machine.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::load::{Client, Writer};
use super::serve::make_authority;
use crate::process::Process;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Whose members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// etcd, by the path of its program.
    Etcd(PathBuf),
    /// Our store behind the same protocol.
    Ours,
}

impl Kind {
    /// Its name in the table.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Etcd(_) => "etcd",
            Kind::Ours => "coxswain-consensus",
        }
    }
}

/// The members, killed when dropped.
pub struct Cluster {
    kind: Kind,
    dir: PathBuf,
    clients: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    running: Vec<Option<Child>>,
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

impl Cluster {
    /// New members with their data below `dir`, started and ready.
    ///
    /// # Errors
    /// When they do not become ready.
    pub async fn start(kind: Kind, dir: &Path, members: usize) -> Result<Cluster> {
        std::fs::create_dir_all(dir)?;
        make_authority(dir)?;
        let addresses = || (0..members).map(|_| free_address()).collect::<Result<Vec<_>>>();
        let mut cluster = Cluster {
            kind,
            dir: dir.to_owned(),
            clients: addresses()?,
            peers: addresses()?,
            running: (0..members).map(|_| None).collect(),
        };
        for at in 0..members {
            cluster.launch(at)?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Starts a member.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn launch(&mut self, at: usize) -> Result<()> {
        let log = File::create(self.dir.join(format!("{at}.log")))?;
        let data_dir = self.dir.join(format!("member-{at}"));
        let mut command = match &self.kind {
            Kind::Etcd(program) => self.etcd(program, at),
            Kind::Ours => self.ours(at)?,
        };
        let child = command
            .arg("--data-dir")
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        self.running[at] = Some(child);
        Ok(())
    }

    /// Everything but addresses and a quiet log is etcd's default; fsync is on.
    fn etcd(&self, program: &Path, at: usize) -> Command {
        let url = |address: &SocketAddr| format!("http://{address}");
        let all = self.peers.iter().enumerate();
        let all: Vec<String> = all.map(|(at, address)| format!("m{at}={}", url(address))).collect();
        let mut command = Command::new(program);
        command
            .args(["--name", &format!("m{at}"), "--log-level", "error", "--logger", "zap"])
            .args(["--quota-backend-bytes", "8589934592"])
            .args(["--listen-client-urls", &url(&self.clients[at])])
            .args(["--advertise-client-urls", &url(&self.clients[at])])
            .args(["--listen-peer-urls", &url(&self.peers[at])])
            .args(["--initial-advertise-peer-urls", &url(&self.peers[at])])
            .args(["--initial-cluster", &all.join(",")]);
        command
    }

    fn ours(&self, at: usize) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("serve-store")
            .args(["--id", &(at + 1).to_string()])
            .args(["--listen", &self.clients[at].to_string()])
            .arg("--authority")
            .arg(&self.dir);
        if self.peers.len() > 1 {
            for peer in &self.peers {
                command.args(["--peers", &peer.to_string()]);
            }
        }
        Ok(command)
    }

    /// Waits until a write is done.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn ready(&self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < READY_WITHIN {
            if let Ok(mut client) = Client::connect(self.clients[0]).await {
                let probe = Writer::new("ready", 100).next();
                if let Ok(Ok(true)) = tokio::time::timeout(Duration::from_secs(5), client.write(probe)).await {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("{} does not become ready: see {}", self.kind.name(), self.dir.display())
    }

    /// Where clients find the members.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.clients
    }

    /// Whose members these are.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}, {} members", self.kind.name(), self.clients.len()).replace("1 members", "1 member")
    }

    /// The members' processes.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        self.running.iter().flatten().map(|child| Process(child.id())).collect()
    }

    /// Kills a member as a power cut would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn crash(&mut self, at: usize) -> Result<()> {
        if let Some(mut child) = self.running[at].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for at in 0..self.running.len() {
            // There is nobody left to tell.
            let _ = self.crash(at);
        }
    }
}
