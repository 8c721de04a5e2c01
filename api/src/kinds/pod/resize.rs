//! Changes of what the containers of a pod may use: the `resize` subresource.

use super::{annotations, qos, update};
use crate::field::{ErrorList, Path, forbidden, invalid};
use crate::kinds::access::{at, child, copy, each_mut, entries, get, has, is_empty, list, remove, same, set, str_of};
use serde_json::Value;

const LISTS: [&str; 2] = ["containers", "initContainers"];
const KINDS: [&str; 2] = ["requests", "limits"];

/// Keeps everything but resources and resize policies of containers that are there. Where containers moved, the
/// write stays as it is and is refused later.
pub fn prepare(new: &mut Value, old: &Value) {
    let sent = at(new, "/spec").clone();
    if !moved(&sent, at(old, "/spec")).is_empty() {
        return;
    }
    update::restore(new, old);
    let spec = child(new, "spec");
    copy(spec, &sent, "resources");
    for key in LISTS {
        for (container, sent) in each_mut(spec, key).zip(list(&sent, key)) {
            copy(container, sent, "resources");
            copy(container, sent, "resizePolicy");
        }
    }
}

/// What is said of containers that come, go, or change their places.
fn moved(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for key in LISTS {
        let (path, after, before) = (Path::new("spec").child(key), list(new, key), list(old, key));
        if after.len() != before.len() {
            errors.push(forbidden(&path, format!("{key} may not be added or removed on resize")));
            continue;
        }
        let pairs = after.iter().zip(before).enumerate();
        for (i, _) in pairs.filter(|(_, (a, b))| str_of(a, "name") != str_of(b, "name")) {
            let detail = format!("{key} may not be renamed or reordered on resize");
            errors.push(forbidden(&path.index(i).child("name"), detail));
        }
    }
    errors
}

/// Objections to a resize.
pub fn check(new: &Value, old: &Value) -> ErrorList {
    let mut errors = update::both_metadata_and_spec(new);
    let whole = Path::root().key("");
    if has(at(old, "/metadata/annotations"), annotations::MIRROR) {
        return vec![forbidden(&whole, "static pods cannot be resized")].into();
    }
    if str_of(at(old, "/spec/os"), "name") == "windows" {
        return vec![forbidden(&whole, "windows pods cannot be resized")].into();
    }
    let path = Path::new("spec");
    let class = str_of(at(old, "/status"), "qosClass");
    let old_class = if class.is_empty() { qos::class(old) } else { class };
    if qos::class(new) != old_class {
        let shown = str_of(at(new, "/status"), "qosClass");
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(invalid(&path, shown, detail));
    }
    if !node_resizes(at(old, "/status")) {
        errors.push(forbidden(&path, "Pod running on node without support for resize"));
    }
    let (mut munged, stored) = (at(new, "/spec").clone(), at(old, "/spec"));
    pod_level(&mut errors, &path, &mut munged, stored);
    let moved = moved(&munged, stored);
    if !moved.is_empty() {
        errors.extend(moved);
        return errors;
    }
    for key in ["initContainers", "containers"] {
        for (i, (c, stored)) in list(&munged, key).iter().zip(list(stored, key)).enumerate() {
            let at = path.child(key).index(i).child("resources");
            removed(
                &mut errors,
                &at,
                "resource",
                get(c, "resources"),
                get(stored, "resources"),
            );
        }
    }
    for key in LISTS {
        for (i, (c, stored)) in each_mut(&mut munged, key).zip(list(stored, key)).enumerate() {
            container(&mut errors, &path, key, i, c, stored);
        }
    }
    if errors.is_empty() && !same(Some(&munged), Some(stored)) {
        errors.push(forbidden(&path, "only cpu and memory resources are mutable"));
    }
    errors
}

/// A node that does not report what running containers have cannot resize them.
fn node_resizes(status: &Value) -> bool {
    let running = list(status, "containerStatuses")
        .iter()
        .find(|c| at(c, "/state/running").is_object());
    running.is_none_or(|c| has(c, "resources"))
}

fn pod_level(errors: &mut ErrorList, path: &Path, munged: &mut Value, stored: &Value) {
    let filled = |spec: &Value| KINDS.iter().any(|kind| !is_empty(get(get(spec, "resources"), kind)));
    if !filled(munged) && !filled(stored) {
        return;
    }
    let at = path.child("resources");
    if has(stored, "resources") && !has(munged, "resources") {
        errors.push(forbidden(&at, "pod-level resources cannot be removed"));
        return;
    }
    let before = get(stored, "resources");
    removed(errors, &at, "pod-level resource", get(munged, "resources"), before);
    let mut after = get(munged, "resources").clone();
    keep_cpu_and_memory(&mut after, before);
    if same(Some(&after), Some(before)) {
        copy(munged, stored, "resources");
    } else {
        errors.push(forbidden(
            path,
            "only cpu and memory resources are mutable at pod-level",
        ));
    }
}

fn removed(errors: &mut ErrorList, path: &Path, what: &str, new: &Value, old: &Value) {
    for kind in KINDS {
        let after = get(new, kind);
        if entries(old, kind).any(|(name, _)| !has(after, name)) {
            errors.push(forbidden(&path.child(kind), format!("{what} {kind} cannot be removed")));
        }
    }
}

/// Makes the processor time and memory what they were.
fn keep_cpu_and_memory(resources: &mut Value, old: &Value) {
    for kind in KINDS {
        let before = get(old, kind);
        let mut after = get(resources, kind).clone();
        for name in ["cpu", "memory"] {
            match before.get(name) {
                Some(quantity) => set(&mut after, name, quantity.clone()),
                None => {
                    remove(&mut after, name);
                }
            }
        }
        if is_empty(&after) {
            remove(resources, kind);
        } else {
            set(resources, kind, after);
        }
    }
}

fn container(errors: &mut ErrorList, path: &Path, key: &str, i: usize, c: &mut Value, stored: &Value) {
    let changed = !same(Some(c), Some(stored));
    keep_cpu_and_memory(child(c, "resources"), get(stored, "resources"));
    let at = path.child(key).index(i);
    let in_order = same(Some(c), Some(stored));
    if key == "containers" {
        if !in_order {
            errors.push(forbidden(path, "only cpu and memory resources are mutable"));
        }
        return;
    }
    if !in_order {
        let detail = "only cpu and memory resources for init or sidecar containers are mutable";
        errors.push(forbidden(&at, detail));
    }
    if changed && str_of(c, "restartPolicy") != "Always" {
        let restarts = list(c, "resizePolicy").iter();
        for _ in restarts.filter(|policy| str_of(policy, "restartPolicy") == "RestartContainer") {
            let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.push(forbidden(&at, detail));
        }
    }
}
