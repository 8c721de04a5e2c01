//! What a machine must have before a cluster can run on it, and what to do about what is missing.
//!
//! `gather` looks (files, sockets, `PATH`); `check` decides, purely; every finding is one sentence with its cure.
//! Does not change anything: installing is `install`, which the caller invokes only when the user said `--yes`.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::listeners::{self, Listener};

/// The daemon was built in this year or later; a clock before it breaks every certificate.
const OLDEST_PLAUSIBLE_S: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

/// Where distributions put the CNI plugins, in the order they are tried.
pub const CNI_BIN_DIRS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    V1,
    V2,
    Missing,
}

/// What listens on an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    ApiServer,
    Members,
    NodeAgent,
    ClusterDns,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "the API server",
            Self::Members => "the listener for other servers",
            Self::NodeAgent => "the node agent",
            Self::ClusterDns => "the cluster DNS",
        }
    }

    /// The flag that chooses another port.
    fn flag(self) -> &'static str {
        match self {
            Self::ApiServer => "--listen",
            Self::Members => "--peer-listen",
            Self::NodeAgent | Self::ClusterDns => "--agent-port",
        }
    }
}

/// What the cluster on this machine would be like.
pub struct Wanted<'a> {
    pub node_name: &'a str,
    /// The addresses to listen on.
    pub addresses: Vec<(SocketAddr, Part)>,
    /// Somebody else's containerd to use.
    pub containerd_socket: Option<&'a Path>,
}

/// Whether a part can listen on its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Free,
    /// Another program, named where that can be told, listens there.
    Taken(Option<Listener>),
    /// The machine has no such address.
    Elsewhere,
}

