//! What one Service, or one pod with host ports, needs in the kernel: a pure function.
//!
//! ```text
//!  map services (address . protocol . port) ──► s-… ClusterIP, x-… external, l-… load balancer
//!  map node_ports (protocol . port) ──────────► x-…, h-… (a pod's host port)
//!  maps refused, refused_ports ───────────────► refuse (no endpoint) or drop (none here)
//!
//!  l-… (source ranges) ► x-… (masquerade, or this node's endpoints only) ► s-… ► DNAT
//!                                          with affinity: s-… ► e-… (one per endpoint) ► DNAT
//! ```
//!
//! A packet meets one map lookup, whatever the number of Services, and then only the chains of its
//! own Service. Addresses of untrusted objects are parsed before they become text of a rule.
//!
//! Does not: know what the kernel holds; see `ruleset`.

use super::super::addresses::{Addresses, Range};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Endpoints of one Service port that are put into rules; the rest are left out.
pub const ENDPOINTS_MAX: usize = 4096;
/// Default of ClientIP affinity, in seconds.
const AFFINITY_SECONDS_DEFAULT: i32 = 10_800;
/// Clients that one endpoint's affinity set remembers.
const AFFINITY_CLIENTS_MAX: u32 = 65_536;

/// The shared maps and sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    Services,
    NodePorts,
    Refused,
    RefusedPorts,
    Hairpin,
}

/// Key of one element of a shared map or set, in nft's notation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub table: Table,
    pub key: String,
}

/// A UDP path through the proxy. When it goes away, its connection tracking entries must too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpPath {
    /// What the client sends to; no address for a node port, which has many.
    pub address: Option<Ipv4Addr>,
    pub port: u16,
    /// Who answers; the front end itself while there is no endpoint.
    pub endpoint: Option<SocketAddrV4>,
}

/// Everything that one owner needs in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Elements of shared maps with their verdict (empty for sets).
    pub elements: BTreeMap<Element, String>,
    /// Chains of this owner alone, with their rules.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Sets of this owner alone, with their definition.
    pub sets: BTreeMap<String, String>,
    pub udp: BTreeSet<UdpPath>,
}

/// The rules of one Service. Headless and ExternalName Services need none.
pub fn service(service: &Service, slices: &[&EndpointSlice], node_name: &str, node: &Addresses) -> Fragment {
    let mut out = Fragment::default();
    let Some(spec) = &service.spec else { return out };
    if spec.type_.as_deref() == Some("ExternalName") || service.metadata.deletion_timestamp.is_some() {
        return out;
    }
    let cluster_ip: Option<Ipv4Addr> = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
    let Some(cluster_ip) = cluster_ip else { return out };
    for port in spec.ports.iter().flatten() {
        let Some(front) = Front::of(service, spec, port, cluster_ip) else {
            continue;
        };
        let backends = Backends::of(slices, front.port_name, node_name);
        if cluster_ip == node.dns && front.port == 53 {
            // Answered by this process on that very address.
            continue;
        }
        plan_port(&mut out, &front, &backends, node);
    }
    out
}

/// The rules of the host ports of one pod of this node.
pub fn host_ports(pod: &Pod) -> Fragment {
    let mut out = Fragment::default();
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else {
        return out;
    };
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let Some(ip) = status.pod_ip.as_deref().and_then(|ip| ip.parse::<Ipv4Addr>().ok()) else {
        return out;
    };
    if over || spec.host_network == Some(true) {
        return out;
    }
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    for port in spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
    {
        let (Some(host), Some(target)) = (port.host_port.and_then(port_of), port_of(port.container_port)) else {
            continue;
        };
        let Some(protocol) = protocol_of(port.protocol.as_deref()) else {
            continue;
        };
        let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
        let label = format!("{}/{}/{host}", namespace.unwrap_or_default(), name.unwrap_or_default());
        let address: Option<Ipv4Addr> = port
            .host_ip
            .as_deref()
            .and_then(|ip| ip.parse().ok())
            .filter(|ip: &Ipv4Addr| !ip.is_unspecified());
        let chain = chain_name('h', &label, protocol);
        let to = SocketAddrV4::new(ip, target);
        out.chains.insert(
            chain.clone(),
            vec![
                "ip saddr 127.0.0.0/8 jump to_masquerade".to_owned(),
                format!("meta l4proto {protocol} dnat to {to}"),
            ],
        );
        let verdict = format!("goto {chain}");
        match address {
            Some(address) => out.element(Table::Services, format!("{address} . {protocol} . {host}"), &verdict),
            None => out.element(Table::NodePorts, format!("{protocol} . {host}"), &verdict),
        }
        out.element(Table::Hairpin, format!("{ip} . {ip}"), "");
        if protocol == "udp" {
            out.udp.insert(UdpPath {
                address,
                port: host,
                endpoint: Some(to),
            });
        }
    }
    out
}

