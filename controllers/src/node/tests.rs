use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::schema::extremes;
use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::{NoExecute, Observed, Plan, plan};
use super::sweep::{self, Reason};
use super::zones::{self, Admission, EvictionLimits, Observation, Transition, Zones};

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

fn observed(node: &Arc<Node>, pods: &[Arc<Pod>], heard_s: i64, now_s: i64) -> Observed {
    Observed {
        node: node.clone(),
        pods: pods.to_vec(),
        heard: time(heard_s),
        grace_s: 50,
        no_execute: NoExecute::Granted,
        observing_since: time(0),
        now: time(now_s),
    }
}

fn plan_at(node: &Arc<Node>, pods: &[Arc<Pod>], heard_s: i64, now_s: i64) -> Plan {
    plan(observed(node, pods, heard_s, now_s))
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
    let mut sweep = sweep::Sweep::default();
    pods.iter().for_each(|pod| sweep.look(pod, &nodes));
    let swept = sweep.plan(1);
    let shown: Vec<_> = swept.iter().map(|(key, reason)| (&*key.name, *reason)).collect();
    assert_eq!(shown, [("lost", Reason::NodeGone), ("done", Reason::Surplus)]);
}

/// Nodes of zones as (zone, ready, not ready).
fn in_zones(zones: &[(&str, usize, usize)]) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    for (zone, ready, not_ready) in zones {
        all.extend(std::iter::repeat_n((zone.to_string(), true), *ready));
        all.extend(std::iter::repeat_n((zone.to_string(), false), *not_ready));
    }
    all
}

#[test]
fn states_and_rates_of_zones() {
    use zones::ZoneState::{FullDisruption, Normal, PartialDisruption};
    let limits = EvictionLimits::default();
    for (ready, not_ready, want, rate) in [
        (0, 0, Normal, 0.1),
        (3, 0, Normal, 0.1),
        (0, 1, FullDisruption, 0.1),
        (0, 100, FullDisruption, 0.1),
        // Two nodes are too few to tell, whatever the part.
        (1, 2, Normal, 0.1),
        (2, 3, PartialDisruption, 0.0),
        (3, 3, Normal, 0.1),
        (9, 11, PartialDisruption, 0.0),
        (22, 28, PartialDisruption, 0.0),
        (22, 29, PartialDisruption, 0.01),
        (45, 55, PartialDisruption, 0.01),
        (46, 54, Normal, 0.1),
    ] {
        let state = zones::state(ready, not_ready, &limits);
        assert_eq!(state, want, "{ready} {not_ready}");
        let found = zones::rate(state, ready + not_ready, &limits);
        assert!((found - rate).abs() < 1e-9, "{ready} {not_ready}: {found}");
    }
}

#[test]
fn zones_are_regions_and_zones() {
    let of = |labels: Value| {
        let node: Node = serde_json::from_value(json!({"metadata": {"labels": labels}})).expect("a node");
        zones::zone_of(&node)
    };
    assert_eq!(of(json!({})), "");
    assert_eq!(of(json!({"topology.kubernetes.io/zone": "a"})), ":\0:a");
    let both = json!({"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r"});
    assert_eq!(of(both), "r:\0:a");
    assert_eq!(of(json!({"failure-domain.beta.kubernetes.io/zone": "a"})), ":\0:a");
}

#[test]
fn evictions_slow_down_and_stop() {
    let limits = EvictionLimits::default();
    let mut all = Zones::default();
    let admitted = |all: &mut Zones, zone: &str, from_s: i64, for_s: i64| {
        let granted = (from_s..from_s + for_s).filter(|s| all.admit(zone, time(*s)) == Admission::Granted);
        granted.count()
    };
    // Healthy: the first at once, then one in ten seconds.
    all.observe(&in_zones(&[("a", 98, 2), ("b", 100, 0)]), &limits, time(0));
    assert_eq!(all.transition(), Transition::None);
    assert_eq!(admitted(&mut all, "a", 0, 100), 10);
    // Most of a large zone: one in a hundred seconds. Of a small one: none.
    all.observe(&in_zones(&[("a", 40, 60), ("b", 4, 6)]), &limits, time(100));
    assert_eq!(all.transition(), Transition::ZoneChanged);
    let _ = all.admit("a", time(100));
    assert_eq!(admitted(&mut all, "a", 101, 1000), 10);
    assert_eq!(admitted(&mut all, "b", 101, 1000), 0);
    assert_eq!(all.admit("b", time(1101)), Admission::Wait(None));
    // One zone all silent, while another is not: the normal rate.
    all.observe(&in_zones(&[("a", 0, 100), ("b", 10, 0)]), &limits, time(2000));
    assert_eq!(all.transition(), Transition::ZoneChanged);
    assert_eq!(admitted(&mut all, "a", 2000, 100), 10);
    // Everything silent: nothing, whatever the zone.
    all.observe(&in_zones(&[("a", 0, 100), ("b", 0, 10)]), &limits, time(3000));
    assert_eq!(all.admit("a", time(3000)), Admission::Suspended);
    assert_eq!(all.transition(), Transition::AllDisrupted);
    all.observe(&in_zones(&[("a", 0, 100), ("b", 0, 10)]), &limits, time(3500));
    assert_eq!(all.transition(), Transition::None);
    assert_eq!(admitted(&mut all, "a", 3000, 1000), 0);
    // One comes back: what had accrued is not spent, and nothing is before the transition was handled.
    all.observe(&in_zones(&[("a", 99, 1), ("b", 0, 10)]), &limits, time(4000));
    assert_eq!(all.admit("a", time(4000)), Admission::Suspended);
    assert_eq!(all.transition(), Transition::Recovered);
    assert!(matches!(all.admit("a", time(4000)), Admission::Wait(Some(_))));
    assert_eq!(admitted(&mut all, "a", 4000, 100), 9);
    // A zone that is gone is forgotten.
    all.observe(&in_zones(&[("b", 10, 0)]), &limits, time(5000));
    assert_eq!(all.admit("a", time(5000)), Admission::Wait(None));
}

