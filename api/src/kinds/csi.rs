//! What storage drivers register: themselves, their nodes and the space that is left.

use super::access::{self, at, child, flag, get, list, same, set, set_default, str_of};
use super::check;
use super::claim::driver_name;
use super::go;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, tidy};
use crate::Quantity;
use crate::field::{ErrorList, Path, duplicate, invalid, required};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

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
        // Of a feature that is off.
        access::remove(spec, "preventPodSchedulingIfMissing");
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
                &["Persistent", "Ephemeral"],
            );
        }
        let period = "nodeAllocatableUpdatePeriodSeconds";
        if let Some(seconds) = access::int_of(spec, period).filter(|s| *s < 10) {
            let detail = "must be greater than or equal to 10 seconds";
            errors.push(invalid(&path.child(period), seconds, detail));
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
            continue;
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
const NODE_ID_BYTES_MAX: usize = 256;

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
            let id = str_of(driver, "nodeID");
            if id.is_empty() {
                errors.push(required(&path.child("nodeID"), ""));
            } else if id.len() > NODE_ID_BYTES_MAX {
                let detail = format!("must be {NODE_ID_BYTES_MAX} characters or less");
                errors.push(invalid(&path.child("nodeID"), id, detail));
            }
            let count = access::int(driver, "/allocatable/count");
            check::non_negative(&mut errors, &path.child("allocatable").child("count"), count);
            if !seen.insert(str_of(driver, "name")) {
                errors.push(duplicate(&path.child("name"), str_of(driver, "name")));
            }
            let mut labels = BTreeSet::new();
            for key in check::strings(driver, "topologyKeys") {
                if key.is_empty() {
                    errors.push(required(&path, ""));
                }
                if !labels.insert(key) {
                    errors.push(duplicate(&path, key));
                }
                check::qualified(&mut errors, &path, key);
            }
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = self.check(new);
        // What a driver says of itself stays, but for how much it can take.
        let lasting = |driver: &Value| {
            let mut driver = driver.clone();
            access::remove(&mut driver, "allocatable");
            driver
        };
        let path = Path::new("spec").child("drivers");
        let stored = list(at(old, "/spec"), "drivers");
        for driver in list(at(new, "/spec"), "drivers") {
            let changed = |d: &&Value| {
                str_of(d, "name") == str_of(driver, "name") && !same(Some(&lasting(d)), Some(&lasting(driver)))
            };
            for _ in stored.iter().filter(changed) {
                let text = |key: &str| go::json_text(get(driver, key));
                let shown = go::structure(&[
                    ("Name", text("name")),
                    ("NodeID", text("nodeID")),
                    ("TopologyKeys", text("topologyKeys")),
                    ("Allocatable", "null".to_owned()),
                ]);
                errors.push(go::invalid_shown(&path, &shown, check::IMMUTABLE));
            }
        }
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
        check::label_selector(&mut errors, &Path::new("nodeTopology"), get(obj, "nodeTopology"));
        let class = Path::new("storageClassName");
        check::dns_subdomain(&mut errors, &class, str_of(obj, "storageClassName"));
        let capacity = str_of(obj, "capacity");
        if Quantity::parse(capacity).is_ok_and(|q| q < Quantity::ZERO) {
            errors.push(invalid(&Path::new("capacity"), capacity, check::NOT_NEGATIVE));
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        let (key, class) = ("nodeTopology", "storageClassName");
        check::immutable_selector(&mut errors, &Path::new(key), get(new, key), get(old, key));
        check::immutable(&mut errors, &Path::new(class), new.get(class), old.get(class));
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
