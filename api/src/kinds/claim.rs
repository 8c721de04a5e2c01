//! PersistentVolumeClaims, and their specs inside StatefulSets and ephemeral volumes.

use super::access::{at, child, get, has, same, set_text_default, str_of, text};
use super::pod::{dump, volumes};
use super::print::{self, AGE, NAME, shown, wide};
use super::{Column, Rules, StatusRule, access, check, go, resources, tidy};
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
        return;
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
        one_source(child(obj, "spec"), &Value::Null);
    }

    fn on_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub.is_none() {
            one_source(child(new, "spec"), at(old, "/spec"));
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
        let changed = new_spec.get(attributes) != old_spec.get(attributes);
        let applied = has(at(old, "/status"), "currentVolumeAttributesClassName");
        if changed && applied && str_of(new_spec, attributes).is_empty() {
            let to = if has(new_spec, attributes) {
                "empty string"
            } else {
                "nil"
            };
            let detail = format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
            errors.push(forbidden(&path.child(attributes), detail));
        }
        errors
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if has(at(obj, "/metadata/annotations"), OLD_CLASS) {
            out.push(format!(
                "metadata.annotations[{OLD_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        out.extend(fractional_bytes(&Path::new("spec"), at(obj, "/spec")));
        out
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

/// What is said of sizes that are no whole numbers of bytes.
pub fn fractional_bytes(path: &Path, spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for kind in ["requests", "limits"] {
        let text = str_of(get(get(spec, "resources"), kind), "storage");
        if Quantity::parse(text).is_ok_and(|size| size.milli() % 1000 != 0) {
            let at = path.child("resources").child(kind).key("storage");
            out.push(format!(
                "{at}: fractional byte value {text:?} is invalid, must be an integer"
            ));
        }
    }
    out
}

/// The two members that say where a claim's content comes from are kept equal. The older of them takes only other
/// claims and snapshots, and the newer one stays in its own namespace.
fn one_source(spec: &mut Value, old: &Value) {
    let namespace = |spec: &Value| !str_of(get(spec, "dataSourceRef"), "namespace").is_empty();
    if namespace(spec) && !has(old, "dataSourceRef") {
        access::remove(spec, "dataSourceRef");
    }
    let source = get(spec, "dataSource");
    let of_old = [
        ("", "PersistentVolumeClaim"),
        ("snapshot.storage.k8s.io", "VolumeSnapshot"),
    ];
    let known = of_old.contains(&(str_of(source, "apiGroup"), str_of(source, "kind")));
    if !has(old, "dataSource") && !has(old, "dataSourceRef") && !has(spec, "dataSourceRef") && !known {
        access::remove(spec, "dataSource");
    }
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
    let named_first = has(&after, "storageClassName") && !has(&before, "storageClassName");
    let named_the_same = old_class.as_deref() == Some(str_of(&after, "storageClassName"));
    // The annotation may go once its class is named by the member.
    let moved = named_first && named_the_same && (new_class.is_none() || new_class == old_class);
    if !moved && new_class.as_deref().unwrap_or("") != old_class.as_deref().unwrap_or("") {
        let path = Path::new("metadata").child("annotations").child(OLD_CLASS);
        errors.push(invalid(&path, new_class.unwrap_or_default(), check::IMMUTABLE));
    }
    if named_first && (old_class.is_none() || named_the_same) {
        access::remove(&mut after, "storageClassName");
    }
    if text(new, "/status/phase") == "Bound" {
        access::copy(&mut after, &before, "volumeAttributesClassName");
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
        basic_resource(&mut errors, &path.key(name), quantity);
    }
    let path = Path::new("status").child("allocatedResourceStatuses");
    for (name, state) in access::entries(at(new, "/status"), "allocatedResourceStatuses") {
        size_name(&mut errors, &path, name);
        let mut known = PROGRESS.to_vec();
        known.sort_unstable();
        if !known.contains(&state.as_str().unwrap_or("")) {
            errors.push(crate::field::not_supported(&path, name.as_str(), &known));
        }
    }
    let path = Path::new("status").child("allocatedResources");
    for (name, quantity) in access::entries(at(new, "/status"), "allocatedResources") {
        let before = errors.len();
        size_name(&mut errors, &path, name);
        if errors.len() == before {
            basic_resource(&mut errors, &path.key(name), quantity);
        }
    }
    errors
}

/// A quantity that is there at all. What is shown is its whole number.
pub fn basic_resource(errors: &mut ErrorList, path: &Path, quantity: &Value) {
    let number = Quantity::parse(quantity.as_str().unwrap_or("")).map_or(0, |q| q.value());
    if number < 0 {
        errors.push(invalid(path, number, "must be a valid resource quantity"));
    }
}

/// What a claim has an amount of: storage, or something of somebody else's.
fn size_name(errors: &mut ErrorList, path: &Path, name: &str) {
    let messages = names::qualified_name(name);
    if messages.is_empty() && resources::is_native(name) && name != "storage" {
        errors.push(crate::field::not_supported(path, name, &["storage"]));
    }
    check::each(errors, path, name, messages);
}
