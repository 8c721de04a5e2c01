//! Nodes, Namespaces, ConfigMaps, Secrets, and everything that has no page of its own.

use base64::Engine as _;
use coxswain_api::quantity::Quantity;
use serde_json::Value;

use super::parts::{annotations, conditions_with, date, head, labels, lines, or_none, shown};
use super::policy::{limit_rows, quotas_of_namespace};
use super::writer::Writer;
use crate::pods::{list, text};

/// A Node with the pods that run on it.
pub fn node(out: &mut Writer, object: &Value, pods: &[Value], lease: Option<&Value>) {
    head(out, object);
    let roles: Vec<&str> = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    out.pair(0, "Roles", or_none(&roles.join(",")));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.pair(
        0,
        "CreationTimestamp",
        &date(text(object, "/metadata/creationTimestamp")),
    );
    let taints: Vec<String> = list(object, "/spec/taints")
        .iter()
        .map(|taint| {
            let value = text(taint, "/value");
            let value = if value.is_empty() {
                String::new()
            } else {
                format!("={value}")
            };
            format!("{}{value}:{}", text(taint, "/key"), text(taint, "/effect"))
        })
        .collect();
    lines(out, 0, "Taints", &taints);
    out.pair(
        0,
        "Unschedulable",
        &(object["spec"]["unschedulable"] == true).to_string(),
    );
    if let Some(lease) = lease {
        out.line(0, "Lease:");
        out.pair(1, "HolderIdentity", text(lease, "/spec/holderIdentity"));
        out.pair(1, "AcquireTime", known(&date(text(lease, "/spec/acquireTime"))));
        out.pair(1, "RenewTime", known(&date(text(lease, "/spec/renewTime"))));
    }
    out.line(0, "Conditions:");
    out.line(
        1,
        "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage",
    );
    out.line(
        1,
        "----\t------\t-----------------\t------------------\t------\t-------",
    );
    for c in list(object, "/status/conditions") {
        let (heartbeat, changed) = (
            date(text(c, "/lastHeartbeatTime")),
            date(text(c, "/lastTransitionTime")),
        );
        let (kind, status) = (text(c, "/type"), text(c, "/status"));
        out.line(
            1,
            &format!(
                "{kind} \t{status} \t{heartbeat} \t{changed} \t{} \t{}",
                text(c, "/reason"),
                text(c, "/message")
            ),
        );
    }
    out.line(0, "Addresses:");
    list(object, "/status/addresses")
        .iter()
        .for_each(|address| out.pair(1, text(address, "/type"), text(address, "/address")));
    for (name, pointer) in [("Capacity", "/status/capacity"), ("Allocatable", "/status/allocatable")] {
        out.line(0, &format!("{name}:"));
        for (resource, amount) in object.pointer(pointer).and_then(Value::as_object).into_iter().flatten() {
            out.pair(1, resource, &shown(amount));
        }
    }
    out.line(0, "System Info:");
    for (name, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        out.pair(1, name, text(object, &format!("/status/nodeInfo/{field}")));
    }
    if !text(object, "/spec/podCIDR").is_empty() {
        out.pair(0, "PodCIDR", text(object, "/spec/podCIDR"));
        let all: Vec<&str> = list(object, "/spec/podCIDRs")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        out.pair(0, "PodCIDRs", &all.join(","));
    }
    allocated(out, object, pods);
}

fn known(date: &str) -> &str {
    if date == "<unknown>" { "<unset>" } else { date }
}

