//! One piece of work for every controller and the scheduler, and what shows that it was done.

use base64::Engine as _;
use http::Method;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::objects;

const PODS: &str = "/api/v1/namespaces/canary/pods";
const APPS: &str = "/apis/apps/v1/namespaces/canary";

/// All of them. They do not wait for each other.
pub async fn all(cluster: &Cluster) {
    tokio::join!(
        job(cluster),
        cron_job(cluster),
        deployment(cluster),
        stateful_set(cluster),
        daemon_set(cluster),
        replication_controller(cluster),
        service(cluster),
        budget_and_quota(cluster),
        scaler(cluster),
        certificate(cluster),
        namespace_and_account(cluster),
        garbage(cluster),
        claim(cluster),
        aggregation(cluster),
    );
    node(cluster).await;
}

async fn create(cluster: &Cluster, collection: &str, object: Value) {
    let (code, answer) = cluster.send(Method::POST, collection, &object).await;
    assert_eq!(code, 201, "{collection}: {answer}");
}

fn of(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Pods with the label, all on a node.
async fn scheduled(cluster: &Cluster, app: &str, count: usize) -> Vec<Value> {
    let path = format!("{PODS}?labelSelector=app%3D{app}");
    let list = cluster
        .until_object(&path, |list| {
            let on_node = of(list).iter().filter(|pod| pod["spec"]["nodeName"].is_string());
            of(list).len() == count && on_node.count() == count
        })
        .await;
    of(&list).to_vec()
}

fn workload(name: &str, more: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

/// Makes a pod's status what an agent would report.
async fn report(cluster: &Cluster, pod: &Value, phase: &str) {
    let ready = if phase == "Running" { "True" } else { "False" };
    let status = json!({"status": {
        "phase": phase, "podIP": "10.244.9.9", "podIPs": [{"ip": "10.244.9.9"}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }});
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("{PODS}/{name}/status");
    let (code, answer) = cluster.send(Method::PATCH, &path, &status).await;
    assert_eq!(code, 200, "{answer}");
}

/// A Job whose pod succeeds completes.
pub async fn job(cluster: &Cluster) {
    let jobs = "/apis/batch/v1/namespaces/canary/jobs";
    create(cluster, jobs, objects::job("canary-job")).await;
    for pod in scheduled(cluster, "canary-job", 1).await {
        report(cluster, &pod, "Succeeded").await;
    }
    cluster
        .until_object(&format!("{jobs}/canary-job"), |job| job["status"]["succeeded"] == 1)
        .await;
}

async fn cron_job(cluster: &Cluster) {
    let object = json!({
        "metadata": {"name": "canary-cron"},
        "spec": {"schedule": "@every 1s", "jobTemplate": {"spec": objects::job("x")["spec"]}},
    });
    create(cluster, "/apis/batch/v1/namespaces/canary/cronjobs", object).await;
    cluster
        .until_object("/apis/batch/v1/namespaces/canary/jobs", |list| {
            let owner = |job: &&Value| job["metadata"]["ownerReferences"][0]["name"] == "canary-cron";
            of(list).iter().any(|job| owner(&job))
        })
        .await;
    let path = "/apis/batch/v1/namespaces/canary/cronjobs/canary-cron";
    cluster.send(Method::DELETE, path, &Value::Null).await;
}

async fn deployment(cluster: &Cluster) {
    let collection = format!("{APPS}/deployments");
    create(
        cluster,
        &collection,
        workload("canary-deployment", json!({"replicas": 1})),
    )
    .await;
    scheduled(cluster, "canary-deployment", 1).await;
    let path = format!("{collection}/canary-deployment");
    let scale = json!({"spec": {"replicas": 2}});
    assert_eq!(cluster.send(Method::PATCH, &path, &scale).await.0, 200);
    for pod in scheduled(cluster, "canary-deployment", 2).await {
        report(cluster, &pod, "Running").await;
    }
    cluster
        .until_object(&path, |set| set["status"]["availableReplicas"] == 2)
        .await;
}

async fn stateful_set(cluster: &Cluster) {
    let more = json!({"replicas": 1, "serviceName": "s"});
    create(
        cluster,
        &format!("{APPS}/statefulsets"),
        workload("canary-stateful", more),
    )
    .await;
    scheduled(cluster, "canary-stateful", 1).await;
}

async fn daemon_set(cluster: &Cluster) {
    create(
        cluster,
        &format!("{APPS}/daemonsets"),
        workload("canary-daemon", json!({})),
    )
    .await;
    cluster
        .until_object(&format!("{PODS}?labelSelector=app%3Dcanary-daemon"), |list| {
            !of(list).is_empty()
        })
        .await;
}

async fn replication_controller(cluster: &Cluster) {
    let mut object = workload("canary-controller", json!({"replicas": 1}));
    object["spec"]["selector"] = json!({"app": "canary-controller"});
    create(cluster, "/api/v1/namespaces/canary/replicationcontrollers", object).await;
    scheduled(cluster, "canary-controller", 1).await;
}

/// Endpoints, EndpointSlices, and slices that mirror Endpoints.
async fn service(cluster: &Cluster) {
    let pod = json!({
        "metadata": {"name": "canary-served", "labels": {"app": "canary-served"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    create(cluster, PODS, pod).await;
    let services = "/api/v1/namespaces/canary/services";
    let ports = json!([{"port": 80}]);
    let selecting = json!({"metadata": {"name": "selecting"}, "spec": {
        "selector": {"app": "canary-served"}, "ports": ports,
    }});
    create(cluster, services, selecting).await;
    create(
        cluster,
        services,
        json!({"metadata": {"name": "mirrored"}, "spec": {"ports": ports}}),
    )
    .await;
    let endpoints = json!({"metadata": {"name": "mirrored"}, "subsets": [
        {"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]},
    ]});
    create(cluster, "/api/v1/namespaces/canary/endpoints", endpoints).await;
    for pod in scheduled(cluster, "canary-served", 1).await {
        report(cluster, &pod, "Running").await;
    }
    let path = "/api/v1/namespaces/canary/endpoints/selecting";
    cluster
        .until_object(path, |found| found["subsets"][0]["addresses"][0]["ip"] == "10.244.9.9")
        .await;
    for (name, address) in [("selecting", "10.244.9.9"), ("mirrored", "10.1.2.3")] {
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/canary/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
        );
        let has = |slice: &Value| slice["endpoints"][0]["addresses"][0] == *address;
        cluster.until_object(&path, |list| of(list).iter().any(has)).await;
    }
}

async fn budget_and_quota(cluster: &Cluster) {
    let budgets = "/apis/policy/v1/namespaces/canary/poddisruptionbudgets";
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    create(cluster, budgets, budget).await;
    cluster
        .until_object(&format!("{budgets}/b"), |found| {
            found["status"]["observedGeneration"] == 1
        })
        .await;
    let quotas = "/api/v1/namespaces/canary/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "5"}}});
    create(cluster, quotas, quota).await;
    cluster
        .until_object(&format!("{quotas}/q"), |found| {
            found["status"]["used"]["count/configmaps"].is_string()
        })
        .await;
}

async fn scaler(cluster: &Cluster) {
    let scalers = "/apis/autoscaling/v2/namespaces/canary/horizontalpodautoscalers";
    let object = json!({"metadata": {"name": "s"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "none"}, "maxReplicas": 2,
    }});
    create(cluster, scalers, object).await;
    cluster
        .until_object(&format!("{scalers}/s"), |found| {
            found["status"]["conditions"].is_array()
        })
        .await;
}

async fn certificate(cluster: &Cluster) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    let request = names.serialize_request(&key).expect("a request").pem().expect("a text");
    let request = base64::engine::general_purpose::STANDARD.encode(request);
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let object = json!({"metadata": {"name": "canary"}, "spec": {
        "request": request, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
        "expirationSeconds": i32::MAX,
    }});
    create(cluster, requests, object).await;
    let approved = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "Canary", "message": "m"},
    ]}});
    let path = format!("{requests}/canary");
    let (code, answer) = cluster
        .send(Method::PATCH, &format!("{path}/approval"), &approved)
        .await;
    assert_eq!(code, 200, "{answer}");
    cluster
        .until_object(&path, |found| found["status"]["certificate"].is_string())
        .await;
}

