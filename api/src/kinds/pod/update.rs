//! What may change in a pod, by the resource and by each of its subresources.

use super::{annotations, qos, validate};
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use crate::kinds::access::{
    at, child, copy, each_mut, entries, get, has, int_of, is_empty, list, remove, same, set, str_of,
};
use crate::kinds::pod::dump;
use crate::kinds::{check, go, meta};
use crate::names;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Carries over what a write through `sub` may not touch.
pub fn prepare(new: &mut Value, old: &Value, sub: Option<&str>) {
    match sub {
        Some("status") => {
            for key in ["ownerReferences", "deletionTimestamp"] {
                copy(child(new, "metadata"), at(old, "/metadata"), key);
            }
            let old_class = str_of(at(old, "/status"), "qosClass").to_owned();
            let status = child(new, "status");
            if str_of(status, "qosClass").is_empty() && !old_class.is_empty() {
                set(status, "qosClass", old_class);
            }
        }
        Some("resize") => keep_resources(new, old),
        Some("ephemeralcontainers") => {
            let containers = at(new, "/spec/ephemeralContainers").clone();
            restore(new, old);
            if is_empty(&containers) {
                remove(child(new, "spec"), "ephemeralContainers");
            } else {
                set(child(new, "spec"), "ephemeralContainers", containers);
            }
        }
        _ => {}
    }
}

/// The stored pod, with only the identity of the write.
fn restore(new: &mut Value, old: &Value) {
    let metadata = at(new, "/metadata").clone();
    *new = old.clone();
    for key in ["resourceVersion", "uid", "managedFields"] {
        copy(child(new, "metadata"), &metadata, key);
    }
}

/// A resize changes resources and resize policies of containers that are there, nothing else.
fn keep_resources(new: &mut Value, old: &Value) {
    const LISTS: [&str; 2] = ["containers", "initContainers"];
    let sent = at(new, "/spec").clone();
    let stored = at(old, "/spec");
    let moved = LISTS.iter().any(|key| {
        let (a, b) = (list(&sent, key), list(stored, key));
        a.len() != b.len() || a.iter().zip(b).any(|(a, b)| str_of(a, "name") != str_of(b, "name"))
    });
    if moved {
        return;
    }
    restore(new, old);
    for key in LISTS {
        for (container, sent) in each_mut(child(new, "spec"), key).zip(list(&sent, key)) {
            copy(container, sent, "resources");
            copy(container, sent, "resizePolicy");
        }
    }
}

/// Objections to a write through `sub`, beyond those to the metadata's change.
pub fn check(new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
    match sub {
        Some("status") => status(new, old),
        Some("resize") => resize(new, old),
        Some("ephemeralcontainers") => ephemeral(new, old),
        _ => spec(new, old),
    }
}

fn both_metadata_and_spec(new: &Value) -> ErrorList {
    let mut errors = meta::validate(new, meta::NameRule::Subdomain, true);
    errors.extend(validate::pod(new));
    errors
}

fn annotation_change(errors: &mut ErrorList, new: &Value, old: &Value) {
    annotations::check_change(
        errors,
        &Path::new("metadata").child("annotations"),
        at(new, "/metadata/annotations"),
        at(old, "/metadata/annotations"),
        at(new, "/spec"),
    );
}

fn spec(new: &Value, old: &Value) -> ErrorList {
    let mut errors = both_metadata_and_spec(new);
    annotation_change(&mut errors, new, old);
    let path = Path::new("spec");
    let (new, old) = (at(new, "/spec"), at(old, "/spec"));
    for key in ["containers", "initContainers"] {
        if !images(&mut errors, &path.child(key), list(new, key), list(old, key)) {
            return errors;
        }
    }
    if !deadline(&mut errors, &path.child("activeDeadlineSeconds"), new, old) {
        return errors;
    }
    tolerations(
        &mut errors,
        &path.child("tolerations"),
        list(new, "tolerations"),
        list(old, "tolerations"),
    );
    gates(&mut errors, &path.child("schedulingGates"), new, old);
    if same(Some(new), Some(old)) {
        return errors;
    }
    let mut munged = new.clone();
    munge(&mut errors, &path, &mut munged, old);
    if !same(Some(&munged), Some(old)) {
        let diff = dump::diff(&dump::pod_spec(old), &dump::pod_spec(&munged));
        errors.push(forbidden(&path, format!("{UPDATABLE}\n{diff}")));
    }
    errors
}

