//! Pods, and the parts of them that pod templates share.

pub mod affinity;
mod annotations;
mod containers;
pub mod defaults;
pub mod dump;
mod env;
mod gates;
mod probes;
pub mod qos;
mod resize;
mod security;
mod sources;
mod status;
mod table;
pub mod update;
pub mod validate;
pub mod volumes;
pub mod warnings;
mod windows;

use super::access::{at, child, flag, list, same, set, str_of, text};
use super::{Column, Rules, StatusRule};
use crate::field::ErrorList;
use serde_json::{Value, json};

/// The rules of pods.
pub struct Pod;

impl Rules for Pod {
    fn looks_at_metadata_again(&self) -> bool {
        false
    }

    fn fill(&self, obj: &mut Value) {
        defaults::pod(obj);
    }

    fn on_create(&self, obj: &mut Value) {
        affinity::merge_label_keys(obj);
        let mut status = json!({"phase": "Pending", "qosClass": qos::class(obj)});
        if !list(at(obj, "/spec"), "schedulingGates").is_empty() {
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastProbeTime": null,
                "lastTransitionTime": at(obj, "/metadata/creationTimestamp"),
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            });
            set(&mut status, "conditions", json!([condition]));
        }
        set(obj, "status", status);
    }

    fn on_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        update::prepare(new, old, sub);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        validate::pod_create(obj)
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        update::check(new, old, sub)
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        match old {
            Some(old) if same(obj.get("spec"), old.get("spec")) => Vec::new(),
            old => {
                let mut out = warnings::name_of_pod(obj, old);
                out.extend(warnings::pod(obj));
                out
            }
        }
    }

    fn columns(&self) -> &'static [Column] {
        table::COLUMNS
    }

    fn row(&self, obj: &Value, now: jiff::Timestamp) -> Vec<Value> {
        table::row(obj, now)
    }

    fn row_conditions(&self, obj: &Value) -> Vec<Value> {
        table::conditions(obj)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (at(obj, "/spec"), at(obj, "/status"));
        let ip = list(status, "podIPs").first().map_or("", |ip| str_of(ip, "ip"));
        vec![
            ("spec.nodeName", str_of(spec, "nodeName").to_owned()),
            ("spec.restartPolicy", str_of(spec, "restartPolicy").to_owned()),
            ("spec.schedulerName", str_of(spec, "schedulerName").to_owned()),
            ("spec.serviceAccountName", str_of(spec, "serviceAccountName").to_owned()),
            ("spec.hostNetwork", flag(spec, "hostNetwork").to_string()),
            ("status.phase", text(obj, "/status/phase").to_owned()),
            (
                "status.podIP",
                if ip.is_empty() {
                    str_of(status, "podIP").to_owned()
                } else {
                    ip.to_owned()
                },
            ),
            ("status.podIPs", ip.to_owned()),
            (
                "status.nominatedNodeName",
                str_of(status, "nominatedNodeName").to_owned(),
            ),
        ]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// The rules of pod templates kept as objects of their own.
pub struct PodTemplate;

impl Rules for PodTemplate {
    fn fill(&self, obj: &mut Value) {
        defaults::template(child(obj, "template"));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate::template(&mut errors, &crate::field::Path::new("template"), at(obj, "/template"));
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn desired_differs(&self, new: &Value, old: &Value) -> bool {
        !same(new.get("template"), old.get("template"))
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            super::print::NAME,
            super::print::shown("Containers", "string", "Names of the containers of the template."),
            super::print::shown("Images", "string", "Images of the containers of the template."),
            super::print::shown("Pod Labels", "string", "Labels of the template."),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        let (names, images) = super::print::containers(at(obj, "/template/spec"));
        vec![
            json!(super::access::name(obj)),
            json!(names),
            json!(images),
            json!(super::print::labels(at(obj, "/template/metadata/labels"))),
        ]
    }
}
