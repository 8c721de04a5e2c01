//! What a serving certificate of a node may name without a person's approval. Pure.
//!
//! A node reports its own addresses, so its report proves nothing. What counts is where its requests came from, which the
//! API server records at the Node, and what an administrator wrote there. Neither makes a name its own that clients know
//! something else by: the API servers, Services, this machine, another node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use coxswain_client::k8s_openapi::api::coordination::v1::Lease;
use coxswain_client::k8s_openapi::api::core::v1::{Node, Service};
use coxswain_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::request::Request;

/// Annotation of a Node that the API server writes: where the node's own requests come from.
const SOURCE: &str = "coxswain.io/source-address";
/// Annotation of a Node that an administrator may write: its addresses, separated by commas.
const ADDRESSES: &str = "coxswain.io/certificate-addresses";
/// Annotation of an API server's Lease: its address and port.
const SERVER_ADDRESS: &str = "coxswain.io/address";
/// Label of an API server's Lease: the machine's host name.
const SERVER_HOST: &str = "kubernetes.io/hostname";
/// Names below these lead to Services and pods.
const CLUSTER_NAMES: [&str; 3] = ["svc", "pod", "cluster.local"];

/// What the cluster knows, whoever asks.
#[derive(Default)]
pub(super) struct Known {
    pub nodes: Vec<Arc<Node>>,
    pub services: Vec<Arc<Service>>,
    /// Leases of the API servers.
    pub servers: Vec<Arc<Lease>>,
    /// Endpoints of the `kubernetes` Service.
    pub endpoints: Vec<Arc<EndpointSlice>>,
}

/// Whether the request of a node names only that node, by what is known of it.
///
/// # Errors
/// The sentence that tells why not, and what can be done.
pub(super) fn check(csr: &CertificateSigningRequest, request: &Request, known: &Known) -> Result<(), String> {
    let asks = csr.spec.username.as_deref().unwrap_or_default();
    let is_node = csr.spec.groups.iter().flatten().any(|group| group == "system:nodes");
    if asks != request.common_name || !is_node {
        return Err(format!(
            "{asks:?} asks for a certificate of {:?}: only a node itself gets its serving certificate without approval",
            request.common_name
        ));
    }
    let name = asks.strip_prefix("system:node:").unwrap_or_default();
    let named = |node: &Node| node.metadata.name.as_deref() == Some(name);
    let Some(node) = known.nodes.iter().find(|node| named(node)) else {
        return Err(format!("there is no node {name:?}"));
    };
    for dns in &request.dns {
        if dns != name {
            return Err(format!("the DNS name {dns:?} is not the name of node {name:?}"));
        }
        if let Some(owner) = owner_of_name(dns, known) {
            return Err(format!(
                "the DNS name {dns:?} is {owner}: approve by hand, or give the node another name"
            ));
        }
    }
    let own = addresses(&node.metadata);
    let source = node.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE));
    for ip in request.ips.iter().map(IpAddr::to_canonical) {
        if let Some(owner) = owner_of_address(ip, name, known) {
            return Err(format!("the address {ip} is {owner}"));
        }
        if !own.contains(&ip) {
            return Err(format!(
                "node {name:?} is not known to have the address {ip}: its requests come from {}; an administrator can \
                 name its addresses in the annotation {ADDRESSES} of the node",
                source.map_or("nowhere yet", String::as_str)
            ));
        }
    }
    Ok(())
}

/// The addresses of a node by what others say.
fn addresses(node: &ObjectMeta) -> BTreeSet<IpAddr> {
    let texts = [SOURCE, ADDRESSES]
        .into_iter()
        .filter_map(|key| node.annotations.as_ref()?.get(key));
    let parts = texts.flat_map(|text| text.split(','));
    let parsed = parts.filter_map(|part| part.trim().parse::<IpAddr>().ok());
    parsed.map(|ip| ip.to_canonical()).collect()
}

/// What else clients know by this DNS name, if anything.
fn owner_of_name(dns: &str, known: &Known) -> Option<String> {
    let within = |parent: &str| dns == parent || dns.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if dns.starts_with("kubernetes") {
        return Some("a name of the API server".to_owned());
    }
    if dns.parse::<IpAddr>().is_ok() {
        return Some("an address".to_owned());
    }
    if within("localhost") || within("localdomain") {
        return Some("the name of every machine for itself".to_owned());
    }
    if CLUSTER_NAMES.iter().any(|parent| within(parent)) || dns.contains(".svc.") {
        return Some("a name within the cluster's own domain".to_owned());
    }
    let host = |lease: &Lease| lease.metadata.labels.as_ref()?.get(SERVER_HOST).cloned();
    let hosts = known.servers.iter().filter_map(|lease| host(lease));
    if hosts.map(|host| host.to_ascii_lowercase()).any(|host| host == dns) {
        return Some("the name of an API server's machine".to_owned());
    }
    known.services.iter().find_map(|service| {
        let [name, namespace] = [&service.metadata.name, &service.metadata.namespace].map(|text| text.as_deref());
        let (name, namespace) = (name?, namespace?);
        let rest = dns.strip_prefix(name)?;
        let is_name = rest.is_empty() || rest.strip_prefix('.') == Some(namespace);
        is_name.then(|| format!("a name of Service {namespace}/{name}"))
    })
}

/// Who else has this address, or why nobody has it for himself.
fn owner_of_address(ip: IpAddr, node: &str, known: &Known) -> Option<String> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local {
        return Some(
            "of no use outside of one machine or network: loopback, link-local, multicast, unspecified".to_owned(),
        );
    }
    let is = |text: &str| text.parse::<IpAddr>().is_ok_and(|other| other.to_canonical() == ip);
    let address = |lease: &Lease| -> Option<IpAddr> {
        let text = lease.metadata.annotations.as_ref()?.get(SERVER_ADDRESS)?;
        text.parse::<std::net::SocketAddr>().ok().map(|at| at.ip())
    };
    let endpoints = known
        .endpoints
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten());
    let serves = endpoints.flat_map(|endpoint| &endpoint.addresses).any(|text| is(text))
        || known
            .servers
            .iter()
            .filter_map(|lease| address(lease))
            .any(|other| other.to_canonical() == ip);
    if serves {
        return Some("that of an API server".to_owned());
    }
    let service = known.services.iter().find(|service| {
        let spec = service.spec.as_ref();
        let own = spec.and_then(|spec| spec.cluster_ips.as_ref());
        let others = spec.and_then(|spec| spec.external_ips.as_ref());
        let first = spec.and_then(|spec| spec.cluster_ip.as_ref());
        let mut all = own.into_iter().chain(others).flatten().chain(first);
        all.any(|text| is(text))
    });
    if let Some(service) = service {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        return Some(format!("that of Service {name}"));
    }
    let others = known
        .nodes
        .iter()
        .filter_map(|node| Some((node.metadata.name.as_deref()?, node)));
    let mut others = others.filter(|(name, _)| *name != node);
    let other = others.find(|(_, other)| addresses(&other.metadata).contains(&ip));
    other.map(|(name, _)| format!("that of node {name:?}"))
}
