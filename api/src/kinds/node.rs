//! Nodes.

use super::access::{self, at, child, copy, each_mut, entries, flag, get, has, set, str_of};
use super::check::{self, strings};
use super::{Column, Rules, StatusRule, node_table, tidy};
use crate::field::{ErrorList, Path, forbidden, invalid};
use crate::names;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rules of nodes.
pub struct Node;

impl Rules for Node {
    fn fill(&self, obj: &mut Value) {
        const INFO: &[&str] = &[
            "machineID",
            "systemUUID",
            "bootID",
            "kernelVersion",
            "osImage",
            "containerRuntimeVersion",
            "kubeletVersion",
            "kubeProxyVersion",
            "operatingSystem",
            "architecture",
        ];
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        tidy::drop_zero(
            spec,
            &[
                "podCIDR",
                "podCIDRs",
                "providerID",
                "unschedulable",
                "taints",
                "externalID",
            ],
        );
        each_mut(spec, "taints").for_each(|t| tidy::drop_zero(t, &["value"]));
        tidy::first_of(spec, "podCIDR", "podCIDRs", None);
        let status = child(obj, "status");
        if has(status, "capacity") && !has(status, "allocatable") {
            let capacity = get(status, "capacity").clone();
            set(status, "allocatable", capacity);
        }
        tidy::drop_zero(
            status,
            &[
                "capacity",
                "allocatable",
                "phase",
                "conditions",
                "addresses",
                "images",
                "volumesInUse",
                "volumesAttached",
            ],
        );
        access::set_default(child(child(status, "daemonEndpoints"), "kubeletEndpoint"), "Port", 0);
        let info = child(status, "nodeInfo");
        for key in INFO {
            access::set_default(info, key, "");
        }
    }

    fn on_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub != Some("status") && !has(new, "status") {
            copy(new, old, "status");
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        node_taints(&mut errors, obj);
        node_resources(&mut errors, obj);
        swap(&mut errors, obj);
        declared_features(&mut errors, obj);
        pod_ranges(&mut errors, &Path::new("spec").child("podCIDRs"), at(obj, "/spec"));
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        // A write of the whole node is looked at as one that is new and as a change.
        let mut errors = if sub.is_none() {
            self.check(new)
        } else {
            ErrorList::new()
        };
        node_resources(&mut errors, new);
        declared_features(&mut errors, new);
        let addresses = access::list_at(new, "/status/addresses");
        let repeated = check::repeats(addresses.iter().map(Value::to_string));
        for (i, (address, _)) in addresses
            .iter()
            .zip(repeated)
            .enumerate()
            .filter(|(_, (_, repeated))| *repeated)
        {
            let shown = format!(
                "{{\"Type\":{},\"Address\":{}}}",
                json!(str_of(address, "type")),
                json!(str_of(address, "address"))
            );
            let path = Path::new("status").child("addresses").index(i);
            errors.push(super::go::duplicate_shown(&path, &shown));
        }
        let (path, new_spec, old_spec) = (Path::new("spec"), at(new, "/spec"), at(old, "/spec"));
        let (after, before) = (strings(new_spec, "podCIDRs"), strings(old_spec, "podCIDRs"));
        let moved = if after.len() == before.len() {
            before.iter().zip(&after).filter(|(a, b)| a != b).count()
        } else {
            usize::from(!before.is_empty())
        };
        for _ in 0..moved {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(forbidden(&path.child("podCIDRs"), detail));
        }
        let provider = str_of(old_spec, "providerID");
        if !provider.is_empty() && str_of(new_spec, "providerID") != provider {
            errors.push(forbidden(
                &path.child("providerID"),
                "node updates may not change providerID except from \"\" to valid",
            ));
        }
        node_taints(&mut errors, new);
        if str_of(new_spec, "externalID") != str_of(old_spec, "externalID") {
            errors.push(forbidden(&path.child("externalID"), "may not be updated"));
        }
        errors
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let spec = at(obj, "/spec");
        let mut out = Vec::new();
        if has(spec, "configSource") && !access::is_empty(get(spec, "configSource")) {
            out.push("spec.configSource: the feature is removed".to_owned());
        }
        if !str_of(spec, "externalID").is_empty() {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        out
    }

    fn columns(&self) -> &'static [Column] {
        node_table::COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        node_table::row(obj, now)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![(
            "spec.unschedulable",
            flag(at(obj, "/spec"), "unschedulable").to_string(),
        )]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::SeparateButCreatable
    }
}

