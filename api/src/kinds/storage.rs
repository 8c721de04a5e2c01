//! Classes of storage, and what storage drivers register.

use super::access::{self, at, child, entries, flag, get, has, list, set, set_default, set_text_default, str_of, text};
use super::check;
use super::claim::driver_name;
use super::go;
use super::pod::warnings;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, tidy};
use crate::Quantity;
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
        let provisioner = str_of(obj, "provisioner");
        if provisioner.is_empty() {
            errors.push(required(&Path::new("provisioner"), ""));
        } else {
            check::each(
                &mut errors,
                &Path::new("provisioner"),
                provisioner,
                crate::names::qualified_name(&provisioner.to_lowercase()),
            );
        }
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
        for key in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            check::immutable(&mut errors, &Path::new(key), new.get(key), old.get(key));
        }
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
    let mut seen: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (j, e) in list(term, "matchLabelExpressions").iter().enumerate() {
            let path = path.index(i).child("matchLabelExpressions").index(j);
            let (key, values) = (str_of(e, "key"), check::strings(e, "values"));
            if values.is_empty() {
                errors.push(required(&path.child("values"), ""));
            }
            for (k, value) in values.iter().enumerate().filter(|(k, v)| values[..*k].contains(v)) {
                errors.push(duplicate(&path.child("values").index(k), *value));
            }
            check::qualified(errors, &path.child("key"), key);
            if labels.insert(key, values.into_iter().collect()).is_some() {
                errors.push(duplicate(&path.child("key"), key));
            }
        }
        if seen.contains(&labels) {
            errors.push(duplicate(&path.index(i).child("matchLabelExpressions"), ""));
        }
        seen.push(labels);
    }
}