/// What was found on the machine.
#[derive(Debug, Clone)]
pub struct Facts {
    pub root: bool,
    pub cgroup: CgroupVersion,
    pub cgroup_controllers: Vec<String>,
    pub file_systems: Vec<String>,
    pub commands: Vec<(&'static str, bool)>,
    pub cni_plugins: bool,
    pub clock_s: i64,
    pub node_name: String,
    pub addresses: Vec<(SocketAddr, Part, Address)>,
    /// The containerd to use, when it does not answer, and why.
    pub silent_containerd: Option<(PathBuf, String)>,
    pub package_manager: Option<PackageManager>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageManager {
    Apt,
    Dnf,
    Zypper,
    Pacman,
    Apk,
}

/// One reason why the cluster cannot start, with its cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    NotRoot,
    NoCgroups,
    NoController(&'static str),
    NoOverlay,
    WrongClock(i64),
    AddressTaken(SocketAddr, Part, Option<Listener>),
    AddressElsewhere(SocketAddr, Part),
    /// The two parts want the same port.
    SamePort(u16, Part, Part),
    NodeName(String),
    SilentContainerd(PathBuf, String),
    MissingPackages {
        commands: Vec<&'static str>,
        packages: Vec<&'static str>,
        command: Option<String>,
    },
}

impl Finding {
    /// The program that is in the way, where that can be told.
    #[must_use]
    pub fn listener(&self) -> Option<&Listener> {
        match self {
            Self::AddressTaken(_, _, listener) => listener.as_ref(),
            _ => None,
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRoot => write!(
                f,
                "containers and networks need root: run this as root, for example with sudo"
            ),
            Self::NoCgroups => write!(
                f,
                "no cgroup hierarchy is mounted at /sys/fs/cgroup: boot with cgroups, or mount them"
            ),
            Self::NoController(name) => {
                write!(
                    f,
                    "the cgroup controller {name:?} is not available: enable it (kernel parameter cgroup_enable={name}) and reboot"
                )
            }
            Self::NoOverlay => write!(f, "the kernel has no overlayfs: load it with `modprobe overlay`"),
            Self::WrongClock(s) => {
                write!(
                    f,
                    "the clock says {}, which cannot be right: set it (for example `timedatectl set-ntp true`)",
                    time_text(*s)
                )
            }
            Self::AddressTaken(address, Part::ClusterDns, _) => write!(
                f,
                "another cluster runs here (its DNS has {address}): stop it with `coxswain down`, or run this one in a network namespace of its own (`ip netns`)"
            ),
            Self::AddressTaken(address, part, listener) => {
                let who = listener.as_ref().map_or("another program".to_owned(), |l| {
                    format!("{} (process {})", l.name, l.pid)
                });
                write!(
                    f,
                    "{} needs {address}, but {who} listens there: stop it or choose another with {}",
                    part.name(),
                    part.flag()
                )
            }
            Self::AddressElsewhere(address, part) => write!(
                f,
                "{} cannot listen on {address}, since this machine has no address {}: give one that `ip address` shows with {}",
                part.name(),
                address.ip(),
                match part {
                    Part::ApiServer | Part::Members => part.flag(),
                    Part::NodeAgent | Part::ClusterDns => "--node-ip",
                }
            ),
            Self::SamePort(port, one, other) => write!(
                f,
                "{} and {} cannot both have port {port}: choose another with {} or {}",
                one.name(),
                other.name(),
                one.flag(),
                other.flag()
            ),
            Self::NodeName(name) => write!(
                f,
                "{name:?} cannot be a node's name: give one of at most {NODE_NAME_MAX} small letters, digits, '-' and '.', that begins and ends with a letter or digit, with --node-name"
            ),
            Self::SilentContainerd(socket, why) => write!(
                f,
                "no containerd answers on {} ({why}): start it, or leave out --containerd-socket to have one of its own",
                socket.display()
            ),
            Self::MissingPackages {
                commands,
                packages,
                command,
            } => {
                write!(f, "missing on this machine: {}; ", commands.join(", "))?;
                match command {
                    Some(command) => write!(f, "install with `{command}`, or run this again with --yes"),
                    None => write!(
                        f,
                        "none of {} is in PATH to install them with: put it there, or install {} by hand",
                        PACKAGE_MANAGERS.map(PackageManager::command).join(", "),
                        packages.join(", ")
                    ),
                }
            }
        }
    }
}

fn time_text(s: i64) -> String {
    jiff::Timestamp::from_second(s).map_or_else(|_| s.to_string(), |t| t.to_string())
}

/// The commands a node runs, and the Debian package each comes from.
const NEEDED: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
];
/// Longest name of a node in bytes: it is the value of a label.
const NODE_NAME_MAX: usize = 63;
const PACKAGE_MANAGERS: [PackageManager; 5] = [
    PackageManager::Apt,
    PackageManager::Dnf,
    PackageManager::Zypper,
    PackageManager::Pacman,
    PackageManager::Apk,
];
const CNI_PACKAGE: &str = "containernetworking-plugins";

impl PackageManager {
    fn command(self) -> &'static str {
        match self {
            Self::Apt => "apt-get",
            Self::Dnf => "dnf",
            Self::Zypper => "zypper",
            Self::Pacman => "pacman",
            Self::Apk => "apk",
        }
    }

    fn install_line(self, packages: &[&str]) -> String {
        let verb = match self {
            Self::Apt | Self::Dnf => "install -y",
            Self::Zypper => "--non-interactive install",
            Self::Pacman => "-S --noconfirm",
            Self::Apk => "add",
        };
        let names: Vec<&str> = packages.iter().map(|p| self.package(p)).collect();
        format!("{} {verb} {}", self.command(), names.join(" "))
    }

    /// This distribution's name for one of Debian's packages.
    fn package(self, debian: &str) -> &str {
        match (self, debian) {
            (Self::Pacman | Self::Apk, CNI_PACKAGE) => "cni-plugins",
            (Self::Zypper, CNI_PACKAGE) => "cni-plugins",
            (Self::Dnf, "iproute2") => "iproute",
            _ => debian,
        }
    }
}

