//! Workloads that keep pods running: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, and
//! the ControllerRevision that two of them keep.

mod daemon;
mod replicas;
mod stateful;

pub use daemon::{ControllerRevision, DaemonSet};
pub use replicas::{ReplicaSet, ReplicationController};
pub use stateful::StatefulSet;

use crate::field::{ErrorList, Path, forbidden, invalid, not_supported, required};
use crate::kinds::access::{self, at, child, copy, get, has, int, int_of, same, set_default, set_text_default, str_of};
use crate::kinds::check::{self};
use crate::kinds::pod::{defaults, validate, warnings};
use crate::kinds::print::{self, AGE, CONTAINERS, IMAGES, NAME, SELECTOR, number, shown};
use crate::kinds::{Column, Rules, StatusRule, go, tidy};
use jiff::Timestamp;
use serde_json::{Value, json};

const NO_MATCH: &str = "`selector` does not match template `labels`";

fn spec_path() -> Path {
    Path::new("spec")
}

/// How a kind of workload words its objections to selectors.
struct Words {
    /// The kind, where a template may not have a deadline.
    owner: &'static str,
    /// A selector without requirements.
    empty: &'static str,
    /// A selector that cannot be read.
    unreadable: &'static str,
}

/// The words of ReplicaSets and Deployments.
const REPLICA_SET: Words = Words {
    owner: "ReplicaSet",
    empty: "empty selector is invalid for deployment",
    unreadable: "invalid label selector",
};

/// The selector of a workload and the template that has to satisfy it.
fn selector_and_template(errors: &mut ErrorList, spec: &Value, words: &Words) {
    let path = spec_path();
    let (selector, template) = (get(spec, "selector"), get(spec, "template"));
    let at_selector = path.child("selector");
    if selector.is_null() {
        errors.push(required(&at_selector, ""));
    }
    let readable = selector_rules(errors, &at_selector, selector);
    empty_selector(errors, &at_selector, selector, words);
    if !readable {
        errors.push(go::invalid_shown(
            &at_selector,
            &go::label_selector(selector),
            words.unreadable,
        ));
        return;
    }
    let at_template = path.child("template");
    if selector.is_null() || !check::selector_is_empty(selector) {
        template_matches(errors, &at_template, selector, template);
    }
    validate::template(errors, &at_template, template);
    always_running(errors, &at_template.child("spec"), get(template, "spec"), words.owner);
}

/// Objections to the parts of a selector. False when it cannot select anything because of them.
fn selector_rules(errors: &mut ErrorList, path: &Path, selector: &Value) -> bool {
    let before = errors.len();
    check::label_selector(errors, path, selector);
    errors.len() == before
}

fn empty_selector(errors: &mut ErrorList, path: &Path, selector: &Value, words: &Words) {
    if selector.is_object() && check::selector_is_empty(selector) {
        errors.push(go::invalid_shown(path, "{}", words.empty));
    }
}

fn template_matches(errors: &mut ErrorList, path: &Path, selector: &Value, template: &Value) {
    let labels = at(template, "/metadata/labels");
    if !check::selects(selector, labels) {
        errors.push(invalid(
            &path.child("metadata").child("labels"),
            labels.clone(),
            NO_MATCH,
        ));
    }
}

/// A workload's selector stays as it is.
fn selector_change(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = spec_path().child("selector");
    check::immutable_selector(errors, &path, at(new, "/spec/selector"), at(old, "/spec/selector"));
}

/// An `updateStrategy` or `strategy` of a type that does not exist, as its struct prints. `members` are the members
/// of its `rollingUpdate`, shown and on the wire.
fn strategy_text(strategy: &Value, members: &[(&str, &str)]) -> String {
    let rolling = get(strategy, "rollingUpdate");
    let inner = if rolling.is_null() {
        "null".to_owned()
    } else {
        rolling_text(rolling, members)
    };
    let kind = go::json_text(&json!(str_of(strategy, "type")));
    format!("{{\"Type\":{kind},\"RollingUpdate\":{inner}}}")
}

fn rolling_text(rolling: &Value, members: &[(&str, &str)]) -> String {
    let parts: Vec<String> = members
        .iter()
        .map(|(shown, wire)| format!("\"{shown}\":{}", go::json_text(get(rolling, wire))))
        .collect();
    format!("{{{}}}", parts.join(","))
}

/// Members of the `rollingUpdate` of Deployments and DaemonSets.
const UNAVAILABLE_AND_SURGE: &[(&str, &str)] = &[("MaxUnavailable", "maxUnavailable"), ("MaxSurge", "maxSurge")];

/// Templates of these workloads run for good.
fn always_running(errors: &mut ErrorList, path: &Path, spec: &Value, owner: &str) {
    let policy = str_of(spec, "restartPolicy");
    if policy != "Always" {
        errors.push(not_supported(&path.child("restartPolicy"), policy, &["Always"]));
    }
    if has(spec, "activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.push(forbidden(&path.child("activeDeadlineSeconds"), detail));
    }
}

/// Counters of a status: none negative, none above the whole.
fn counters(errors: &mut ErrorList, status: &Value, fields: &[&str]) {
    let path = Path::new("status");
    check::non_negative_fields(errors, &path, status, &["replicas"]);
    check::non_negative_fields(errors, &path, status, fields);
    check::non_negative_fields(errors, &path, status, &["observedGeneration"]);
    let value = |key: &str| int_of(status, key).unwrap_or(0);
    for key in fields {
        if value(key) > value("replicas") {
            errors.push(invalid(
                &path.child(key),
                value(key),
                "cannot be greater than status.replicas",
            ));
        }
    }
    if value("availableReplicas") > value("readyReplicas") {
        errors.push(invalid(
            &path.child("availableReplicas"),
            value("availableReplicas"),
            "cannot be greater than readyReplicas",
        ));
    }
}

