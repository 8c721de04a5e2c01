//! Pods tolerate a node that is not ready or unreachable for five minutes, unless they say otherwise.

use coxswain_api::kinds::access;
use serde_json::{Value, json};

const SECONDS: i64 = 300;

/// Adds the two tolerations where nothing tolerates the taint already.
pub(super) fn add(pod: &mut Value) {
    let spec = access::child(pod, "spec");
    let mut tolerations = access::list(spec, "tolerations").to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|toleration| {
            let their_key = access::str_of(toleration, "key");
            let effect = access::str_of(toleration, "effect");
            (their_key == key || their_key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            tolerations
                .push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
    }
    access::set(spec, "tolerations", tolerations);
}
