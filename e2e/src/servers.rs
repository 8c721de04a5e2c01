//! Several servers of one cluster on this machine, each a process with a data directory of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cluster::{binary, free_port};
use crate::eventually;
use crate::places::{Network, Volume};

const READY_WITHIN: Duration = Duration::from_secs(60);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// One server.
pub struct Server {
    name: String,
    api_port: u16,
    peer_port: u16,
    process: Option<Child>,
}

impl Server {
    fn planned(number: usize) -> Result<Self> {
        Ok(Self {
            name: format!("s{number}"),
            api_port: free_port()?,
            peer_port: free_port()?,
            process: None,
        })
    }
}

/// The servers, ended when dropped.
pub struct Servers {
    all: Vec<Server>,
    /// File systems of servers, by their number.
    pub volumes: BTreeMap<usize, Volume>,
    /// Between the servers, when it is not the machine's own.
    pub network: Option<Network>,
    /// Without what nodes need.
    pub bare: bool,
    dir: TempDir,
}

/// A line of `coxswain members`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: u64,
    pub name: String,
    pub role: String,
}

impl Servers {
    /// A cluster that has grown from one server to `count` while it served.
    ///
    /// # Errors
    /// What a server printed, when it does not become ready.
    pub fn grown(count: usize) -> Result<Self> {
        let mut servers = Self::planned(count)?;
        servers.grow()?;
        Ok(servers)
    }

    /// Servers that have not been started.
    ///
    /// # Errors
    /// When there is no room for their files.
    pub fn planned(count: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("coxswain-e2e-").tempdir()?;
        Ok(Self {
            all: (0..count).map(Server::planned).collect::<Result<_>>()?,
            volumes: BTreeMap::new(),
            network: None,
            bare: true,
            dir,
        })
    }

    /// Servers that have not been started, in a network with a namespace for each, where all listen on the usual ports; the last
    /// namespace is nobody's.
    ///
    /// # Errors
    /// When the network cannot be made.
    pub fn apart(count: usize) -> Result<Self> {
        let mut servers = Self::planned(count)?;
        for server in &mut servers.all {
            (server.api_port, server.peer_port) = (6443, 7443);
        }
        servers.network = Some(Network::new(count + 1)?);
        Ok(servers)
    }

    /// Starts all servers, one after the other.
    ///
    /// # Errors
    /// What a server printed, when it does not become ready.
    pub fn grow(&mut self) -> Result<()> {
        for number in 0..self.all.len() {
            self.start(number)?;
        }
        self.settled().map(drop)
    }

    fn address(&self, number: usize) -> String {
        let local = || "127.0.0.1".to_owned();
        self.network
            .as_ref()
            .map_or_else(local, |network| network.address(number))
    }

