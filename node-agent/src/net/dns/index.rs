//! What the cluster's names mean: Services and their endpoints, keyed by name.
//!
//! An answer takes a few map lookups, never a scan, whatever the number of Services. Names are kept
//! in lower case without the cluster domain. Pure: changes and questions in, data out.
//!
//! Does not: know the wire format, or keep pods: `1-2-3-4.<namespace>.pod` says its address itself.

use coxswain_client::ObjectKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Endpoints of one headless Service that are published; the rest are left out.
const ENDPOINTS_MAX: usize = 4096;

/// All names of the cluster.
#[derive(Debug, Default)]
pub struct Index {
    services: BTreeMap<String, BTreeMap<String, Entry>>,
    reverse: BTreeMap<IpAddr, BTreeMap<ObjectKey, String>>,
}

/// One Service as DNS sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Its own addresses.
    Cluster { addresses: Vec<IpAddr>, ports: Vec<Port> },
    /// Its endpoints, by host name (or the address written with dashes).
    Headless { hosts: BTreeMap<String, Host> },
    /// Another name.
    External { name: String },
}

/// One endpoint name of a headless Service; several pods may share a host name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
    /// It is the name that the pod asked for, rather than its address.
    pub named: bool,
}

/// One named port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Empty for the only port of a Service that names none.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub port: u16,
}

/// What a name means.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// No such name.
    Nothing,
    /// The name exists, without any records of its own.
    Empty,
    /// Addresses; of a headless Service when `short`.
    Addresses { addresses: Vec<IpAddr>, short: bool },
    /// Ports with the name (relative to the domain) and addresses of whoever serves them.
    Ports { targets: Vec<Target>, short: bool },
    /// An alias outside.
    Alias(String),
}

/// One SRV target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub port: u16,
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