/// Looks at the machine.
#[must_use]
pub fn gather(wanted: &Wanted<'_>) -> Facts {
    let own_containerd = wanted.containerd_socket.is_none();
    let (cgroup, cgroup_controllers) = cgroups();
    let commands = NEEDED
        .iter()
        .filter(|(c, _)| own_containerd || *c != "containerd")
        .map(|(c, _)| (*c, on_path(c).is_some()))
        .collect();
    Facts {
        root: nix::unistd::geteuid().is_root(),
        cgroup,
        cgroup_controllers,
        file_systems: words(&read("/proc/filesystems")),
        commands,
        cni_plugins: cni_bin_dir().is_some(),
        clock_s: jiff::Timestamp::now().as_second(),
        node_name: wanted.node_name.to_owned(),
        addresses: wanted
            .addresses
            .iter()
            .map(|(a, part)| (*a, *part, try_listen(*a)))
            .collect(),
        silent_containerd: wanted.containerd_socket.and_then(|socket| {
            let refused = UnixStream::connect(socket).err()?;
            Some((socket.to_owned(), refused.to_string()))
        }),
        package_manager: package_manager(),
    }
}

/// Decides what keeps a cluster from running here; empty means ready.
#[must_use]
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.root {
        findings.push(Finding::NotRoot);
    }
    if facts.clock_s < OLDEST_PLAUSIBLE_S {
        findings.push(Finding::WrongClock(facts.clock_s));
    }
    match facts.cgroup {
        CgroupVersion::Missing => findings.push(Finding::NoCgroups),
        CgroupVersion::V1 | CgroupVersion::V2 => findings.extend(
            ["cpu", "memory", "pids"]
                .into_iter()
                .filter(|c| !facts.cgroup_controllers.iter().any(|have| have == c))
                .map(Finding::NoController),
        ),
    }
    if !facts.file_systems.iter().any(|f| f == "overlay") {
        findings.push(Finding::NoOverlay);
    }
    findings.extend(missing(facts));
    if !is_node_name(&facts.node_name) {
        findings.push(Finding::NodeName(facts.node_name.clone()));
    }
    if let Some((socket, why)) = &facts.silent_containerd {
        findings.push(Finding::SilentContainerd(socket.clone(), why.clone()));
    }
    findings.extend(addresses(&facts.addresses));
    findings
}

fn addresses(addresses: &[(SocketAddr, Part, Address)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, (address, part, state)) in addresses.iter().enumerate() {
        let mut earlier = addresses.iter().take(at);
        if let Some((_, other, _)) = earlier.find(|(other, ..)| listeners::overlap(*other, *address)) {
            findings.push(Finding::SamePort(address.port(), *other, *part));
        }
        match state {
            Address::Taken(who) => findings.push(Finding::AddressTaken(*address, *part, who.clone())),
            // The node itself gives the DNS its address.
            Address::Elsewhere if *part != Part::ClusterDns => {
                findings.push(Finding::AddressElsewhere(*address, *part));
            }
            Address::Elsewhere | Address::Free => {}
        }
    }
    findings
}

/// A DNS name that is also the value of a label.
fn is_node_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.bytes().all(|b| inner(b) || b == b'-')
            && part.bytes().next().is_some_and(inner)
            && part.bytes().last().is_some_and(inner)
    };
    name.len() <= NODE_NAME_MAX && name.split('.').all(is_part)
}

fn missing(facts: &Facts) -> Option<Finding> {
    let mut commands: Vec<&'static str> = facts
        .commands
        .iter()
        .filter(|(_, there)| !there)
        .map(|(c, _)| *c)
        .collect();
    let mut packages: Vec<&'static str> = NEEDED
        .iter()
        .filter(|(c, _)| commands.contains(c))
        .map(|(_, package)| *package)
        .collect();
    if !facts.cni_plugins {
        commands.push("CNI plugins");
        packages.push(CNI_PACKAGE);
    }
    let command = facts.package_manager.map(|m| m.install_line(&packages));
    (!commands.is_empty()).then_some(Finding::MissingPackages {
        commands,
        packages,
        command,
    })
}

