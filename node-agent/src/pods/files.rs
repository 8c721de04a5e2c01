//! Files and mounts a container needs beside its volumes: `/etc/hosts` and the termination message file. Containers can
//! write them, and everything here is made and read below the pod's directory by descriptors.

use std::io;
use std::path::{Path, PathBuf};

use coxswain_beneath::{Dir, divide};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements, VolumeMount};

use super::config::{PodPaths, Resolver, domain, hostname};
use super::env::expand;
use crate::cri::v1;
use crate::runtime::{Container as Made, label};
use crate::volumes::sub_path::{self, SubPath, SubPathError};
use crate::volumes::{self, Volumes};

/// The node's own hosts file is passed on up to this many bytes.
const NODE_HOSTS_MAX: u64 = 1 << 20;
/// The note of what a container was given is read up to this many bytes.
const NOTE_MAX: u64 = 1 << 20;

/// The text of a pod's `/etc/hosts`.
pub fn hosts(pod: &Pod, ips: &[String], resolver: &Resolver, node_hosts: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut text = if spec.and_then(|spec| spec.host_network).unwrap_or(false) {
        format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for ip in ips {
            match domain(pod, resolver) {
                Some(domain) => text.push_str(&format!("{ip}\t{domain}\t{}\n", hostname(pod))),
                None => text.push_str(&format!("{ip}\t{}\n", hostname(pod))),
            }
        }
        text
    };
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!(
                "{}\t{}\n",
                alias.ip,
                alias.hostnames.clone().unwrap_or_default().join("\t")
            ));
        }
    }
    text
}

/// Writes the managed hosts file.
pub fn write_hosts(pod: &Pod, ips: &[String], paths: &PodPaths, resolver: &Resolver) -> io::Result<()> {
    let node_hosts = Dir::open(Path::new("/etc")).and_then(|etc| etc.read("hosts", NODE_HOSTS_MAX));
    let node_hosts = String::from_utf8_lossy(&node_hosts.unwrap_or_default()).into_owned();
    let text = hosts(pod, ips, resolver, &node_hosts);
    paths.open()?.overwrite(PodPaths::HOSTS, text.as_bytes(), 0o644)
}

/// All mounts of a container; makes what must exist. Errors are sentences for
/// `CreateContainerConfigError`; they do not tell what is on the node's disks.
pub fn mounts(
    pod: &Pod,
    container: &Container,
    restarts: u32,
    volumes: &Volumes,
    env: &[(String, String)],
    paths: &PodPaths,
) -> Result<Vec<v1::Mount>, String> {
    let mut mounts = Vec::new();
    let mut has_hosts = false;
    let root = paths.open().map_err(|error| error.to_string())?;
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let base = volumes.paths.get(&mount.name).ok_or_else(|| {
            format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                mount.name, container.name
            )
        })?;
        if mount.recursive_read_only.as_deref() == Some("Enabled") {
            return Err(format!(
                "failed to resolve recursive read-only mode: volume \"{}\" requested recursive read-only mode, but it is \
                 not supported by the runtime",
                mount.name
            ));
        }
        let host_path = match part_of_volume(mount, env)? {
            Some(path) => {
                let part = SubPath {
                    volume: base,
                    volume_name: &mount.name,
                    container: &container.name,
                    index,
                    path: &path,
                };
                sub_path::prepare(part, &root, &paths.directory).map_err(|error| refusal(&error, mount, container))?
            }
            None => base.clone(),
        };
        has_hosts |= mount.mount_path == "/etc/hosts";
        mounts.push(v1::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.display().to_string(),
            readonly: mount.read_only.unwrap_or(false) || is_read_only(pod, &mount.name),
            selinux_relabel: false,
            propagation: match mount.mount_propagation.as_deref() {
                Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
                Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
                _ => v1::MountPropagation::PropagationPrivate,
            } as i32,
        });
    }
    let plain = |container_path: &str, host_path: PathBuf| v1::Mount {
        container_path: container_path.to_string(),
        host_path: host_path.display().to_string(),
        ..v1::Mount::default()
    };
    if !has_hosts {
        mounts.push(plain("/etc/hosts", paths.hosts()));
    }
    let message_path = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    if !message_path.is_empty() {
        let file = paths.termination(&container.name, restarts);
        make_message_file(&root, &container.name, restarts).map_err(|error| format!("{}: {error}", file.display()))?;
        mounts.push(plain(message_path, file));
    }
    Ok(mounts)
}

