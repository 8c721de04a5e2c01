//! The CNI configuration that containerd starts pods with.
//!
//! One `ptp` interface per pod with an address from the node's range by `host-local`: no bridge, so
//! every packet between pods is routed and seen by our rules, and nothing has to be learned or
//! flooded. Masquerading and host ports are in our own table, not in the plugins, which would use
//! iptables.
//!
//! Does not: install the plugins, or call them; containerd does.

use super::NetError;
use super::addresses::Addresses;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Configuration file; the number makes it the first that containerd finds.
const FILE: &str = "10-coxswain.conflist";
/// Name of the network, also the directory of its reservations.
const NETWORK: &str = "coxswain";
/// Where address reservations are kept, below the configuration: they must not outlive a reboot, and each cluster has its own.
const RESERVATIONS: &str = "ipam";

/// The directory that holds the plugins.
pub fn find_plugins(dirs: &[PathBuf]) -> Result<PathBuf, NetError> {
    let complete = |dir: &&PathBuf| {
        ["ptp", "host-local", "loopback"]
            .iter()
            .all(|plugin| dir.join(plugin).exists())
    };
    dirs.iter()
        .find(complete)
        .cloned()
        .ok_or_else(|| NetError::PluginsMissing {
            searched: dirs
                .iter()
                .map(|dir| dir.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// Writes the configuration if it is not there in this form.
pub fn ensure(dir: &Path, addresses: &Addresses) -> Result<(), NetError> {
    let text = conflist(dir, addresses);
    let path = dir.join(FILE);
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NetError::File { path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    // containerd watches the directory: it must never see half a file.
    let temporary = dir.join(format!(".{FILE}.new"));
    std::fs::write(&temporary, text).map_err(failed(&temporary))?;
    std::fs::rename(&temporary, &path).map_err(failed(&path))
}

/// Removes the configuration and the address reservations.
pub fn remove(dir: &Path) -> Result<(), NetError> {
    let path = dir.join(FILE);
    absent(std::fs::remove_file(&path), &path)?;
    let reservations = dir.join(RESERVATIONS);
    absent(std::fs::remove_dir_all(&reservations), &reservations)
}

fn absent(result: std::io::Result<()>, path: &Path) -> Result<(), NetError> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(NetError::File {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

fn conflist(dir: &Path, addresses: &Addresses) -> String {
    let mut text = format!(
        "{:#}",
        json!({
            "cniVersion": "0.4.0",
            "name": NETWORK,
            "plugins": [{
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": dir.join(RESERVATIONS),
                    "ranges": [[{
                        "subnet": addresses.pods.to_string(),
                        "gateway": addresses.gateway().to_string(),
                    }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }],
        })
    );
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addresses::Range;

    #[test]
    fn configuration_is_written_once_and_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let range = |text| Range::parse("range", text).expect("valid");
        let addresses = Addresses {
            node: [192, 0, 2, 2].into(),
            pods: range("10.244.3.0/24"),
            cluster: range("10.244.0.0/16"),
            services: range("10.96.0.0/16"),
            dns: [10, 96, 0, 10].into(),
        };
        ensure(dir.path(), &addresses).expect("written");
        let path = dir.path().join(FILE);
        let first = std::fs::metadata(&path).expect("there").modified().expect("a time");
        ensure(dir.path(), &addresses).expect("kept");
        assert_eq!(
            std::fs::metadata(&path).expect("there").modified().expect("a time"),
            first
        );
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
        let ipam = &value["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][0][0]["subnet"], "10.244.3.0/24");
        assert_eq!(ipam["ranges"][0][0]["gateway"], "10.244.3.1");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn missing_plugins_are_named_with_the_command() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = find_plugins(&[dir.path().to_owned()])
            .expect_err("nothing there")
            .to_string();
        assert!(error.contains("apt-get install containernetworking-plugins"), "{error}");
    }
}
