use std::sync::Arc;

use coxswain_api::schema::extremes;
use coxswain_client::k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use coxswain_client::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::members::ordinal;
use super::plan::{Observed, Plan, plan};
use crate::history::{self, Newest};

const NOW: i64 = 1_000_000;

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn set(spec: Value, status: Value) -> Arc<StatefulSet> {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "set", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "s", "selector": {"matchLabels": {"a": "b"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "new"}]}}},
        "status": status});
    value["spec"]
        .as_object_mut()
        .expect("a spec")
        .extend(spec.as_object().expect("a spec").clone());
    Arc::new(serde_json::from_value(value).expect("a set"))
}

/// The revision of the set with an image.
fn revision(set: &StatefulSet, image: &str, number: i64) -> Arc<ControllerRevision> {
    let mut template = set.spec.as_ref().expect("a spec").template.clone();
    template.spec.as_mut().expect("a spec").containers[0].image = Some(image.to_string());
    let Newest::Made(mut made) = history::newest(("apps/v1", "StatefulSet"), &set.metadata, &template, &[], None)
    else {
        panic!("nothing is known yet");
    };
    made.revision = number;
    Arc::new(*made)
}

fn name(revision: &ControllerRevision) -> String {
    revision.metadata.name.clone().unwrap_or_default()
}

/// A member such as `0`, followed by `-` (not ready), `x` (going), `f` (failed) and `o` (of the old revision).
fn member(set: &StatefulSet, text: &str) -> Arc<Pod> {
    let at: String = text.chars().take_while(char::is_ascii_digit).collect();
    let has = |mark: char| text.contains(mark);
    let made_from = name(&revision(set, if has('o') { "old" } else { "new" }, 1));
    let ready = if has('-') { "False" } else { "True" };
    let mut value = json!({
        "metadata": {"name": format!("web-{at}"), "namespace": "n", "uid": text,
            "labels": {"a": "b", "controller-revision-hash": made_from},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "set", "controller": true}]},
        "spec": {"containers": []},
        "status": {"phase": if has('f') { "Failed" } else { "Running" },
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": time(NOW - 60)}]}});
    if has('x') {
        value["metadata"]["deletionTimestamp"] = json!(time(NOW));
    }
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn planned(set: &Arc<StatefulSet>, members: &[&str], claims: &[&str]) -> Plan {
    let claim = |name: &&str| {
        let value = json!({"metadata": {"name": name, "namespace": "n"}});
        Arc::new(serde_json::from_value::<PersistentVolumeClaim>(value).expect("a claim"))
    };
    plan(Observed {
        set: set.clone(),
        pods: members.iter().map(|text| member(set, text)).collect(),
        claims: claims.iter().map(claim).collect(),
        revisions: vec![revision(set, "old", 1), revision(set, "new", 2)],
        now: time(NOW),
    })
}

fn names<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Vec<&'a str> {
    pods.into_iter()
        .filter_map(|pod| pod.metadata.name.as_deref())
        .collect()
}

#[test]
fn one_step_at_a_time() {
    let check = |spec: Value, members: &[&str], create: &[&str], delete: &[&str]| {
        let plan = planned(&set(spec.clone(), json!({})), members, &[]);
        let found = (names(&plan.create), names(plan.delete.iter().map(|p| &**p)));
        assert_eq!(found, (create.to_vec(), delete.to_vec()), "{spec} {members:?}");
    };
    let ordered = || json!({});
    check(ordered(), &[], &["web-0"], &[]);
    check(ordered(), &["0-"], &[], &[]);
    check(ordered(), &["0"], &["web-1"], &[]);
    check(ordered(), &["0", "2"], &["web-1"], &[]);
    check(ordered(), &["0x", "1", "2"], &[], &[]);
    check(ordered(), &["0", "1f", "2"], &[], &["web-1"]);
    check(ordered(), &["0", "1", "2"], &[], &[]);
    check(ordered(), &["0", "1", "2", "3", "4"], &[], &["web-4"]);
    check(ordered(), &["0", "1", "2", "3", "4x"], &[], &[]);
    check(json!({"replicas": 0}), &["0-", "1"], &[], &[]);
    check(json!({"replicas": 0}), &["0", "1-"], &[], &["web-1"]);
    check(json!({"replicas": 2, "ordinals": {"start": 5}}), &[], &["web-5"], &[]);
    let parallel = |replicas: i32| json!({"podManagementPolicy": "Parallel", "replicas": replicas});
    check(parallel(3), &[], &["web-0", "web-1", "web-2"], &[]);
    check(parallel(3), &["1-"], &["web-0", "web-2"], &[]);
    check(parallel(1), &["0-", "1", "2x", "3"], &[], &["web-3", "web-1"]);
    check(json!({"minReadySeconds": 90}), &["0"], &[], &[]);
}

#[test]
fn rolling_updates() {
    let check = |strategy: Value, members: &[&str], delete: &[&str]| {
        let set = set(json!({"updateStrategy": strategy}), json!({}));
        let plan = planned(&set, members, &[]);
        assert_eq!(
            names(plan.delete.iter().map(|p| &**p)),
            delete,
            "{strategy} {members:?}"
        );
    };
    let rolling = |partition: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
    check(rolling(0), &["0o", "1o", "2o"], &["web-2"]);
    check(rolling(0), &["0o", "1o", "2-"], &[]);
    check(rolling(0), &["0o", "1o", "2"], &["web-1"]);
    check(rolling(2), &["0o", "1o", "2"], &[]);
    check(json!({"type": "OnDelete"}), &["0o", "1o", "2o"], &[]);
}

#[test]
fn members_below_the_partition_come_back_as_they_were() {
    let strategy = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}});
    let draft = set(strategy.clone(), json!({}));
    let set = set(
        strategy,
        json!({"replicas": 3, "currentRevision": name(&revision(&draft, "old", 1))}),
    );
    let image = |plan: &Plan| {
        let pod = plan.create.first().and_then(|pod| pod.spec.as_ref());
        pod.and_then(|spec| spec.containers[0].image.clone())
    };
    assert_eq!(image(&planned(&set, &["1", "2"], &[])).as_deref(), Some("old"));
    assert_eq!(image(&planned(&set, &["0o", "2"], &[])).as_deref(), Some("new"));
}

