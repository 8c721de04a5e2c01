//! ReplicaSets and ReplicationControllers.

use super::{
    NO_MATCH, REPLICA_SET, always_running, common_defaults, counters, selector_and_template, selector_change,
    spec_path, template_cells, template_warnings,
};
use crate::field::{ErrorList, invalid, required};
use crate::kinds::access::{self, at, child, entries, get, has, int, int_of, set, set_default};
use crate::kinds::check::{self};
use crate::kinds::pod::{validate, warnings};
use crate::kinds::print::{self, AGE, CONTAINERS, IMAGES, NAME, SELECTOR, number, shown};
use crate::kinds::{Column, Rules, StatusRule, tidy};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Counters of a status, beside the whole.
const COUNTERS: &[&str] = &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];

fn default_status(status: &mut Value) {
    tidy::drop_zero(status, COUNTERS);
    tidy::drop_zero(status, &["observedGeneration", "conditions"]);
    set_default(status, "replicas", 0);
}

/// The rules of ReplicaSets.
pub struct ReplicaSet;

impl Rules for ReplicaSet {
    fn fill(&self, obj: &mut Value) {
        common_defaults(obj);
        default_status(child(obj, "status"));
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"replicas": 0}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (spec_path(), at(obj, "/spec"));
        check::non_negative_fields(&mut errors, &path, spec, &["replicas", "minReadySeconds"]);
        selector_and_template(&mut errors, spec, &REPLICA_SET);
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub == Some("status") {
            counters(&mut errors, at(new, "/status"), COUNTERS);
            return errors;
        }
        errors.extend(self.check(new));
        selector_change(&mut errors, new, old);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = warnings::name_of_pods(obj, old);
        out.extend(template_warnings(obj, old));
        out
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Desired", "integer", "Number of pods that are wanted."),
            shown("Current", "integer", "Number of pods that there are."),
            shown("Ready", "integer", "Number of pods that are ready."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = template_cells(obj);
        vec![
            json!(access::name(obj)),
            number(obj, "/spec/replicas"),
            number(obj, "/status/replicas"),
            number(obj, "/status/readyReplicas"),
            print::age(obj, now),
            names,
            images,
            json!(print::selector(at(obj, "/spec/selector"))),
        ]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// The rules of ReplicationControllers, whose selector is a plain map.
pub struct ReplicationController;

impl Rules for ReplicationController {
    fn fill(&self, obj: &mut Value) {
        let templated = at(obj, "/spec/template").is_object();
        common_defaults(obj);
        if !templated {
            access::remove(child(obj, "spec"), "template");
        }
        let labels = at(obj, "/spec/template/metadata/labels").clone();
        if labels.as_object().is_some_and(|m| !m.is_empty()) {
            let spec = child(obj, "spec");
            if access::is_empty(get(spec, "selector")) {
                set(spec, "selector", labels.clone());
            }
            let metadata = child(obj, "metadata");
            if access::is_empty(get(metadata, "labels")) {
                set(metadata, "labels", labels);
            }
        }
        default_status(child(obj, "status"));
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"replicas": 0}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (spec_path(), at(obj, "/spec"));
        check::non_negative_fields(&mut errors, &path, spec, &["minReadySeconds"]);
        let selector = get(spec, "selector");
        if access::is_empty(selector) {
            errors.push(required(&path.child("selector"), ""));
        }
        if has(spec, "replicas") {
            check::non_negative(&mut errors, &path.child("replicas"), int_of(spec, "replicas"));
        } else {
            errors.push(required(&path.child("replicas"), ""));
        }
        let (at_template, template) = (path.child("template"), get(spec, "template"));
        if template.is_null() {
            errors.push(required(&at_template, ""));
            return errors;
        }
        let labels = at(template, "/metadata/labels");
        if !access::is_empty(selector) && entries(spec, "selector").any(|(k, v)| labels.get(k) != Some(v)) {
            errors.push(invalid(
                &at_template.child("metadata").child("labels"),
                labels.clone(),
                NO_MATCH,
            ));
        }
        validate::template(&mut errors, &at_template, template);
        always_running(
            &mut errors,
            &at_template.child("spec"),
            get(template, "spec"),
            "ReplicationController",
        );
        errors
    }

    fn check_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> ErrorList {
        if sub != Some("status") {
            return self.check(new);
        }
        let mut errors = ErrorList::new();
        counters(&mut errors, at(new, "/status"), COUNTERS);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = warnings::name_of_pods(obj, old);
        out.extend(template_warnings(obj, old));
        out
    }

    fn columns(&self) -> &'static [Column] {
        ReplicaSet.columns()
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = ReplicaSet.row(obj, now);
        if let Some(last) = cells.last_mut() {
            *last = json!(print::labels(at(obj, "/spec/selector")));
        }
        cells
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let replicas = int(obj, "/status/replicas").unwrap_or(0);
        vec![("status.replicas", replicas.to_string())]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}