fn allocated(out: &mut Writer, node: &Value, pods: &[Value]) {
    let running: Vec<&Value> = pods
        .iter()
        .filter(|pod| !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed"))
        .collect();
    out.line(0, &format!("Non-terminated Pods:\t({} in total)", running.len()));
    out.line(
        1,
        "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge",
    );
    out.line(
        1,
        "---------\t----\t\t------------\t----------\t---------------\t-------------\t---",
    );
    let kinds = [
        ("cpu", "requests"),
        ("cpu", "limits"),
        ("memory", "requests"),
        ("memory", "limits"),
    ];
    let mut totals = [0_i128; 4];
    let now = jiff::Timestamp::now();
    for pod in &running {
        let mut cells = Vec::new();
        for ((resource, side), total) in kinds.iter().zip(&mut totals) {
            let amount = pod_amount(pod, resource, side);
            *total += amount;
            cells.push(share(amount, resource, node));
        }
        let age = super::parts::since(text(pod, "/metadata/creationTimestamp"), now);
        out.line(
            1,
            &format!(
                "{}\t{}\t\t{}\t{age}",
                text(pod, "/metadata/namespace"),
                text(pod, "/metadata/name"),
                cells.join("\t")
            ),
        );
    }
    out.line(0, "Allocated resources:");
    out.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    out.line(1, "Resource\tRequests\tLimits");
    out.line(1, "--------\t--------\t------");
    for (position, resource) in ["cpu", "memory"].into_iter().enumerate() {
        let amount = |offset: usize| share(totals.get(position * 2 + offset).copied().unwrap_or(0), resource, node);
        out.line(1, &format!("{resource}\t{}\t{}", amount(0), amount(1)));
    }
    let allocatable = node.pointer("/status/allocatable").and_then(Value::as_object);
    let others = allocatable.into_iter().flatten().map(|(name, _)| name.as_str());
    let others = others.filter(|name| !matches!(*name, "cpu" | "memory" | "pods" | "ephemeral-storage"));
    for resource in std::iter::once("ephemeral-storage").chain(others) {
        let total = |side: &str| running.iter().map(|pod| pod_amount(pod, resource, side)).sum::<i128>();
        let shown = |amount: i128| match resource.contains('/') {
            // Extended resources come in pieces, of which no share is told.
            true => (amount / 1000).to_string(),
            false => share(amount, resource, node),
        };
        out.line(
            1,
            &format!("{resource}\t{}\t{}", shown(total("requests")), shown(total("limits"))),
        );
    }
}

fn thousandths(text: &str) -> i128 {
    Quantity::parse(text).map_or(0, |quantity| i128::from(quantity.milli()))
}

/// What a pod's containers ask for together, in thousandths.
fn pod_amount(pod: &Value, resource: &str, side: &str) -> i128 {
    let of = |container: &Value| {
        container
            .pointer(&format!("/resources/{side}"))
            .and_then(|amounts| amounts.get(resource))
            .map_or(0, |amount| thousandths(&shown(amount)))
    };
    let regular: i128 = list(pod, "/spec/containers").iter().map(of).sum();
    let first = list(pod, "/spec/initContainers").iter().map(of).max().unwrap_or(0);
    regular.max(first)
}

fn share(thousandths_used: i128, resource: &str, node: &Value) -> String {
    let whole = node
        .pointer(&format!("/status/allocatable/{resource}"))
        .map_or(0, |amount| thousandths(&shown(amount)));
    let percent = if whole > 0 { thousandths_used * 100 / whole } else { 0 };
    let amount = match resource {
        "cpu" if thousandths_used % 1000 == 0 => (thousandths_used / 1000).to_string(),
        "cpu" => format!("{thousandths_used}m"),
        _ => {
            let bytes = thousandths_used / 1000;
            if bytes > 0 && bytes % (1024 * 1024) == 0 {
                format!("{}Mi", bytes / 1024 / 1024)
            } else {
                bytes.to_string()
            }
        }
    };
    format!("{amount} ({percent}%)")
}

/// A Namespace.
pub fn namespace(out: &mut Writer, object: &Value, quotas: &[Value], limits: &[Value]) {
    out.pair(0, "Name", text(object, "/metadata/name"));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.pair(0, "Status", text(object, "/status/phase"));
    conditions_with(
        out,
        list(object, "/status/conditions"),
        &["Type", "Status", "LastTransitionTime", "Reason", "Message"],
    );
    out.line(0, "");
    quotas_of_namespace(out, quotas);
    out.line(0, "");
    if limits.is_empty() {
        out.line(0, "No LimitRange resource.");
        return;
    }
    out.line(0, "Resource Limits");
    limit_rows(out, " ", limits.iter().flat_map(|range| list(range, "/spec/limits")));
}

/// A ConfigMap.
pub fn config_map(out: &mut Writer, object: &Value) {
    head(out, object);
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.flush();
    out.line(0, "\nData\n====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        out.line(0, &format!("{key}:\n----\n{}\n", shown(value)));
        out.flush();
    }
    out.line(0, "\nBinaryData\n====");
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        out.line(0, &format!("{key}: {} bytes", decoded_length(value)));
    }
    out.line(0, "");
}

/// A Secret, without its values.
pub fn secret(out: &mut Writer, object: &Value) {
    head(out, object);
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.line(0, "");
    out.pair(0, "Type", text(object, "/type"));
    out.line(0, "\nData\n====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        out.pair(0, key, &format!("{} bytes", decoded_length(value)));
    }
}

fn decoded_length(value: &Value) -> usize {
    base64::engine::general_purpose::STANDARD
        .decode(value.as_str().unwrap_or_default())
        .map_or(0, |bytes| bytes.len())
}

/// Any other kind: every field, with its name in words.
pub fn generic(out: &mut Writer, object: &Value) {
    out.pair(0, "Name", text(object, "/metadata/name"));
    out.pair(0, "Namespace", text(object, "/metadata/namespace"));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    let mut rest = object.clone();
    if let Some(metadata) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["name", "namespace", "labels", "annotations", "managedFields"] {
            metadata.remove(key);
        }
    }
    fields(out, 0, &rest);
}

fn fields(out: &mut Writer, level: usize, value: &Value) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = words(key);
        match value {
            Value::Object(_) => {
                out.line(level, &format!("{name}:"));
                fields(out, level + 1, value);
            }
            Value::Array(items) => {
                out.line(level, &format!("{name}:"));
                for item in items {
                    if item.is_object() {
                        fields(out, level + 1, item);
                    } else {
                        out.line(level + 1, &shown(item));
                    }
                }
            }
            scalar => out.pair(level, &name, &shown(scalar)),
        }
    }
}

/// `creationTimestamp` becomes `Creation Timestamp`; names that are no identifiers stay.
fn words(key: &str) -> String {
    if !key.chars().all(|c| c.is_ascii_alphanumeric()) {
        return key.to_owned();
    }
    let mut out = String::new();
    let letters: Vec<char> = key.chars().collect();
    for (position, letter) in letters.iter().enumerate() {
        let after_lower = position > 0 && letters[position - 1].is_lowercase();
        let starts_word = position > 0
            && letters.get(position + 1).is_some_and(|next| next.is_lowercase())
            && letters[position - 1].is_uppercase();
        if letter.is_uppercase() && (after_lower || starts_word) {
            out.push(' ');
        }
        if position == 0 {
            out.extend(letter.to_uppercase())
        } else {
            out.push(*letter)
        }
    }
    match out.split(' ').next() {
        Some("Uid") => out.replacen("Uid", "UID", 1),
        Some("Api") => out.replacen("Api", "API", 1),
        _ => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_in_words() {
        let cases = [
            ("creationTimestamp", "Creation Timestamp"),
            ("uid", "UID"),
            ("podCIDR", "Pod CIDR"),
            ("a/b", "a/b"),
        ];
        for (key, expected) in cases {
            assert_eq!(words(key), expected);
        }
    }
}
