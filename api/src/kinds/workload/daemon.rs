//! DaemonSets, and the ControllerRevisions that they and StatefulSets keep.

use super::{
    UNAVAILABLE_AND_SURGE, Words, always_running, collision_count, common_defaults, empty_selector, selector_change,
    selector_rules, spec_path, strategy_text, template_cells, template_matches, template_warnings,
};
use crate::field::{ErrorList, Path, invalid, required};
use crate::kinds::access::{
    self, at, child, get, int_of, list, remove, same, set, set_default, set_text_default, str_of, text,
};
use crate::kinds::check::{self, IMMUTABLE};
use crate::kinds::pod::validate;
use crate::kinds::print::{self, AGE, CONTAINERS, IMAGES, NAME, SELECTOR, number, shown};
use crate::kinds::{Column, Rules, StatusRule, go, meta, tidy};
use jiff::Timestamp;
use serde_json::{Value, json};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

const WORDS: Words = Words {
    owner: "DaemonSet",
    empty: "empty selector is invalid for daemonset",
    unreadable: "",
};

/// The rules of DaemonSets.
pub struct DaemonSet;

impl Rules for DaemonSet {
    fn fill(&self, obj: &mut Value) {
        common_defaults(obj);
        let spec = child(obj, "spec");
        remove(spec, "replicas");
        set_default(spec, "revisionHistoryLimit", 10);
        let update = child(spec, "updateStrategy");
        set_text_default(update, "type", "RollingUpdate");
        if str_of(update, "type") == "RollingUpdate" {
            let rolling = child(update, "rollingUpdate");
            set_default(rolling, "maxUnavailable", 1);
            set_default(rolling, "maxSurge", 0);
        }
        let status = child(obj, "status");
        tidy::drop_zero(
            status,
            &[
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "conditions",
            ],
        );
        for key in [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
        ] {
            set_default(status, key, 0);
        }
    }

    fn on_create(&self, obj: &mut Value) {
        let zero = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
        set(obj, "status", zero);
        template_generation(obj, 1);
    }

