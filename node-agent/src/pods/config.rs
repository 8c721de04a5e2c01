//! From a pod to what the runtime is told: sandbox and container configurations. Pure; files that
//! must exist are named here and written by `files.rs`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SeccompProfile};
use sha2::{Digest, Sha256};

use super::fields::NodeFacts;
use super::{env, resources};
use crate::cri::v1::{self, ContainerConfig, NamespaceMode, PodSandboxConfig};
use crate::runtime::{ImageFacts, label};

/// Where one pod's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPaths {
    /// `<data-dir>/agent/pods/<uid>`.
    pub directory: PathBuf,
    /// Its logs.
    pub logs: PathBuf,
}

impl PodPaths {
    /// The managed `/etc/hosts`.
    pub fn hosts(&self) -> PathBuf {
        self.directory.join("etc-hosts")
    }

    /// Behind the termination message path of one container's run.
    pub fn termination(&self, container: &str, restarts: u32) -> PathBuf {
        self.directory
            .join("containers")
            .join(container)
            .join(restarts.to_string())
    }
}

/// Name resolution for pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// The cluster's DNS address.
    pub cluster_dns: String,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The node's own servers.
    pub node_servers: Vec<String>,
    /// The node's own search domains.
    pub node_searches: Vec<String>,
    /// The node's own options.
    pub node_options: Vec<String>,
}

const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// A pod's host name: at most 63 characters of its name unless it says otherwise.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let own = spec
        .and_then(|spec| spec.hostname.as_deref())
        .filter(|name| !name.is_empty());
    let name = own.or(pod.metadata.name.as_deref()).unwrap_or_default();
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_string()
}

/// The pod's full domain name, when it has a subdomain.
pub fn domain(pod: &Pod, resolver: &Resolver) -> Option<String> {
    let subdomain = pod
        .spec
        .as_ref()?
        .subdomain
        .as_deref()
        .filter(|name| !name.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref()?;
    Some(format!(
        "{}.{subdomain}.{namespace}.svc.{}",
        hostname(pod),
        resolver.cluster_domain
    ))
}

/// A pod's resolver configuration.
pub fn dns(pod: &Pod, resolver: &Resolver) -> v1::DnsConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = spec.host_network.unwrap_or(false);
    let node = || v1::DnsConfig {
        servers: resolver.node_servers.clone(),
        searches: resolver.node_searches.clone(),
        options: resolver.node_options.clone(),
    };
    let cluster = || {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = &resolver.cluster_domain;
        let mut searches = vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        searches.extend(resolver.node_searches.iter().cloned());
        v1::DnsConfig {
            servers: vec![resolver.cluster_dns.clone()],
            searches,
            options: vec!["ndots:5".into()],
        }
    };
    let mut config = match policy {
        "None" => v1::DnsConfig::default(),
        "ClusterFirstWithHostNet" => cluster(),
        "ClusterFirst" if !host_network => cluster(),
        _ => node(),
    };
    if let Some(own) = &spec.dns_config {
        extend(&mut config.servers, own.nameservers.iter().flatten());
        extend(&mut config.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|old| old.split(':').next() != Some(name));
            config.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    config.servers.truncate(SERVERS_MAX);
    config.searches.truncate(SEARCHES_MAX);
    config
}

fn extend<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn identity(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = pod
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let meta = &pod.metadata;
    labels.insert(label::POD_NAME.into(), meta.name.clone().unwrap_or_default());
    labels.insert(label::POD_NAMESPACE.into(), meta.namespace.clone().unwrap_or_default());
    labels.insert(label::POD_UID.into(), meta.uid.clone().unwrap_or_default());
    labels
}

fn namespaces(spec: &PodSpec, target_id: Option<&str>) -> v1::NamespaceOption {
    let on_node = |flag: Option<bool>| flag.unwrap_or(false);
    let pid = if target_id.is_some() {
        NamespaceMode::Target
    } else if on_node(spec.host_pid) {
        NamespaceMode::Node
    } else if spec.share_process_namespace.unwrap_or(false) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    let mode = |flag| if on_node(flag) { NamespaceMode::Node } else { NamespaceMode::Pod } as i32;
    v1::NamespaceOption {
        network: mode(spec.host_network),
        pid: pid as i32,
        ipc: mode(spec.host_ipc),
        target_id: target_id.unwrap_or_default().to_string(),
    }
}

/// The sandbox of a pod.
pub fn sandbox(pod: &Pod, attempt: u32, paths: &PodPaths, resolver: &Resolver) -> PodSandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let host_network = spec.host_network.unwrap_or(false);
    let context = spec.security_context.clone().unwrap_or_default();
    let ports = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .flat_map(|c| c.ports.iter().flatten());
    let port_mappings = ports
        .filter(|port| !host_network && port.host_port.unwrap_or(0) > 0)
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect();
    let privileged = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|c| {
            c.security_context
                .as_ref()
                .and_then(|context| context.privileged)
                .unwrap_or(false)
        });
    PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            attempt,
        }),
        hostname: if host_network {
            String::new()
        } else {
            sandbox_hostname(pod, resolver)
        },
        log_directory: paths.logs.display().to_string(),
        dns_config: Some(dns(pod, resolver)),
        port_mappings,
        labels: identity(pod),
        annotations: meta
            .annotations
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: resources::cgroup(pod),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(&spec, None)),
                privileged,
                seccomp: Some(v1::SecurityProfile {
                    profile_type: v1::security_profile::ProfileType::RuntimeDefault as i32,
                    localhost_ref: String::new(),
                }),
                ..v1::LinuxSandboxSecurityContext::default()
            }),
            sysctls: context
                .sysctls
                .iter()
                .flatten()
                .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
                .collect(),
            ..v1::LinuxPodSandboxConfig::default()
        }),
    }
}

