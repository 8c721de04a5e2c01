//! Devices: ResourceClaims and their templates, DeviceClasses, ResourceSlices.

mod capacity;
mod request;
mod slice;

#[cfg(test)]
mod tests;

use super::access::{self, at, child, each_mut, get, has, list, set, set_default, set_text_default, str_of, text};
use super::check;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, tidy};
use crate::field::{ErrorList, Path, invalid};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rules of ResourceClaims.
pub struct ResourceClaim;

fn default_requests(spec: &mut Value) {
    for request in each_mut(child(spec, "devices"), "requests") {
        if let Some(exactly) = access::child_if(request, "exactly") {
            default_request(exactly);
        }
        each_mut(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    set_text_default(request, "allocationMode", "ExactCount");
    if str_of(request, "allocationMode") == "ExactCount" {
        set_default(request, "count", 1);
    }
    each_mut(request, "tolerations").for_each(|t| set_text_default(t, "operator", "Equal"));
}

impl Rules for ResourceClaim {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        default_requests(child(obj, "spec"));
        child(obj, "status");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        request::claim(&mut errors, &Path::new("spec"), at(obj, "/spec"));
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub.is_none() {
            check::immutable(&mut errors, &Path::new("spec"), new.get("spec"), old.get("spec"));
        } else {
            request::status(&mut errors, new, old);
        }
        errors
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("State", "string", "A summary of the current state."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let status = at(obj, "/status");
        let mut states = Vec::new();
        if has(at(obj, "/metadata"), "deletionTimestamp") {
            states.push("deleted");
        }
        if !get(status, "allocation").is_object() {
            if !has(at(obj, "/metadata"), "deletionTimestamp") {
                states.push("pending");
            }
        } else {
            states.push("allocated");
            if !list(status, "reservedFor").is_empty() {
                states.push("reserved");
            }
        }
        vec![json!(access::name(obj)), json!(states.join(",")), print::age(obj, now)]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}

/// The rules of ResourceClaimTemplates.
pub struct ResourceClaimTemplate;

impl Rules for ResourceClaimTemplate {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        default_requests(child(child(obj, "spec"), "spec"));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let labels = path.child("metadata");
        check::labels(
            &mut errors,
            &labels.child("labels"),
            at(obj, "/spec/metadata"),
            "labels",
        );
        check::annotations(&mut errors, &labels.child("annotations"), at(obj, "/spec/metadata"));
        request::claim(&mut errors, &path.child("spec"), at(obj, "/spec/spec"));
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        check::immutable(&mut errors, &Path::new("spec"), new.get("spec"), old.get("spec"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![json!(access::name(obj)), print::age(obj, now)]
    }
}

/// `spec` of a DeviceClass.
fn class(errors: &mut ErrorList, spec: &Value) {
    let path = Path::new("spec");
    request::selectors(errors, &path.child("selectors"), spec);
    for (i, item) in list(spec, "config").iter().enumerate() {
        request::config(errors, &path.child("config").index(i), item);
    }
    let name = str_of(spec, "extendedResourceName");
    if !name.is_empty() && !super::resources::is_extended(name) {
        let detail = "must be a valid extended resource name";
        errors.push(invalid(&path.child("extendedResourceName"), name, detail));
    }
}

/// Drops what belongs to features of devices that are off by default.
fn drop_unknown(device: &mut Value) {
    access::remove(device, "nodeAllocatableResourceMappings");
    let attributes = access::child_if(device, "attributes").and_then(Value::as_object_mut);
    for attribute in attributes.into_iter().flat_map(|map| map.values_mut()) {
        for key in ["bools", "ints", "strings", "versions"] {
            access::remove(attribute, key);
        }
    }
}

/// The rules of cluster-wide kinds that print name and age: DeviceClasses and ResourceSlices.
pub struct Device {
    /// Whether it is a ResourceSlice, which belongs to a node and a driver.
    pub slice: bool,
}

impl Rules for Device {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        for device in each_mut(spec, "devices") {
            drop_unknown(device);
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let (mut errors, spec) = (ErrorList::new(), at(obj, "/spec"));
        if self.slice {
            slice::check(&mut errors, spec, None);
        } else {
            class(&mut errors, spec);
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let (mut errors, spec) = (ErrorList::new(), at(new, "/spec"));
        if self.slice {
            slice::check(&mut errors, spec, Some(at(old, "/spec")));
        } else {
            class(&mut errors, spec);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static CLASS: &[Column] = &[NAME, AGE];
        static SLICE: &[Column] = &[
            NAME,
            shown("Node", "string", "Node of the devices."),
            shown("Driver", "string", "Driver of the devices."),
            shown("Pool", "string", "Pool that the slice is part of."),
            AGE,
        ];
        if self.slice { SLICE } else { CLASS }
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![json!(access::name(obj))];
        if self.slice {
            let node = text(obj, "/spec/nodeName");
            cells.push(json!(if node.is_empty() { "<unset>" } else { node }));
            cells.push(json!(text(obj, "/spec/driver")));
            cells.push(json!(text(obj, "/spec/pool/name")));
        }
        cells.push(print::age(obj, now));
        cells
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        if self.slice {
            &["spec.nodeName", "spec.driver"]
        } else {
            &[]
        }
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        if !self.slice {
            return Vec::new();
        }
        vec![
            ("spec.nodeName", text(obj, "/spec/nodeName").to_owned()),
            ("spec.driver", text(obj, "/spec/driver").to_owned()),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }
}
