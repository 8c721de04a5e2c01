//! Decisions as tables: nodes and pods in, a node or the user's sentence out.

use std::sync::Arc;

use coxswain_client::ObjectKey;
use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::cycle::{Decision, schedule};
use super::pod::PodInfo;
use super::queue::Queue;
use super::snapshot::Snapshot;

fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
    merge(&mut node, extra);
    Arc::new(serde_json::from_value(node).expect("a node"))
}

fn pod(name: &str, extra: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}]}});
    merge(&mut pod, extra);
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) if !from.is_null() => *into = from,
        _ => {}
    }
}

fn asks(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn cluster(nodes: &[Arc<Node>], pods: &[(&str, Arc<Pod>)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node.metadata.name.as_deref().unwrap_or_default(), Some(node.clone()));
    }
    for (place, pod) in pods {
        snapshot.place(Arc::new(PodInfo::new(pod.clone())), place);
    }
    snapshot
}

fn check(nodes: &[Arc<Node>], pods: &[(&str, Arc<Pod>)], new: Value, want: &str) {
    let info = PodInfo::new(pod("new", new));
    let got = match schedule(&info, &cluster(nodes, pods), 0) {
        Decision::Bind { node } => node,
        Decision::Unschedulable(explain) => explain.to_string(),
        Decision::Preempt(p, _) => {
            let victims: Vec<&str> = p.victims.iter().map(|v| &*v.name).collect();
            format!("{} without {}", p.node, victims.join(" "))
        }
    };
    assert_eq!(got, want);
}

const NO_HELP: &str =
    "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str =
    "no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

const NEVER: &str = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.";

#[test]
fn refusals_in_the_words_of_the_field() {
    let one = [node("n1", json!({}))];
    let refused = |reason: &str, after: &str| format!("0/1 nodes are available: 1 {reason}. {after}");
    check(&[], &[], json!({}), "no nodes available to schedule pods");
    check(&one, &[], json!({}), "n1");
    check(&one, &[], asks("3"), &refused("Insufficient cpu", NO_HELP));
    check(
        &one,
        &[("n1", pod("old", asks("1")))],
        asks("2"),
        &refused("Insufficient cpu", NO_VICTIMS),
    );
    let both =
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3", "memory": "8Gi"}}}]}});
    check(
        &one,
        &[],
        both,
        &refused("Insufficient cpu, 1 Insufficient memory", NO_HELP),
    );
    check(
        &one,
        &[],
        json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
        &refused("node(s) didn't match Pod's node affinity/selector", NO_HELP),
    );
    check(
        &[node("n1", json!({"spec": {"unschedulable": true}}))],
        &[],
        json!({}),
        &refused("node(s) were unschedulable", NO_HELP),
    );
    let tainted = [node(
        "n1",
        json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
    )];
    check(
        &tainted,
        &[],
        json!({}),
        &refused("node(s) had untolerated taint(s)", NO_HELP),
    );
    check(
        &tainted,
        &[],
        json!({"spec": {"tolerations": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
        "n1",
    );
    let port = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    check(
        &one,
        &[("n1", pod("old", port.clone()))],
        port,
        &refused("node(s) didn't have free ports for the requested pod ports", NO_VICTIMS),
    );
    let full = [node("n1", json!({"status": {"allocatable": {"pods": "1"}}}))];
    check(
        &full,
        &[("n1", pod("old", json!({})))],
        json!({}),
        &refused("Too many pods", NO_VICTIMS),
    );
}

#[test]
fn pods_go_where_there_is_room() {
    let two = [node("n1", json!({})), node("n2", json!({}))];
    check(&two, &[("n1", pod("old", asks("1500m")))], asks("1"), "n2");
    check(&two, &[("n1", pod("old", asks("500m")))], asks("500m"), "n2");
    let init = json!({"spec": {"initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1900m"}}}]}});
    check(&two, &[("n1", pod("old", asks("500m")))], init, "n2");
}

#[test]
fn spread_and_affinity() {
    let zone = |name: &str, zone: &str| {
        node(
            name,
            json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}),
        )
    };
    let nodes = [zone("n1", "a"), zone("n2", "b")];
    // The key that old manifests use means the same zones.
    let spread = |key: &str| {
        json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
               "labelSelector": {"matchLabels": {"app": "web"}}}]}})
    };
    for key in ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"] {
        check(&nodes, &[("n1", pod("old", json!({})))], spread(key), "n2");
    }
    let missing =
        "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label). ";
    check(
        &[node("n1", json!({}))],
        &[],
        spread("topology.kubernetes.io/zone"),
        &format!("{missing}{NO_HELP}"),
    );
    let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let apart =
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}}});
    let together =
        json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}}});
    check(&nodes, &[("n1", pod("old", json!({})))], apart.clone(), "n2");
    check(&nodes, &[("n2", pod("old", json!({})))], together.clone(), "n2");
    check(&nodes[..1], &[], together, "n1");
    let refused = "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. ";
    check(
        &nodes[..1],
        &[("n1", pod("old", apart))],
        json!({}),
        &format!("{refused}{NO_VICTIMS}"),
    );
}

