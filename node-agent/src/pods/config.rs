//! From a pod to what the runtime is told: sandbox and container configurations. Pure; files that
//! must exist are named here and written by `files.rs`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use sha2::{Digest, Sha256};

use super::fields::NodeFacts;
use super::{env, resources, security};
use crate::cri::v1::{self, ContainerConfig, NamespaceMode, PodSandboxConfig};
use crate::runtime::{ImageFacts, label};

/// Where one pod's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPaths {
    /// `<data-dir>/agent/pods/<uid>`.
    pub directory: PathBuf,
    /// Its logs: `<log-dir>/<namespace>_<name>_<uid>`.
    pub logs: PathBuf,
}

impl PodPaths {
    /// The managed hosts file below the pod's directory.
    pub const HOSTS: &str = "etc-hosts";
    /// What belongs to single containers below the pod's directory.
    pub const CONTAINERS: &str = "containers";
    /// Components of a termination message's path, counted from the end, that containers have to do with: the pod's
    /// uid, `containers`, the container's name, the count of its restarts.
    pub const MESSAGE_DEPTH: usize = 4;

    /// The files of the pod of this identity; `None` when a part of it cannot be a name on a disk.
    pub fn new(pods: &Path, logs: &Path, namespace: &str, name: &str, uid: &str) -> Option<PodPaths> {
        // What is empty, or leads elsewhere, would name the directory of all pods.
        let fit = [namespace, name, uid].into_iter().all(coxswain_beneath::is_component);
        fit.then(|| PodPaths {
            directory: pods.join(uid),
            logs: logs.join(format!("{namespace}_{name}_{uid}")),
        })
    }

    /// Opens the pod's directory; makes it, for the agent alone, when it is missing.
    pub fn open(&self) -> std::io::Result<coxswain_beneath::Dir> {
        let pods = self.directory.parent().unwrap_or(Path::new("/"));
        let name = self.directory.file_name().unwrap_or_default();
        coxswain_beneath::Dir::create(pods)?.ensure_dir(name, 0o750)
    }

    /// The managed `/etc/hosts`.
    pub fn hosts(&self) -> PathBuf {
        self.directory.join(Self::HOSTS)
    }

    /// Behind the termination message path of one container's run.
    pub fn termination(&self, container: &str, restarts: u32) -> PathBuf {
        self.directory
            .join(Self::CONTAINERS)
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
    let security = security::context(pod, container, image, node)?;
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
}