    /// A place for one more server, which is not started.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn place(&mut self) -> Result<usize> {
        self.all.push(Server::planned(self.all.len())?);
        Ok(self.all.len() - 1)
    }

    /// How many servers there are, running or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Where a server listens for clients.
    #[must_use]
    pub fn api_port(&self, number: usize) -> u16 {
        self.all[number].api_port
    }

    /// The directory that everything is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Where a server keeps its data.
    #[must_use]
    pub fn data_dir(&self, number: usize) -> PathBuf {
        self.disk(number).join("data")
    }

    /// Where a server's disk is mounted, if it has one of its own.
    #[must_use]
    pub fn disk(&self, number: usize) -> PathBuf {
        self.dir.path().join(&self.all[number].name)
    }

    #[must_use]
    pub fn kubeconfig(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("{}.kubeconfig", self.all[number].name))
    }

    fn log_path(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", self.all[number].name))
    }

    /// Starts a server and waits until it is ready. One with an empty data directory joins the first other
    /// one that runs.
    ///
    /// # Errors
    /// What it printed.
    pub fn start(&mut self, number: usize) -> Result<()> {
        self.launch(number)?;
        self.ready(number)
    }

    /// Starts a server without waiting for it.
    ///
    /// # Errors
    /// When it is not built, or the token is not to be had.
    pub fn launch(&mut self, number: usize) -> Result<()> {
        self.launch_with(number, &[])
    }

    /// Starts a server with more arguments, without waiting for it.
    ///
    /// # Errors
    /// When it is not built, or the token is not to be had.
    pub fn launch_with(&mut self, number: usize, arguments: &[&str]) -> Result<()> {
        let log = File::create(self.log_path(number))?;
        let server = &self.all[number];
        let own = self.address(number);
        let mut command = match &self.network {
            None => Command::new(binary("coxswain")?),
            Some(network) => {
                let mut command = Command::new("ip");
                command
                    .args(["netns", "exec", &network.namespace(number)])
                    .arg(binary("coxswain")?);
                command
            }
        };
        command
            .arg("server")
            .args(self.bare.then_some("--bare"))
            .args(["--member-name", &server.name])
            .args(["--listen", &format!("{own}:{}", server.api_port)])
            .args(["--peer-listen", &format!("{own}:{}", server.peer_port)])
            .arg("--data-dir")
            .arg(self.data_dir(number))
            .arg("--kubeconfig")
            .arg(self.kubeconfig(number))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let other = self.running().into_iter().find(|other| *other != number);
        if let Some(other) = other.filter(|_| !self.data_dir(number).exists()) {
            let token = self.members(other, &["token"])?;
            let address = format!("{}:{}", self.address(other), self.all[other].peer_port);
            command.args(["--join", &address, "--token", token.trim()]);
        }
        self.all[number].process = Some(command.spawn()?);
        Ok(())
    }

    /// Waits until a server says that it is ready.
    ///
    /// # Errors
    /// What it printed.
    pub fn ready(&self, number: usize) -> Result<()> {
        eventually(READY_WITHIN, "a ready server", || {
            let text = fs::read_to_string(self.log_path(number))?;
            if text.contains("Control plane ready") {
                return Ok(());
            }
            bail!("{text}")
        })
    }

    /// The servers that run.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        (0..self.all.len())
            .filter(|number| self.all[*number].process.is_some())
            .collect()
    }

    /// Kills a server as a power cut would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn crash(&mut self, number: usize) -> Result<()> {
        let mut process = self.all[number].process.take().context("the server does not run")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Stops a server as a user does.
    ///
    /// # Errors
    /// When it does not run, or ends with an error.
    pub fn stop(&mut self, number: usize) -> Result<()> {
        self.signal(number, Signal::SIGTERM)?;
        self.ended(number)
    }

    /// Waits for a server that was told to stop.
    ///
    /// # Errors
    /// When it ends with an error.
    pub fn ended(&mut self, number: usize) -> Result<()> {
        let mut process = self.all[number].process.take().context("the server does not run")?;
        let status = process.wait()?;
        if !status.success() {
            bail!("{status}: {}", fs::read_to_string(self.log_path(number))?);
        }
        Ok(())
    }

    /// Sends a signal to a server.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, number: usize, signal: Signal) -> Result<()> {
        let process = self.all[number].process.as_ref().context("the server does not run")?;
        Ok(kill(Pid::from_raw(process.id().cast_signed()), signal)?)
    }

    /// Loses a server's disk.
    ///
    /// # Errors
    /// When its data cannot be removed.
    pub fn lose(&self, number: usize) -> Result<()> {
        Ok(fs::remove_dir_all(self.data_dir(number))?)
    }

    /// The file of the log that a server has written to last.
    ///
    /// # Errors
    /// When there is no log.
    pub fn newest_log(&self, number: usize) -> Result<PathBuf> {
        let store = self.data_dir(number).join("store");
        let logs = fs::read_dir(&store)?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_log = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            name.is_some_and(|name| name.starts_with("log-"))
        };
        logs.filter(is_log).max().context("there is no log")
    }

    /// Flips a bit in the middle of what a server has written to its log last.
    ///
    /// # Errors
    /// When there is no log.
    pub fn damage(&self, number: usize) -> Result<()> {
        let path = self.newest_log(number)?;
        let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        // Behind the header, in the first record.
        let mut byte = [0];
        file.seek(SeekFrom::Start(600))?;
        file.read_exact(&mut byte)?;
        file.seek(SeekFrom::Start(600))?;
        file.write_all(&[byte[0] ^ 0x10])?;
        Ok(())
    }

    /// Flips a bit in the last record of a server's log, or flips it back when it is told where.
    ///
    /// # Errors
    /// When there is no log.
    pub fn damage_end(&self, number: usize, again: Option<(PathBuf, u64)>) -> Result<(PathBuf, u64)> {
        let (path, at) = match again {
            Some(place) => place,
            None => {
                let path = self.newest_log(number)?;
                // Zeros follow: a young server has used no segment twice.
                let bytes = fs::read(&path)?;
                let last = bytes.iter().rposition(|byte| *byte != 0).context("an empty log")?;
                (path, last as u64 - 40)
            }
        };
        let mut file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
        let mut byte = [0];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut byte)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&[byte[0] ^ 0x10])?;
        Ok((path, at))
    }

    /// Runs `coxswain members` on a server's machine.
    ///
    /// # Errors
    /// What it printed.
    pub fn members(&self, number: usize, arguments: &[&str]) -> Result<String> {
        self.coxswain(number, "members", arguments)
    }

    /// Runs a command of `coxswain` on a server's machine.
    ///
    /// # Errors
    /// What it printed.
    pub fn coxswain(&self, number: usize, command: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(number, command, arguments)?.output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A command of `coxswain` on a server's machine, to be run; it has no terminal.
    ///
    /// # Errors
    /// When it is not built.
    pub fn command(&self, number: usize, command: &str, arguments: &[&str]) -> Result<Command> {
        let mut built = Command::new(binary("coxswain")?);
        built
            .arg(command)
            .arg("--data-dir")
            .arg(self.data_dir(number))
            .args(arguments)
            .stdin(Stdio::null());
        Ok(built)
    }

    /// The members as the first running server tells.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let number = *self.running().first().context("no server runs")?;
        let text = self.members(number, &[])?;
        text.lines()
            .skip(1)
            .map(|line| {
                let mut words = line.split_whitespace();
                let mut word = || words.next().map(str::to_owned).with_context(|| line.to_owned());
                let (id, name, _address, role) = (word()?, word()?, word()?, word()?);
                let id = id.parse()?;
                Ok(Row { id, name, role })
            })
            .collect()
    }

    /// Waits until every server has a vote, under its name, and one leads.
    ///
    /// # Errors
    /// How they stand when they don't come together.
    pub fn settled(&self) -> Result<Vec<Row>> {
        eventually(SETTLED_WITHIN, "a settled membership", || {
            let rows = self.rows()?;
            let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
            names.sort_unstable();
            let expected: Vec<&str> = self.all.iter().map(|server| server.name.as_str()).collect();
            let leaders = rows.iter().filter(|row| row.role == "leader").count();
            if names == expected && leaders == 1 && rows.iter().all(|row| row.role != "learner") {
                return Ok(rows);
            }
            bail!("{rows:?}")
        })
    }

    /// The server that leads.
    ///
    /// # Errors
    /// When none does.
    pub fn leader(&self) -> Result<usize> {
        eventually(SETTLED_WITHIN, "a leader", || {
            let rows = self.rows()?;
            let leader = rows.iter().find(|row| row.role == "leader").context("no leader")?;
            let at = self.all.iter().position(|server| server.name == leader.name);
            at.filter(|at| self.all[*at].process.is_some())
                .with_context(|| format!("{rows:?}"))
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for number in 0..self.all.len() {
            if std::thread::panicking() {
                let text = fs::read_to_string(self.log_path(number)).unwrap_or_default();
                eprintln!("--- {} printed:\n{text}", self.all[number].name);
            }
            if let Some(mut process) = self.all[number].process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}
