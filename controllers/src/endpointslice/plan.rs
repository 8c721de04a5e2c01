//! Which slices a Service should have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use coxswain_client::k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ports::{Port, ports_of};
use crate::pods::{self, controller_reference};

pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const OURSELVES: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// More endpoints than this go into another slice.
pub(super) const ENDPOINTS_MAX: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<(Arc<EndpointSlice>, EndpointSlice)>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// The slice is one that this controller made for the Service.
pub(super) fn is_ours(slice: &EndpointSlice, service: &str) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let label = |name: &str| labels.and_then(|l| l.get(name)).map(String::as_str);
    label(SERVICE_LABEL) == Some(service) && label(MANAGED_BY) == Some(OURSELVES)
}

/// A node's zone.
pub(super) fn zone(node: &Node) -> Option<String> {
    let labels = node.metadata.labels.as_ref()?;
    labels.get("topology.kubernetes.io/zone").cloned()
}

/// Everything about a pod that its endpoints show.
pub(super) fn facts(pod: &Pod) -> impl PartialEq + use<'_> {
    let spec = pod.spec.as_ref();
    (
        pod.metadata.labels.as_ref(),
        pods::is_ready(pod),
        pods::is_terminating(pod),
        pods::is_finished(pod),
        addresses(pod),
        pods::node_name(pod),
        spec.and_then(|s| s.hostname.as_ref()),
        spec.and_then(|s| s.subdomain.as_ref()),
    )
}

fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all: Vec<&str> = listed.collect();
    if all.is_empty() {
        all.extend(status.pod_ip.as_deref());
    }
    all
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn families(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let wanted = spec.and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if !wanted.is_empty() {
        return wanted;
    }
    let address = spec.and_then(|s| s.cluster_ip.as_deref()).unwrap_or("None");
    vec![family(address).to_string()]
}

fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

fn endpoint(service: &Service, pod: &Pod, family_wanted: &str, zone: Option<String>) -> Option<Endpoint> {
    if pods::is_finished(pod) {
        return None;
    }
    let all = addresses(pod);
    let addresses: Vec<String> = all
        .iter()
        .filter(|a| family(a) == family_wanted)
        .map(ToString::to_string)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let spec = service.spec.as_ref();
    let always = spec.is_some_and(|s| s.publish_not_ready_addresses == Some(true));
    let (ready, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    let pod_spec = pod.spec.as_ref();
    let in_subdomain = pod_spec.and_then(|s| s.subdomain.as_ref()) == service.metadata.name.as_ref();
    let hostname = pod_spec
        .and_then(|s| s.hostname.clone())
        .filter(|h| in_subdomain && !h.is_empty());
    let node = pods::node_name(pod);
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(always || (ready && !terminating)),
            serving: Some(ready),
            terminating: Some(terminating),
        }),
        hostname,
        node_name: (!node.is_empty()).then(|| node.to_string()),
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_string()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

fn wire_ports(ports: &[Port]) -> Option<Vec<EndpointPort>> {
    let wire = ports.iter().map(|port| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    });
    let wire: Vec<EndpointPort> = wire.collect();
    (!wire.is_empty()).then_some(wire)
}

fn identity(endpoint: &Endpoint) -> Option<String> {
    endpoint.target_ref.as_ref().and_then(|r| r.uid.clone())
}

fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    for reserved in [SERVICE_LABEL, MANAGED_BY, HEADLESS] {
        labels.remove(reserved);
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_string(), name);
    labels.insert(MANAGED_BY.to_string(), OURSELVES.to_string());
    if is_headless(service) {
        labels.insert(HEADLESS.to_string(), String::new());
    }
    labels
}

fn empty_slice(service: &Service, family: &str, ports: Option<Vec<EndpointPort>>) -> EndpointSlice {
    let owner = controller_reference("v1", "Service", &service.metadata);
    let name = service.metadata.name.as_deref().unwrap_or_default();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(slice_labels(service)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.to_string(),
        endpoints: Some(Vec::new()),
        ports,
    }
}

