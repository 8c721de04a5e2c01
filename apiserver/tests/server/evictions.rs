//! Evictions: what they say of the pod, and which budgets stand against them.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Running, start};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn send(running: &Running, method: Method, path: &str, body: Value, wanted: u16) -> Value {
    let (code, answer) = running.send(method, path, body).await;
    assert_eq!(code, wanted, "{path}: {answer}");
    answer
}

/// A running, ready pod on a node.
async fn pod(running: &Running, name: &str) {
    let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}]});
    let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
    send(running, Method::POST, PODS, pod, 201).await;
    let status = json!({"phase": "Running", "podIP": "192.0.2.1", "conditions": [{"type": "Ready", "status": "True"}]});
    let path = format!("{PODS}/{name}/status");
    send(running, Method::PATCH, &path, json!({"status": status}), 200).await;
}

async fn evict(running: &Running, name: &str, wanted: u16) -> Value {
    let path = format!("{PODS}/{name}/eviction");
    let body = json!({"metadata": {"name": name}});
    send(running, Method::POST, &path, body, wanted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_told_why_they_go() {
    let running = start().await;
    let node = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}});
    send(&running, Method::POST, "/api/v1/nodes", node, 201).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "default"}});
    send(&running, Method::POST, accounts, account, 201).await;
    pod(&running, "a").await;
    evict(&running, "a", 201).await;
    let path = format!("{PODS}/a");
    let gone = send(&running, Method::GET, &path, Value::Null, 200).await;
    assert!(gone["metadata"]["deletionTimestamp"].is_string(), "{gone}");
    assert_eq!(gone["metadata"]["labels"]["topology.kubernetes.io/zone"], "z");
    assert_eq!(gone["status"]["podIPs"], json!([{"ip": "192.0.2.1"}]));
    let conditions = gone["status"]["conditions"].as_array().expect("conditions");
    let why = conditions
        .iter()
        .find(|c| c["type"] == "DisruptionTarget")
        .expect("a reason");
    assert_eq!(
        (&why["status"], &why["reason"]),
        (&json!("True"), &json!("EvictionByEvictionAPI"))
    );
    // Below a subresource that is an object there is nothing.
    let path = format!("{PODS}/a/status/x");
    send(&running, Method::GET, &path, Value::Null, 404).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_stand_against_evictions() {
    let running = start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "default"}});
    send(&running, Method::POST, accounts, account, 201).await;
    pod(&running, "b").await;
    let budget = |name: &str| json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": "b"}}}});
    send(&running, Method::POST, BUDGETS, budget("one"), 201).await;
    let status = json!({"observedGeneration": 1, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1});
    let path = format!("{BUDGETS}/one/status");
    send(&running, Method::PATCH, &path, json!({"status": status}), 200).await;
    let answer = evict(&running, "b", 429).await;
    let told = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert_eq!(answer["message"], told, "{answer}");
    // A body of another version than the kind has is told in the words of the first.
    let path = format!("{PODS}/b/eviction");
    let other = json!({"apiVersion": "policy/v2", "kind": "Eviction", "metadata": {"name": "b"}});
    let answer = send(&running, Method::POST, &path, other, 400).await;
    assert!(
        answer["message"]
            .as_str()
            .is_some_and(|told| told.contains("policy/v2")),
        "{answer}"
    );
    send(&running, Method::POST, BUDGETS, budget("two"), 201).await;
    let answer = evict(&running, "b", 500).await;
    let told = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    assert_eq!(
        (&answer["message"], &answer["reason"]),
        (&json!(told), &Value::Null),
        "{answer}"
    );
}