    fn on_update(&self, new: &mut Value, old: &Value, _sub: Option<&str>) {
        let before = text(at(old, "/metadata/annotations"), &format!("/{TEMPLATE_GENERATION}"))
            .parse::<i64>()
            .unwrap_or(1);
        let changed = !same(new.pointer("/spec/template"), old.pointer("/spec/template"));
        template_generation(new, before + i64::from(changed));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (spec_path(), at(obj, "/spec"));
        let (selector, template) = (get(spec, "selector"), get(spec, "template"));
        let (at_selector, at_template) = (path.child("selector"), path.child("template"));
        if selector_rules(&mut errors, &at_selector, selector) {
            template_matches(&mut errors, &at_template, selector, template);
        }
        empty_selector(&mut errors, &at_selector, selector, &WORDS);
        validate::template(&mut errors, &at_template, template);
        shared_disks(
            &mut errors,
            &at_template.child("spec").child("volumes"),
            get(template, "spec"),
        );
        always_running(
            &mut errors,
            &at_template.child("spec"),
            get(template, "spec"),
            WORDS.owner,
        );
        check::non_negative_fields(&mut errors, &path, spec, &["minReadySeconds"]);
        daemon_update_strategy(&mut errors, &path.child("updateStrategy"), get(spec, "updateStrategy"));
        check::non_negative_fields(&mut errors, &path, spec, &["revisionHistoryLimit"]);
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub == Some("status") {
            let counted = [
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
            ];
            check::non_negative_fields(&mut errors, &Path::new("status"), at(new, "/status"), &counted);
            collision_count(&mut errors, new, old);
            return errors;
        }
        errors.extend(self.check(new));
        selector_change(&mut errors, new, old);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(obj, old)
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Desired", "integer", "Number of nodes that should run the pod."),
            shown("Current", "integer", "Number of nodes that have the pod and should."),
            shown("Ready", "integer", "Number of nodes on which the pod is ready."),
            shown(
                "Up-to-date",
                "integer",
                "Number of nodes on which the pod has the current template.",
            ),
            shown(
                "Available",
                "integer",
                "Number of nodes on which the pod has been ready long enough.",
            ),
            shown(
                "Node Selector",
                "string",
                "Labels of the nodes that the pod may run on.",
            ),
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
            number(obj, "/status/desiredNumberScheduled"),
            number(obj, "/status/currentNumberScheduled"),
            number(obj, "/status/numberReady"),
            number(obj, "/status/updatedNumberScheduled"),
            number(obj, "/status/numberAvailable"),
            json!(print::labels(at(obj, "/spec/template/spec/nodeSelector"))),
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

fn template_generation(obj: &mut Value, generation: i64) {
    set(
        child(child(obj, "metadata"), "annotations"),
        TEMPLATE_GENERATION,
        generation.to_string(),
    );
}

/// A disk that pods write to is on one node only.
fn shared_disks(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let disk = get(volume, "gcePersistentDisk");
        if disk.is_object() && !access::flag(disk, "readOnly") {
            let detail = "must be true for replicated pods > 1; GCE PD can only be mounted on multiple machines if it is read-only";
            let at = path.index(i).child("gcePersistentDisk").child("readOnly");
            errors.push(invalid(&at, false, detail));
        }
    }
}

fn daemon_update_strategy(errors: &mut ErrorList, path: &Path, strategy: &Value) {
    match str_of(strategy, "type") {
        "OnDelete" => return,
        "RollingUpdate" => {}
        _ => {
            let shown = strategy_text(strategy, UNAVAILABLE_AND_SURGE);
            errors.push(go::not_supported_shown(path, &shown, &["RollingUpdate", "OnDelete"]));
            return;
        }
    }
    let (rolling, at) = (get(strategy, "rollingUpdate"), path.child("rollingUpdate"));
    if rolling.is_null() {
        errors.push(required(&at, ""));
        return;
    }
    let (unavailable, surge) = (get(rolling, "maxUnavailable"), get(rolling, "maxSurge"));
    let both = [("maxUnavailable", unavailable), ("maxSurge", surge)];
    for (key, value) in both {
        check::int_or_percent(errors, &at.child(key), value);
    }
    for (key, value) in both {
        check::not_above_100_percent(errors, &at.child(key), value);
    }
    let amount = |v: &Value| check::int_or_percent_value(v) != 0;
    match (amount(unavailable), amount(surge)) {
        (false, false) => errors.push(required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0")),
        (true, true) => errors.push(invalid(
            &at.child("maxSurge"),
            surge.clone(),
            "may not be set when maxUnavailable is non-zero",
        )),
        _ => {}
    }
}

fn revision(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    check::non_negative(&mut errors, &Path::new("revision"), int_of(obj, "revision"));
    errors
}

/// The rules of ControllerRevisions: written once.
pub struct ControllerRevision;

impl Rules for ControllerRevision {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        set_default(obj, "revision", 0);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = revision(obj);
        match get(obj, "data") {
            Value::Object(_) => {}
            Value::Null => errors.push(required(&Path::new("data"), "data is mandatory")),
            _ => errors.push(required(&Path::new("data"), "data must be a valid JSON object")),
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = revision(new);
        if !same(new.get("data"), old.get("data")) {
            errors.push(invalid(&Path::new("data"), get(new, "data").clone(), IMMUTABLE));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Controller", "string", "Controller of the object."),
            shown("Revision", "string", "Revision of the state that the object holds."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let owner = list(at(obj, "/metadata"), "ownerReferences")
            .iter()
            .find(|o| access::flag(o, "controller"));
        let controller = owner.map_or_else(
            || "<none>".to_owned(),
            |o| {
                let (group, _) = str_of(o, "apiVersion").split_once('/').unwrap_or(("", ""));
                let kind = str_of(o, "kind").to_lowercase();
                let dot = if group.is_empty() { "" } else { "." };
                format!("{kind}{dot}{group}/{}", str_of(o, "name"))
            },
        );
        vec![
            json!(access::name(obj)),
            json!(controller),
            number(obj, "/revision"),
            print::age(obj, now),
        ]
    }

    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::Subdomain
    }
}