fn images(errors: &mut ErrorList, path: &Path, new: &[Value], old: &[Value]) -> bool {
    if new.len() != old.len() {
        errors.push(forbidden(path, "pod updates may not add or remove containers"));
        return false;
    }
    for (i, c) in new.iter().enumerate() {
        let image = str_of(c, "image");
        if image.is_empty() {
            errors.push(required(&path.index(i).child("image"), ""));
        }
        super::containers::image_has_no_spaces(errors, &path.index(i).child("image"), image);
    }
    true
}

fn deadline(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) -> bool {
    let (after, before) = (
        int_of(new, "activeDeadlineSeconds"),
        int_of(old, "activeDeadlineSeconds"),
    );
    match (after, before) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.push(invalid(path, n, names::in_range(0, i64::from(i32::MAX))));
            false
        }
        (Some(n), Some(limit)) if limit < n => {
            errors.push(invalid(path, n, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            errors.push(invalid(
                path,
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
            true
        }
        _ => true,
    }
}

fn tolerations(errors: &mut ErrorList, path: &Path, new: &[Value], old: &[Value]) {
    let without_seconds = |t: &Value| {
        let mut t = t.clone();
        remove(&mut t, "tolerationSeconds");
        t
    };
    let kept = old.iter().all(|o| {
        new.iter()
            .any(|n| same(Some(&without_seconds(n)), Some(&without_seconds(o))))
    });
    if kept {
        validate::tolerations(errors, path, new);
    } else {
        errors.push(forbidden(
            path,
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
}

fn gates(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let known: Vec<&str> = list(old, "schedulingGates").iter().map(|g| str_of(g, "name")).collect();
    for (i, gate) in list(new, "schedulingGates").iter().enumerate() {
        let name = str_of(gate, "name");
        if !known.contains(&name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(forbidden(&path.index(i).child("name"), detail));
        }
    }
}

/// Puts the stored values where a change is allowed.
fn munge(errors: &mut ErrorList, path: &Path, munged: &mut Value, old: &Value) {
    for key in ["containers", "initContainers"] {
        for (container, stored) in each_mut(munged, key).zip(list(old, key)) {
            copy(container, stored, "image");
        }
    }
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        copy(munged, old, key);
    }
    let grace = "terminationGracePeriodSeconds";
    if int_of(old, grace).is_some_and(|n| n < 0) && int_of(munged, grace) == Some(1) {
        copy(munged, old, grace);
    }
    if list(old, "schedulingGates").is_empty() {
        return;
    }
    let (new_selector, old_selector) = (get(munged, "nodeSelector"), get(old, "nodeSelector"));
    if !same(Some(new_selector), Some(old_selector)) {
        if entries(old, "nodeSelector").any(|(k, v)| new_selector.get(k) != Some(v)) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.push(invalid(&path.child("nodeSelector"), new_selector.clone(), detail));
        }
        copy(munged, old, "nodeSelector");
    }
    let (new_affinity, old_affinity) = (
        at(munged, "/affinity/nodeAffinity").clone(),
        at(old, "/affinity/nodeAffinity"),
    );
    if same(Some(&new_affinity), Some(old_affinity)) {
        return;
    }
    let path = path.child("affinity").child("nodeAffinity");
    affinity_additions(errors, &path, &new_affinity, old_affinity);
    let others = get(munged, "affinity")
        .as_object()
        .is_some_and(|m| m.keys().any(|k| k != "nodeAffinity"));
    if get(old, "affinity").is_null() && !others {
        remove(munged, "affinity");
    } else {
        copy(child(munged, "affinity"), at(old, "/affinity"), "nodeAffinity");
    }
}

/// Required terms that are there only get longer.
fn affinity_additions(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |v| list(get(v, REQUIRED), "nodeSelectorTerms");
    let (after, before) = (terms(new), terms(old));
    let path = path.child(REQUIRED).child("nodeSelectorTerms");
    if before.is_empty() {
        return;
    }
    if after.len() != before.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let shown: Vec<String> = after
            .iter()
            .map(|t| dump::core("NodeSelectorTerm", t).compact())
            .collect();
        let shown = if after.is_empty() {
            "null".to_owned()
        } else {
            format!("[{}]", shown.join(","))
        };
        errors.push(go::invalid_shown(&path, &shown, detail));
        return;
    }
    let starts_with = |new: &Value, old: &Value, key: &str| {
        let (new, old) = (list(new, key), list(old, key));
        new.len() >= old.len() && new.iter().zip(old).all(|(n, o)| same(Some(n), Some(o)))
    };
    let size = |term: &Value| list(term, "matchExpressions").len() + list(term, "matchFields").len();
    for (i, (new, old)) in after.iter().zip(before).enumerate() {
        let kept = starts_with(new, old, "matchExpressions") && starts_with(new, old, "matchFields");
        if !kept || (size(old) == 0 && size(new) > 0) {
            let detail = "only additions are allowed (no mutations or deletions)";
            let shown = dump::core("NodeSelectorTerm", new).compact();
            errors.push(go::invalid_shown(&path.index(i), &shown, detail));
        }
    }
}

fn ephemeral(new: &Value, old: &Value) -> ErrorList {
    let mut errors = both_metadata_and_spec(new);
    annotation_change(&mut errors, new, old);
    if has(at(old, "/metadata/annotations"), annotations::MIRROR) {
        return vec![forbidden(
            &Path::root().key(""),
            "static pods do not support ephemeral containers",
        )];
    }
    let path = Path::new("spec").child("ephemeralContainers");
    let sent = list(at(new, "/spec"), "ephemeralContainers");
    for stored in list(at(old, "/spec"), "ephemeralContainers") {
        let name = str_of(stored, "name");
        match sent.iter().rev().find(|c| str_of(c, "name") == name) {
            None => errors.push(forbidden(
                &path,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            )),
            Some(c) if !same(Some(c), Some(stored)) => {
                let diff = dump::diff(
                    &dump::core("EphemeralContainer", stored),
                    &dump::core("EphemeralContainer", c),
                );
                errors.push(forbidden(
                    &path,
                    format!("existing ephemeral containers {name:?} may not be changed\n{diff}"),
                ));
            }
            Some(_) => {}
        }
    }
    errors
}

fn resize(new: &Value, old: &Value) -> ErrorList {
    let mut errors = both_metadata_and_spec(new);
    if has(at(old, "/metadata/annotations"), annotations::MIRROR) {
        return vec![forbidden(&Path::root().key(""), "static pods cannot be resized")];
    }
    if str_of(at(old, "/spec/os"), "name") == "windows" {
        return vec![forbidden(&Path::root().key(""), "windows pods cannot be resized")];
    }
    let path = Path::new("spec");
    let class = str_of(at(old, "/status"), "qosClass");
    let old_class = if class.is_empty() { qos::class(old) } else { class };
    if qos::class(new) != old_class {
        errors.push(invalid(
            &path,
            old_class,
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    let (new, old) = (at(new, "/spec"), at(old, "/spec"));
    for key in ["containers", "initContainers"] {
        let path = path.child(key);
        for (i, (c, stored)) in list(new, key).iter().zip(list(old, key)).enumerate() {
            let at_resources = path.index(i).child("resources");
            for kind in ["requests", "limits"] {
                let (after, before) = (get(get(c, "resources"), kind), get(stored, "resources"));
                if entries(before, kind).any(|(name, _)| !has(after, name)) {
                    errors.push(forbidden(
                        &at_resources.child(kind),
                        format!("resource {kind} cannot be removed"),
                    ));
                }
            }
            only_cpu_and_memory(&mut errors, &Path::new("spec"), key, c, stored);
        }
    }
    if errors.is_empty() && !same(Some(&without_resources(new)), Some(&without_resources(old))) {
        errors.push(forbidden(&path, "only cpu and memory resources are mutable"));
    }
    errors
}

fn only_cpu_and_memory(errors: &mut ErrorList, path: &Path, key: &str, new: &Value, old: &Value) {
    let rest = |c: &Value| {
        let mut resources = get(c, "resources").clone();
        for kind in ["requests", "limits"] {
            if let Some(map) = resources.get_mut(kind) {
                remove(map, "cpu");
                remove(map, "memory");
            }
        }
        resources
    };
    let sidecar = key == "initContainers" && str_of(old, "restartPolicy") == "Always";
    if key == "initContainers" && !sidecar {
        if !same(new.get("resources"), old.get("resources")) {
            errors.push(forbidden(
                path,
                "resources for non-sidecar init containers are immutable",
            ));
        }
    } else if !same(Some(&rest(new)), Some(&rest(old))) {
        let of = if sidecar { " for sidecar containers" } else { "" };
        errors.push(forbidden(
            path,
            format!("only cpu and memory resources{of} are mutable"),
        ));
    }
}

fn without_resources(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for key in ["containers", "initContainers"] {
        for c in each_mut(&mut spec, key) {
            remove(c, "resources");
            remove(c, "resizePolicy");
        }
    }
    spec
}

fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    annotation_change(&mut errors, new, old);
    let path = Path::new("status");
    let spec = at(old, "/spec");
    let (new_status, old_status) = (at(new, "/status"), at(old, "/status"));
    for (i, condition) in list(new_status, "conditions").iter().enumerate() {
        let kind = str_of(condition, "type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            let at = Path::new("metadata").child("conditions").index(i).child("Type");
            check::qualified(&mut errors, &at, kind);
        }
    }
    let node = str_of(new_status, "nominatedNodeName");
    if !node.is_empty() && node != str_of(old_status, "nominatedNodeName") {
        check::dns_subdomain(&mut errors, &path.child("nominatedNodeName"), node);
    }
    check::immutable(
        &mut errors,
        &path.child("qosClass"),
        new_status.get("qosClass"),
        old_status.get("qosClass"),
    );
    let policy = str_of(spec, "restartPolicy");
    for (key, policy) in [
        ("containerStatuses", policy),
        ("initContainerStatuses", policy),
        ("ephemeralContainerStatuses", "Never"),
    ] {
        transitions(
            &mut errors,
            &path.child(key),
            list(new_status, key),
            list(old_status, key),
            policy,
            spec,
        );
    }
    claim_statuses(&mut errors, &path.child("resourceClaimStatuses"), new);
    addresses(&mut errors, &path.child("podIPs"), new_status, "podIPs");
    let hosts = list(new_status, "hostIPs");
    if let Some(first) = hosts
        .first()
        .map(|ip| str_of(ip, "ip"))
        .filter(|ip| *ip != str_of(new_status, "hostIP"))
    {
        let at = path.child("hostIPs").index(0).child("ip");
        errors.push(invalid(&at, first, "must be equal to `hostIP`"));
    }
    addresses(&mut errors, &path.child("hostIPs"), new_status, "hostIPs");
    errors
}

fn claim_statuses(errors: &mut ErrorList, path: &Path, pod: &Value) {
    let known: Vec<&str> = list(at(pod, "/spec"), "resourceClaims")
        .iter()
        .map(|c| str_of(c, "name"))
        .collect();
    let mut seen = BTreeSet::new();
    for (i, status) in list(at(pod, "/status"), "resourceClaimStatuses").iter().enumerate() {
        let (name, at) = (str_of(status, "name"), path.index(i).child("name"));
        if !known.contains(&name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(invalid(&at, name, detail));
        }
        if !seen.insert(name) {
            errors.push(duplicate(&at, name));
        }
        if has(status, "resourceClaimName") {
            check::dns_subdomain(errors, &at, str_of(status, "resourceClaimName"));
        }
    }
}

/// Addresses of a pod or of its host: at most one of each family.
fn addresses(errors: &mut ErrorList, path: &Path, status: &Value, key: &str) {
    let ips: Vec<&str> = list(status, key).iter().map(|ip| str_of(ip, "ip")).collect();
    for (i, ip) in ips.iter().enumerate() {
        check::ip(errors, &path.index(i), ip);
    }
    let shown = |ip: &str| json!({"IP": ip});
    if ips.len() > 1 {
        let sixes = ips.iter().filter(|ip| ip.contains(':')).count();
        if ips.len() > 2 || sixes != 1 {
            let all: Vec<Value> = ips.iter().map(|ip| shown(ip)).collect();
            let detail = "may specify no more than one IP for each IP family";
            errors.push(invalid(path, all, detail));
        }
        for (i, ip) in ips.iter().enumerate().filter(|(i, ip)| ips[..*i].contains(ip)) {
            errors.push(duplicate(&path.index(i), shown(ip)));
        }
    }
}

/// A container that ended for good does not come back.
fn transitions(errors: &mut ErrorList, path: &Path, new: &[Value], old: &[Value], policy: &str, spec: &Value) {
    if policy == "Always" {
        return;
    }
    for (i, before) in old.iter().enumerate() {
        let ended = at(before, "/state/terminated");
        let name = str_of(before, "name");
        let own_rules = ["containers", "initContainers"]
            .iter()
            .flat_map(|k| list(spec, k))
            .any(|c| str_of(c, "name") == name && has(c, "restartPolicy"));
        if !ended.is_object() || own_rules || (int_of(ended, "exitCode").unwrap_or(0) != 0 && policy == "OnFailure") {
            continue;
        }
        if new
            .iter()
            .any(|n| str_of(n, "name") == name && !at(n, "/state/terminated").is_object())
        {
            errors.push(forbidden(
                &path.index(i).child("state"),
                "may not be transitioned to non-terminated state",
            ));
        }
    }
}