/// Installs what is missing with the system's package manager, printing its command first.
///
/// # Errors
/// When there is no known package manager or it fails.
pub fn install(facts: &Facts) -> Result<()> {
    let Some(Finding::MissingPackages { packages, command, .. }) = missing(facts) else {
        return Ok(());
    };
    let (Some(line), Some(manager)) = (command, facts.package_manager) else {
        bail!(
            "no known package manager on this machine: install {} by hand",
            packages.join(" ")
        );
    };
    if manager == PackageManager::Apt {
        run("apt-get update")?;
    }
    run(&line)
}

fn run(line: &str) -> Result<()> {
    println!("  running: {line}");
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    let output = Command::new(program)
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .with_context(|| format!("run `{line}`"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{line}` failed: {}",
            text.lines().last().unwrap_or("it gave no reason")
        );
    }
    Ok(())
}

/// The folder that holds the CNI plugins, if there is one.
#[must_use]
pub fn cni_bin_dir() -> Option<PathBuf> {
    CNI_BIN_DIRS
        .iter()
        .map(PathBuf::from)
        .find(|d| ["ptp", "host-local", "loopback"].iter().all(|p| d.join(p).exists()))
}

fn cgroups() -> (CgroupVersion, Vec<String>) {
    let unified = read("/sys/fs/cgroup/cgroup.controllers");
    if !unified.is_empty() {
        return (CgroupVersion::V2, words(&unified));
    }
    let table = read("/proc/cgroups");
    let mounted = |name: &str| Path::new("/sys/fs/cgroup").join(name).is_dir();
    let controllers: Vec<String> = table
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|name| mounted(name))
        .map(str::to_owned)
        .collect();
    let version = if controllers.is_empty() {
        CgroupVersion::Missing
    } else {
        CgroupVersion::V1
    };
    (version, controllers)
}

fn package_manager() -> Option<PackageManager> {
    PACKAGE_MANAGERS.into_iter().find(|m| on_path(m.command()).is_some())
}

fn on_path(command: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|d| d.join(command))
        .find(|p| p.is_file())
}

fn try_listen(address: SocketAddr) -> Address {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable};
    match TcpListener::bind(address).map_err(|e| e.kind()) {
        Err(AddrInUse) => Address::Taken(listeners::find(address)),
        Err(AddrNotAvailable) => Address::Elsewhere,
        _ => Address::Free,
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            root: true,
            cgroup: CgroupVersion::V2,
            cgroup_controllers: ["cpu", "memory", "pids"].map(str::to_owned).into(),
            file_systems: vec!["overlay".to_owned()],
            commands: NEEDED.iter().map(|(c, _)| (*c, true)).collect(),
            cni_plugins: true,
            clock_s: OLDEST_PLAUSIBLE_S + 1,
            node_name: "node-1.example".to_owned(),
            addresses: vec![
                (SocketAddr::from(([0, 0, 0, 0], 6443)), Part::ApiServer, Address::Free),
                (
                    SocketAddr::from(([192, 0, 2, 1], 10250)),
                    Part::NodeAgent,
                    Address::Free,
                ),
                (
                    SocketAddr::from(([10, 96, 0, 10], 53)),
                    Part::ClusterDns,
                    Address::Elsewhere,
                ),
            ],
            silent_containerd: None,
            package_manager: Some(PackageManager::Apt),
        }
    }

    #[test]
    fn each_lack_is_one_sentence_with_its_cure() {
        let address = |ip: [u8; 4], port: u16, part: Part, state: Address| Facts {
            addresses: vec![(SocketAddr::from((ip, port)), part, state)],
            ..good()
        };
        let listener = |name: &str| {
            Address::Taken(Some(Listener {
                pid: 12,
                name: name.to_owned(),
            }))
        };
        let named = |name: &str| Facts {
            node_name: name.to_owned(),
            ..good()
        };
        let cases: Vec<(Facts, &str)> = vec![
            (Facts { root: false, ..good() }, "run this as root"),
            (
                Facts {
                    cgroup: CgroupVersion::Missing,
                    ..good()
                },
                "mount them",
            ),
            (
                Facts {
                    cgroup_controllers: vec!["cpu".to_owned(), "pids".to_owned()],
                    ..good()
                },
                "cgroup_enable=memory",
            ),
            (
                Facts {
                    file_systems: Vec::new(),
                    ..good()
                },
                "modprobe overlay",
            ),
            (Facts { clock_s: 0, ..good() }, "1970-01-01T00:00:00Z"),
            (
                address([0, 0, 0, 0], 6443, Part::ApiServer, Address::Taken(None)),
                "the API server needs 0.0.0.0:6443, but another program listens there",
            ),
            (
                address([192, 0, 2, 1], 10250, Part::NodeAgent, listener("nginx")),
                "nginx (process 12) listens there: stop it or choose another with --agent-port",
            ),
            (
                address([10, 96, 0, 10], 53, Part::ClusterDns, listener("coxswain")),
                "another cluster runs here (its DNS has 10.96.0.10:53): stop it",
            ),
            (
                address([192, 0, 2, 9], 10250, Part::NodeAgent, Address::Elsewhere),
                "no address 192.0.2.9: give one that `ip address` shows with --node-ip",
            ),
            (
                address([192, 0, 2, 9], 6443, Part::ApiServer, Address::Elsewhere),
                "shows with --listen",
            ),
            (
                Facts {
                    addresses: vec![
                        (SocketAddr::from(([0, 0, 0, 0], 7000)), Part::ApiServer, Address::Free),
                        (SocketAddr::from(([192, 0, 2, 1], 7000)), Part::NodeAgent, Address::Free),
                    ],
                    ..good()
                },
                "cannot both have port 7000: choose another with --listen or --agent-port",
            ),
            (
                Facts {
                    addresses: vec![
                        (SocketAddr::from(([0, 0, 0, 0], 7001)), Part::Members, Address::Free),
                        (SocketAddr::from(([192, 0, 2, 1], 7001)), Part::NodeAgent, Address::Free),
                    ],
                    ..good()
                },
                "the listener for other servers and the node agent cannot both have port 7001: choose another with --peer-listen",
            ),
            (
                Facts {
                    silent_containerd: Some((PathBuf::from("/nosuch"), "No such file or directory".to_owned())),
                    ..good()
                },
                "no containerd answers on /nosuch (No such file or directory): start it, or leave out",
            ),
            (named("UPPER_x"), "\"UPPER_x\" cannot be a node's name: give one"),
            (named(""), "with --node-name"),
            (named("a..b"), "with --node-name"),
            (named("-a"), "with --node-name"),
            (named(&"a".repeat(64)), "with --node-name"),
            (
                Facts {
                    cni_plugins: false,
                    ..good()
                },
                "`apt-get install -y containernetworking-plugins`",
            ),
            (
                Facts {
                    commands: vec![("containerd", false), ("nft", false)],
                    package_manager: Some(PackageManager::Apk),
                    ..good()
                },
                "`apk add containerd nftables`",
            ),
            (
                Facts {
                    commands: vec![("runc", false)],
                    package_manager: None,
                    ..good()
                },
                "none of apt-get, dnf, zypper, pacman, apk is in PATH to install them with: put it there, or install runc",
            ),
        ];
        assert_eq!(check(&good()), Vec::new());
        for (facts, want) in cases {
            let findings = check(&facts);
            assert_eq!(findings.len(), 1, "{findings:?}");
            let text = findings.iter().map(ToString::to_string).collect::<String>();
            assert!(text.contains(want), "{text:?} should contain {want:?}");
            assert!(!text.contains('\n'));
        }
    }
}