#[test]
fn important_pods_make_room_cheaply() {
    let one = [node("n1", json!({}))];
    let with = |name: &str, cpu: &str, priority: i32| {
        let mut p = asks(cpu);
        p["spec"]["priority"] = json!(priority);
        pod(name, p)
    };
    let mut important = asks("1");
    important["spec"]["priority"] = json!(100);
    check(
        &one,
        &[("n1", with("a", "1", 10)), ("n1", with("b", "1", 5))],
        important.clone(),
        "n1 without b",
    );
    let mut polite = important;
    polite["spec"]["preemptionPolicy"] = json!("Never");
    check(&one, &[("n1", with("a", "2", 10))], polite, NEVER);
}

#[test]
fn the_queue_serves_important_and_old_pods_first() {
    let key = |name: &str| ObjectKey::new("default", name);
    let mut queue = Queue::default();
    queue.add(&key("young"), 0, 20);
    queue.add(&key("old"), 0, 10);
    queue.add(&key("important"), 5, 30);
    let mut order = Vec::new();
    while let Some(k) = queue.pop() {
        order.push(k.name.to_string());
    }
    assert_eq!(order, ["important", "old", "young"]);
    queue.failed(&key("old"), 0, true);
    queue.failed(&key("young"), 0, false);
    assert_eq!(queue.next_ms(), Some(1_000));
    queue.tick(1_000);
    assert_eq!(queue.pop().map(|k| k.name.to_string()).as_deref(), Some("young"));
    assert_eq!(queue.pop(), None);
    queue.room_appeared(1_000);
    assert_eq!(queue.pop().map(|k| k.name.to_string()).as_deref(), Some("old"));
    queue.failed(&key("old"), 1_000, true);
    queue.room_appeared(1_500);
    assert_eq!(queue.pop(), None, "the second wait is two seconds");
    queue.tick(3_000);
    assert_eq!(queue.pop().map(|k| k.name.to_string()).as_deref(), Some("old"));
    queue.remove(&key("old"));
    queue.failed(&key("old"), 3_000, true);
    assert_eq!(queue.next_ms(), None);
}

proptest! {
    /// Whatever comes and goes, the sums of a node are those of its pods.
    #[test]
    fn sums_never_drift(steps in proptest::collection::vec((0_usize..6, 0_usize..3, 0_i64..2000), 1..60)) {
        let mut snapshot = cluster(&[node("n0", json!({})), node("n1", json!({}))], &[]);
        for (who, place, milli) in steps {
            let name = format!("p{who}");
            let pod = pod(&name, asks(&format!("{milli}m")));
            let key = ObjectKey::of(&pod.metadata);
            match place {
                2 => snapshot.set_pod(&key, None),
                n => snapshot.place(Arc::new(PodInfo::new(pod)), &format!("n{n}")),
            }
        }
        for node in snapshot.nodes() {
            let sum: i64 = node.pods.values().map(|p| p.requests.get("cpu")).sum();
            prop_assert_eq!(node.used.get("cpu"), sum);
        }
    }
}

/// Whatever pods and nodes say, there is a decision, and whoever goes takes along no more than it brought.
#[test]
fn extremes_of_every_field_have_a_decision() {
    use coxswain_api::schema::extremes;
    let preferring = json!({
        "metadata": {"name": "new", "namespace": "default", "uid": "new", "labels": {"app": "web"}},
        "spec": {
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}],
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}],
            "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1,
                "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"app": "web"}}}}]}}}});
    let named = json!({
        "metadata": {"name": "one", "labels": {"kubernetes.io/hostname": "one"}}, "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"},
            "images": [{"names": ["i"], "sizeBytes": 1}]}});
    let [one, two] = ["one", "two"].map(|name| node(name, json!({})));
    let decide = |new: &Arc<Pod>, there: &Arc<Pod>, node: &Arc<Node>| {
        let mut snapshot = cluster(
            &[node.clone(), two.clone()],
            &[("one", there.clone()), ("two", pod("b", asks("1")))],
        );
        let _ = schedule(&PodInfo::new(new.clone()), &snapshot, 7);
        snapshot.forget(&PodInfo::new(there.clone()).key);
        let _ = schedule(&PodInfo::new(new.clone()), &snapshot, 7);
    };
    let plain = pod("a", asks("1"));
    for change in extremes::changes("io.k8s.api.core.v1.Pod", &preferring) {
        let Ok(changed) = serde_json::from_value::<Pod>(change.object) else {
            continue;
        };
        let changed = Arc::new(changed);
        decide(&changed, &plain, &one);
        decide(&plain, &changed, &one);
    }
    let new: Arc<Pod> = Arc::new(serde_json::from_value(preferring).expect("a pod"));
    for change in extremes::changes("io.k8s.api.core.v1.Node", &named) {
        if let Ok(changed) = serde_json::from_value::<Node>(change.object) {
            decide(&new, &plain, &Arc::new(changed));
        }
    }
}

/// Sums that reached the largest number are added up again: nothing is left behind, and nothing is missing.
#[test]
fn a_pod_that_asks_for_everything_leaves_the_sums_right() {
    let most = |name: &str| {
        pod(
            name,
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "9223372036854775807"}}}]}}),
        )
    };
    let asks_1 = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"memory": "1"}}}]}});
    let mut info = super::node::NodeInfo::new("one");
    for pod in [most("a"), pod("small", asks_1), most("b")] {
        info.add(Arc::new(PodInfo::new(pod)));
    }
    assert_eq!(info.used.get("memory"), i64::MAX);
    for gone in ["b", "a"] {
        info.remove(&ObjectKey::new("default", gone));
    }
    assert_eq!(info.used.get("memory"), 1);
    info.remove(&ObjectKey::new("default", "small"));
    assert_eq!(info.used.get("memory"), 0);
}
