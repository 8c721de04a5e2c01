//! What a cluster cannot be without comes back when it is deleted, and stays right.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Running, start_with};

/// How long a deleted object may be missing.
const BACK_WITHIN: Duration = Duration::from_secs(10);

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Every collection in which a cluster has objects from the start.
const COLLECTIONS: &[&str] = &[
    SERVICES,
    ENDPOINTS,
    SLICES,
    LEASES,
    "/api/v1/namespaces/kube-system/configmaps",
    "/apis/networking.k8s.io/v1/servicecidrs",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/roles",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/rolebindings",
    "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
    "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
    "/apis/scheduling.k8s.io/v1/priorityclasses",
    "/apis/apiregistration.k8s.io/v1/apiservices",
];

async fn server() -> Running {
    // Endpoints may not be on loopback.
    start_with(|config| config.advertise.0 = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))).await
}

async fn get(running: &Running, path: &str) -> Value {
    running.send(Method::GET, path, Value::Null).await.1
}

/// The names of a collection with the parts that count.
async fn contents(running: &Running, collection: &str) -> BTreeMap<String, Value> {
    let list = get(running, collection).await;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let parts = |item: &Value| {
        let parts = [
            "spec",
            "rules",
            "roleRef",
            "subjects",
            "data",
            "value",
            "subsets",
            "endpoints",
            "ports",
        ];
        let mut parts: Value = parts
            .iter()
            .map(|part| ((*part).to_owned(), item[*part].clone()))
            .collect();
        if collection == LEASES {
            parts = json!([
                item["spec"]["holderIdentity"],
                item["metadata"]["labels"],
                item["metadata"]["annotations"]
            ]);
        }
        parts
    };
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    items.iter().map(|item| (name(item), parts(item))).collect()
}

async fn all(running: &Running) -> BTreeMap<&'static str, BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for collection in COLLECTIONS {
        all.insert(*collection, contents(running, collection).await);
    }
    all
}

/// Waits until everything is as it was.
async fn back(running: &Running, wanted: &BTreeMap<&'static str, BTreeMap<String, Value>>) {
    let since = Instant::now();
    loop {
        let found = all(running).await;
        if found == *wanted {
            return;
        }
        if since.elapsed() > BACK_WITHIN {
            for (collection, wanted) in wanted {
                assert_eq!(&found[collection], wanted, "{collection}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_deleted_at_once_is_back_within_ten_seconds() {
    let running = server().await;
    let before = all(&running).await;
    for collection in COLLECTIONS {
        assert!(
            !before[collection].is_empty(),
            "{collection} has objects from the start"
        );
    }
    let mut deleted = 0;
    for (collection, objects) in &before {
        for name in objects.keys() {
            let (code, answer) = running
                .send(Method::DELETE, &format!("{collection}/{name}"), Value::Null)
                .await;
            // Some may not be deleted at all.
            assert!(
                [200, 202, 403, 404].contains(&code),
                "{collection}/{name}: {code} {answer}"
            );
            deleted += u32::from(code < 300);
        }
    }
    assert!(deleted > 100, "{deleted} objects were deleted");
    back(&running, &before).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kubernetes_puts_right_is_put_right() {
    let running = server().await;
    let before = all(&running).await;
    let flow = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/service-accounts";
    let lease = before[LEASES].keys().next().expect("a lease").clone();
    let wrong = [
        (
            format!("{SERVICES}/kubernetes"),
            json!({"spec": {"ports": [{"name": "https", "port": 444}]}}),
        ),
        (format!("{ENDPOINTS}/kubernetes"), json!({"subsets": null})),
        (
            format!("{SLICES}/kubernetes"),
            json!({"endpoints": [{"addresses": ["10.9.9.9"]}]}),
        ),
        (flow.to_owned(), json!({"spec": {"matchingPrecedence": 9001}})),
        (
            "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication".to_owned(),
            json!({"data": null}),
        ),
        (
            format!("{LEASES}/{lease}"),
            json!({"metadata": {"labels": null, "annotations": null}, "spec": {"holderIdentity": "somebody"}}),
        ),
    ];
    for (path, patch) in wrong {
        let (code, answer) = running.send(Method::PATCH, &path, patch).await;
        assert_eq!(code, 200, "{path} {answer}");
    }
    back(&running, &before).await;
    running.stop().await;
}

/// A Lease whose version is not sent cannot be replaced, so a server that forgets it renews nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_overdue_is_renewed_with_its_version() {
    let running = server().await;
    let name = contents(&running, LEASES).await.keys().next().expect("a lease").clone();
    let path = format!("{LEASES}/{name}");
    let first = get(&running, &path).await;
    let mut unversioned = first.clone();
    unversioned["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(running.send(Method::PUT, &path, unversioned).await.0, 422);
    for overdue in ["2020-01-01T00:00:00.000000Z", "9999-01-01T00:00:00.000000Z"] {
        let patch = json!({"spec": {"renewTime": overdue}});
        assert_eq!(running.send(Method::PATCH, &path, patch).await.0, 200);
        let renewed = async {
            loop {
                let live = get(&running, &path).await;
                if live["spec"]["renewTime"]
                    .as_str()
                    .is_some_and(|time| time.starts_with("20") && time != overdue)
                {
                    return live;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let live = tokio::time::timeout(BACK_WITHIN, renewed)
            .await
            .expect("renewed in time");
        assert_eq!(
            live["metadata"]["uid"], first["metadata"]["uid"],
            "it is the same Lease"
        );
    }
    running.stop().await;
}
