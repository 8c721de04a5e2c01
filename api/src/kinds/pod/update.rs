//! What may change in a pod, by the resource and by each of its subresources.

use super::{annotations, dump, resize, status, validate};
use crate::field::{ErrorList, Path, forbidden, invalid, required};
use crate::kinds::access::{
    at, child, copy, each_mut, entries, get, has, int_of, is_empty, list, remove, same, set, str_of,
};
use crate::kinds::{check, go, meta};
use crate::names;
use serde_json::Value;
use std::collections::HashSet;

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
        Some("resize") => resize::prepare(new, old),
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
pub(super) fn restore(new: &mut Value, old: &Value) {
    let metadata = at(new, "/metadata").clone();
    *new = old.clone();
    for key in ["resourceVersion", "uid", "managedFields"] {
        copy(child(new, "metadata"), &metadata, key);
    }
}

/// Objections to a write through `sub`, beyond those to the metadata's change.
pub fn check(new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
    match sub {
        Some("status") => status::check(new, old),
        Some("resize") => resize::check(new, old),
        Some("ephemeralcontainers") => ephemeral(new, old),
        _ => spec(new, old),
    }
}

/// Objections to the whole pod as it comes.
pub(super) fn both_metadata_and_spec(new: &Value) -> ErrorList {
    let mut errors = meta::validate(new, meta::NameRule::Subdomain, true);
    errors.extend(validate::pod(new));
    errors
}

/// Objections to the annotations and to their change.
pub(super) fn annotation_change(errors: &mut ErrorList, new: &Value, old: &Value) {
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
    // Most are there unchanged; each of the others is compared with all that are new.
    let texts: HashSet<String> = new.iter().map(|n| without_seconds(n).to_string()).collect();
    let changed = |o: &&Value| !texts.contains(&without_seconds(o).to_string());
    let kept = old.iter().filter(changed).all(|o| {
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
    let known: HashSet<&str> = list(old, "schedulingGates").iter().map(|g| str_of(g, "name")).collect();
    for (i, gate) in list(new, "schedulingGates").iter().enumerate() {
        let name = str_of(gate, "name");
        if !known.contains(name) {
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
        let detail = "static pods do not support ephemeral containers";
        return vec![forbidden(&Path::root().key(""), detail)].into();
    }
    let path = Path::new("spec").child("ephemeralContainers");
    // The last of a name, where there are several.
    let sent = check::by_name(list(at(new, "/spec"), "ephemeralContainers").iter().rev());
    for stored in list(at(old, "/spec"), "ephemeralContainers") {
        if errors.is_full() {
            break;
        }
        let name = str_of(stored, "name");
        match sent.get(name) {
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
