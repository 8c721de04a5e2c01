//! PersistentVolumes.

use super::access::{self, at, child, entries, get, has, same, set, set_default, set_text_default, str_of, text};
use super::check;
use super::go;
use super::pod::{affinity, defaults, dump, volumes, warnings};
use super::print::{self, AGE, NAME, shown, wide};
use super::{Column, Rules, StatusRule, claim, tidy};
use crate::Quantity;
use crate::field::{ErrorList, Path, forbidden, invalid, not_supported, required};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rules of PersistentVolumes.
pub struct PersistentVolume;

impl Rules for PersistentVolume {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        set_text_default(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_text_default(spec, "volumeMode", "Filesystem");
        if let Some(path) = access::child_if(spec, "hostPath") {
            set_default(path, "type", "");
        }
        defaults::network_volume(spec);
        set_text_default(child(obj, "status"), "phase", "Pending");
    }

    fn on_create(&self, obj: &mut Value) {
        // Stamped before this, as all times are.
        let created = text(obj, "/metadata/creationTimestamp").to_owned();
        set(obj, "status", json!({"phase": "Pending"}));
        if !created.is_empty() {
            set(child(obj, "status"), "lastPhaseTransitionTime", created);
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(&mut errors, &Path::new("spec"), at(obj, "/spec"), access::name(obj));
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        if sub.is_some() {
            return ErrorList::new();
        }
        let mut errors = self.check(new);
        let path = Path::new("spec");
        let (new_spec, old_spec) = (at(new, "/spec"), at(old, "/spec"));
        let mut sources = new_spec.clone();
        // The secret for expanding may be given later.
        if has(old_spec, "csi")
            && !has(get(old_spec, "csi"), EXPAND)
            && let Some(csi) = access::child_if(&mut sources, "csi")
        {
            access::remove(csi, EXPAND);
        }
        if volumes::PERSISTENT
            .iter()
            .any(|k| !same(sources.get(*k), old_spec.get(*k)))
        {
            let of = |spec: &Value| dump::core("PersistentVolumeSpec", spec);
            let changed = dump::diff(&of(old_spec), &of(&sources));
            errors.push(forbidden(
                &path.child("persistentvolumesource"),
                format!("spec.persistentvolumesource is immutable after creation\n{changed}"),
            ));
        }
        check::immutable(
            &mut errors,
            &Path::new("volumeMode"),
            new_spec.get("volumeMode"),
            old_spec.get("volumeMode"),
        );
        if has(old_spec, "nodeAffinity") && !same(Some(&stable(new_spec, old_spec)), old_spec.get("nodeAffinity")) {
            let affinity = get(new_spec, "nodeAffinity");
            let shown = if affinity.is_object() {
                let required = dump::core("NodeSelector", get(affinity, "required"));
                go::structure(&[("Required", required.compact())])
            } else {
                "null".to_owned()
            };
            let detail = "field is immutable, except for updating from beta label to GA";
            errors.push(go::invalid_shown(&Path::new("nodeAffinity"), &shown, detail));
        }
        let attributes = "volumeAttributesClassName";
        if has(old_spec, attributes) && !has(new_spec, attributes) {
            errors.push(forbidden(
                &path.child(attributes),
                "update from non-nil value to nil is forbidden",
            ));
        }
        errors
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        let spec = at(obj, "/spec");
        if str_of(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
            out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
        }
        out
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Capacity", "string", "Size of the volume."),
            shown("Access Modes", "string", "Ways to mount the volume."),
            shown(
                "Reclaim Policy",
                "string",
                "What happens to the volume when its claim goes.",
            ),
            shown("Status", "string", "Phase of the volume."),
            shown("Claim", "string", "Claim that the volume is bound to."),
            shown("StorageClass", "string", "Class of the volume."),
            shown("VolumeAttributesClass", "string", "Attributes of the volume."),
            shown("Reason", "string", "Why the volume is in its phase."),
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
        let claim = get(spec, "claimRef");
        let owner = if claim.is_object() {
            format!("{}/{}", str_of(claim, "namespace"), str_of(claim, "name"))
        } else {
            String::new()
        };
        let unset = |key: &str| {
            if str_of(spec, key).is_empty() {
                "<unset>"
            } else {
                str_of(spec, key)
            }
        };
        let phase = if has(at(obj, "/metadata"), "deletionTimestamp") {
            "Terminating"
        } else {
            str_of(status, "phase")
        };
        vec![
            json!(access::name(obj)),
            json!(text(spec, "/capacity/storage")),
            json!(print::access_modes(spec, "accessModes")),
            json!(str_of(spec, "persistentVolumeReclaimPolicy")),
            json!(phase),
            json!(owner),
            json!(print::storage_class(obj)),
            json!(unset("volumeAttributesClassName")),
            json!(str_of(status, "reason")),
            print::age(obj, now),
            json!(unset("volumeMode")),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}

const EXPAND: &str = "controllerExpandSecretRef";

/// The new node affinity, with labels that only got their stable names called as before.
fn stable(new: &Value, old: &Value) -> Value {
    const TERMS: &str = "/required/nodeSelectorTerms";
    let mut affinity = get(new, "nodeAffinity").clone();
    let before = access::list_at(get(old, "nodeAffinity"), TERMS);
    let terms = affinity
        .pointer_mut(TERMS)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for (term, old_term) in terms.zip(before) {
        for (e, old_e) in access::each_mut(term, "matchExpressions").zip(access::list(old_term, "matchExpressions")) {
            let old_key = str_of(old_e, "key");
            if warnings::stable_label(old_key).is_some_and(|key| key == str_of(e, "key")) {
                set(e, "key", old_key);
            }
        }
    }
    affinity
}

/// The rules of a volume's spec.
pub fn check_spec(errors: &mut ErrorList, path: &Path, spec: &Value, name: &str) {
    check_form(errors, path, spec, name, false);
}

/// The rules of the spec of a volume that is only described where it is attached.
pub fn check_inline(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for key in ["claimRef", "capacity"] {
        if !access::is_empty(get(spec, key)) {
            errors.push(forbidden(&path.child(key), NOT_INLINE));
        }
    }
    if !get(spec, "csi").is_object() {
        let detail = "has to be specified in the context of inline volumes";
        errors.push(required(&path.child("csi"), detail));
    }
    check_form(errors, path, spec, "", true);
}

const NOT_INLINE: &str = "may not be specified in the context of inline volumes";

fn check_form(errors: &mut ErrorList, path: &Path, spec: &Value, name: &str, inline: bool) {
    volumes::access_modes(errors, &path.child("accessModes"), spec, "");
    if !inline {
        capacity(errors, &path.child("capacity"), spec);
    }
    let policy = str_of(spec, "persistentVolumeReclaimPolicy");
    let at_policy = path.child("persistentVolumeReclaimPolicy");
    if !inline {
        check::one_of_if(errors, &at_policy, policy, &["Delete", "Recycle", "Retain"]);
    } else if !["", "Retain"].contains(&policy) {
        let detail = "may only be Retain in the context of inline volumes";
        errors.push(forbidden(&at_policy, detail));
    }
    if inline && has(spec, "nodeAffinity") {
        errors.push(forbidden(&path.child("nodeAffinity"), NOT_INLINE));
    } else if has(spec, "nodeAffinity") {
        let at = path.child("nodeAffinity").child("required");
        match at_required(spec) {
            Some(selector) => affinity::node_selector(errors, &at, selector),
            None => errors.push(required(&at, "must specify required node constraints")),
        }
    }
    let source = volumes::persistent_source(errors, path, spec, name);
    if source.is_some_and(|(kind, _)| kind == "local") && !has(spec, "nodeAffinity") {
        errors.push(required(
            &path.child("nodeAffinity"),
            "Local volume requires node affinity",
        ));
    }
    if policy == "Recycle" && has(spec, "hostPath") && is_root(text(spec, "/hostPath/path")) {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(forbidden(&at_policy, detail));
    }
    if inline && !str_of(spec, "storageClassName").is_empty() {
        errors.push(forbidden(&path.child("storageClassName"), NOT_INLINE));
    } else if !str_of(spec, "storageClassName").is_empty() {
        check::dns_subdomain(
            errors,
            &path.child("storageClassName"),
            str_of(spec, "storageClassName"),
        );
    }
    let (mode, at_mode) = (str_of(spec, "volumeMode"), path.child("volumeMode"));
    if !inline {
        check::one_of_if(errors, &at_mode, mode, &["Block", "Filesystem"]);
    } else if !["", "Filesystem"].contains(&mode) {
        let detail = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.push(forbidden(&at_mode, detail));
    }
    if !inline && has(spec, "volumeAttributesClassName") {
        let at = path.child("volumeAttributesClassName");
        match str_of(spec, "volumeAttributesClassName") {
            "" => errors.push(required(&at, "an empty string is disallowed")),
            class => check::dns_subdomain(errors, &at, class),
        }
        if !get(spec, "csi").is_object() {
            errors.push(required(
                &path.child("csi"),
                "has to be specified when using volumeAttributesClassName",
            ));
        }
    }
}

fn at_required(spec: &Value) -> Option<&Value> {
    spec.pointer("/nodeAffinity/required").filter(|v| v.is_object())
}

/// Whether a path leads to the root, whatever it is written like.
fn is_root(path: &str) -> bool {
    let mut depth = 0i32;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = (depth - 1).max(0),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

fn capacity(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let sizes = get(spec, "capacity");
    if access::is_empty(sizes) {
        errors.push(required(path, ""));
    }
    if !has(sizes, "storage") || sizes.as_object().is_some_and(|m| m.len() > 1) {
        let shown = if sizes.is_null() { json!({}) } else { sizes.clone() };
        errors.push(not_supported(path, shown, &["storage"]));
    }
    for (name, size) in entries(spec, "capacity") {
        let text = size.as_str().unwrap_or("");
        claim::basic_resource(errors, &path.key(name), size);
        if Quantity::parse(text).is_ok_and(|q| q <= Quantity::ZERO) {
            errors.push(invalid(&path.key(name), text, "must be greater than zero"));
        }
    }
}
