//! PersistentVolumeClaims, and their specs inside StatefulSets and ephemeral volumes.

use super::access::{at, child, get, has, same, set_text_default, str_of, text};
use super::pod::{dump, volumes};
use super::print::{self, AGE, NAME, shown, wide};
use super::{Column, Rules, StatusRule, access, check, go, tidy};
use crate::Quantity;
use crate::field::{ErrorList, Path, forbidden, invalid, required};
use crate::names;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Defaults of a claim's spec.
pub fn default_spec(spec: &mut Value) {
    set_text_default(spec, "volumeMode", "Filesystem");
    tidy::drop_zero(spec, &["volumeName"]);
    child(spec, "resources");
}

/// The rules of a claim's spec.
pub fn check_spec(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let modes = check::strings(spec, "accessModes");
    if modes.is_empty() {
        errors.push(required(
            &path.child("accessModes"),
            "at least 1 access mode is required",
        ));
    }
    if get(spec, "selector").is_object() {
        check::label_selector(errors, &path.child("selector"), get(spec, "selector"));
    }
    volumes::mode_values(errors, &path.child("accessModes"), &modes);
    let at_storage = path.child("resources").key("storage");
    match text(spec, "/resources/requests/storage") {
        "" => errors.push(required(&at_storage, "")),
        size => positive(errors, &at_storage, size),
    }
    let class = |errors: &mut ErrorList, key: &str| {
        let name = str_of(spec, key);
        if !name.is_empty() {
            check::dns_subdomain(errors, &path.child(key), name);
        }
    };
    class(errors, "storageClassName");
    if has(spec, "volumeMode") {
        check::one_of(
            errors,
            &path.child("volumeMode"),
            str_of(spec, "volumeMode"),
            &["Block", "Filesystem"],
        );
    }
    sources(errors, path, spec);
    class(errors, "volumeAttributesClassName");
}

/// Where the content of a claim comes from.
fn sources(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for key in ["dataSource", "dataSourceRef"] {
        let source = get(spec, key);
        if source.is_object() {
            data_source(errors, &path.child(key), source);
        }
    }
    let (old, new) = (get(spec, "dataSource"), get(spec, "dataSourceRef"));
    if !old.is_object() || !new.is_object() {
        return;
    }
    let same_part = |key: &str| old.get(key) == new.get(key);
    let detail = if !str_of(new, "namespace").is_empty() {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if !["apiGroup", "kind", "name"].into_iter().all(same_part) {
        "must match dataSourceRef"
    } else {
        return;
    };
    // Kubernetes shows the place of the other member as the value.
    errors.push(go::invalid_shown(path, "{}", detail));
}

fn data_source(errors: &mut ErrorList, path: &Path, source: &Value) {
    for part in ["name", "kind"] {
        if str_of(source, part).is_empty() {
            errors.push(required(&path.child(part), ""));
        }
    }
    match str_of(source, "apiGroup") {
        "" if str_of(source, "kind") != "PersistentVolumeClaim" => {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(invalid(path, str_of(source, "kind"), detail));
        }
        "" => {}
        group => check::dns_subdomain(errors, &path.child("apiGroup"), group),
    }
    let namespace = str_of(source, "namespace");
    if !namespace.is_empty() {
        check::dns_label(errors, &path.child("namespace"), namespace);
    }
}

fn positive(errors: &mut ErrorList, path: &Path, size: &str) {
    if Quantity::parse(size).is_ok_and(|q| q <= Quantity::ZERO) {
        errors.push(invalid(path, size, "must be greater than zero"));
    }
}

/// A storage driver's name.
pub fn driver_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.push(required(path, ""));
    }
    if name.len() > 63 {
        errors.push(crate::field::too_long(path, 63));
    }
    check::each(errors, path, name, names::dns1123_subdomain(&name.to_lowercase()));
}

/// The rules of PersistentVolumeClaims.
pub struct Claim;

