//! PersistentVolumeClaims, and their specs inside StatefulSets and ephemeral volumes.

use super::access::{at, child, get, has, same, set_text_default, str_of, text};
use super::pod::volumes;
use super::print::{self, AGE, NAME, shown, wide};
use super::{Column, Rules, StatusRule, access, check, tidy};
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
    volumes::access_modes(errors, &path.child("accessModes"), spec);
    if get(spec, "selector").is_object() {
        check::label_selector(errors, &path.child("selector"), get(spec, "selector"));
    }
    let at_storage = path.child("resources").key("storage");
    match get(get(spec, "resources"), "requests")
        .get("storage")
        .and_then(Value::as_str)
    {
        None => errors.push(required(&at_storage, "")),
        Some(size) => positive(errors, &at_storage, size),
    }
    for key in ["storageClassName", "volumeAttributesClassName"] {
        let name = str_of(spec, key);
        if !name.is_empty() {
            check::dns_subdomain(errors, &path.child(key), name);
        }
    }
    if has(spec, "volumeMode") {
        check::one_of(
            errors,
            &path.child("volumeMode"),
            str_of(spec, "volumeMode"),
            &["Block", "Filesystem"],
        );
    }
    for key in ["dataSource", "dataSourceRef"] {
        let source = get(spec, key);
        if !source.is_object() {
            continue;
        }
        let path = path.child(key);
        for part in ["name", "kind"] {
            if str_of(source, part).is_empty() {
                errors.push(required(&path.child(part), ""));
            }
        }
        if str_of(source, "apiGroup").is_empty() && str_of(source, "kind") != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(invalid(&path, str_of(source, "kind"), detail));
        }
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
        return;
    }
    if name.len() > 63 {
        errors.push(crate::field::too_long(path, 63));
    }
    let lower = name.to_lowercase();
    check::each(errors, path, name, names::dns1123_subdomain(&lower));
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
        let bound = text(old, "/status/phase") == "Bound";
        if !same(
            Some(&fixed(new_spec, old_spec, bound)),
            Some(&fixed(old_spec, old_spec, bound)),
        ) {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errors.push(forbidden(&path, detail));
        }
        let size = |spec: &Value| Quantity::parse(text(spec, "/resources/requests/storage")).unwrap_or(Quantity::ZERO);
        if bound && size(new_spec) < size(old_spec) {
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
            (
                text(status, "/capacity/storage").to_owned(),
                print::access_modes(status, "accessModes"),
            )
        };
        let class = text(obj, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
        let class = if class.is_empty() {
            str_of(spec, "storageClassName")
        } else {
            class
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
            json!(class),
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

/// A spec without what may change: the volume's name once, and the size and attributes of a bound claim.
fn fixed(spec: &Value, old: &Value, bound: bool) -> Value {
    let mut spec = spec.clone();
    if str_of(old, "volumeName").is_empty() {
        access::remove(&mut spec, "volumeName");
    }
    if str_of(old, "storageClassName").is_empty() && !has(old, "storageClassName") {
        access::remove(&mut spec, "storageClassName");
    }
    if bound {
        access::remove(&mut spec, "volumeAttributesClassName");
        if let Some(requests) = spec.get_mut("resources").and_then(|r| r.get_mut("requests")) {
            access::remove(requests, "storage");
        }
    }
    spec
}

fn status_update(new: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("capacity");
    for (name, quantity) in access::entries(at(new, "/status"), "capacity") {
        let text = quantity.as_str().unwrap_or("");
        if Quantity::parse(text).is_ok_and(|q| q < Quantity::ZERO) {
            errors.push(invalid(&path.key(name), text, "must be a valid resource quantity"));
        }
    }
    errors
}
