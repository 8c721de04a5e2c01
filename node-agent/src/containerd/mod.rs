//! The containerd that the agent starts for itself.
//!
//! It runs in a session of its own with its own root, state and socket, so that it and all containers
//! outlive the agent; the next start finds it by its pid file and adopts it. When it ends by itself it
//! is started again (containers live in their shims and do not notice). A clean stop ends it after its
//! containers are stopped. It never touches another containerd on the machine.

pub mod config;
pub mod events;
pub mod exec;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use coxswain_client::supervise::deadline;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::AgentError;
use crate::image::import::Importer;
use config::{Settings, render};

/// Paths of everything one node's containerd uses.
#[derive(Clone, Debug)]
pub struct Layout {
    /// `<data-dir>/containerd`.
    pub data: PathBuf,
    /// Sockets, state and the pid file.
    pub run: PathBuf,
    /// CNI network lists.
    pub cni_conf_dir: PathBuf,
}

impl Layout {
    /// The layout that belongs to a data directory. The default directory has the plain run directory;
    /// any other has one below it that carries a digest of its path.
    pub fn new(data_dir: &Path) -> Layout {
        use sha2::{Digest, Sha256};
        let run = Path::new("/run/coxswain");
        let run = if data_dir == Path::new("/var/lib/coxswain") {
            run.to_path_buf()
        } else {
            let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
            run.join(digest.iter().take(4).map(|b| format!("{b:02x}")).collect::<String>())
        };
        Layout {
            data: data_dir.join("containerd"),
            cni_conf_dir: run.join("cni"),
            run,
        }
    }

    /// containerd's socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    fn pid_file(&self) -> PathBuf {
        self.run.join("containerd.pid")
    }

    fn config_file(&self) -> PathBuf {
        self.data.join("config.toml")
    }
}

/// A reachable containerd.
#[derive(Clone, Debug)]
pub struct Containerd {
    /// Its gRPC connection; reconnects by itself.
    pub channel: Channel,
    /// Imports archives into it.
    pub importer: Importer,
    /// Its process, when it is ours to supervise.
    pub pid: Option<u32>,
}

/// Directory with the CNI plugins, as Debian and the upstream archives install them.
pub fn cni_bin_dir() -> PathBuf {
    ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"]
        .into_iter()
        .map(PathBuf::from)
        .find(|dir| dir.join("bridge").exists())
        .unwrap_or_else(|| PathBuf::from("/usr/lib/cni"))
}

/// Starts our containerd, or adopts the one that an earlier agent started.
pub async fn ensure(layout: &Layout) -> Result<Containerd, AgentError> {
    for dir in [&layout.data, &layout.run, &layout.cni_conf_dir] {
        create_dir(dir)?;
    }
    let settings = Settings {
        root: layout.data.join("root"),
        state: layout.run.join("state"),
        socket: layout.socket(),
        cni_bin_dir: cni_bin_dir(),
        cni_conf_dir: layout.cni_conf_dir.clone(),
        registry_dir: layout.data.join("certs.d"),
        snapshotter: if overlay_works(&layout.data) {
            "overlayfs"
        } else {
            "native"
        },
        restrict_oom_score_adj: !may_lower_oom_score(),
    };
    let text = render(&settings);
    let config_file = layout.config_file();
    let unchanged = fs::read_to_string(&config_file).is_ok_and(|old| old == text);
    let importer = Importer {
        socket: layout.socket(),
        snapshotter: settings.snapshotter.to_string(),
    };
    if let Some(pid) = running(layout) {
        if unchanged && let Ok(channel) = wait_ready(&layout.socket(), Duration::from_secs(5)).await {
            return Ok(Containerd {
                channel,
                importer,
                pid: Some(pid),
            });
        }
        end_process(pid, Duration::from_secs(10)).await;
    }
    write_file(&config_file, text.as_bytes())?;
    let pid = spawn(layout)?;
    match wait_ready(&layout.socket(), Duration::from_secs(30)).await {
        Ok(channel) => Ok(Containerd {
            channel,
            importer,
            pid: Some(pid),
        }),
        Err(reason) => {
            let log = last_log_line(layout);
            Err(AgentError::Containerd(format!("did not become ready: {reason}{log}")))
        }
    }
}

/// Uses a containerd that somebody else runs.
pub async fn connect(socket: &Path) -> Result<Containerd, AgentError> {
    let channel = wait_ready(socket, Duration::from_secs(5))
        .await
        .map_err(|reason| AgentError::Containerd(format!("{}: {reason}", socket.display())))?;
    let importer = Importer {
        socket: socket.to_path_buf(),
        snapshotter: "overlayfs".to_string(),
    };
    Ok(Containerd {
        channel,
        importer,
        pid: None,
    })
}

/// Waits until our containerd ends, then starts it again; returns when cancelled. At most one start
/// each second.
pub async fn supervise(layout: Layout, mut pid: u32, token: CancellationToken) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = ended(pid) => {}
        }
        tracing::warn!(pid, "containerd ended, starting it again");
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        match spawn(&layout) {
            Ok(new) => pid = new,
            Err(error) => tracing::error!(%error, "containerd"),
        }
    }
}

/// Ends our containerd, if it runs. Containers must be stopped before.
pub async fn stop(layout: &Layout) {
    if let Some(pid) = running(layout) {
        end_process(pid, Duration::from_secs(10)).await;
    }
    let _ = fs::remove_file(layout.pid_file());
}

