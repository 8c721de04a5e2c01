use std::sync::Arc;

use coxswain_api::schema::extremes;
use coxswain_client::k8s_openapi::api::apps::v1::DaemonSet;
use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::nodes::{belongs, node_of};
use super::plan::{Observed, Plan, plan};

const NOW: i64 = 1_000_000;

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn set(spec: Value) -> Arc<DaemonSet> {
    let mut value = json!({
        "metadata": {"name": "d", "namespace": "n", "uid": "set", "generation": 1},
        "spec": {"selector": {"matchLabels": {"a": "b"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}}});
    value["spec"]
        .as_object_mut()
        .expect("a spec")
        .extend(spec.as_object().expect("a spec").clone());
    Arc::new(serde_json::from_value(value).expect("a set"))
}

fn node(name: &str, labels: Value, taints: Value) -> Arc<Node> {
    let value = json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(value).expect("a node"))
}

fn hash(set: &Arc<DaemonSet>) -> String {
    let newest = run(set, &[], &[]).newest.expect("a revision");
    newest.name().rsplit_once('-').expect("a hash").1.to_string()
}

/// A pod on a node: `one`, then `-` (not ready), `o` (of an old revision), `x` (going), `f` (failed).
fn pod(set: &Arc<DaemonSet>, text: &str) -> Arc<Pod> {
    let (node, marks) = text.split_once('/').unwrap_or((text, ""));
    let has = |mark: char| marks.contains(mark);
    let made_from = if has('o') { "old".to_string() } else { hash(set) };
    let mut value = json!({
        "metadata": {"name": text, "namespace": "n", "uid": text, "creationTimestamp": time(NOW - 60),
            "labels": {"a": "b", "controller-revision-hash": made_from},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "set", "controller": true}]},
        "spec": {"containers": [], "nodeName": node},
        "status": {"phase": if has('f') { "Failed" } else { "Running" }, "conditions": [
            {"type": "Ready", "status": if has('-') { "False" } else { "True" }, "lastTransitionTime": time(NOW - 50)}]}});
    if has('x') {
        value["metadata"]["deletionTimestamp"] = json!(time(NOW));
    }
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn run(set: &Arc<DaemonSet>, nodes: &[Arc<Node>], pods: &[&str]) -> Plan {
    plan(Observed {
        set: set.clone(),
        nodes: nodes.to_vec(),
        pods: pods.iter().map(|text| pod(set, text)).collect(),
        revisions: Vec::new(),
        now: time(NOW),
    })
}

