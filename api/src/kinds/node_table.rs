//! The Table form of nodes.

use super::Column;
use super::access::{self, at, entries, flag, list, str_of, text};
use super::print::{self, AGE, NAME, shown, wide};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Columns of nodes.
pub static COLUMNS: &[Column] = &[
    NAME,
    shown("Status", "string", "The status of the node."),
    shown("Roles", "string", "The roles of the node."),
    AGE,
    shown("Version", "string", "Kubelet version reported by the node."),
    wide("Internal-IP", "string", "First internal address."),
    wide("External-IP", "string", "First external address."),
    wide("OS-Image", "string", "Operating system reported by the node."),
    wide("Kernel-Version", "string", "Kernel version reported by the node."),
    wide("Container-Runtime", "string", "Container runtime reported by the node."),
];

/// The cells of a node.
pub fn row(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = |key: &str| {
        let value = str_of(at(node, "/status/nodeInfo"), key);
        json!(if value.is_empty() { "<unknown>" } else { value })
    };
    vec![
        json!(access::name(node)),
        json!(status(node)),
        json!(roles(node)),
        print::age(node, now),
        json!(text(node, "/status/nodeInfo/kubeletVersion")),
        json!(address(node, "InternalIP")),
        json!(address(node, "ExternalIP")),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn status(node: &Value) -> String {
    let ready = list(at(node, "/status"), "conditions")
        .iter()
        .find(|c| str_of(c, "type") == "Ready");
    let mut words = vec![match ready.map(|c| str_of(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if flag(at(node, "/spec"), "unschedulable") {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = entries(at(node, "/metadata"), "labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    print::or_none(roles.join(","))
}

fn address(node: &Value, kind: &str) -> String {
    let found = list(at(node, "/status"), "addresses")
        .iter()
        .find(|a| str_of(a, "type") == kind);
    print::or_none(found.map_or("", |a| str_of(a, "address")).to_owned())
}
