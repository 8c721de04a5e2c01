//! The configuration file of the supervised containerd, as text. Pure: what the machine offers is an
//! argument.

use std::path::PathBuf;

/// Where the supervised containerd keeps its things and what the machine lets it do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Images, snapshots and metadata; survives reboots.
    pub root: PathBuf,
    /// Running state; gone after a reboot.
    pub state: PathBuf,
    /// Its gRPC socket.
    pub socket: PathBuf,
    /// Where CNI plugins are.
    pub cni_bin_dir: PathBuf,
    /// Where CNI network lists are.
    pub cni_conf_dir: PathBuf,
    /// Registry host configuration (`hosts.toml` below a folder for each host).
    pub registry_dir: PathBuf,
    /// `overlayfs`, or `native` where overlay mounts are refused.
    pub snapshotter: &'static str,
    /// Set when the process may not lower `oom_score_adj`.
    pub restrict_oom_score_adj: bool,
}

/// The file's text.
pub fn render(settings: &Settings) -> String {
    let Settings {
        root,
        state,
        socket,
        cni_bin_dir,
        cni_conf_dir,
        registry_dir,
        snapshotter,
        restrict_oom_score_adj,
    } = settings;
    let pause = crate::image::pause::NAME;
    format!(
        r#"# Written by coxswain at every start; changes are lost.
version = 2
root = {root:?}
state = {state:?}
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = {socket:?}
  uid = 0
  gid = 0

[debug]
  level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = {restrict_oom_score_adj}
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_tcp_service = true
  enable_selinux = false
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni_bin_dir:?}
    conf_dir = {cni_conf_dir:?}
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {registry_dir:?}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_the_file() {
        let text = render(&Settings {
            root: "/d/root".into(),
            state: "/r/state".into(),
            socket: "/r/c.sock".into(),
            cni_bin_dir: "/usr/lib/cni".into(),
            cni_conf_dir: "/r/cni".into(),
            registry_dir: "/d/certs.d".into(),
            snapshotter: "native",
            restrict_oom_score_adj: true,
        });
        for line in [
            "root = \"/d/root\"",
            "address = \"/r/c.sock\"",
            "restrict_oom_score_adj = true",
            "snapshotter = \"native\"",
            "conf_dir = \"/r/cni\"",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