impl Fragment {
    fn element(&mut self, table: Table, key: String, verdict: &str) {
        self.elements.insert(Element { table, key }, verdict.to_owned());
    }
}

/// One port of a Service as clients see it.
struct Front<'a> {
    label: String,
    port_name: &'a str,
    protocol: &'static str,
    port: u16,
    node_port: Option<u16>,
    cluster_ip: Ipv4Addr,
    external: Vec<Ipv4Addr>,
    balancer: Vec<Ipv4Addr>,
    source_ranges: Vec<Range>,
    affinity_seconds: Option<i32>,
    internal_local: bool,
    external_local: bool,
}

impl<'a> Front<'a> {
    fn of(service: &Service, spec: &'a ServiceSpec, port: &'a ServicePort, cluster_ip: Ipv4Addr) -> Option<Front<'a>> {
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let meta = &service.metadata;
        let port_name = port.name.as_deref().unwrap_or_default();
        let label = format!(
            "{}/{}/{port_name}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        );
        let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = ingress
            .into_iter()
            .flat_map(|balancer| balancer.ingress.iter().flatten());
        let balancer = ingress
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok());
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let seconds = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref());
        let seconds = seconds
            .and_then(|client| client.timeout_seconds)
            .unwrap_or(AFFINITY_SECONDS_DEFAULT);
        let ranges = spec.load_balancer_source_ranges.iter().flatten();
        Some(Front {
            label,
            port_name,
            protocol: protocol_of(port.protocol.as_deref())?,
            port: port_of(port.port)?,
            node_port: port.node_port.and_then(port_of).filter(|_| kind != "ClusterIP"),
            cluster_ip,
            external: spec
                .external_ips
                .iter()
                .flatten()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            balancer: if kind == "LoadBalancer" {
                balancer.collect()
            } else {
                Vec::new()
            },
            source_ranges: ranges.filter_map(|range| Range::parse("", range.trim()).ok()).collect(),
            affinity_seconds: affinity.then_some(seconds),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: kind != "ClusterIP" && spec.external_traffic_policy.as_deref() == Some("Local"),
        })
    }

    fn has_external(&self) -> bool {
        self.node_port.is_some() || !self.external.is_empty() || !self.balancer.is_empty()
    }
}

/// Who may answer: everybody, and those on this node.
struct Backends {
    all: Vec<SocketAddrV4>,
    local: Vec<SocketAddrV4>,
}

impl Backends {
    fn of(slices: &[&EndpointSlice], port_name: &str, node_name: &str) -> Backends {
        // Ready ones; where there are none, those that still serve while they terminate.
        let [mut ready, mut ready_local, mut ending, mut ending_local] =
            [BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
            let ports = slice.ports.iter().flatten();
            let mut ports = ports.filter(|port| port.name.as_deref().unwrap_or_default() == port_name);
            let Some(port) = ports.find_map(|port| port.port.and_then(port_of)) else {
                continue;
            };
            for endpoint in endpoints_of(slice) {
                let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse::<Ipv4Addr>().ok()) else {
                    continue;
                };
                let to = SocketAddrV4::new(ip, port);
                let here = endpoint.node_name.as_deref() == Some(node_name);
                let (all, local) = match state_of(endpoint) {
                    State::Ready => (&mut ready, &mut ready_local),
                    State::Ending => (&mut ending, &mut ending_local),
                    State::Away => continue,
                };
                all.insert(to);
                if here {
                    local.insert(to);
                }
            }
        }
        let pick = |first: BTreeSet<SocketAddrV4>, second: BTreeSet<SocketAddrV4>| {
            let chosen = if first.is_empty() { second } else { first };
            chosen.into_iter().take(ENDPOINTS_MAX).collect()
        };
        Backends {
            all: pick(ready, ending),
            local: pick(ready_local, ending_local),
        }
    }
}