pub(super) fn plan(
    service: &Service,
    pods: Vec<Arc<Pod>>,
    slices: Vec<Arc<EndpointSlice>>,
    node_zone: &dyn Fn(&str) -> Option<String>,
) -> Plan {
    let mut plan = Plan::default();
    let spec = service.spec.as_ref();
    if service.metadata.deletion_timestamp.is_some() || spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
        plan.delete = slices;
        return plan;
    }
    let families = families(service);
    let (current, foreign): (Vec<_>, Vec<_>) = slices
        .into_iter()
        .partition(|slice| families.contains(&slice.address_type));
    plan.delete = foreign;
    for family in families {
        let mut groups: BTreeMap<Vec<Port>, BTreeMap<String, Endpoint>> = BTreeMap::new();
        for pod in &pods {
            let zone = node_zone(pods::node_name(pod));
            let Some(endpoint) = endpoint(service, pod, &family, zone) else {
                continue;
            };
            let ports = ports_of(service, pod);
            if ports.is_empty() && !is_headless(service) {
                continue;
            }
            let uid = identity(&endpoint).unwrap_or_default();
            groups.entry(ports).or_default().insert(uid, endpoint);
        }
        let own: Vec<_> = current.iter().filter(|s| s.address_type == family).cloned().collect();
        plan_family(service, &family, groups, own, &mut plan);
    }
    reuse(&mut plan);
    plan
}

/// A slice that would go becomes one that would be made: its name stays, watchers see one change.
fn reuse(plan: &mut Plan) {
    let gone = std::mem::take(&mut plan.delete);
    for old in gone {
        let same = plan.create.iter().position(|new| new.address_type == old.address_type);
        match same {
            Some(at) => {
                let mut new = plan.create.remove(at);
                new.metadata = ObjectMeta {
                    labels: new.metadata.labels,
                    ..old.metadata.clone()
                };
                plan.update.push((old, new));
            }
            None => plan.delete.push(old),
        }
    }
}

fn plan_family(
    service: &Service,
    family: &str,
    groups: BTreeMap<Vec<Port>, BTreeMap<String, Endpoint>>,
    own: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let labels = slice_labels(service);
    let mut used = BTreeSet::new();
    let mut wanted: Vec<(Option<Arc<EndpointSlice>>, EndpointSlice)> = Vec::new();
    for (ports, mut missing) in groups {
        let wire = wire_ports(&ports);
        let mut group = Vec::new();
        for slice in own.iter().filter(|s| s.ports.clone().filter(|p| !p.is_empty()) == wire) {
            used.insert(slice.metadata.name.clone());
            let mut new = (**slice).clone();
            let endpoints = new.endpoints.get_or_insert_default();
            endpoints.retain(|e| identity(e).is_some_and(|uid| missing.contains_key(&uid)));
            for endpoint in endpoints {
                let uid = identity(endpoint).unwrap_or_default();
                if let Some(current) = missing.remove(&uid) {
                    *endpoint = current;
                }
            }
            group.push((Some(slice.clone()), new));
        }
        fill(service, family, wire, missing.into_values(), &mut group);
        wanted.append(&mut group);
    }
    let unused = own.into_iter().filter(|slice| !used.contains(&slice.metadata.name));
    let mut unused: Vec<Arc<EndpointSlice>> = unused.collect();
    wanted.retain(|(old, new)| {
        let empty = count(new) == 0;
        if let Some(old) = old.as_ref().filter(|_| empty) {
            unused.push(old.clone());
        }
        !empty
    });
    if wanted.is_empty() {
        let old = (!unused.is_empty()).then(|| unused.remove(0));
        let new = match &old {
            Some(old) => EndpointSlice {
                endpoints: Some(Vec::new()),
                ports: None,
                ..(**old).clone()
            },
            None => empty_slice(service, family, None),
        };
        wanted.push((old, new));
    }
    for (old, mut new) in wanted {
        match old {
            None => plan.create.push(new),
            Some(old) => {
                new.metadata.labels = Some(labels.clone());
                if new != *old && (count(&new) > 0 || differs(&old, &new)) {
                    plan.update.push((old, new));
                }
            }
        }
    }
    plan.delete.append(&mut unused);
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// An empty list and no list are the same.
fn differs(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let ports = |slice: &EndpointSlice| slice.ports.clone().unwrap_or_default();
    let endpoints = |slice: &EndpointSlice| slice.endpoints.clone().unwrap_or_default();
    old.metadata.labels != new.metadata.labels || endpoints(old) != endpoints(new) || ports(old) != ports(new)
}

/// Puts endpoints into the slices with the most room left used first, then into new ones.
fn fill(
    service: &Service,
    family: &str,
    ports: Option<Vec<EndpointPort>>,
    missing: impl Iterator<Item = Endpoint>,
    group: &mut Vec<(Option<Arc<EndpointSlice>>, EndpointSlice)>,
) {
    for endpoint in missing {
        let fitting = group.iter_mut().filter(|(_, s)| count(s) < ENDPOINTS_MAX);
        match fitting.max_by_key(|(_, s)| count(s)) {
            Some((_, slice)) => slice.endpoints.get_or_insert_default().push(endpoint),
            None => {
                let mut slice = empty_slice(service, family, ports.clone());
                slice.endpoints.get_or_insert_default().push(endpoint);
                group.push((None, slice));
            }
        }
    }
}