#[test]
fn one_pod_on_every_node() {
    let plain = |name: &str| node(name, json!({}), json!([]));
    let nodes = [plain("one"), plain("two")];
    let check = |spec: Value, pods: &[&str], create: &[&str], delete: &[&str]| {
        let plan = run(&set(spec.clone()), &nodes, pods);
        let made: Vec<&str> = plan.create.iter().filter_map(node_of).collect();
        let gone: Vec<&str> = plan.delete.iter().filter_map(|p| p.metadata.name.as_deref()).collect();
        assert_eq!((made, gone), (create.to_vec(), delete.to_vec()), "{spec} {pods:?}");
    };
    let spec = || json!({});
    check(spec(), &[], &["one", "two"], &[]);
    check(spec(), &["one", "two"], &[], &[]);
    check(spec(), &["one/x"], &["two"], &[]);
    check(spec(), &["one/f", "two"], &[], &["one/f"]);
    check(spec(), &["one", "one/-", "two"], &[], &["one/-"]);
    check(spec(), &["one/o", "two/o"], &[], &["one/o"]);
    check(spec(), &["one/-o", "two/o"], &[], &["one/-o"]);
    check(spec(), &["one/-", "two/o"], &[], &[]);
    let strategy = |unavailable: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable}}});
    check(strategy(json!("100%")), &["one/o", "two/o"], &[], &["one/o", "two/o"]);
    check(
        json!({"updateStrategy": {"type": "OnDelete"}}),
        &["one/o", "two/-o"],
        &[],
        &[],
    );
    let selecting = json!({"template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [], "nodeSelector": {"disk": "ssd"}}}});
    check(selecting, &["one", "two"], &[], &["one", "two"]);
}

#[test]
fn where_pods_belong() {
    let check = |template: Value, labels: Value, taints: Value, expected: (bool, bool)| {
        let spec = serde_json::from_value(template.clone()).expect("a pod spec");
        let found = belongs(&spec, &node("one", labels.clone(), taints.clone()));
        assert_eq!((found.run, found.stay), expected, "{template} {labels} {taints}");
    };
    let plain = || json!({"containers": []});
    let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
    check(plain(), json!({}), json!([]), (true, true));
    check(plain(), json!({}), taint("x", "NoSchedule"), (false, true));
    check(plain(), json!({}), taint("x", "NoExecute"), (false, false));
    check(plain(), json!({}), taint("x", "PreferNoSchedule"), (true, true));
    check(
        plain(),
        json!({}),
        taint("node.kubernetes.io/not-ready", "NoExecute"),
        (true, true),
    );
    check(
        plain(),
        json!({}),
        taint("node.kubernetes.io/unschedulable", "NoSchedule"),
        (true, true),
    );
    let tolerant = json!({"containers": [], "tolerations": [{"operator": "Exists"}]});
    check(tolerant, json!({}), taint("x", "NoExecute"), (true, true));
    check(
        json!({"containers": [], "nodeName": "two"}),
        json!({}),
        json!([]),
        (false, false),
    );
    let affinity = |rule: Value| {
        json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}}}})
    };
    let listed = affinity(json!({"key": "zone", "operator": "In", "values": ["a"]}));
    check(listed.clone(), json!({"zone": "a"}), json!([]), (true, true));
    check(listed, json!({"zone": "b"}), json!([]), (false, false));
    let more = affinity(json!({"key": "cores", "operator": "Gt", "values": ["4"]}));
    check(more.clone(), json!({"cores": "8"}), json!([]), (true, true));
    check(more, json!({"cores": "4"}), json!([]), (false, false));
}

#[test]
fn statuses() {
    let nodes = [
        node("one", json!({}), json!([])),
        node("two", json!({}), json!([])),
        node("off", json!({}), json!([{"key": "x", "effect": "NoSchedule"}])),
    ];
    let set = set(json!({}));
    let status = json!(run(&set, &nodes, &["one", "two/-o", "off"]).status.expect("a status"));
    let expected = json!({"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 1,
        "numberReady": 1, "numberAvailable": 1, "numberUnavailable": 1, "updatedNumberScheduled": 1,
        "observedGeneration": 1});
    assert_eq!(status, expected);
}

/// Whatever a set and its pods say, there is a plan.
#[test]
fn extremes_of_every_field_have_a_plan() {
    let nodes = [node("one", json!({}), json!([])), node("two", json!({}), json!([]))];
    let planned = |set: DaemonSet, pods: Vec<Arc<Pod>>| {
        plan(Observed {
            set: Arc::new(set),
            nodes: nodes.to_vec(),
            pods,
            revisions: Vec::new(),
            now: time(NOW),
        })
    };
    let base = serde_json::to_value(&*set(json!({}))).expect("JSON");
    for change in extremes::changes("io.k8s.api.apps.v1.DaemonSet", &base) {
        let is_read = !change.field.contains(".template.spec.");
        if let (true, Ok(set)) = (is_read, serde_json::from_value(change.object)) {
            planned(set, Vec::new());
        }
    }
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "p", "labels": {"a": "b"}, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "set", "controller": true}]},
        "spec": {"nodeName": "one", "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    for change in extremes::changes("io.k8s.api.core.v1.Pod", &pod) {
        if let Ok(pod) = serde_json::from_value(change.object) {
            planned(
                (*set(json!({"minReadySeconds": i32::MAX}))).clone(),
                vec![Arc::new(pod)],
            );
        }
    }
}