fn swap(errors: &mut ErrorList, node: &Value) {
    let path = Path::new("metadata").child("nodeSwapStatus").child("capacity");
    if let Some(bytes) = access::int(node, "/status/nodeInfo/swap/capacity").filter(|n| *n <= 0) {
        errors.push(invalid(&path, bytes, "must be greater than zero"));
    }
}

/// Features that a node says it has: by their names, in order.
fn declared_features(errors: &mut ErrorList, node: &Value) {
    const BYTES_MAX: usize = 253;
    let path = Path::new("status").child("declaredFeatures");
    let features = strings(at(node, "/status"), "declaredFeatures");
    for (i, feature) in features.iter().enumerate() {
        let quoted = crate::field::quote(feature);
        if feature.len() > BYTES_MAX {
            let why = names::max_characters(BYTES_MAX);
            errors.push(invalid(
                &path.index(i),
                *feature,
                format!("invalid feature name {quoted}: {why}"),
            ));
        } else if !is_feature(feature) {
            let why = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
            errors.push(invalid(
                &path.index(i),
                *feature,
                format!("invalid feature name {quoted}: {why}"),
            ));
        }
        let at = path.index(i + 1);
        match features.get(i + 1) {
            Some(next) if next == feature => errors.push(crate::field::duplicate(&at, *next)),
            Some(next) if next < feature => {
                errors.push(invalid(&at, *next, "list must be sorted alphabetically"));
            }
            _ => {}
        }
    }
}

/// `MyFeature/mySubFeature`
fn is_feature(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(plain)
}

/// Quantities of what a node has.
fn node_resources(errors: &mut ErrorList, node: &Value) {
    for key in ["capacity", "allocatable"] {
        for (name, quantity) in entries(at(node, "/status"), key) {
            let path = Path::new("status").child(key).child(name);
            super::resources::quantity_value(errors, &path, name, quantity);
        }
    }
}

/// The ranges that pods on a node get addresses from: one of each family.
fn pod_ranges(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let ranges = strings(spec, "podCIDRs");
    for (i, range) in ranges.iter().enumerate() {
        check::cidr(errors, &path.index(i), range);
    }
    if ranges.len() < 2 {
        return;
    }
    if ranges.len() > 2 || ranges.iter().filter(|r| r.contains(':')).count() != 1 {
        errors.push(invalid(
            path,
            get(spec, "podCIDRs").clone(),
            "may specify no more than one CIDR for each IP family",
        ));
    }
}

/// The taints of a node. Kubernetes places them beside the metadata in its objections.
fn node_taints(errors: &mut ErrorList, node: &Value) {
    let path = Path::new("metadata").child("taints");
    let taints = access::list_at(node, "/spec/taints");
    let mut seen = std::collections::BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        let (key, effect) = (str_of(taint, "key"), str_of(taint, "effect"));
        check::qualified(errors, &path.child("key"), key);
        let value = str_of(taint, "value");
        let messages = names::label_value(value);
        if !messages.is_empty() {
            errors.push(invalid(&path.child("value"), value, messages.join(";")));
        }
        check::required_one_of(
            errors,
            &path.child("effect"),
            effect,
            super::pod::validate::TAINT_EFFECTS,
        );
        if !seen.insert((key, effect)) {
            let shown = format!(
                "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{}}}",
                json!(key),
                json!(value),
                json!(effect),
                get(taint, "timeAdded")
            );
            let mut error = super::go::duplicate_shown(&path, &shown);
            error.detail.push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
    }
}
