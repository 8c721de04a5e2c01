//! Which slices repeat an Endpoints object.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use coxswain_client::k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpointslice::SERVICE_LABEL;
use crate::pods::controller_reference;

pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const OURSELVES: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints object itself.
const NOT_COPIED: [&str; 2] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
];
/// Addresses of a subset beyond this are left out.
const ADDRESSES_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<(Arc<EndpointSlice>, EndpointSlice)>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// Nobody has asked for the object to be left alone.
pub(super) fn wants_mirror(endpoints: &Endpoints) -> bool {
    let labelled = endpoints.metadata.labels.as_ref().and_then(|l| l.get(SKIP));
    let leader = endpoints
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(LEADER));
    labelled.map(String::as_str) != Some("true") && !leader && endpoints.metadata.deletion_timestamp.is_none()
}

/// Makes `slices`, all of this controller, repeat what is to be repeated, if anything.
pub(super) fn plan(endpoints: Option<&Endpoints>, slices: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut plan = Plan::default();
    let mut wanted = endpoints
        .map(|e| groups(e.subsets.as_deref().unwrap_or_default()))
        .unwrap_or_default();
    for slice in slices {
        let key = (
            slice.address_type.clone(),
            ports_key(slice.ports.as_deref().unwrap_or_default()),
        );
        match (endpoints, wanted.remove(&key)) {
            (Some(endpoints), Some((ports, list))) => {
                let mut new = slice_of(endpoints, &key.0, ports, list);
                new.metadata.name.clone_from(&slice.metadata.name);
                let same = new.endpoints == slice.endpoints
                    && new.metadata.labels == slice.metadata.labels
                    && new.metadata.annotations == slice.metadata.annotations;
                if !same {
                    plan.update.push((slice, new));
                }
            }
            _ => plan.delete.push(slice),
        }
    }
    if let Some(endpoints) = endpoints {
        let missing = wanted.into_iter();
        plan.create
            .extend(missing.map(|((family, _), (ports, list))| slice_of(endpoints, &family, ports, list)));
    }
    plan
}

type Groups = BTreeMap<(String, String), (Vec<EndpointPort>, Vec<Endpoint>)>;

/// One group for each address family and set of ports.
fn groups(subsets: &[EndpointSubset]) -> Groups {
    let mut groups = Groups::new();
    for subset in subsets {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_string())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let waiting = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|address| (address, false));
        for (address, is_ready) in ready.chain(waiting).take(ADDRESSES_MAX) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = groups.entry((family.to_string(), ports_key(&ports)));
            let (_, list) = group.or_insert_with(|| (ports.clone(), Vec::new()));
            list.push(endpoint(address, is_ready));
        }
    }
    groups
}

fn ports_key(ports: &[EndpointPort]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|p| {
            format!(
                "{:?}/{:?}/{:?}/{:?}",
                p.name.as_deref().unwrap_or_default(),
                p.port,
                p.protocol,
                p.app_protocol
            )
        })
        .collect();
    keys.sort();
    keys.join(" ")
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice_of(endpoints: &Endpoints, family: &str, ports: Vec<EndpointPort>, list: Vec<Endpoint>) -> EndpointSlice {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_string(), name.clone());
    labels.insert(MANAGED_BY.to_string(), OURSELVES.to_string());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_reference("v1", "Endpoints", &endpoints.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_string(),
        endpoints: Some(list),
        ports: Some(ports),
    }
}
