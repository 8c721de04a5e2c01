//! A pod's control groups: made before its sandbox, limited as its containers together, removed after them. Nothing here
//! has a path that comes from a pod: the name of a group is made from its uid, which was checked.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use super::resources;

/// Makes a pod's cgroup and sets its limits.
pub fn ensure(pod: &Pod) {
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
                ("cpu.weight", weight(limits.shares).to_string()),
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
pub fn remove(name: &str) {
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

/// CPU shares, 2 to 262,144, as a weight of the newer cgroups, 1 to 10,000.
fn weight(shares: i64) -> i64 {
    let above = shares.saturating_sub(2).saturating_mul(9999) / 262_142;
    above.saturating_add(1)
}