#[test]
fn a_single_node_that_is_silent_is_not_emptied() {
    let mut all = Zones::default();
    all.observe(&in_zones(&[(":\0:local", 0, 1)]), &EvictionLimits::default(), time(0));
    assert_eq!(all.transition(), Transition::AllDisrupted);
    assert_eq!(all.admit(":\0:local", time(10)), Admission::Suspended);
}

#[test]
fn taints_follow_the_admission() {
    let taint = |key: &str| json!({"key": key, "effect": "NoExecute", "timeAdded": time(900)});
    let soft = |key: &str| json!({"key": key, "effect": "NoSchedule", "timeAdded": time(900)});
    let (lost, unready) = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready");
    let wait = NoExecute::Wait(Some(Duration::from_secs(7)));
    let effects = |plan: &Plan, node: &Node| {
        let before = node.spec.as_ref().and_then(|s| s.taints.clone());
        let taints = plan.taints.clone().or(before).unwrap_or_default();
        let no_execute = taints.iter().filter(|t| t.effect == "NoExecute");
        no_execute.map(|t| t.key.clone()).collect::<Vec<_>>()
    };
    for (ready, before, no_execute, want) in [
        ("Unknown", vec![], NoExecute::Granted, vec![lost]),
        ("Unknown", vec![], wait, vec![]),
        ("Unknown", vec![], NoExecute::Suspended, vec![]),
        ("Unknown", vec![taint(lost)], NoExecute::Suspended, vec![]),
        ("Unknown", vec![taint(lost)], wait, vec![lost]),
        // One replaces the other without a new permission.
        ("Unknown", vec![taint(unready)], wait, vec![lost]),
        ("False", vec![taint(lost)], wait, vec![unready]),
        ("True", vec![taint(lost)], NoExecute::Granted, vec![]),
        // What an administrator has set stays.
        ("Unknown", vec![taint("mine")], NoExecute::Suspended, vec!["mine"]),
    ] {
        let mut taints = before;
        taints.push(soft(lost));
        let node = node(ready, json!({"taints": taints}));
        let plan = plan(Observed {
            no_execute,
            ..observed(&node, &[], 1000, 1001)
        });
        assert_eq!(effects(&plan, &node), want, "{ready} {no_execute:?}");
        if no_execute == wait {
            assert_eq!(plan.requeue_after, Some(Duration::from_secs(7)));
        }
    }
}

#[test]
fn a_control_plane_that_was_away_evicts_nobody() {
    // It tainted the node, was away for five minutes, and is back for ten seconds.
    let tainted = json!({"taints": [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": time(1000)}]});
    let node = node("Unknown", tainted);
    let tolerates = json!({"containers": [], "tolerations": [
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300}]});
    let pods = [pod("patient", tolerates, json!({}))];
    let evicted = |since_s: i64, now_s: i64| {
        let plan = plan(Observed {
            observing_since: time(since_s),
            ..observed(&node, &pods, now_s, now_s)
        });
        plan.evict.len()
    };
    assert_eq!(evicted(900, 1310), 1);
    assert_eq!(evicted(1300, 1310), 0);
    assert_eq!(evicted(1300, 1599), 0);
    assert_eq!(evicted(1300, 1600), 1);
}

#[test]
fn gaps_in_the_observation_begin_it_anew() {
    let gap = Duration::from_secs(30);
    let mut observation = Observation::new(time(0));
    for (now_s, interrupted, since_s) in [
        (5, false, 0),
        (35, false, 0),
        // Paused for five minutes.
        (335, true, 335),
        (340, false, 335),
        // The clock was set back.
        (100, true, 100),
        (105, false, 100),
    ] {
        assert_eq!(observation.look(gap, time(now_s)), interrupted, "{now_s}");
        assert_eq!(observation.since, time(since_s), "{now_s}");
    }
}

/// Whatever a node and its pods say, there is a plan.
#[test]
fn extremes_of_every_field_have_a_plan() {
    let tainted = json!({"taints": [{"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]});
    let base = serde_json::to_value(&*node("Unknown", tainted)).expect("JSON");
    let tolerating = json!({"tolerations": [{"key": "k", "tolerationSeconds": 1}], "containers": []});
    let one = serde_json::to_value(&*pod("a", tolerating, json!({}))).expect("JSON");
    let planned = |node: &Value, pod: &Value| {
        let (Ok(node), Ok(pod)) = (
            serde_json::from_value(node.clone()),
            serde_json::from_value(pod.clone()),
        ) else {
            return;
        };
        let (node, pods) = (Arc::new(node), [Arc::new(pod)]);
        for (heard, now) in [(0, 1000), (1000, 0), (-62_135_596_800, 253_402_207_199)] {
            plan_at(&node, &pods, heard, now);
        }
    };
    for change in extremes::changes("io.k8s.api.core.v1.Node", &base) {
        planned(&change.object, &one);
    }
    for change in extremes::changes("io.k8s.api.core.v1.Pod", &one) {
        if !change.field.contains("ontainers[0]") {
            planned(&base, &change.object);
        }
    }
}
