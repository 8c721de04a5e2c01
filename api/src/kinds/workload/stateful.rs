//! StatefulSets.

use super::{
    Words, collision_count, common_defaults, counters, rolling_text, selector_and_template, spec_path, strategy_text,
    template_cells, template_warnings,
};
use crate::field::{ErrorList, Path, forbidden, invalid, required};
use crate::kinds::access::{
    self, at, child, get, int, int_of, list, remove, same, set, set_default, set_text_default, str_of,
};
use crate::kinds::check::{self};
use crate::kinds::print::{self, AGE, CONTAINERS, IMAGES, NAME, shown};
use crate::kinds::{Column, Rules, StatusRule, claim, go, meta, tidy};
use jiff::Timestamp;
use serde_json::{Value, json};

const WORDS: Words = Words {
    owner: "StatefulSet",
    empty: "empty selector is invalid for statefulset",
    unreadable: "",
};

const PARTITION: &[(&str, &str)] = &[("Partition", "partition"), ("MaxUnavailable", "maxUnavailable")];

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
        // Of a feature that is off by default: dropped without a word.
        if let Some(rolling) = access::child_if(update, "rollingUpdate") {
            remove(rolling, "maxUnavailable");
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
        check_spec(at(obj, "/spec"), true)
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
        errors.extend(check_spec(at(new, "/spec"), false));
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
        let mut out = template_warnings(obj, old);
        if int(obj, "/spec/revisionHistoryLimit").is_some_and(|n| n < 0) {
            let detail = "a negative value retains all historical revisions; a value >= 0 is recommended";
            out.push(format!("spec.revisionHistoryLimit: {detail}"));
        }
        out
    }

    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::Label
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

/// The rules of a spec. Some members never change, so that only new ones are looked at.
fn check_spec(spec: &Value, is_new: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = spec_path();
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
        check::one_of(&mut errors, &at, str_of(retention, key), &["Retain", "Delete"]);
    }
    for (i, claim) in list(spec, "volumeClaimTemplates").iter().enumerate().filter(|_| is_new) {
        let at = path.child("volumeClaimTemplates").index(i).child("spec");
        claim::check_spec(&mut errors, &at, get(claim, "spec"));
    }
    check::non_negative_fields(&mut errors, &path, spec, &["replicas", "minReadySeconds"]);
    check::non_negative(
        &mut errors,
        &path.child("ordinals").child("start"),
        int(spec, "/ordinals/start"),
    );
    let service = str_of(spec, "serviceName");
    if is_new && !service.is_empty() {
        check::dns_label(&mut errors, &path.child("serviceName"), service);
    }
    selector_and_template(&mut errors, &as_pods_get_it(spec), &WORDS);
    errors
}

/// The spec with the template that its pods are made of: each has a name of its own, and volumes for its claims.
fn as_pods_get_it(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims = list(&spec, "volumeClaimTemplates").iter();
    let mut volumes: Vec<Value> = claims
        .map(|claim| {
            let name = access::name(claim);
            json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
        })
        .collect();
    let pod = child(child(&mut spec, "template"), "spec");
    remove(pod, "subdomain");
    remove(pod, "hostname");
    if volumes.is_empty() {
        return spec;
    }
    let claims = check::by_name(&volumes);
    let own = list(pod, "volumes").iter();
    let others: Vec<Value> = own
        .filter(|v| !claims.contains_key(str_of(v, "name")))
        .cloned()
        .collect();
    volumes.extend(others);
    set(pod, "volumes", volumes);
    spec
}

fn stateful_update_strategy(errors: &mut ErrorList, path: &Path, strategy: &Value) {
    let rolling = get(strategy, "rollingUpdate");
    match str_of(strategy, "type") {
        "" => errors.push(required(path, "")),
        "OnDelete" => {
            if !rolling.is_null() {
                errors.push(go::invalid_shown(
                    &path.child("rollingUpdate"),
                    &rolling_text(rolling, PARTITION),
                    "only allowed for updateStrategy 'RollingUpdate'",
                ));
            }
        }
        "RollingUpdate" => {
            let at = path.child("rollingUpdate");
            check::non_negative(errors, &at.child("partition"), int_of(rolling, "partition"));
        }
        _ => errors.push(go::invalid_shown(
            path,
            &strategy_text(strategy, PARTITION),
            "must be 'RollingUpdate' or 'OnDelete'",
        )),
    }
}
