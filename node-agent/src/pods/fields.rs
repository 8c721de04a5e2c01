//! The pod's own fields as text, for environment variables and downward volumes. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

/// What pods may learn about their node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// The node's addresses.
    pub ips: Vec<String>,
    /// Allocatable amounts: cpu in thousandths, memory and ephemeral-storage in bytes.
    pub allocatable: BTreeMap<String, i64>,
    /// Memory of the machine in bytes.
    pub memory_bytes: i64,
    /// Whether the kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// The kernel's directories about the heat of each processor, which are hidden from containers.
    pub thermal_throttle: Vec<String>,
}

/// A field by its path; absent when the path is not one that pods may read.
pub fn field(pod: &Pod, node: &NodeFacts, path: &str) -> Option<String> {
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            "metadata.labels" => pod.metadata.labels.as_ref(),
            _ => return None,
        };
        return Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => pod.metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => pod.metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "spec.nodeName" => node.name.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => node.ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => node.ips.join(","),
        "status.podIP" => pod_ips(pod, node).first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips(pod, node).join(","),
        _ => return None,
    })
}

fn pod_ips(pod: &Pod, node: &NodeFacts) -> Vec<String> {
    if pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false) {
        return node.ips.clone();
    }
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.pod_ips.as_ref())
        .map(|ips| ips.iter().map(|ip| ip.ip.clone()).collect())
        .unwrap_or_default()
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as lines of `key="value"`.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = write!(out, "{key}={value:?}");
    }
    out
}

/// A resource of one of the pod's containers.
pub fn resource(
    pod: &Pod,
    node: &NodeFacts,
    container: &str,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let found = containers(pod).find(|candidate| candidate.name == container);
    let found = found.ok_or_else(|| format!("container {container} not found"))?;
    super::resources::downward(found, &selector.resource, selector.divisor.as_ref(), &node.allocatable)
}

/// The ephemeral containers of a pod, seen as ordinary ones.
pub fn ephemeral(pod: &Pod) -> Vec<Container> {
    let list = pod
        .spec
        .iter()
        .flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    list.filter_map(|container| serde_json::from_value(serde_json::to_value(container).ok()?).ok())
        .collect()
}

/// The container of a name, of whatever sort.
pub fn find(pod: &Pod, name: &str) -> Option<Container> {
    let known = containers(pod).find(|container| container.name == name).cloned();
    known.or_else(|| ephemeral(pod).into_iter().find(|container| container.name == name))
}

/// All containers of a pod, init containers first, without the ephemeral ones.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_by_path() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "1", "b": "x\"y"}},
            "spec": {"containers": [], "serviceAccountName": "sa"},
            "status": {"podIPs": [{"ip": "10.0.0.1"}]},
        }))
        .expect("pod");
        let node = NodeFacts {
            name: "node".into(),
            ips: vec!["192.0.2.1".into()],
            ..NodeFacts::default()
        };
        let table = [
            ("metadata.name", Some("p")),
            ("metadata.labels", Some("a=\"1\"\nb=\"x\\\"y\"")),
            ("metadata.labels['a']", Some("1")),
            ("metadata.annotations['z']", Some("")),
            ("spec.nodeName", Some("node")),
            ("spec.serviceAccountName", Some("sa")),
            ("status.podIP", Some("10.0.0.1")),
            ("status.hostIP", Some("192.0.2.1")),
            ("spec.containers", None),
        ];
        for (path, expected) in table {
            assert_eq!(field(&pod, &node, path).as_deref(), expected, "{path}");
        }
    }
}
