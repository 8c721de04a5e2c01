//! Disks and networks of their own for servers of a test: taken away again when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs a program of the system.
///
/// # Errors
/// What it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// A file system that can be held up or filled.
pub struct Volume {
    at: PathBuf,
}

impl Volume {
    /// An ext4 of so many MiB in a file beside its mount point.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn ext4(at: &Path, mib: u32) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let image = at.with_extension("img");
        let (image, at) = (image.to_string_lossy(), at.to_string_lossy());
        run("truncate", &["-s", &format!("{mib}M"), &image])?;
        run("mkfs.ext4", &["-q", "-F", &image])?;
        run("mount", &["-o", "loop", &image, &at])?;
        Ok(Self { at: at.as_ref().into() })
    }

    /// A file system in memory of so many MiB.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn memory(at: &Path, mib: u32) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let size = format!("size={mib}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &at.to_string_lossy()])?;
        Ok(Self { at: at.to_owned() })
    }

    /// From now on every write waits.
    ///
    /// # Errors
    /// When the file system cannot do that.
    pub fn hold_up(&self) -> Result<()> {
        run("fsfreeze", &["-f", &self.at.to_string_lossy()])
    }

    /// Writes go on.
    ///
    /// # Errors
    /// When they were not held up.
    pub fn let_go(&self) -> Result<()> {
        run("fsfreeze", &["-u", &self.at.to_string_lossy()])
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let at = self.at.to_string_lossy();
        // It may not be held up; a lazy unmount takes away what is still in use.
        let _ = run("fsfreeze", &["-u", &at]);
        let _ = run("umount", &["-l", &at]);
    }
}

/// A bridge with a network namespace for each server.
pub struct Network {
    number: u32,
    count: usize,
}

impl Network {
    /// Makes one for so many servers.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(count: usize) -> Result<Self> {
        let network = Self {
            number: std::process::id() % 250,
            count,
        };
        let bridge = network.bridge();
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        let gateway = format!("10.213.{}.254/24", network.number);
        run("ip", &["addr", "add", &gateway, "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for server in 0..count {
            let (namespace, link) = (network.namespace(server), format!("{bridge}v{server}"));
            run("ip", &["netns", "add", &namespace])?;
            run(
                "ip",
                &[
                    "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
                ],
            )?;
            run("ip", &["link", "set", &link, "master", &bridge, "up"])?;
            let address = format!("{}/24", network.address(server));
            run("ip", &["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
            run("ip", &["-n", &namespace, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    fn bridge(&self) -> String {
        format!("cxe{}", self.number)
    }

    /// The namespace of a server.
    #[must_use]
    pub fn namespace(&self, server: usize) -> String {
        format!("cxe{}-{server}", self.number)
    }

    /// The address of a server.
    #[must_use]
    pub fn address(&self, server: usize) -> String {
        format!("10.213.{}.{}", self.number, server + 1)
    }

    /// Nothing gets through any more, in both directions, between a server and others; without a word to any.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn cut(&self, one: usize, others: &[usize]) -> Result<()> {
        let addresses: Vec<String> = others.iter().map(|other| self.address(*other)).collect();
        let addresses = addresses.join(", ");
        self.filter(
            one,
            &format!("ip saddr {{ {addresses} }}"),
            &format!("ip daddr {{ {addresses} }}"),
        )
    }

    /// Nothing gets to a server any more, or away from it: neither from other servers nor from clients.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn isolate(&self, server: usize) -> Result<()> {
        self.filter(server, "iifname eth0", "oifname eth0")
    }

    /// Drops what comes in, and what goes out, that matches.
    fn filter(&self, server: usize, incoming: &str, outgoing: &str) -> Result<()> {
        let rules = format!(
            "add table inet cut; add chain inet cut in {{ type filter hook input priority 0; }}; \
             add chain inet cut out {{ type filter hook output priority 0; }}; \
             add rule inet cut in {incoming} drop; add rule inet cut out {outgoing} drop"
        );
        run("ip", &["netns", "exec", &self.namespace(server), "nft", &rules])
    }

    /// Everything gets through again.
    ///
    /// # Errors
    /// When nft refuses.
    pub fn mend(&self) -> Result<()> {
        for server in 0..self.count {
            run(
                "ip",
                &["netns", "exec", &self.namespace(server), "nft", "flush ruleset"],
            )?;
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for server in 0..self.count {
            let _ = run("ip", &["netns", "del", &self.namespace(server)]);
        }
        let _ = run("ip", &["link", "del", &self.bridge()]);
    }
}