#[test]
fn claims_come_first_and_stay() {
    let template = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
    let spec = |scaled: &str| {
        json!({"replicas": 1, "volumeClaimTemplates": template,
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": "Retain"}})
    };
    let made = planned(&set(spec("Retain"), json!({})), &[], &[]);
    let claims: Vec<_> = made.claims.iter().filter_map(|c| c.metadata.name.as_deref()).collect();
    assert_eq!(claims, ["data-web-0"]);
    let pod = json!(made.create[0]);
    assert_eq!(
        pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "data-web-0"
    );
    assert_eq!(
        (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
        (&json!("web-0"), &json!("s"))
    );
    let known = ["data-web-0", "data-web-1", "data-webs-2"];
    assert!(planned(&set(spec("Retain"), json!({})), &[], &known).claims.is_empty());
    let dropped = |policy: &str, members: &[&str]| {
        let plan = planned(&set(spec(policy), json!({})), members, &known);
        plan.drop_claims
            .iter()
            .filter_map(|c| c.metadata.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(dropped("Retain", &["0"]), [] as [&str; 0]);
    assert_eq!(dropped("Delete", &["0", "1x"]), [] as [&str; 0]);
    assert_eq!(dropped("Delete", &["0"]), ["data-web-1"]);
}

#[test]
fn statuses() {
    let draft = set(json!({}), json!({}));
    let (old, new) = (name(&revision(&draft, "old", 1)), name(&revision(&draft, "new", 2)));
    let set = set(json!({}), json!({"replicas": 3, "currentRevision": old}));
    let status = |members: &[&str]| json!(planned(&set, members, &[]).status.expect("a status"));
    let half = status(&["0o", "1o-", "2"]);
    let expected = json!({"replicas": 3, "readyReplicas": 2, "availableReplicas": 2, "currentReplicas": 2,
        "updatedReplicas": 1, "currentRevision": old, "updateRevision": new, "collisionCount": 0,
        "observedGeneration": 1});
    assert_eq!(half, expected);
    let done = status(&["0", "1", "2"]);
    assert_eq!(
        (&done["currentRevision"], &done["currentReplicas"]),
        (&json!(new), &json!(3))
    );
}

#[test]
fn ordinals_in_names() {
    let check = |pod: &str, expected: Option<i32>| assert_eq!(ordinal("web", pod), expected, "{pod}");
    check("web-0", Some(0));
    check("web-12", Some(12));
    check("web-01", None);
    check("web--1", None);
    check("web-x", None);
    check("webs-1", None);
    check("web", None);
}

/// Whatever a set says, there is a plan: also for a partition beyond the last member.
#[test]
fn extremes_of_every_field_have_a_plan() {
    for (spec, members) in [
        (json!({}), vec![]),
        (
            json!({"podManagementPolicy": "Parallel", "ordinals": {"start": i32::MAX}, "replicas": i32::MAX}),
            vec![],
        ),
        (
            json!({"updateStrategy": {"rollingUpdate": {"partition": 4}}}),
            vec!["web-0", "web-1", "web-2"],
        ),
    ] {
        let base = serde_json::to_value(&*set(spec, json!({}))).expect("JSON");
        let pods: Vec<Arc<Pod>> = members
            .iter()
            .map(|name| {
                let value = json!({
                    "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"a": "b"},
                        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
                            "uid": "set", "controller": true}]},
                    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
                Arc::new(serde_json::from_value(value).expect("a pod"))
            })
            .collect();
        for change in extremes::changes("io.k8s.api.apps.v1.StatefulSet", &base) {
            let is_read = !change.field.contains(".template.spec.");
            if let (true, Ok(set)) = (is_read, serde_json::from_value::<StatefulSet>(change.object)) {
                plan(Observed {
                    set: Arc::new(set),
                    pods: pods.clone(),
                    claims: Vec::new(),
                    revisions: Vec::new(),
                    now: time(NOW),
                });
            }
        }
    }
}
