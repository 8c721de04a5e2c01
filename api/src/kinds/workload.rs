//! Workloads that keep pods running: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController, and
//! the ControllerRevision that two of them keep.

use super::access::{
    self, at, child, copy, entries, get, has, int, int_of, list, remove, same, set, set_default, set_text_default,
    str_of, text,
};
use super::check::{self, IMMUTABLE};
use super::pod::{defaults, validate, warnings};
use super::print::{self, AGE, NAME, number, shown, wide};
use super::{Column, Rules, StatusRule, claim, go, meta, tidy};
use crate::field::{ErrorList, Path, forbidden, invalid, not_supported, required};
use jiff::Timestamp;
use serde_json::{Value, json};

const NO_MATCH: &str = "`selector` does not match template `labels`";

fn spec_path() -> Path {
    Path::new("spec")
}

/// The selector of a workload and the template that has to satisfy it.
fn selector_and_template(errors: &mut ErrorList, spec: &Value, owner: &str) {
    let path = spec_path();
    let selector = get(spec, "selector");
    let template = get(spec, "template");
    let at_selector = path.child("selector");
    let before = errors.len();
    if selector.is_null() {
        errors.push(required(&at_selector, ""));
    } else {
        check::label_selector(errors, &at_selector, selector);
        let broken = list(selector, "matchExpressions").iter().any(|e| {
            let values = list(e, "values").len();
            !matches!(
                (str_of(e, "operator"), values),
                ("In" | "NotIn", 1..) | ("Exists" | "DoesNotExist", 0)
            )
        });
        if check::selector_is_empty(selector) {
            errors.push(go::invalid_shown(
                &at_selector,
                "{}",
                "empty selector is invalid for deployment",
            ));
        }
        if broken || errors.len() > before && !check::selector_is_empty(selector) {
            errors.push(go::invalid_shown(
                &at_selector,
                &go::label_selector(selector),
                "invalid label selector",
            ));
            return;
        }
    }
    let at_template = path.child("template");
    let labels = at(template, "/metadata/labels");
    if selector.is_null() || (!check::selector_is_empty(selector) && !check::selects(selector, labels)) {
        errors.push(invalid(
            &at_template.child("metadata").child("labels"),
            labels.clone(),
            NO_MATCH,
        ));
    }
    validate::template(errors, &at_template, template);
    always_running(errors, &at_template.child("spec"), get(template, "spec"), owner);
}

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