/// Removes what the agent and its containerd made in the run directory, once nothing runs any more. What else is there
/// stays: the default data directory's run directory holds those of the others.
pub fn clear_run(layout: &Layout) {
    for name in [
        "cni",
        "exec",
        "state",
        "containerd.sock",
        "containerd.sock.ttrpc",
        "containerd.pid",
    ] {
        let path = layout.run.join(name);
        if let Err(error) = crate::volumes::remove(&path) {
            tracing::warn!(path = %path.display(), %error, "removing");
        }
    }
    let _ = fs::remove_dir(&layout.run);
}

/// Whether containers of our containerd are left, also when it does not run itself.
pub fn left_containers(layout: &Layout) -> bool {
    let tasks = layout.run.join("state/io.containerd.runtime.v2.task/k8s.io");
    fs::read_dir(tasks).is_ok_and(|mut entries| entries.next().is_some())
}

/// The pid of our containerd when it runs.
pub fn running(layout: &Layout) -> Option<u32> {
    let pid: u32 = fs::read_to_string(layout.pid_file()).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let config = layout.config_file();
    let config = config.as_os_str().as_encoded_bytes();
    command
        .split(|b| *b == 0)
        .any(|argument| argument == config)
        .then_some(pid)
}

fn spawn(layout: &Layout) -> Result<u32, AgentError> {
    let log_path = layout.data.join("containerd.log");
    rotate(&log_path);
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(|source| AgentError::File {
            path: log_path.clone(),
            source,
        })?;
    let errors = log.try_clone().map_err(|source| AgentError::File {
        path: log_path.clone(),
        source,
    })?;
    let _ = fs::remove_file(layout.socket());
    // setsid makes it leader of its own session without becoming another process.
    let child = tokio::process::Command::new("setsid")
        .arg("containerd")
        .arg("--config")
        .arg(layout.config_file())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|error| AgentError::Containerd(format!("cannot start it (apt-get install containerd): {error}")))?;
    let pid = child
        .id()
        .ok_or_else(|| AgentError::Containerd("ended at once".into()))?;
    write_file(&layout.pid_file(), pid.to_string().as_bytes())?;
    tokio::spawn(async move {
        let mut child = child;
        let _ = child.wait().await;
    });
    Ok(pid)
}

async fn wait_ready(socket: &Path, limit: Duration) -> Result<Channel, String> {
    let deadline = deadline(limit);
    loop {
        let reason = match crate::cri::connect(socket).await {
            Ok(channel) => {
                let mut client = crate::cri::v1::runtime_service_client::RuntimeServiceClient::new(channel.clone());
                match client.version(crate::cri::v1::VersionRequest::default()).await {
                    Ok(_) => return Ok(channel),
                    Err(status) => status.message().to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        if tokio::time::Instant::now() > deadline {
            return Err(reason);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Resolves when the process has ended.
async fn ended(pid: u32) {
    let Some(fd) = pidfd(pid) else { return };
    // The descriptor is owned by the wrapper alone, which is all that its soundness asks for.
    #[allow(deprecated)]
    let fd = AsyncFd::new(fd);
    if let Ok(fd) = fd {
        let _ = fd.readable().await;
    }
}

fn pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

async fn end_process(pid: u32, patience: Duration) {
    let Ok(raw) = i32::try_from(pid) else { return };
    let _ = kill(Pid::from_raw(raw), Signal::SIGTERM);
    if tokio::time::timeout(patience, ended(pid)).await.is_err() {
        let _ = kill(Pid::from_raw(raw), Signal::SIGKILL);
        ended(pid).await;
    }
}

/// Whether the process may lower `oom_score_adj`: it holds CAP_SYS_RESOURCE (bit 24).
fn may_lower_oom_score() -> bool {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_some_and(|bits| bits & (1 << 24) != 0)
}

/// Tries a real overlay mount below the directory.
fn overlay_works(dir: &Path) -> bool {
    let base = dir.join("overlay-probe");
    let part = |name: &str| base.join(name);
    for name in ["lower", "upper", "work", "merged"] {
        if fs::create_dir_all(part(name)).is_err() {
            return false;
        }
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        part("lower").display(),
        part("upper").display(),
        part("work").display()
    );
    let flags = nix::mount::MsFlags::empty();
    let works = nix::mount::mount(
        Some("overlay"),
        &part("merged"),
        Some("overlay"),
        flags,
        Some(options.as_str()),
    )
    .is_ok();
    if works {
        let _ = nix::mount::umount(&part("merged"));
    }
    let _ = fs::remove_dir_all(&base);
    works
}

fn last_log_line(layout: &Layout) -> String {
    fs::read_to_string(layout.data.join("containerd.log"))
        .ok()
        .and_then(|text| text.lines().last().map(|line| format!("; its last words: {line}")))
        .unwrap_or_default()
}

/// Keeps the log from growing without bound: above 16 MiB it becomes the one old log.
fn rotate(path: &Path) {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > 16 << 20) {
        let _ = fs::rename(path, path.with_extension("log.1"));
    }
}

fn create_dir(path: &Path) -> Result<(), AgentError> {
    fs::create_dir_all(path).map_err(|source| AgentError::File {
        path: path.to_path_buf(),
        source,
    })
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), AgentError> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source: io::Error| AgentError::File {
            path: path.to_path_buf(),
            source,
        })
}