fn endpoints_of(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    slice.endpoints.iter().flatten()
}

enum State {
    Ready,
    Ending,
    Away,
}

fn state_of(endpoint: &Endpoint) -> State {
    let Some(conditions) = &endpoint.conditions else {
        return State::Ready;
    };
    let terminating = conditions.terminating == Some(true);
    match (conditions.ready, conditions.serving) {
        (None | Some(true), _) => State::Ready,
        (_, Some(true)) if terminating => State::Ending,
        _ => State::Away,
    }
}

fn plan_port(out: &mut Fragment, front: &Front, backends: &Backends, node: &Addresses) {
    let protocol = front.protocol;
    let inner = if front.internal_local {
        &backends.local
    } else {
        &backends.all
    };
    let outer = if front.external_local {
        &backends.local
    } else {
        &backends.all
    };
    let at = |address: Ipv4Addr| format!("{address} . {protocol} . {}", front.port);
    let addresses = || front.external.iter().chain(&front.balancer);

    // Endpoint chains are shared by all ways in.
    let outside = if front.has_external() { outer.as_slice() } else { &[] };
    let union: BTreeSet<SocketAddrV4> = inner.iter().chain(outside).copied().collect();
    for endpoint in &union {
        let ip = endpoint.ip();
        if *ip != node.node {
            out.element(Table::Hairpin, format!("{ip} . {ip}"), "");
        }
        if let Some(seconds) = front.affinity_seconds {
            affinity_chain(out, front, *endpoint, seconds);
        }
    }

    if inner.is_empty() {
        let verdict = if backends.all.is_empty() { "goto refuse" } else { "drop" };
        out.element(Table::Refused, at(front.cluster_ip), verdict);
    } else {
        let chain = chain_name('s', &front.label, protocol);
        let mut rules = vec![format!(
            "ip saddr != {} fib saddr type != local jump to_masquerade",
            node.cluster
        )];
        rules.extend(pick_rules(front, inner));
        out.chains.insert(chain.clone(), rules);
        out.element(Table::Services, at(front.cluster_ip), &format!("goto {chain}"));
    }
    udp_paths(out, front, Some(front.cluster_ip), front.port, inner);

    if !front.has_external() {
        return;
    }
    if backends.all.is_empty() || (outer.is_empty() && !front.external_local) {
        addresses().for_each(|address| out.element(Table::Refused, at(*address), "goto refuse"));
        if let Some(port) = front.node_port {
            out.element(Table::RefusedPorts, format!("{protocol} . {port}"), "goto refuse");
        }
    } else {
        external_chains(out, front, backends, node);
    }
    for address in addresses() {
        udp_paths(out, front, Some(*address), front.port, outer);
    }
    if let Some(port) = front.node_port {
        udp_paths(out, front, None, port, outer);
    }
}

fn external_chains(out: &mut Fragment, front: &Front, backends: &Backends, node: &Addresses) {
    let protocol = front.protocol;
    let chain = chain_name('x', &front.label, protocol);
    let mut rules = Vec::new();
    if front.external_local {
        // Pods and this node reach every endpoint, as if they had used the ClusterIP.
        let everybody = chain_name('a', &front.label, protocol);
        let mut all = vec!["fib saddr type local jump to_masquerade".to_owned()];
        all.extend(pick_rules(front, &backends.all));
        out.chains.insert(everybody.clone(), all);
        rules.push(format!("ip saddr {} goto {everybody}", node.cluster));
        rules.push(format!("fib saddr type local goto {everybody}"));
        match backends.local.is_empty() {
            true => rules.push("drop".to_owned()),
            false => rules.extend(pick_rules(front, &backends.local)),
        }
        if front.affinity_seconds.is_some() {
            let seconds = front.affinity_seconds.unwrap_or(AFFINITY_SECONDS_DEFAULT);
            backends
                .all
                .iter()
                .for_each(|endpoint| affinity_chain(out, front, *endpoint, seconds));
        }
    } else {
        rules.push("jump to_masquerade".to_owned());
        rules.extend(pick_rules(front, &backends.all));
    }
    out.chains.insert(chain.clone(), rules);
    let verdict = format!("goto {chain}");
    let at = |address: &Ipv4Addr| format!("{address} . {protocol} . {}", front.port);
    for address in &front.external {
        out.element(Table::Services, at(address), &verdict);
    }
    if let Some(port) = front.node_port {
        out.element(Table::NodePorts, format!("{protocol} . {port}"), &verdict);
    }
    let verdict = if front.source_ranges.is_empty() || front.balancer.is_empty() {
        verdict
    } else {
        let guard = chain_name('l', &front.label, protocol);
        let mut rules: Vec<String> = front
            .source_ranges
            .iter()
            .map(|range| format!("ip saddr {range} goto {chain}"))
            .collect();
        rules.push(format!("fib saddr type local goto {chain}"));
        rules.push("drop".to_owned());
        out.chains.insert(guard.clone(), rules);
        format!("goto {guard}")
    };
    for address in &front.balancer {
        out.element(Table::Services, at(address), &verdict);
    }
}