fn sandbox_hostname(pod: &Pod, resolver: &Resolver) -> String {
    let full = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.set_hostname_as_fqdn)
        .unwrap_or(false);
    match domain(pod, resolver) {
        Some(domain) if full && domain.len() <= 64 => domain,
        _ => hostname(pod),
    }
}

/// What a container's configuration is made from.
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Containers of this name before this one.
    pub restarts: u32,
    /// The image, as the runtime knows it.
    pub image: &'a ImageFacts,
    /// Environment, already resolved.
    pub env: Vec<(String, String)>,
    /// Mounts, already prepared.
    pub mounts: Vec<v1::Mount>,
    /// The pod's files.
    pub paths: &'a PodPaths,
    /// The node.
    pub node: &'a NodeFacts,
    /// Id of the container whose processes this one sees.
    pub target_id: Option<&'a str>,
}

/// One container of a pod, or the sentence for `CreateContainerConfigError`.
pub fn container(inputs: Inputs<'_>) -> Result<ContainerConfig, String> {
    let Inputs {
        pod,
        container,
        restarts,
        image,
        env,
        mounts,
        paths,
        node,
        target_id,
    } = inputs;
    let security = security(pod, container, image)?;
    let lookup = |name: &str| {
        env.iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    let expand = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| env::expand(text, lookup)).collect()
    };
    let spec = pod.spec.as_ref();
    let mut labels = identity(pod);
    labels.retain(|key, _| key.starts_with("io.kubernetes.pod."));
    labels.insert(label::CONTAINER_NAME.into(), container.name.clone());
    let policy = container
        .termination_message_policy
        .clone()
        .unwrap_or_else(|| "File".into());
    let annotations = HashMap::from([
        (label::HASH.to_string(), hash(container)),
        (
            label::RESOURCES.to_string(),
            serde_json::to_string(&container.resources.clone().unwrap_or_default()).unwrap_or_default(),
        ),
        (label::RESTART_COUNT.to_string(), restarts.to_string()),
        (
            label::TERMINATION_FILE.to_string(),
            paths.termination(&container.name, restarts).display().to_string(),
        ),
        (label::TERMINATION_POLICY.to_string(), policy),
    ]);
    let (command, args) = (expand(&container.command), expand(&container.args));
    Ok(ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: restarts,
        }),
        image: Some(v1::ImageSpec {
            image: image.id.clone(),
            annotations: HashMap::new(),
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        devices: Vec::new(),
        labels,
        annotations,
        log_path: format!("{}/{restarts}.log", container.name),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::linux(pod, container, node.memory_bytes)),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: spec.map(|spec| namespaces(spec, target_id)),
                ..security
            }),
        }),
        envs: env
            .into_iter()
            .map(|(key, value)| v1::KeyValue { key, value })
            .collect(),
    })
}

