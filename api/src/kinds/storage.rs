//! Classes of storage, and volumes bound to nodes.

use super::access::{self, at, child, entries, flag, get, has, list, set, set_default, set_text_default, str_of, text};
use super::check;
use super::claim::driver_name;
use super::go;
use super::pod::warnings;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, tidy, volume};
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The rules of StorageClasses.
pub struct StorageClass;

impl Rules for StorageClass {
    fn looks_at_metadata_again(&self) -> bool {
        false
    }

    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        set_text_default(obj, "reclaimPolicy", "Delete");
        set_text_default(obj, "volumeBindingMode", "Immediate");
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        provisioner(&mut errors, obj, "provisioner");
        parameters(&mut errors, obj, 512);
        check::one_of(
            &mut errors,
            &Path::new("reclaimPolicy"),
            str_of(obj, "reclaimPolicy"),
            &["Delete", "Retain"],
        );
        let modes = ["Immediate", "WaitForFirstConsumer"];
        check::required_one_of(
            &mut errors,
            &Path::new("volumeBindingMode"),
            str_of(obj, "volumeBindingMode"),
            &modes,
        );
        topologies(
            &mut errors,
            &Path::new("allowedTopologies"),
            list(obj, "allowedTopologies"),
        );
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        let keys = ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"];
        settled(&mut errors, new, old, &keys);
        errors
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        for (i, term) in list(obj, "allowedTopologies").iter().enumerate() {
            for (j, e) in list(term, "matchLabelExpressions").iter().enumerate() {
                if let Some(text) = warnings::old_label(str_of(e, "key")) {
                    out.push(format!(
                        "{}: {text}",
                        Path::new("allowedTopologies")
                            .index(i)
                            .child("matchLabelExpressions")
                            .index(j)
                            .child("key")
                    ));
                }
            }
        }
        out
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Provisioner", "string", "Driver that makes the volumes."),
            shown(
                "ReclaimPolicy",
                "string",
                "What happens to a volume when its claim goes.",
            ),
            shown("VolumeBindingMode", "string", "When volumes are made and bound."),
            shown("AllowVolumeExpansion", "string", "Whether volumes can grow."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let marks = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        vec![
            json!(name_or_default(obj, &marks)),
            json!(str_of(obj, "provisioner")),
            json!(str_of(obj, "reclaimPolicy")),
            json!(str_of(obj, "volumeBindingMode")),
            json!(flag(obj, "allowVolumeExpansion")),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }
}

/// Where volumes may be: terms that differ, of labels that differ, with values that differ.
fn topologies(errors: &mut ErrorList, path: &Path, terms: &[Value]) {
    let mut seen: BTreeSet<BTreeMap<&str, BTreeSet<&str>>> = BTreeSet::new();
    for (i, term) in terms.iter().enumerate() {
        let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (j, e) in list(term, "matchLabelExpressions").iter().enumerate() {
            let path = path.index(i).child("matchLabelExpressions").index(j);
            let (key, values) = (str_of(e, "key"), check::strings(e, "values"));
            if values.is_empty() {
                errors.push(required(&path.child("values"), ""));
            }
            let repeated = check::repeats(&values);
            for (k, (value, _)) in values
                .iter()
                .zip(repeated)
                .enumerate()
                .filter(|(_, (_, repeated))| *repeated)
            {
                errors.push(duplicate(&path.child("values").index(k), *value));
            }
            check::qualified(errors, &path.child("key"), key);
            if labels.insert(key, values.into_iter().collect()).is_some() {
                errors.push(duplicate(&path.child("key"), key));
            }
        }
        if !seen.insert(labels) {
            errors.push(duplicate(&path.index(i).child("matchLabelExpressions"), ""));
        }
    }
}

/// The driver that a class is for.
fn provisioner(errors: &mut ErrorList, obj: &Value, key: &str) {
    match str_of(obj, key) {
        "" => errors.push(required(&Path::new(key), "")),
        name => check::qualified(errors, &Path::new(key), &name.to_lowercase()),
    }
}

/// What a class says for good.
fn settled(errors: &mut ErrorList, new: &Value, old: &Value, keys: &[&str]) {
    for key in keys {
        check::immutable(errors, &Path::new(key), new.get(*key), old.get(*key));
    }
}

fn parameters(errors: &mut ErrorList, obj: &Value, count_max: usize) {
    let path = Path::new("parameters");
    if entries(obj, "parameters").count() > count_max {
        errors.push(crate::field::too_long(&path, count_max));
        return;
    }
    for (key, _) in entries(obj, "parameters").filter(|(key, _)| key.is_empty()) {
        errors.push(invalid(&path, key.as_str(), "field can not be empty."));
    }
    if bytes(obj, "parameters") > BYTES_MAX {
        errors.push(crate::field::too_long(&path, BYTES_MAX));
    }
}

/// How much names and values may be together, and how much they are.
const BYTES_MAX: usize = 256 * 1024;

fn bytes(owner: &Value, key: &str) -> usize {
    entries(owner, key)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum()
}

/// The name of a class, marked when one of these annotations makes it the default.
fn name_or_default(obj: &Value, marks: &[&str]) -> String {
    let annotations = at(obj, "/metadata/annotations");
    let default = marks.iter().any(|mark| str_of(annotations, mark) == "true");
    format!("{}{}", access::name(obj), if default { " (default)" } else { "" })
}

/// The rules of VolumeAttributesClasses.
pub struct VolumeAttributesClass;

impl Rules for VolumeAttributesClass {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        provisioner(&mut errors, obj, "driverName");
        parameters(&mut errors, obj, 512);
        if access::is_empty(get(obj, "parameters")) {
            let detail = "must contain at least one key/value pair";
            errors.push(required(&Path::new("parameters"), detail));
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        settled(&mut errors, new, old, &["driverName", "parameters"]);
        errors.extend(self.check(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("DriverName", "string", "Driver that knows the attributes."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let mark = "volumeattributesclass.alpha.kubernetes.io/is-default-class";
        vec![
            json!(name_or_default(obj, &[mark])),
            json!(str_of(obj, "driverName")),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }
}

/// What every version says about an attachment.
fn attachment(obj: &Value) -> ErrorList {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let mut errors = ErrorList::new();
    let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
    if str_of(spec, "attacher").is_empty() {
        errors.push(required(&path.child("attacher"), ""));
    }
    let (source, at_source) = (get(spec, "source"), path.child("source"));
    match (has(source, "persistentVolumeName"), has(source, "inlineVolumeSpec")) {
        (false, false) => errors.push(required(&at_source, ONE)),
        (true, true) => errors.push(forbidden(&at_source, ONE)),
        (true, false) if str_of(source, "persistentVolumeName").is_empty() => errors.push(required(
            &at_source.child("persistentVolumeName"),
            "must specify non empty persistentVolumeName",
        )),
        (true, false) => {}
        (false, true) => {
            let at = at_source.child("inlineVolumeSpec");
            volume::check_inline(&mut errors, &at, get(source, "inlineVolumeSpec"));
        }
    }
    check::dns_subdomain(&mut errors, &path.child("nodeName"), str_of(spec, "nodeName"));
    let (path, status) = (Path::new("status"), at(obj, "/status"));
    if bytes(status, "attachmentMetadata") > BYTES_MAX {
        errors.push(crate::field::too_long(&path.child("attachmentMetadata"), BYTES_MAX));
    }
    for key in ["attachError", "detachError"] {
        let (failure, path) = (get(status, key), path.child(key));
        if str_of(failure, "message").len() > 1024 {
            errors.push(crate::field::too_long(&path.child("message"), BYTES_MAX));
        }
        if let Some(code) = access::int_of(failure, "errorCode").filter(|code| *code < 0) {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(invalid(&path.child("errorCode"), code, detail));
        }
    }
    errors
}

/// The rules of VolumeAttachments.
pub struct VolumeAttachment;

impl Rules for VolumeAttachment {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        set_default(child(obj, "status"), "attached", false);
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"attached": false}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = attachment(obj);
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        driver_name(&mut errors, &path.child("attacher"), str_of(spec, "attacher"));
        if let Some(name) = at(spec, "/source/persistentVolumeName").as_str() {
            let path = path.child("source").child("persistentVolumeName");
            check::dns_subdomain(&mut errors, &path, name);
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = attachment(new);
        errors.extend(attachment(new));
        if !access::same(new.get("spec"), old.get("spec")) {
            let spec = at(new, "/spec");
            let text = |owner: &Value, key: &str| go::json_text(get(owner, key));
            let source = get(spec, "source");
            let source = go::structure(&[
                ("PersistentVolumeName", text(source, "persistentVolumeName")),
                ("InlineVolumeSpec", text(source, "inlineVolumeSpec")),
            ]);
            let shown = go::structure(&[
                ("Attacher", text(spec, "attacher")),
                ("Source", source),
                ("NodeName", text(spec, "nodeName")),
            ]);
            errors.push(go::invalid_shown(&Path::new("spec"), &shown, check::IMMUTABLE));
        }
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            Column {
                format: "name",
                ..shown("Attacher", "string", "Driver that attaches.")
            },
            shown("PV", "string", "Volume that is attached."),
            shown("Node", "string", "Node that it is attached to."),
            shown("Attached", "boolean", "Whether it is attached."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        vec![
            json!(access::name(obj)),
            json!(str_of(spec, "attacher")),
            json!(text(spec, "/source/persistentVolumeName")),
            json!(str_of(spec, "nodeName")),
            json!(flag(at(obj, "/status"), "attached")),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}