/// The rules that choose one of the endpoints.
fn pick_rules(front: &Front, endpoints: &[SocketAddrV4]) -> Vec<String> {
    let protocol = front.protocol;
    let Some(seconds) = front.affinity_seconds else {
        return match endpoints {
            [] => vec!["drop".to_owned()],
            [one] => vec![format!("meta l4proto {protocol} dnat to {one}")],
            many => {
                let to = many.iter().enumerate();
                let to: Vec<String> = to.map(|(n, e)| format!("{n} : {} . {}", e.ip(), e.port())).collect();
                vec![format!(
                    "meta l4proto {protocol} dnat to numgen random mod {} map {{ {} }}",
                    many.len(),
                    to.join(", ")
                )]
            }
        };
    };
    let names: Vec<(String, String)> = endpoints
        .iter()
        .map(|endpoint| affinity_names(front, *endpoint, seconds))
        .collect();
    let mut rules: Vec<String> = names
        .iter()
        .map(|(chain, set)| format!("ip saddr @{set} goto {chain}"))
        .collect();
    let to: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(n, (chain, _))| format!("{n} : goto {chain}"))
        .collect();
    rules.push(format!(
        "numgen random mod {} vmap {{ {} }}",
        names.len().max(1),
        to.join(", ")
    ));
    rules
}

fn affinity_chain(out: &mut Fragment, front: &Front, endpoint: SocketAddrV4, seconds: i32) {
    let (chain, set) = affinity_names(front, endpoint, seconds);
    out.chains.insert(
        chain,
        vec![
            format!("update @{set} {{ ip saddr }}"),
            format!("meta l4proto {} dnat to {endpoint}", front.protocol),
        ],
    );
    out.sets.insert(
        set,
        format!(
            "type ipv4_addr; flags dynamic,timeout; timeout {}s; size {AFFINITY_CLIENTS_MAX};",
            seconds.clamp(1, 86_400)
        ),
    );
}

fn affinity_names(front: &Front, endpoint: SocketAddrV4, seconds: i32) -> (String, String) {
    let label = format!("{}/{}/{}", front.label, endpoint.ip(), endpoint.port());
    // The time is part of the set's name: a set cannot change it.
    (
        chain_name('e', &label, front.protocol),
        chain_name('c', &format!("{label}/{seconds}s"), front.protocol),
    )
}

fn udp_paths(out: &mut Fragment, front: &Front, address: Option<Ipv4Addr>, port: u16, to: &[SocketAddrV4]) {
    if front.protocol != "udp" {
        return;
    }
    if to.is_empty() {
        out.udp.insert(UdpPath {
            address,
            port,
            endpoint: None,
        });
    }
    for endpoint in to {
        out.udp.insert(UdpPath {
            address,
            port,
            endpoint: Some(*endpoint),
        });
    }
}

/// A chain or set name: a hash that makes it unique, and words for whoever reads the rules.
fn chain_name(kind: char, label: &str, protocol: &str) -> String {
    // FNV-1a, 64 bits.
    let hash = label.bytes().chain([b'/']).chain(protocol.bytes());
    let hash = hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let words: String = label
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-') {
                c
            } else {
                '_'
            }
        })
        .take(70)
        .collect();
    format!("{kind}-{hash:016x}-{words}/{protocol}")
}

fn protocol_of(text: Option<&str>) -> Option<&'static str> {
    match text.unwrap_or("TCP") {
        "TCP" => Some("tcp"),
        "UDP" => Some("udp"),
        "SCTP" => Some("sctp"),
        _ => None,
    }
}

fn port_of(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}
