use std::sync::Arc;

use coxswain_api::schema::extremes;
use coxswain_client::k8s_openapi::api::apps::v1::ReplicaSet;
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Observed, Plan, plan};
use crate::pods;

const NOW: i64 = 1_000_000;

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn set(replicas: i32, min_ready_s: i32) -> Arc<ReplicaSet> {
    let value = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "set", "generation": 3},
        "spec": {"replicas": replicas, "minReadySeconds": min_ready_s,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}}});
    Arc::new(serde_json::from_value(value).expect("a set"))
}

/// A running, ready pod of the set, changed by a JSON merge.
fn pod(name: &str, change: Value) -> Arc<Pod> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"a": "b"},
            "creationTimestamp": time(NOW - 500),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
                "uid": "set", "controller": true}]},
        "spec": {"containers": [], "nodeName": "one"},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": time(NOW - 100)}]}});
    merge(&mut value, change);
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn merge(target: &mut Value, change: Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change,
    }
}

fn plan_for(set: &Arc<ReplicaSet>, pods: &[Arc<Pod>]) -> Plan {
    plan(Observed {
        set: set.clone(),
        pods: pods.to_vec(),
        relatives: Vec::new(),
        counts_terminating: true,
        now: time(NOW),
    })
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().filter_map(|p| p.metadata.name.as_deref()).collect()
}

#[test]
fn counts() {
    let check = |replicas: i32, pods: &[Arc<Pod>], create: usize, delete: usize| {
        let plan = plan_for(&set(replicas, 0), pods);
        assert_eq!((plan.create, plan.delete.len()), (create, delete), "{:?}", names(pods));
    };
    let ending = json!({"metadata": {"deletionTimestamp": time(NOW)}});
    let (a, b) = (pod("a", json!({})), pod("b", json!({})));
    check(3, &[], 3, 0);
    check(3, std::slice::from_ref(&a), 2, 0);
    check(1, &[a.clone(), b.clone()], 0, 1);
    check(2, &[a.clone(), pod("x", ending)], 1, 0);
    check(2, &[a.clone(), pod("x", json!({"status": {"phase": "Failed"}}))], 1, 0);
    check(0, &[a, b], 0, 2);
    check(100_000, &[], 500, 0);
}

#[test]
fn adopts_and_releases() {
    let orphan = pod("orphan", json!({"metadata": {"ownerReferences": []}}));
    let strayed = pod("strayed", json!({"metadata": {"labels": {"a": "other"}}}));
    let foreign = pod(
        "foreign",
        json!({"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "X", "name": "x", "uid": "else", "controller": true}]}}),
    );
    let plan = plan_for(&set(1, 0), &[orphan, strayed, foreign]);
    assert_eq!(
        (names(&plan.adopt), names(&plan.release)),
        (vec!["orphan"], vec!["strayed"])
    );
    assert_eq!((plan.create, plan.delete.len()), (0, 0), "the adopted one counts");
}

#[test]
fn the_least_valuable_goes_first() {
    // Each row: what makes "x" worth less than an ordinary pod.
    let rows = [
        json!({"spec": {"nodeName": ""}}),
        json!({"status": {"phase": "Pending"}}),
        json!({"status": {"conditions": []}}),
        json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-1"}}}),
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time(NOW - 1)}]}}),
        json!({"status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 2}]}}),
        json!({"metadata": {"creationTimestamp": time(NOW - 2)}}),
    ];
    for row in rows {
        let pods = [pod("a", json!({})), pod("x", row.clone()), pod("z", json!({}))];
        assert_eq!(names(&plan_for(&set(2, 0), &pods).delete), ["x"], "{row}");
    }
    let elsewhere = json!({"spec": {"nodeName": "two"}});
    let pods = [pod("a", elsewhere), pod("b", json!({})), pod("c", json!({}))];
    assert_eq!(names(&plan_for(&set(2, 0), &pods).delete), ["b"], "two on one node");
}

#[test]
fn status_and_availability() {
    let young = json!({"status": {"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": time(NOW - 4)}]}});
    let pods = [
        pod("a", json!({})),
        pod("b", young),
        pod("c", json!({"status": {"conditions": []}})),
    ];
    let plan = plan_for(&set(3, 10), &pods);
    let status = json!(plan.status.expect("a status"));
    let expected = json!({"replicas": 3, "fullyLabeledReplicas": 3, "readyReplicas": 2,
        "availableReplicas": 1, "terminatingReplicas": 0, "observedGeneration": 3});
    assert_eq!(status, expected);
    assert_eq!(plan.requeue_after.map(|d| d.as_secs()), Some(6));
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(replicas in 0i32..12, phases in proptest::collection::vec(0u8..4, 0..12)) {
        let set = set(replicas, 0);
        let mut pods: Vec<Arc<Pod>> = phases.iter().enumerate().map(|(i, kind)| {
            let change = match kind {
                0 => json!({}),
                1 => json!({"status": {"phase": "Pending", "conditions": []}}),
                2 => json!({"status": {"phase": "Succeeded"}}),
                _ => json!({"metadata": {"deletionTimestamp": time(NOW)}}),
            };
            pod(&format!("p{i}"), change)
        }).collect();
        let first = plan_for(&set, &pods);
        pods.retain(|pod| !first.delete.iter().any(|gone| gone.metadata.uid == pod.metadata.uid));
        for i in 0..first.create {
            pods.push(pod(&format!("new{i}"), json!({"status": {"phase": "Pending", "conditions": []}})));
        }
        let active = pods.iter().filter(|p| pods::is_active(p)).count();
        prop_assert_eq!(active, usize::try_from(replicas).unwrap_or(0));
        let mut written = (*set).clone();
        written.status = plan_for(&set, &pods).status;
        let second = plan_for(&Arc::new(written), &pods);
        prop_assert!(second.create == 0 && second.delete.is_empty() && second.status.is_none());
    }
}

/// Whatever a set and its pods say, there is a plan.
#[test]
fn extremes_of_every_field_have_a_plan() {
    let planned = |set: ReplicaSet, pods: Vec<Arc<Pod>>| {
        plan(Observed {
            set: Arc::new(set),
            relatives: pods.clone(),
            pods,
            counts_terminating: true,
            now: time(NOW),
        })
    };
    let base = serde_json::to_value(&*set(2, 5)).expect("JSON");
    for change in extremes::changes("io.k8s.api.apps.v1.ReplicaSet", &base) {
        let is_read = !change.field.contains(".template.spec.");
        if let (true, Ok(set)) = (is_read, serde_json::from_value(change.object)) {
            planned(set, vec![pod("a", json!({})), pod("b", json!({}))]);
        }
    }
    let one = serde_json::to_value(&*pod("a", json!({}))).expect("JSON");
    for change in extremes::changes("io.k8s.api.core.v1.Pod", &one) {
        if let Ok(extreme) = serde_json::from_value(change.object) {
            planned(
                (*set(1, i32::MAX)).clone(),
                vec![Arc::new(extreme), pod("b", json!({}))],
            );
        }
    }
}