fn collision_count(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = Path::new("status").child("collisionCount");
    let (after, before) = (int(new, "/status/collisionCount"), int(old, "/status/collisionCount"));
    check::non_negative(errors, &path, after);
    if let (Some(before), after) = (before, after.unwrap_or(0))
        && after < before
    {
        errors.push(invalid(&path, after, "cannot be decremented"));
    }
}

/// Members every template-bearing workload shares.
fn common_defaults(obj: &mut Value) {
    tidy::metadata(obj);
    let spec = child(obj, "spec");
    tidy::drop_zero(spec, &["minReadySeconds", "paused"]);
    set_default(spec, "replicas", 1);
    defaults::template(child(spec, "template"));
    tidy::metadata(child(spec, "template"));
}

fn template_warnings(obj: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| same(at(old, "/spec").get("template"), at(obj, "/spec").get("template"))) {
        return Vec::new();
    }
    warnings::template(&spec_path().child("template"), at(obj, "/spec/template"))
}

/// Cells of the containers, their images and a selector.
fn template_cells(obj: &Value) -> [Value; 2] {
    let (names, images) = print::containers(at(obj, "/spec/template/spec"));
    [json!(names), json!(images)]
}

/// The rules of Deployments.
pub struct Deployment;

impl Rules for Deployment {
    fn looks_at_metadata_again(&self) -> bool {
        false
    }

    fn fill(&self, obj: &mut Value) {
        common_defaults(obj);
        let spec = child(obj, "spec");
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        let strategy = child(spec, "strategy");
        set_text_default(strategy, "type", "RollingUpdate");
        if str_of(strategy, "type") == "RollingUpdate" {
            let rolling = child(strategy, "rollingUpdate");
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
        let status = child(obj, "status");
        tidy::drop_zero(
            status,
            &[
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "conditions",
            ],
        );
    }

    fn on_create(&self, obj: &mut Value) {
        child(obj, "status");
    }

    fn on_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            copy(child(new, "metadata"), at(old, "/metadata"), "labels");
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (spec_path(), at(obj, "/spec"));
        check::non_negative(&mut errors, &path.child("replicas"), int_of(spec, "replicas"));
        selector_and_template(&mut errors, spec, &REPLICA_SET);
        strategy(&mut errors, &path.child("strategy"), get(spec, "strategy"));
        check::non_negative_fields(&mut errors, &path, spec, &["minReadySeconds", "revisionHistoryLimit"]);
        if let Some(deadline) = int_of(spec, "progressDeadlineSeconds") {
            let at = path.child("progressDeadlineSeconds");
            check::non_negative(&mut errors, &at, Some(deadline));
            if deadline <= int_of(spec, "minReadySeconds").unwrap_or(0) {
                errors.push(invalid(&at, deadline, "must be greater than minReadySeconds"));
            }
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub == Some("status") {
            let counted = [
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
            ];
            counters(&mut errors, at(new, "/status"), &counted[..3]);
            check::non_negative_fields(&mut errors, &Path::new("status"), at(new, "/status"), &counted[3..]);
            collision_count(&mut errors, new, old);
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

    fn desired_differs(&self, new: &Value, old: &Value) -> bool {
        !same(new.get("spec"), old.get("spec"))
            || !same(
                new.pointer("/metadata/annotations"),
                old.pointer("/metadata/annotations"),
            )
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Ready", "string", "Number of the pod with ready state."),
            shown("Up-to-date", "string", "Number of pods that have the desired template."),
            shown(
                "Available",
                "string",
                "Number of pods that have been ready long enough.",
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
        let ready = int(obj, "/status/readyReplicas").unwrap_or(0);
        let wanted = int(obj, "/spec/replicas").unwrap_or(0);
        vec![
            json!(access::name(obj)),
            json!(format!("{ready}/{wanted}")),
            number(obj, "/status/updatedReplicas"),
            number(obj, "/status/availableReplicas"),
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

fn strategy(errors: &mut ErrorList, path: &Path, strategy: &Value) {
    let rolling = get(strategy, "rollingUpdate");
    let at = path.child("rollingUpdate");
    match str_of(strategy, "type") {
        "Recreate" => {
            if !rolling.is_null() {
                errors.push(forbidden(
                    &at,
                    "may not be specified when strategy `type` is 'Recreate'",
                ));
            }
        }
        "RollingUpdate" => {
            if rolling.is_null() {
                errors.push(required(&at, "this should be defaulted and never be nil"));
            } else {
                rolling_update(errors, &at, rolling);
            }
        }
        _ => {
            let shown = strategy_text(strategy, UNAVAILABLE_AND_SURGE);
            errors.push(go::not_supported_shown(path, &shown, &["Recreate", "RollingUpdate"]));
        }
    }
}

fn rolling_update(errors: &mut ErrorList, path: &Path, rolling: &Value) {
    let (unavailable, surge) = (get(rolling, "maxUnavailable"), get(rolling, "maxSurge"));
    let at_unavailable = path.child("maxUnavailable");
    check::int_or_percent(errors, &at_unavailable, unavailable);
    check::int_or_percent(errors, &path.child("maxSurge"), surge);
    if check::int_or_percent_value(unavailable) == 0 && check::int_or_percent_value(surge) == 0 {
        errors.push(invalid(
            &at_unavailable,
            unavailable.clone(),
            "may not be 0 when `maxSurge` is 0",
        ));
    }
    check::not_above_100_percent(errors, &at_unavailable, unavailable);
}