/// A digest of what decides whether a running container still is the one the pod asks for.
pub fn hash(container: &Container) -> String {
    let text = serde_json::to_vec(&(&container.name, &container.image)).unwrap_or_default();
    Sha256::digest(&text)
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect()
}

const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn security(pod: &Pod, container: &Container, image: &ImageFacts) -> Result<v1::LinuxContainerSecurityContext, String> {
    let of_pod = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.clone())
        .unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false) {
        check_non_root(pod, container, user, image)?;
    }
    let (run_as_user, run_as_username) = match user {
        Some(value) => (Some(v1::Int64Value { value }), String::new()),
        None => match image.uid {
            Some(value) => (Some(v1::Int64Value { value }), String::new()),
            None if !image.username.is_empty() => (None, image.username.clone()),
            None => (Some(v1::Int64Value { value: 0 }), String::new()),
        },
    };
    let mut supplemental_groups = of_pod.supplemental_groups.clone().unwrap_or_default();
    supplemental_groups.extend(of_pod.fs_group);
    let caps = own.capabilities.clone().unwrap_or_default();
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked || privileged {
            Vec::new()
        } else {
            list.iter().map(|p| p.to_string()).collect()
        }
    };
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: caps.add.unwrap_or_default(),
            drop_capabilities: caps.drop.unwrap_or_default(),
        }),
        privileged,
        run_as_user,
        run_as_username,
        run_as_group: own
            .run_as_group
            .or(of_pod.run_as_group)
            .map(|value| v1::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: seccomp(
            own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()),
            privileged,
        ),
        ..v1::LinuxContainerSecurityContext::default()
    })
}

fn check_non_root(pod: &Pod, container: &Container, user: Option<i64>, image: &ImageFacts) -> Result<(), String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let place = format!(
        "(pod: \"{name}_{namespace}({})\", container: {})",
        pod.metadata.uid.as_deref().unwrap_or_default(),
        container.name
    );
    match (user, image.uid) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, None) if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.username
        )),
        (None, None) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, Some(_)) => Ok(()),
    }
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool) -> Option<v1::SecurityProfile> {
    use v1::security_profile::ProfileType;
    let (profile_type, localhost_ref) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") if !privileged => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let file = profile
                .and_then(|profile| profile.localhost_profile.clone())
                .unwrap_or_default();
            (
                ProfileType::Localhost,
                Path::new("/var/lib/kubelet/seccomp").join(file).display().to_string(),
            )
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    Some(v1::SecurityProfile {
        profile_type: profile_type as i32,
        localhost_ref,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dns_follows_policy() {
        let resolver = Resolver {
            cluster_dns: "10.96.0.10".into(),
            cluster_domain: "cluster.local".into(),
            node_servers: vec!["192.0.2.53".into()],
            node_searches: vec!["example.test".into()],
            node_options: vec![],
        };
        let config = |spec: serde_json::Value| {
            let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}))
                .expect("pod");
            dns(&pod, &resolver)
        };
        let cluster = config(json!({"containers": []}));
        assert_eq!(cluster.servers, ["10.96.0.10"]);
        assert_eq!(
            cluster.searches,
            [
                "n.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "example.test"
            ]
        );
        assert_eq!(cluster.options, ["ndots:5"]);
        assert_eq!(
            config(json!({"containers": [], "hostNetwork": true})).servers,
            ["192.0.2.53"]
        );
        let own = config(json!({"containers": [], "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["1.2.3.4"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        assert_eq!(
            (own.servers, own.options),
            (
                vec!["1.2.3.4".to_string()],
                vec!["ndots:2".to_string(), "edns0".to_string()]
            )
        );
    }

    #[test]
    fn non_root_is_checked() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "securityContext": {"runAsNonRoot": true}}]}}))
        .expect("pod");
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let image = |uid, username: &str| ImageFacts {
            uid,
            username: username.into(),
            ..ImageFacts::default()
        };
        assert!(security(&pod, container, &image(Some(0), "")).is_err());
        assert!(security(&pod, container, &image(None, "web")).is_err());
        assert!(security(&pod, container, &image(Some(7), "")).is_ok());
    }
}