impl Rules for Claim {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        default_spec(child(obj, "spec"));
        set_text_default(child(obj, "status"), "phase", "Pending");
    }

    fn on_create(&self, obj: &mut Value) {
        access::set(obj, "status", json!({"phase": "Pending"}));
        same_source_twice(child(obj, "spec"));
    }

    fn on_update(&self, new: &mut Value, _old: &Value, sub: Option<&str>) {
        if sub.is_none() {
            same_source_twice(child(new, "spec"));
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(&mut errors, &Path::new("spec"), at(obj, "/spec"));
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        if sub == Some("status") {
            return status_update(new);
        }
        let mut errors = self.check(new);
        let path = Path::new("spec");
        let (new_spec, old_spec) = (at(new, "/spec"), at(old, "/spec"));
        let (after, before) = comparable(&mut errors, new, old);
        if !same(Some(&after), Some(&before)) {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            let of = |spec: &Value| dump::core("PersistentVolumeClaimSpec", spec);
            errors.push(forbidden(
                &path,
                format!("{detail}\n{}", dump::diff(&of(&before), &of(&after))),
            ));
        }
        let size = |text: &str| Quantity::parse(text).unwrap_or(Quantity::ZERO);
        let asked = |spec: &Value| size(text(spec, "/resources/requests/storage"));
        if asked(new_spec) < asked(old_spec) && asked(new_spec) <= size(text(old, "/status/capacity/storage")) {
            let at = path.child("resources").child("requests").child("storage");
            errors.push(forbidden(&at, "field can not be less than status.capacity"));
        }
        if !same(new_spec.get("volumeMode"), old_spec.get("volumeMode")) {
            errors.push(invalid(
                &Path::new("volumeMode"),
                get(new_spec, "volumeMode").clone(),
                check::IMMUTABLE,
            ));
        }
        let attributes = "volumeAttributesClassName";
        if has(old_spec, attributes) && str_of(new_spec, attributes).is_empty() {
            let to = if has(new_spec, attributes) {
                "an empty string"
            } else {
                "nil"
            };
            errors.push(forbidden(
                &path.child(attributes),
                format!("update from non-nil value to {to} is forbidden"),
            ));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Status", "string", "Phase of the claim."),
            shown("Volume", "string", "Volume that the claim is bound to."),
            shown("Capacity", "string", "Size of the volume."),
            shown("Access Modes", "string", "Access modes of the volume."),
            shown("StorageClass", "string", "StorageClass of the claim."),
            shown("VolumeAttributesClass", "string", "VolumeAttributesClass of the claim."),
            AGE,
            wide(
                "VolumeMode",
                "string",
                "Whether the volume is a file system or a block device.",
            ),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (at(obj, "/spec"), at(obj, "/status"));
        let deleting = has(at(obj, "/metadata"), "deletionTimestamp");
        let volume = str_of(spec, "volumeName");
        let (capacity, modes) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            let capacity = text(status, "/capacity/storage");
            let capacity = if capacity.is_empty() { "0" } else { capacity };
            (capacity.to_owned(), print::access_modes(status, "accessModes"))
        };
        let attributes = str_of(spec, "volumeAttributesClassName");
        vec![
            json!(access::name(obj)),
            json!(if deleting {
                "Terminating"
            } else {
                str_of(status, "phase")
            }),
            json!(volume),
            json!(capacity),
            json!(modes),
            json!(print::storage_class(obj)),
            json!(if attributes.is_empty() { "<unset>" } else { attributes }),
            print::age(obj, now),
            json!(if has(spec, "volumeMode") {
                str_of(spec, "volumeMode")
            } else {
                "<unset>"
            }),
        ]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}

/// The two members that say where a claim's content comes from are kept equal.
fn same_source_twice(spec: &mut Value) {
    if has(spec, "dataSource") && !has(spec, "dataSourceRef") {
        let source = get(spec, "dataSource").clone();
        access::set(spec, "dataSourceRef", source);
    } else if has(spec, "dataSourceRef")
        && !has(spec, "dataSource")
        && str_of(get(spec, "dataSourceRef"), "namespace").is_empty()
    {
        let source = get(spec, "dataSourceRef").clone();
        access::set(spec, "dataSource", source);
    }
}

/// The annotation that named the class before there was a member for it.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Both specs with what may change made equal: the volume's name and class once, and of a bound claim its size and
/// attributes.
fn comparable(errors: &mut ErrorList, new: &Value, old: &Value) -> (Value, Value) {
    let (mut after, mut before) = (at(new, "/spec").clone(), at(old, "/spec").clone());
    if str_of(&before, "volumeName").is_empty() {
        access::copy(&mut before, &after, "volumeName");
    }
    let annotated = |obj: &Value| {
        at(obj, "/metadata/annotations")
            .get(OLD_CLASS)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let (new_class, old_class) = (annotated(new), annotated(old));
    if new_class.as_deref().unwrap_or("") != old_class.as_deref().unwrap_or("") {
        let path = Path::new("metadata").child("annotations").key(OLD_CLASS);
        errors.push(invalid(&path, new_class.unwrap_or_default(), check::IMMUTABLE));
    }
    let named_first = has(&after, "storageClassName") && !has(&before, "storageClassName");
    if named_first && old_class.is_none_or(|class| class == str_of(&after, "storageClassName")) {
        access::remove(&mut after, "storageClassName");
    }
    if text(new, "/status/phase") == "Bound" {
        if has(&after, "volumeAttributesClassName") {
            access::copy(&mut after, &before, "volumeAttributesClassName");
        }
        if has(get(&after, "resources"), "requests") {
            let size = at(&before, "/resources/requests/storage").clone();
            access::set(child(child(&mut after, "resources"), "requests"), "storage", size);
        }
    }
    (after, before)
}

fn status_update(new: &Value) -> ErrorList {
    const PROGRESS: &[&str] = &[
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let mut errors = ErrorList::new();
    if access::list(at(new, "/spec"), "accessModes").is_empty() {
        errors.push(required(&Path::new("Spec").child("accessModes"), ""));
    }
    let path = Path::new("status").child("capacity");
    for (name, quantity) in access::entries(at(new, "/status"), "capacity") {
        let text = quantity.as_str().unwrap_or("");
        if Quantity::parse(text).is_ok_and(|q| q < Quantity::ZERO) {
            errors.push(invalid(&path.key(name), text, "must be a valid resource quantity"));
        }
    }
    let path = Path::new("status").child("allocatedResourceStatus");
    for (name, state) in access::entries(at(new, "/status"), "allocatedResourceStatuses") {
        let mut known = PROGRESS.to_vec();
        known.sort_unstable();
        if !known.contains(&state.as_str().unwrap_or("")) {
            errors.push(crate::field::not_supported(&path, name.as_str(), &known));
        }
    }
    errors
}