const CONTAINERS: Column = wide("Containers", "string", "Names of each container in the template.");
const IMAGES: Column = wide(
    "Images",
    "string",
    "Images referenced by each container in the template.",
);
const SELECTOR: Column = wide("Selector", "string", "Label selector of the pods.");

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
        selector_and_template(&mut errors, spec, "ReplicaSet");
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
        check::immutable_selector(
            &mut errors,
            &spec_path().child("selector"),
            at(new, "/spec/selector"),
            at(old, "/spec/selector"),
        );
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(obj, old)
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
        other => {
            let inner = if rolling.is_null() {
                "null".to_owned()
            } else {
                let part = |key: &str| go::json_text(get(rolling, key));
                format!(
                    "{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}",
                    part("maxUnavailable"),
                    part("maxSurge")
                )
            };
            let shown = format!(
                "{{\"Type\":{},\"RollingUpdate\":{inner}}}",
                go::json_text(&json!(other))
            );
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

/// The rules of ReplicaSets.
pub struct ReplicaSet;

impl Rules for ReplicaSet {
    fn fill(&self, obj: &mut Value) {
        common_defaults(obj);
        let status = child(obj, "status");
        tidy::drop_zero(
            status,
            &[
                "fullyLabeledReplicas",
                "readyReplicas",
                "availableReplicas",
                "observedGeneration",
                "conditions",
            ],
        );
        set_default(status, "replicas", 0);
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"replicas": 0}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (spec_path(), at(obj, "/spec"));
        check::non_negative_fields(&mut errors, &path, spec, &["replicas", "minReadySeconds"]);
        selector_and_template(&mut errors, spec, "ReplicaSet");
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub == Some("status") {
            counters(
                &mut errors,
                at(new, "/status"),
                &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
            );
            return errors;
        }
        errors.extend(self.check(new));
        check::immutable_selector(
            &mut errors,
            &spec_path().child("selector"),
            at(new, "/spec/selector"),
            at(old, "/spec/selector"),
        );
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(obj, old)
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

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", int(obj, "/status/replicas").unwrap_or(0).to_string())]
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
        common_defaults(obj);
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
        let status = child(obj, "status");
        tidy::drop_zero(
            status,
            &[
                "fullyLabeledReplicas",
                "readyReplicas",
                "availableReplicas",
                "observedGeneration",
                "conditions",
            ],
        );
        set_default(status, "replicas", 0);
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
        counters(
            &mut errors,
            at(new, "/status"),
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        );
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(obj, old)
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
        ReplicaSet.selectable(obj)
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// The rules of StatefulSets.
pub struct StatefulSet;

impl Rules for StatefulSet {
    fn looks_at_metadata_again(&self) -> bool {
        false
    }

    fn fill(&self, obj: &mut Value) {
        common_defaults(obj);
        let spec = child(obj, "spec");
        set_default(spec, "serviceName", "");
        tidy::drop_zero(spec, &["volumeClaimTemplates"]);
        set_text_default(spec, "podManagementPolicy", "OrderedReady");
        set_default(spec, "revisionHistoryLimit", 10);
        let update = child(spec, "updateStrategy");
        set_text_default(update, "type", "RollingUpdate");
        if str_of(update, "type") == "RollingUpdate" {
            let rolling = child(update, "rollingUpdate");
            set_default(rolling, "partition", 0);
        }
        let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
        set_text_default(retention, "whenDeleted", "Retain");
        set_text_default(retention, "whenScaled", "Retain");
        for template in access::each_mut(spec, "volumeClaimTemplates") {
            set_default(template, "apiVersion", "v1");
            set_default(template, "kind", "PersistentVolumeClaim");
            child(template, "metadata");
            claim::default_spec(child(template, "spec"));
            set_text_default(child(template, "status"), "phase", "Pending");
        }
        let status = child(obj, "status");
        let plain = [
            "observedGeneration",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "currentRevision",
            "updateRevision",
            "conditions",
        ];
        tidy::drop_zero(status, &plain);
        set_default(status, "replicas", 0);
        set_default(status, "availableReplicas", 0);
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"replicas": 0, "availableReplicas": 0}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (spec_path(), at(obj, "/spec"));
        match str_of(spec, "podManagementPolicy") {
            "" => errors.push(required(&path.child("podManagementPolicy"), "")),
            "OrderedReady" | "Parallel" => {}
            other => errors.push(invalid(
                &path.child("podManagementPolicy"),
                other,
                "must be 'OrderedReady' or 'Parallel'",
            )),
        }
        stateful_update_strategy(&mut errors, &path.child("updateStrategy"), get(spec, "updateStrategy"));
        let retention = get(spec, "persistentVolumeClaimRetentionPolicy");
        for key in ["whenDeleted", "whenScaled"] {
            let at = path.child("persistentVolumeClaimRetentionPolicy").child(key);
            check::one_of_if(&mut errors, &at, str_of(retention, key), &["Delete", "Retain"]);
        }
        check::non_negative_fields(
            &mut errors,
            &path,
            spec,
            &["replicas", "minReadySeconds", "revisionHistoryLimit"],
        );
        check::non_negative(
            &mut errors,
            &path.child("ordinals").child("start"),
            int(spec, "/ordinals/start"),
        );
        selector_and_template(&mut errors, spec, "StatefulSet");
        for error in &mut errors {
            error.detail = error.detail.replace(
                "empty selector is invalid for deployment",
                "empty selector is invalid for statefulset",
            );
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub == Some("status") {
            let counted = [
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
            ];
            counters(&mut errors, at(new, "/status"), &counted);
            collision_count(&mut errors, new, old);
            return errors;
        }
        errors.extend(self.check(new));
        let mutable = [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        let fixed = |v: &Value| {
            let mut spec = at(v, "/spec").clone();
            for key in mutable {
                remove(&mut spec, key);
            }
            spec
        };
        if !same(Some(&fixed(new)), Some(&fixed(old))) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.push(forbidden(&spec_path(), detail));
        }
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(obj, old)
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Ready", "string", "Number of the pod with ready state."),
            AGE,
            CONTAINERS,
            IMAGES,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let [names, images] = template_cells(obj);
        let (ready, wanted) = (
            int(obj, "/status/readyReplicas").unwrap_or(0),
            int(obj, "/spec/replicas").unwrap_or(0),
        );
        vec![
            json!(access::name(obj)),
            json!(format!("{ready}/{wanted}")),
            print::age(obj, now),
            names,
            images,
        ]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn stateful_update_strategy(errors: &mut ErrorList, path: &Path, strategy: &Value) {
    let rolling = get(strategy, "rollingUpdate");
    match str_of(strategy, "type") {
        "" => errors.push(required(path, "")),
        "OnDelete" => {
            if !rolling.is_null() {
                errors.push(invalid(
                    &path.child("rollingUpdate"),
                    rolling.clone(),
                    "only allowed for updateStrategy 'RollingUpdate'",
                ));
            }
        }
        "RollingUpdate" => {
            let at = path.child("rollingUpdate");
            check::non_negative(errors, &at.child("partition"), int_of(rolling, "partition"));
            let unavailable = get(rolling, "maxUnavailable");
            if !unavailable.is_null() {
                check::int_or_percent(errors, &at.child("maxUnavailable"), unavailable);
                if check::int_or_percent_value(unavailable) == 0 {
                    errors.push(invalid(&at.child("maxUnavailable"), unavailable.clone(), "cannot be 0"));
                }
                check::not_above_100_percent(errors, &at.child("maxUnavailable"), unavailable);
            }
        }
        _ => errors.push(invalid(path, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'")),
    }
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

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
        selector_and_template(&mut errors, spec, "DaemonSet");
        for error in &mut errors {
            error.detail = error.detail.replace(
                "empty selector is invalid for deployment",
                "empty selector is invalid for daemonset",
            );
        }
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
        check::immutable_selector(
            &mut errors,
            &spec_path().child("selector"),
            at(new, "/spec/selector"),
            at(old, "/spec/selector"),
        );
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

fn daemon_update_strategy(errors: &mut ErrorList, path: &Path, strategy: &Value) {
    let kind = str_of(strategy, "type");
    if !["RollingUpdate", "OnDelete"].contains(&kind) {
        errors.push(not_supported(&path.child("type"), kind, &["RollingUpdate", "OnDelete"]));
        return;
    }
    if kind == "OnDelete" {
        return;
    }
    let (rolling, at) = (get(strategy, "rollingUpdate"), path.child("rollingUpdate"));
    if rolling.is_null() {
        errors.push(required(&at, ""));
        return;
    }
    let (unavailable, surge) = (get(rolling, "maxUnavailable"), get(rolling, "maxSurge"));
    for (key, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        check::int_or_percent(errors, &at.child(key), value);
        check::not_above_100_percent(errors, &at.child(key), value);
    }
    match (
        check::int_or_percent_value(unavailable),
        check::int_or_percent_value(surge),
    ) {
        (0, 0) => errors.push(invalid(
            &at.child("maxUnavailable"),
            unavailable.clone(),
            "cannot be 0 when maxSurge is 0",
        )),
        (1.., 1..) => errors.push(invalid(
            &at.child("maxSurge"),
            surge.clone(),
            "may not be set when maxUnavailable is non-zero",
        )),
        _ => {}
    }
}

/// The rules of ControllerRevisions: written once.
pub struct ControllerRevision;

impl Rules for ControllerRevision {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        set_default(obj, "revision", 0);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if !has(obj, "data") {
            errors.push(required(&Path::new("data"), "data is mandatory"));
        }
        check::non_negative(&mut errors, &Path::new("revision"), int_of(obj, "revision"));
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = self.check(new);
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