impl Index {
    /// Replaces what is known of one Service.
    pub fn set(&mut self, key: &ObjectKey, entry: Option<Entry>) {
        let (namespace, name) = (key.namespace.to_lowercase(), key.name.to_lowercase());
        let services = self.services.entry(namespace.clone()).or_default();
        let old = match &entry {
            Some(entry) => services.insert(name.clone(), entry.clone()),
            None => services.remove(&name),
        };
        if services.is_empty() {
            self.services.remove(&namespace);
        }
        let full = format!("{name}.{namespace}.svc");
        for (address, _) in old.iter().flat_map(|entry| reverse_of(entry, &full)) {
            if let Some(names) = self.reverse.get_mut(&address) {
                names.remove(key);
                if names.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        for (address, host) in entry.iter().flat_map(|entry| reverse_of(entry, &full)) {
            self.reverse.entry(address).or_default().insert(key.clone(), host);
        }
    }

    /// The names of an address, relative to the domain.
    pub fn names_of(&self, address: IpAddr) -> Vec<String> {
        self.reverse
            .get(&address)
            .into_iter()
            .flat_map(|names| names.values().cloned())
            .collect()
    }

    /// The meaning of a name given by its labels in lower case, without the domain. For SRV
    /// questions `ports` is true.
    pub fn look_up(&self, labels: &[&str], ports: bool) -> Meaning {
        match labels {
            [] | ["svc"] | ["pod"] => Meaning::Empty,
            [_, "pod"] => Meaning::Empty,
            [address, _, "pod"] => match dashed(address) {
                Some(address) => Meaning::Addresses {
                    addresses: vec![address],
                    short: false,
                },
                None => Meaning::Nothing,
            },
            [namespace, "svc"] if self.services.contains_key(*namespace) => Meaning::Empty,
            [rest @ .., service, namespace, "svc"] => {
                let services = self.services.get(*namespace);
                match services.and_then(|services| services.get(*service)) {
                    Some(entry) => entry.look_up(rest, &format!("{service}.{namespace}.svc"), ports),
                    None => Meaning::Nothing,
                }
            }
            _ => Meaning::Nothing,
        }
    }
}

impl Entry {
    /// From the objects; `None` when DNS has nothing to say about the Service.
    pub fn of(service: &Service, slices: &[&EndpointSlice]) -> Option<Entry> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let name = spec.external_name.clone().filter(|name| !name.is_empty())?;
            return Some(Entry::External { name });
        }
        if spec.cluster_ip.as_deref() == Some("None") {
            let unready = spec.publish_not_ready_addresses == Some(true);
            return Some(Entry::Headless {
                hosts: hosts_of(slices, unready),
            });
        }
        let ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let mut addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            return None;
        }
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                port: u16::try_from(port.port).ok()?,
            })
        });
        Some(Entry::Cluster {
            addresses,
            ports: ports.collect(),
        })
    }

    fn look_up(&self, rest: &[&str], full: &str, ports: bool) -> Meaning {
        let wants = |port: &&Port| match rest {
            [name, protocol] => *name == format!("_{}", port.name) && *protocol == format!("_{}", port.protocol),
            _ => true,
        };
        match (self, rest) {
            (Entry::External { name }, []) => Meaning::Alias(name.clone()),
            (Entry::External { .. }, _) => Meaning::Nothing,
            (_, [protocol]) if protocol.starts_with('_') => {
                match self.ports().any(|port| *protocol == format!("_{}", port.protocol)) {
                    true => Meaning::Empty,
                    false => Meaning::Nothing,
                }
            }
            (_, [name, protocol]) if name.starts_with('_') && protocol.starts_with('_') => {
                let targets = self.targets(full, wants);
                match (targets.is_empty(), ports) {
                    (true, _) => Meaning::Nothing,
                    (false, false) => Meaning::Empty,
                    (false, true) => Meaning::Ports {
                        targets,
                        short: self.short(),
                    },
                }
            }
            (_, []) if ports => Meaning::Ports {
                targets: self.targets(full, wants),
                short: self.short(),
            },
            (Entry::Cluster { addresses, .. }, []) => Meaning::Addresses {
                addresses: addresses.clone(),
                short: false,
            },
            (Entry::Headless { hosts }, []) => {
                let addresses = hosts.values().flat_map(|host| host.addresses.iter().copied());
                Meaning::Addresses {
                    addresses: addresses.collect(),
                    short: true,
                }
            }
            (Entry::Headless { hosts }, [host]) => match hosts.get(*host) {
                Some(host) => Meaning::Addresses {
                    addresses: host.addresses.clone(),
                    short: true,
                },
                None => Meaning::Nothing,
            },
            _ => Meaning::Nothing,
        }
    }

    fn short(&self) -> bool {
        matches!(self, Entry::Headless { .. })
    }

    fn ports(&self) -> impl Iterator<Item = &Port> {
        let (own, hosts) = match self {
            Entry::Cluster { ports, .. } => (Some(ports), None),
            Entry::Headless { hosts } => (None, Some(hosts)),
            Entry::External { .. } => (None, None),
        };
        let of_hosts = hosts
            .into_iter()
            .flat_map(|hosts| hosts.values().flat_map(|host| &host.ports));
        own.into_iter().flatten().chain(of_hosts)
    }

    fn targets(&self, full: &str, wants: impl Fn(&&Port) -> bool) -> Vec<Target> {
        let mut out = Vec::new();
        match self {
            Entry::Cluster { addresses, ports } => {
                out.extend(ports.iter().filter(&wants).map(|port| Target {
                    port: port.port,
                    name: full.to_owned(),
                    addresses: addresses.clone(),
                }));
            }
            Entry::Headless { hosts } => {
                for (name, host) in hosts {
                    out.extend(host.ports.iter().filter(&wants).map(|port| Target {
                        port: port.port,
                        name: format!("{name}.{full}"),
                        addresses: host.addresses.clone(),
                    }));
                }
            }
            Entry::External { .. } => {}
        }
        out
    }
}

fn hosts_of(slices: &[&EndpointSlice], unready: bool) -> BTreeMap<String, Host> {
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten().map(move |e| (slice, e)));
    for (slice, endpoint) in endpoints.take(ENDPOINTS_MAX) {
        let ready = endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true);
        if !ready && !unready {
            continue;
        }
        let ports: Vec<Port> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(Port {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                    port: u16::try_from(port.port?).ok()?,
                })
            })
            .collect();
        for address in endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
            let name = hostname.map_or_else(|| dashes(address), str::to_lowercase);
            let host = hosts.entry(name).or_default();
            host.named = hostname.is_some();
            if !host.addresses.contains(&address) {
                host.addresses.push(address);
            }
            for port in &ports {
                if !host.ports.contains(port) {
                    host.ports.push(port.clone());
                }
            }
        }
    }
    hosts
}

fn reverse_of(entry: &Entry, full: &str) -> Vec<(IpAddr, String)> {
    match entry {
        Entry::Cluster { addresses, .. } => addresses.iter().map(|ip| (*ip, full.to_owned())).collect(),
        Entry::Headless { hosts } => hosts
            .iter()
            .flat_map(|(name, host)| host.addresses.iter().map(move |ip| (*ip, format!("{name}.{full}"))))
            .collect(),
        Entry::External { .. } => Vec::new(),
    }
}

fn dashes(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn dashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}
