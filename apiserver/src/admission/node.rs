//! New nodes are tainted until they report ready.

use coxswain_api::kinds::access;
use serde_json::{Value, json};

const KEY: &str = "node.kubernetes.io/not-ready";

/// Adds the not-ready taint.
pub(super) fn taint(node: &mut Value) {
    let spec = access::child(node, "spec");
    let mut taints = access::list(spec, "taints").to_vec();
    let there = taints
        .iter()
        .any(|t| access::str_of(t, "key") == KEY && access::str_of(t, "effect") == "NoSchedule");
    if !there {
        taints.push(json!({"key": KEY, "effect": "NoSchedule"}));
        access::set(spec, "taints", taints);
    }
}