/// The subPath of a mount, expanded.
fn part_of_volume(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, String> {
    let text = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(sub), _) if !sub.is_empty() => return Ok(Some(sub.clone())),
        (_, Some(text)) if !text.is_empty() => text,
        _ => return Ok(None),
    };
    let missing = std::cell::Cell::new(false);
    let expanded = expand(text, |name| {
        let found = env.iter().find(|(known, _)| known == name);
        missing.set(missing.get() || found.is_none());
        found.map(|(_, value)| value.clone())
    });
    if missing.get() {
        return Err(format!(
            "missing value for subPathExpr of volumeMount \"{}\": {expanded}",
            mount.name
        ));
    }
    Ok(Some(expanded))
}

/// Kubernetes' sentence; the reason goes to the node's log alone, because it tells what is on the node's disks.
fn refusal(error: &SubPathError, mount: &VolumeMount, container: &Container) -> String {
    let reason = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    tracing::warn!(volume = mount.name, container = container.name, reason, "{error}");
    format!(
        "{error} for volumeMount \"{}\" of container \"{}\"",
        mount.name, container.name
    )
}

fn is_read_only(pod: &Pod, volume: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .into_iter()
        .any(|known| known.name == volume && volumes::is_read_only(known))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_string()
    } else {
        format!("/{path}")
    }
}

fn make_message_file(root: &Dir, container: &str, restarts: u32) -> io::Result<()> {
    let directory = root.ensure_dir(Path::new(PodPaths::CONTAINERS).join(container), 0o750)?;
    directory.overwrite(restarts.to_string(), b"", 0o666)
}

/// What a container was given when it was last resized, or else when it was made.
pub fn given(paths: &PodPaths, container: &Made) -> Option<ResourceRequirements> {
    let file = given_file(&paths.termination(&container.name, container.restarts), &container.id);
    let noted = divide(&file, PodPaths::MESSAGE_DEPTH).and_then(|(root, file)| root.read(file, NOTE_MAX));
    let noted = noted.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    noted.or_else(|| serde_json::from_str(container.annotations.get(label::RESOURCES)?).ok())
}

/// Remembers beyond a restart of the agent what a container was given.
pub fn note_given(paths: &PodPaths, container: &Made, given: &ResourceRequirements) {
    let file = given_file(&paths.termination(&container.name, container.restarts), &container.id);
    let written = serde_json::to_vec(given).map_err(io::Error::from).and_then(|bytes| {
        let (root, file) = divide(&file, PodPaths::MESSAGE_DEPTH)?;
        root.overwrite(file, &bytes, 0o600)
    });
    if let Err(error) = written {
        tracing::warn!(path = %file.display(), %error, "noting a container's resources");
    }
}

/// Removes the termination message of a container's run, and the note beside it.
pub fn remove_message(termination: &Path, id: &str) {
    for file in [termination.to_path_buf(), given_file(termination, id)] {
        let removed = divide(&file, PodPaths::MESSAGE_DEPTH).and_then(|(root, file)| root.remove_all(file));
        if let Err(error) = removed {
            tracing::warn!(path = %file.display(), %error, "removing a termination message");
        }
    }
}

/// Beside the termination message of the same run.
fn given_file(termination: &Path, id: &str) -> PathBuf {
    termination.with_extension(format!("{id}.resources"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "containers": [], "subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}))
        .expect("pod");
        let resolver = Resolver {
            cluster_domain: "cluster.local".into(),
            ..Resolver::default()
        };
        let text = hosts(&pod, &["10.0.0.1".into()], &resolver, "");
        assert!(text.contains("10.0.0.1\tp.s.n.svc.cluster.local\tp\n"), "{text}");
        assert!(
            text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"),
            "{text}"
        );
    }
}