fn parameters(errors: &mut ErrorList, obj: &Value, count_max: usize) {
    const BYTES_MAX: usize = 256 * 1024;
    let path = Path::new("parameters");
    let mut bytes = 0;
    if entries(obj, "parameters").count() > count_max {
        errors.push(crate::field::too_long(&path, count_max));
        return;
    }
    for (key, value) in entries(obj, "parameters") {
        if key.is_empty() {
            errors.push(invalid(&path, key.as_str(), "field can not be empty."));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > BYTES_MAX {
        errors.push(crate::field::too_long(&path, BYTES_MAX));
    }
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
        driver_name(&mut errors, &Path::new("driverName"), str_of(obj, "driverName"));
        if access::is_empty(get(obj, "parameters")) {
            errors.push(required(
                &Path::new("parameters"),
                "must contain at least one key/value pair",
            ));
        }
        parameters(&mut errors, obj, 512);
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        for key in ["driverName", "parameters"] {
            check::immutable(&mut errors, &Path::new(key), new.get(key), old.get(key));
        }
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

/// The rules of CSIDrivers.
pub struct CsiDriver;

impl Rules for CsiDriver {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        for (key, value) in [
            ("attachRequired", true),
            ("podInfoOnMount", false),
            ("storageCapacity", false),
            ("requiresRepublish", false),
            ("seLinuxMount", false),
        ] {
            set_default(spec, key, value);
        }
        set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if list(spec, "volumeLifecycleModes").is_empty() {
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        driver_name(&mut errors, &Path::new("metadata").child("name"), access::name(obj));
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        check::one_of(
            &mut errors,
            &path.child("fsGroupPolicy"),
            str_of(spec, "fsGroupPolicy"),
            &policies,
        );
        token_requests(&mut errors, &path.child("tokenRequests"), list(spec, "tokenRequests"));
        for mode in check::strings(spec, "volumeLifecycleModes") {
            check::one_of(
                &mut errors,
                &path.child("volumeLifecycleModes"),
                mode,
                &["Ephemeral", "Persistent"],
            );
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = self.check(new);
        let path = Path::new("spec");
        for (key, shown) in [
            ("attachRequired", "attachedRequired"),
            ("volumeLifecycleModes", "volumeLifecycleModes"),
        ] {
            check::immutable(
                &mut errors,
                &path.child(shown),
                at(new, "/spec").get(key),
                at(old, "/spec").get(key),
            );
        }
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown(
                "AttachRequired",
                "boolean",
                "Whether volumes have to be attached to nodes.",
            ),
            shown("PodInfoOnMount", "boolean", "Whether the driver is told about pods."),
            shown("StorageCapacity", "boolean", "Whether the driver reports capacity."),
            shown(
                "TokenRequests",
                "string",
                "Audiences of the tokens that the driver gets.",
            ),
            shown(
                "RequiresRepublish",
                "boolean",
                "Whether volumes are published again and again.",
            ),
            shown("Modes", "string", "Kinds of volumes."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        let tokens: Vec<&str> = list(spec, "tokenRequests")
            .iter()
            .map(|t| str_of(t, "audience"))
            .collect();
        let modes = check::strings(spec, "volumeLifecycleModes").join(",");
        vec![
            json!(access::name(obj)),
            json!(flag(spec, "attachRequired")),
            json!(flag(spec, "podInfoOnMount")),
            json!(flag(spec, "storageCapacity")),
            json!(if tokens.is_empty() {
                "<unset>".to_owned()
            } else {
                tokens.join(",")
            }),
            json!(flag(spec, "requiresRepublish")),
            json!(print::or_none(modes)),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn begins_with_a_generation(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Tokens that a driver asks for: one of each audience, and not too short or long.
fn token_requests(errors: &mut ErrorList, path: &Path, requests: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let path = path.index(i);
        let audience = str_of(request, "audience");
        if !seen.insert(audience) {
            errors.push(duplicate(&path.child("audience"), audience));
        }
        let detail = match access::int_of(request, "expirationSeconds") {
            Some(s) if s < 600 => "may not specify a duration less than 10 minutes",
            Some(s) if s > 1 << 32 => "may not specify a duration larger than 2^32 seconds",
            _ => continue,
        };
        let seconds = get(request, "expirationSeconds").clone();
        errors.push(invalid(&path.child("expirationSeconds"), seconds, detail));
    }
}

/// Longest identifier that a driver may give a node.
const NODE_ID_BYTES_MAX: usize = 192;

/// The rules of CSINodes.
pub struct CsiNode;

impl Rules for CsiNode {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        if list(spec, "drivers").is_empty() {
            set(spec, "drivers", Value::Null);
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut seen = BTreeSet::new();
        for (i, driver) in list(at(obj, "/spec"), "drivers").iter().enumerate() {
            let path = Path::new("spec").child("drivers").index(i);
            driver_name(&mut errors, &path.child("name"), str_of(driver, "name"));
            if !seen.insert(str_of(driver, "name")) {
                errors.push(duplicate(&path.child("name"), str_of(driver, "name")));
            }
            let id = str_of(driver, "nodeID");
            if id.is_empty() {
                errors.push(required(&path.child("nodeID"), ""));
            } else if id.len() > NODE_ID_BYTES_MAX {
                let detail = format!("must be {NODE_ID_BYTES_MAX} characters or less");
                errors.push(invalid(&path.child("nodeID"), id, detail));
            }
            let count = access::int(driver, "/allocatable/count");
            check::non_negative(&mut errors, &path.child("allocatable").child("count"), count);
            let mut labels = BTreeSet::new();
            for key in check::strings(driver, "topologyKeys") {
                let path = path.child("topologyKeys");
                if key.is_empty() {
                    errors.push(required(&path, ""));
                } else if !labels.insert(key) {
                    errors.push(duplicate(&path, key));
                } else {
                    check::qualified(&mut errors, &path, key);
                }
            }
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, driver) in list(at(new, "/spec"), "drivers").iter().enumerate() {
            let stored = list(at(old, "/spec"), "drivers")
                .iter()
                .find(|d| str_of(d, "name") == str_of(driver, "name"));
            if stored.is_some_and(|stored| !access::same(Some(stored), Some(driver))) {
                let path = Path::new("spec").child("drivers").index(i);
                let text = |owner: &Value, key: &str| go::json_text(get(owner, key));
                let allocatable = get(driver, "allocatable");
                let allocatable = if allocatable.is_object() {
                    go::structure(&[("Count", text(allocatable, "count"))])
                } else {
                    "null".to_owned()
                };
                let shown = go::structure(&[
                    ("Name", text(driver, "name")),
                    ("NodeID", text(driver, "nodeID")),
                    ("TopologyKeys", text(driver, "topologyKeys")),
                    ("Allocatable", allocatable),
                ]);
                errors.push(go::invalid_shown(&path, &shown, check::IMMUTABLE));
            }
        }
        errors.extend(self.check(new));
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("Drivers", "integer", "Number of drivers on the node."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(list(at(obj, "/spec"), "drivers").len()),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }
}

/// The rules of CSIStorageCapacities.
pub struct CsiStorageCapacity;

impl Rules for CsiStorageCapacity {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::required_subdomain(
            &mut errors,
            &Path::new("storageClassName"),
            str_of(obj, "storageClassName"),
        );
        for key in ["capacity", "maximumVolumeSize"] {
            if Quantity::parse(str_of(obj, key)).is_ok_and(|q| q < Quantity::ZERO) {
                errors.push(invalid(&Path::new(key), str_of(obj, key), check::NOT_NEGATIVE));
            }
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = self.check(new);
        for key in ["nodeTopology", "storageClassName"] {
            check::immutable(&mut errors, &Path::new(key), new.get(key), old.get(key));
        }
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("StorageClassName", "string", "Class of the storage."),
            shown("Capacity", "string", "Space that is left."),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, _now: Timestamp) -> Vec<Value> {
        let capacity = str_of(obj, "capacity");
        vec![
            json!(access::name(obj)),
            json!(str_of(obj, "storageClassName")),
            json!(if capacity.is_empty() { "<unset>" } else { capacity }),
        ]
    }
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
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        driver_name(&mut errors, &path.child("attacher"), str_of(spec, "attacher"));
        check::required_subdomain(&mut errors, &path.child("nodeName"), str_of(spec, "nodeName"));
        let source = get(spec, "source");
        match (has(source, "persistentVolumeName"), has(source, "inlineVolumeSpec")) {
            (false, false) => errors.push(required(
                &path.child("source"),
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            )),
            (true, true) => errors.push(forbidden(
                &path.child("source"),
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            )),
            _ => {}
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
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
