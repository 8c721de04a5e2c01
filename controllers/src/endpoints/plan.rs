//! The Endpoints object that a Service should have.

use std::collections::BTreeMap;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpointslice::ports::{Port, ports_of};
use crate::pods;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OURSELVES: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Addresses beyond this are left out and the object says so.
const ADDRESSES_MAX: usize = 1000;

pub(super) fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels.and_then(|l| l.get(MANAGED_BY)).map(String::as_str) == Some(OURSELVES)
}

fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let ip = pod
        .status
        .as_ref()
        .and_then(|s| s.pod_ip.clone())
        .filter(|ip| !ip.is_empty())?;
    let spec = pod.spec.as_ref();
    let in_subdomain = spec.and_then(|s| s.subdomain.as_ref()) == service.metadata.name.as_ref();
    let hostname = spec.and_then(|s| s.hostname.clone());
    let node = pods::node_name(pod);
    Some(EndpointAddress {
        hostname: hostname.filter(|h| in_subdomain && !h.is_empty()),
        ip,
        node_name: (!node.is_empty()).then(|| node.to_string()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_string()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

fn wire(port: &Port) -> EndpointPort {
    EndpointPort {
        name: (!port.name.is_empty()).then(|| port.name.clone()),
        port: port.number,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

#[derive(Default)]
struct Group {
    ready: Vec<EndpointAddress>,
    not_ready: Vec<EndpointAddress>,
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.as_ref();
    let always = spec.is_some_and(|s| s.publish_not_ready_addresses == Some(true));
    let headless = spec.and_then(|s| s.cluster_ip.as_deref()) == Some("None");
    let mut groups: BTreeMap<Vec<Port>, Group> = BTreeMap::new();
    let candidates = pods
        .iter()
        .filter(|pod| !pods::is_finished(pod) && (always || !pods::is_terminating(pod)));
    for pod in candidates.take(ADDRESSES_MAX) {
        let ports = ports_of(service, pod);
        if ports.is_empty() && !headless {
            continue;
        }
        let Some(address) = address(service, pod) else {
            continue;
        };
        let group = groups.entry(ports).or_default();
        if always || pods::is_ready(pod) {
            group.ready.push(address);
        } else {
            group.not_ready.push(address);
        }
    }
    let sorted = |mut list: Vec<EndpointAddress>| {
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!list.is_empty()).then_some(list)
    };
    let subsets = groups.into_iter().map(|(ports, group)| EndpointSubset {
        addresses: sorted(group.ready),
        not_ready_addresses: sorted(group.not_ready),
        ports: (!ports.is_empty()).then(|| ports.iter().map(wire).collect()),
    });
    subsets.collect()
}

/// The object as it should be; `None` when it is so already.
pub(super) fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let spec = service.spec.as_ref();
    let external = spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName");
    if external || service.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(MANAGED_BY.to_string(), OURSELVES.to_string());
    if spec.and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_string(), String::new());
    }
    let subsets = subsets(service, pods);
    let subsets = (!subsets.is_empty()).then_some(subsets);
    let base = current.map(|c| c.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    });
    let wanted = Endpoints {
        metadata: ObjectMeta {
            labels: Some(labels),
            ..base
        },
        subsets,
    };
    (current != Some(&wanted)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_and_not_ready_by_port() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"clusterIP": "10.96.0.9", "selector": {"a": "b"},
                "ports": [{"port": 80, "targetPort": "http"}]}}))
        .expect("a service");
        let pod = |ip: &str, port: i32, ready: &str| -> Arc<Pod> {
            let value = json!({
                "metadata": {"name": ip, "namespace": "n", "uid": ip},
                "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
                "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}});
            Arc::new(serde_json::from_value(value).expect("a pod"))
        };
        let pods = [
            pod("10.0.0.2", 8080, "True"),
            pod("10.0.0.1", 8080, "False"),
            pod("10.0.0.3", 9090, "True"),
        ];
        let wanted = plan(&service, &pods, None).expect("an object");
        let shown: Vec<String> = wanted
            .subsets
            .iter()
            .flatten()
            .map(|s| {
                let ips = |a: &Option<Vec<EndpointAddress>>| {
                    a.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>().join(",")
                };
                let port = s.ports.iter().flatten().map(|p| p.port.to_string()).collect::<String>();
                format!("{port}: {} / {}", ips(&s.addresses), ips(&s.not_ready_addresses))
            })
            .collect();
        assert_eq!(shown, ["8080: 10.0.0.2 / 10.0.0.1", "9090: 10.0.0.3 / "]);
        assert_eq!(
            plan(&service, &pods, Some(&wanted)),
            None,
            "planned again, nothing is left to do"
        );
    }
}
