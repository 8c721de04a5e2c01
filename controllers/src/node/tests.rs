use std::collections::BTreeSet;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::{Observed, Plan, plan};
use super::sweep::{self, Reason};

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

fn node(ready: &str, spec: Value) -> Arc<Node> {
    let value = json!({"metadata": {"name": "one"}, "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": ready}]}});
    Arc::new(serde_json::from_value(value).expect("a node"))
}

fn pod(name: &str, spec: Value, status: Value) -> Arc<Pod> {
    let value = json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec, "status": status});
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn plan_at(node: &Arc<Node>, pods: &[Arc<Pod>], heard_s: i64, now_s: i64) -> Plan {
    plan(Observed {
        node: node.clone(),
        pods: pods.to_vec(),
        heard: time(heard_s),
        grace_s: 50,
        now: time(now_s),
    })
}

#[test]
fn silence() {
    let ready = node("True", json!({}));
    let soon = plan_at(&ready, &[], 1000, 1020);
    assert!(soon.status.is_none() && soon.taints.is_none());
    assert_eq!(soon.requeue_after.map(|d| d.as_secs()), Some(30));
    let late = plan_at(&ready, &[], 1000, 1051).status.expect("a status");
    let shown: Vec<String> = late
        .conditions
        .iter()
        .flatten()
        .map(|c| format!("{} {} {}", c.type_, c.status, c.reason.clone().unwrap_or_default()))
        .collect();
    assert_eq!(
        shown.first().map(String::as_str),
        Some("Ready Unknown NodeStatusUnknown")
    );
    assert_eq!(
        shown.get(1).map(String::as_str),
        Some("MemoryPressure Unknown NodeStatusNeverUpdated")
    );
}

#[test]
fn taints() {
    let check = |node: Arc<Node>, expected: Option<&[&str]>| {
        let plan = plan_at(&node, &[], 1000, 1001);
        let shown = plan.taints.map(|taints| {
            taints
                .iter()
                .map(|t| format!("{}:{}", t.key, t.effect))
                .collect::<Vec<_>>()
        });
        let expected = expected.map(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(shown, expected);
    };
    let stale = json!({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
        {"key": "mine", "effect": "NoSchedule"}]});
    check(node("True", json!({})), None);
    check(node("True", stale), Some(&["mine:NoSchedule"]));
    check(
        node("True", json!({"unschedulable": true})),
        Some(&["node.kubernetes.io/unschedulable:NoSchedule"]),
    );
    check(
        node("False", json!({})),
        Some(&[
            "node.kubernetes.io/not-ready:NoSchedule",
            "node.kubernetes.io/not-ready:NoExecute",
        ]),
    );
}

#[test]
fn evictions() {
    let tainted = json!({"taints": [{"key": "k", "effect": "NoExecute", "timeAdded": time(1000)}]});
    let node = node("True", tainted);
    let tolerates = |seconds: Value| {
        json!({"containers": [], "tolerations": [
        {"key": "k", "operator": "Exists", "tolerationSeconds": seconds}]})
    };
    let pods = [
        pod("at-once", json!({"containers": []}), json!({})),
        pod("later", tolerates(json!(300)), json!({})),
        pod("never", tolerates(Value::Null), json!({})),
        pod("over", json!({"containers": []}), json!({"phase": "Succeeded"})),
    ];
    let names = |plan: &Plan| {
        plan.evict
            .iter()
            .filter_map(|p| p.metadata.name.clone())
            .collect::<Vec<_>>()
    };
    let first = plan_at(&node, &pods, 1009, 1010);
    assert_eq!(names(&first), ["at-once"]);
    assert_eq!(names(&plan_at(&node, &pods, 1299, 1300)), ["at-once", "later"]);
}

#[test]
fn sweeping() {
    let nodes = BTreeSet::from(["one".to_string()]);
    let ended = json!({"phase": "Succeeded"});
    let pods = [
        pod("lost", json!({"containers": [], "nodeName": "gone"}), json!({})),
        pod("fine", json!({"containers": [], "nodeName": "one"}), json!({})),
        pod("done", json!({"containers": [], "nodeName": "one"}), ended.clone()),
        pod("done2", json!({"containers": [], "nodeName": "one"}), ended),
        pod("waiting", json!({"containers": []}), json!({})),
    ];
    let swept = sweep::plan(&pods, &nodes, 1);
    let shown: Vec<_> = swept
        .iter()
        .map(|(p, r)| (p.metadata.name.as_deref().unwrap_or_default(), *r))
        .collect();
    assert_eq!(shown, [("lost", Reason::NodeGone), ("done", Reason::Surplus)]);
}