/// A namespace gets what every one has, gets it back, and is emptied.
async fn namespace_and_account(cluster: &Cluster) {
    create(
        cluster,
        "/api/v1/namespaces",
        json!({"metadata": {"name": "canary-short"}}),
    )
    .await;
    let path = "/api/v1/namespaces/canary-short";
    for own in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
        let own = format!("{path}/{own}");
        let uid = cluster.until_object(&own, |_| true).await["metadata"]["uid"].clone();
        assert_eq!(cluster.send(Method::DELETE, &own, &Value::Null).await.0, 200);
        cluster
            .until_object(&own, |again| again["metadata"]["uid"] != uid)
            .await;
    }
    create(
        cluster,
        &format!("{path}/configmaps"),
        json!({"metadata": {"name": "c"}}),
    )
    .await;
    assert_eq!(cluster.send(Method::DELETE, path, &Value::Null).await.0, 200);
    cluster.until(path, |(code, _)| *code == 404).await;
}

async fn garbage(cluster: &Cluster) {
    let maps = "/api/v1/namespaces/canary/configmaps";
    create(cluster, maps, json!({"metadata": {"name": "owner"}})).await;
    let (_, owner) = cluster.send(Method::GET, &format!("{maps}/owner"), &Value::Null).await;
    let owned = json!({"metadata": {"name": "owned", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]},
    ]}});
    create(cluster, maps, owned).await;
    cluster
        .send(Method::DELETE, &format!("{maps}/owner"), &Value::Null)
        .await;
    cluster.until(&format!("{maps}/owned"), |(code, _)| *code == 404).await;
}

/// A claim that nobody uses goes although it is protected.
async fn claim(cluster: &Cluster) {
    let claims = "/api/v1/namespaces/canary/persistentvolumeclaims";
    let object = json!({"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }});
    create(cluster, claims, object).await;
    let path = format!("{claims}/c");
    assert_eq!(cluster.send(Method::DELETE, &path, &Value::Null).await.0, 200);
    cluster.until(&path, |(code, _)| *code == 404).await;
}

async fn aggregation(cluster: &Cluster) {
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let part = json!({
        "metadata": {"name": "canary-part", "labels": {"canary": "yes"}},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    });
    create(cluster, roles, part).await;
    let whole = json!({"metadata": {"name": "canary-whole"}, "aggregationRule": {
        "clusterRoleSelectors": [{"matchLabels": {"canary": "yes"}}],
    }});
    create(cluster, roles, whole).await;
    cluster
        .until_object(&format!("{roles}/canary-whole"), |role| {
            role["rules"][0]["resources"][0] == "pods"
        })
        .await;
}

/// A new node gets its part of the pod network.
async fn node(cluster: &Cluster) {
    create(cluster, "/api/v1/nodes", json!({"metadata": {"name": "canary"}})).await;
    cluster
        .until_object("/api/v1/nodes/canary", |node| node["spec"]["podCIDR"].is_string())
        .await;
}
