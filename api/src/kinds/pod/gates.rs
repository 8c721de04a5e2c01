//! Members of pod specs that belong to features which are off by default: they are dropped without a word.

use crate::kinds::access::{child_if, each_mut, is_empty, remove};
use serde_json::Value;

/// Drops them from a pod spec.
pub fn drop_from(spec: &mut Value) {
    remove(spec, "schedulingGroup");
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in each_mut(spec, list) {
            let Some(lifecycle) = child_if(container, "lifecycle") else {
                continue;
            };
            if remove(lifecycle, "stopSignal").is_some() && is_empty(lifecycle) {
                remove(container, "lifecycle");
            }
        }
    }
    for volume in each_mut(spec, "volumes") {
        let Some(projected) = child_if(volume, "projected") else {
            continue;
        };
        for source in each_mut(projected, "sources") {
            remove(source, "clusterTrustBundle");
            remove(source, "podCertificate");
        }
    }
}
