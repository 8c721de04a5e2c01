//! Files and mounts a container needs beside its volumes: `/etc/hosts`, the termination message file,
//! the pod's cgroup.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::config::{PodPaths, Resolver, domain, hostname};
use super::env::expand;
use super::resources;
use crate::cri::v1;
use crate::runtime::{Container as Made, label};
use crate::volumes::{Volumes, host};

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
pub fn write_hosts(pod: &Pod, ips: &[String], paths: &PodPaths, resolver: &Resolver) -> std::io::Result<()> {
    let node_hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    fs::create_dir_all(&paths.directory)?;
    fs::write(paths.hosts(), hosts(pod, ips, resolver, &node_hosts))
}

/// All mounts of a container; makes what must exist. Errors are sentences for
/// `CreateContainerConfigError`.
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
    for mount in container.volume_mounts.iter().flatten() {
        let base = volumes.paths.get(&mount.name).ok_or_else(|| {
            format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                mount.name, container.name
            )
        })?;
        let lookup = |name: &str| {
            env.iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        };
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
            (_, Some(text)) if !text.is_empty() => {
                let missing = std::cell::Cell::new(false);
                let text = expand(text, |name| {
                    lookup(name).or_else(|| {
                        missing.set(true);
                        None
                    })
                });
                if missing.get() {
                    return Err(format!(
                        "missing value for subPathExpr of volumeMount \"{}\": {text}",
                        mount.name
                    ));
                }
                Some(text)
            }
            _ => None,
        };
        let host_path = match sub {
            Some(sub) => host::sub_path(base, &sub).map_err(|error| {
                format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                    mount.name, container.name
                )
            })?,
            None => base.clone(),
        };
        has_hosts |= mount.mount_path == "/etc/hosts";
        mounts.push(v1::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.display().to_string(),
            readonly: mount.read_only.unwrap_or(false) || is_image(pod, &mount.name),
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
        make_message_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        mounts.push(plain(message_path, file));
    }
    Ok(mounts)
}

fn is_image(pod: &Pod, volume: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .into_iter()
        .any(|known| known.name == volume && known.image.is_some())
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_string()
    } else {
        format!("/{path}")
    }
}

fn make_message_file(file: &Path) -> std::io::Result<()> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(file, b"")?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o666))
}

/// Roots of the cgroup hierarchies that pods are limited in.
fn cgroup_roots() -> Vec<(&'static str, PathBuf)> {
    let base = Path::new("/sys/fs/cgroup");
    if base.join("cgroup.controllers").exists() {
        return vec![("unified", base.to_path_buf())];
    }
    ["cpu", "memory", "pids", "cpuset"]
        .into_iter()
        .map(|controller| (controller, base.join(controller)))
        .filter(|(_, path)| path.is_dir())
        .collect()
}

/// What a container was given when it was last resized, or else when it was made.
pub fn given(paths: &PodPaths, container: &Made) -> Option<ResourceRequirements> {
    let noted = fs::read(given_file(
        &paths.termination(&container.name, container.restarts),
        &container.id,
    ));
    let noted = noted.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    noted.or_else(|| serde_json::from_str(container.annotations.get(label::RESOURCES)?).ok())
}

/// Remembers beyond a restart of the agent what a container was given.
pub fn note_given(paths: &PodPaths, container: &Made, given: &ResourceRequirements) {
    let file = given_file(&paths.termination(&container.name, container.restarts), &container.id);
    let written = serde_json::to_vec(given).map_err(std::io::Error::from);
    if let Err(error) = written.and_then(|bytes| fs::write(&file, bytes)) {
        tracing::warn!(path = %file.display(), %error, "noting a container's resources");
    }
}

/// Beside the termination message of the same run.
pub fn given_file(termination: &Path, id: &str) -> PathBuf {
    termination.with_extension(format!("{id}.resources"))
}

/// Makes a pod's cgroup and sets its limits.
pub fn ensure_cgroup(pod: &Pod) {
    set_limits(pod, &resources::pod_limits(pod));
}

/// Sets the limits of a pod's cgroup. Failures are logged: containers still have their own.
pub fn set_limits(pod: &Pod, limits: &resources::PodLimits) {
    let name = resources::cgroup(pod);
    for (controller, root) in cgroup_roots() {
        let path = root.join(name.trim_start_matches('/'));
        if controller == "unified" {
            for parent in path.ancestors().skip(1).take_while(|parent| parent.starts_with(&root)) {
                let _ = fs::create_dir_all(parent);
                let _ = fs::write(parent.join("cgroup.subtree_control"), "+cpu +memory +pids");
            }
        }
        if let Err(error) = fs::create_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "pod cgroup");
            continue;
        }
        let settings: Vec<(&str, String)> = match controller {
            "cpu" => vec![
                ("cpu.shares", limits.shares.to_string()),
                ("cpu.cfs_quota_us", limits.quota.unwrap_or(-1).to_string()),
            ],
            "memory" => vec![("memory.limit_in_bytes", limits.memory.unwrap_or(-1).to_string())],
            "unified" => vec![
                ("cpu.weight", (1 + (limits.shares - 2) * 9999 / 262_142).to_string()),
                ("cpu.max", format!("{} 100000", or_max(limits.quota))),
                ("memory.max", or_max(limits.memory)),
            ],
            _ => Vec::new(),
        };
        for (file, value) in settings {
            if let Err(error) = fs::write(path.join(file), value) {
                tracing::debug!(path = %path.display(), file, %error, "pod cgroup");
            }
        }
    }
}

fn or_max(limit: Option<i64>) -> String {
    limit.map_or_else(|| "max".to_string(), |limit| limit.to_string())
}

/// Removes a pod's cgroup with everything below it; processes must have ended.
pub fn remove_cgroup(name: &str) {
    for (_, root) in cgroup_roots().into_iter().chain(more_roots()) {
        remove_tree(&root.join(name.trim_start_matches('/')));
    }
}

/// Hierarchies in which only the runtime makes groups.
fn more_roots() -> Vec<(&'static str, PathBuf)> {
    let base = Path::new("/sys/fs/cgroup");
    [
        "blkio",
        "cpuacct",
        "devices",
        "freezer",
        "hugetlb",
        "net_cls",
        "net_prio",
        "perf_event",
        "systemd",
        "rdma",
        "misc",
        "unified",
    ]
    .into_iter()
    .map(|controller| (controller, base.join(controller)))
    .filter(|(_, path)| path.is_dir())
    .collect()
}

fn remove_tree(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        remove_tree(&entry.path());
    }
    let _ = fs::remove_dir(path);
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
