//! Admission and validation on every way in: what is checked on create is checked where it can be changed later, and
//! what is posted below an object is checked like an object.

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};
use tower::Service;

use crate::harness::{Running, start, user};
use crate::rights::{discovered, grant};

async fn make(running: &Running, path: &str, body: Value) {
    let (code, answer) = running.send(Method::POST, path, body).await;
    assert_eq!(code, 201, "{path}: {answer}");
}

/// Makes a namespace with an account for pods, and returns its path.
async fn namespace(running: &Running, metadata: Value) -> String {
    let home = format!("/api/v1/namespaces/{}", metadata["name"].as_str().expect("a name"));
    make(running, "/api/v1/namespaces", json!({"metadata": metadata})).await;
    let account = json!({"metadata": {"name": "default"}});
    make(running, &format!("{home}/serviceaccounts"), account).await;
    home
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

/// A strategic merge patch by an administrator.
async fn patch(running: &Running, path: &str, body: &Value) -> (u16, Value) {
    let request = Request::patch(path).header("content-type", "application/strategic-merge-patch+json");
    let request = request.body(Body::from(body.to_string())).expect("a request");
    let root = user("tester", &["system:masters"]);
    let reply = running.server.in_process(root).call(request).await.expect("an answer");
    let code = reply.status().as_u16();
    let bytes = axum::body::to_bytes(reply.into_body(), 1 << 20).await.expect("a body");
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

/// Whatever can be posted below an object is refused in a namespace that ends, and in one that is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_posted_into_a_namespace_that_ends() {
    let running = start().await;
    let home = namespace(&running, json!({"name": "term", "finalizers": ["a.example/b"]})).await;
    make(&running, &format!("{home}/pods"), pod("default", json!({}))).await;
    let (code, _) = running.send(Method::DELETE, &home, Value::Null).await;
    assert_eq!(code, 200);
    let mut tried = Vec::new();
    for (root, name, namespaced, verbs) in discovered(&running).await {
        let streams = ["exec", "attach", "portforward", "proxy"];
        let reviews = name == "localsubjectaccessreviews";
        let (plural, sub) = name.split_once('/').unwrap_or((&name, ""));
        let creates = namespaced && verbs.iter().any(|verb| verb == "create");
        if !creates || streams.contains(&sub) || reviews || (sub.is_empty() && plural != "bindings") {
            continue;
        }
        let end = if sub.is_empty() {
            String::new()
        } else {
            format!("/default/{sub}")
        };
        let body = json!({"metadata": {"name": "default"}, "target": {"kind": "Node", "name": "n"}});
        for (namespace, code, told) in [
            (
                "term",
                403,
                "unable to create new content in namespace term because it is being terminated",
            ),
            ("absent", 404, "namespaces \"absent\" not found"),
        ] {
            let path = format!("{root}/namespaces/{namespace}/{plural}{end}");
            let (got, answer) = running.send(Method::POST, &path, body.clone()).await;
            assert!(got == code && message(&answer).contains(told), "{path}: {got} {answer}");
        }
        tried.push(name);
    }
    for known in ["bindings", "pods/binding", "pods/eviction", "serviceaccounts/token"] {
        assert!(tried.iter().any(|name| name == known), "{tried:?}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_quotas_hold_on_resize() {
    let running = start().await;
    let home = namespace(&running, json!({"name": "lim"})).await;
    let of = |request: &str, limit: &str| json!({"requests": {"cpu": request}, "limits": {"cpu": limit}});
    let container = |resources: Value| json!({"containers": [{"name": "c", "image": "i", "resources": resources}]});
    make(
        &running,
        &format!("{home}/pods"),
        pod("p", container(of("100m", "200m"))),
    )
    .await;
    let limits = json!([
        {"type": "Container", "max": {"cpu": "500m"}, "min": {"cpu": "50m"}},
        {"type": "Pod", "max": {"cpu": "600m"}},
    ]);
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": limits}});
    make(&running, &format!("{home}/limitranges"), range).await;
    let path = format!("{home}/pods/p/resize");
    for (request, limit, code, told) in [
        (
            "700m",
            "900m",
            403,
            "pods \"p\" is forbidden: [maximum cpu usage per Container is 500m, but limit is 900m, maximum cpu usage per Pod is 600m, but limit is 900m]",
        ),
        (
            "10m",
            "400m",
            403,
            "minimum cpu usage per Container is 50m, but request is 10m",
        ),
        ("150m", "400m", 200, ""),
    ] {
        let body = json!({"spec": container(of(request, limit))});
        let (got, answer) = patch(&running, &path, &body).await;
        assert!(
            got == code && message(&answer).contains(told),
            "{request} {limit}: {got} {answer}"
        );
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_bind_no_pods_whichever_way_they_ask() {
    let running = start().await;
    let home = namespace(&running, json!({"name": "foo"})).await;
    make(&running, "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    make(&running, &format!("{home}/pods"), pod("p", json!({}))).await;
    // Roles of their own do not help a node.
    grant(
        &running,
        "system:node:n",
        "",
        json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]),
    )
    .await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    for (method, path, body) in [
        (Method::POST, "pods/p/binding", &binding),
        (Method::POST, "bindings", &binding),
        (Method::PATCH, "pods/p/resize", &label),
        (Method::PATCH, "pods/p/ephemeralcontainers", &label),
        (Method::PUT, "pods/p/resize", &pod("p", json!({}))),
    ] {
        let node = user("system:node:n", &["system:nodes", "system:authenticated"]);
        let (code, answer) = running
            .send_as(node, method, &format!("{home}/{path}"), body.clone())
            .await;
        let refused = code == 403 && message(&answer).contains("unexpected pod subresource");
        assert!(refused, "{path}: {code} {answer}");
    }
    let (_, pod) = running.send(Method::GET, &format!("{home}/pods/p"), Value::Null).await;
    assert_eq!(pod["spec"]["nodeName"], Value::Null, "{pod}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_binding_brings_is_validated() {
    let running = start().await;
    let home = namespace(&running, json!({"name": "foo"})).await;
    make(&running, &format!("{home}/pods"), pod("p", json!({}))).await;
    let long = "x".repeat(300_000);
    for (metadata, field) in [
        (json!({"labels": {"bad key!": "x"}}), "metadata.labels"),
        (json!({"labels": {"a": "bad value!"}}), "metadata.labels"),
        (json!({"annotations": {"bad key!": "x"}}), "metadata.annotations"),
        (json!({"annotations": {"a": long}}), "metadata.annotations"),
    ] {
        for path in ["pods/p/binding", "bindings"] {
            let mut body = json!({"metadata": metadata, "target": {"kind": "Node", "name": "n"}});
            body["metadata"]["name"] = "p".into();
            let (code, answer) = running.send(Method::POST, &format!("{home}/{path}"), body).await;
            let cause = &answer["details"]["causes"][0]["field"];
            assert_eq!((code, cause), (422, &json!(field)), "{path}: {}", message(&answer));
        }
    }
    let body = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "target": {"kind": "Node", "name": "n"}});
    make(&running, &format!("{home}/pods/p/binding"), body).await;
    running.stop().await;
}

/// Mirror pods refer to nothing, and accounts that say so keep their pods to the secrets that they list, also in
/// containers that come later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_refer_to_what_their_account_lets_them() {
    let running = start().await;
    let home = namespace(&running, json!({"name": "foo"})).await;
    let strict = json!({
        "metadata": {"name": "strict", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "ok"}], "imagePullSecrets": [{"name": "ok"}],
    });
    make(&running, &format!("{home}/serviceaccounts"), strict).await;
    let from = |name: &str| json!({"name": "d", "image": "i", "envFrom": [{"secretRef": {"name": name}}]});
    let key = json!({"name": "E", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k"}}});
    let volume = |name: &str| json!([{"name": "v", "secret": {"secretName": name}}]);
    let token = json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]);
    let cases = [
        (false, json!({"volumes": volume("ok")}), ""),
        (
            false,
            json!({"volumes": volume("no")}),
            "volume with secret.secretName=\"no\" is not allowed because service account strict does not reference that secret",
        ),
        (false, json!({"containers": [from("ok")]}), ""),
        (
            false,
            json!({"containers": [from("no")]}),
            "container d with envFrom referencing secret.secretName=\"no\" is not allowed because service account strict",
        ),
        (
            false,
            json!({"containers": [{"name": "c", "image": "i", "env": [key]}]}),
            "container c with envVar E referencing secret.secretName=\"no\" is not allowed",
        ),
        (
            false,
            json!({"initContainers": [from("no")]}),
            "init container d with envFrom referencing secret",
        ),
        (
            false,
            json!({"imagePullSecrets": [{"name": "no"}]}),
            "imagePullSecrets[0].name=\"no\" is not allowed because service account strict does not reference that imagePullSecret",
        ),
        (true, json!({}), ""),
        (
            true,
            json!({"serviceAccountName": "default"}),
            "a mirror pod may not reference service accounts",
        ),
        (
            true,
            json!({"containers": [from("ok")]}),
            "a mirror pod may not reference secrets",
        ),
        (
            true,
            json!({"volumes": token}),
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ];
    for (mirror, spec, told) in cases {
        let mut body = pod("x", spec);
        if mirror {
            body["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
            body["spec"]["nodeName"] = "n".into();
        } else {
            body["spec"]["serviceAccountName"] = "strict".into();
        }
        let path = format!("{home}/pods?dryRun=All");
        let (code, answer) = running.send(Method::POST, &path, body.clone()).await;
        let expected = if told.is_empty() { 201 } else { 403 };
        assert!(
            code == expected && message(&answer).contains(told),
            "{body}: {code} {answer}"
        );
    }
    make(
        &running,
        &format!("{home}/pods"),
        pod("e", json!({"serviceAccountName": "strict"})),
    )
    .await;
    for (name, code) in [("ok", 200), ("no", 403)] {
        let body = json!({"spec": {"ephemeralContainers": [from(name)]}});
        let path = format!("{home}/pods/e/ephemeralcontainers?dryRun=All");
        let (got, answer) = patch(&running, &path, &body).await;
        assert_eq!(got, code, "{name}: {answer}");
    }
    running.stop().await;
}

/// A stricter namespace refuses what is new in a pod, by every way, and leaves what stays alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_security_looks_at_every_change_that_matters() {
    let running = start().await;
    let home = namespace(&running, json!({"name": "ps"})).await;
    let resources = json!({"limits": {"cpu": "100m"}});
    let container = json!({"containers": [{"name": "c", "image": "i", "resources": resources}], "hostNetwork": true});
    make(&running, &format!("{home}/pods"), pod("p", container)).await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let (code, answer) = patch(&running, &home, &label).await;
    assert_eq!(code, 200, "{answer}");
    let of = |field: &str, container: Value| json!({"spec": {field: [container]}});
    let cpu = json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "200m"}});
    for (path, body, code) in [
        ("pods/p", json!({"metadata": {"labels": {"a": "b"}}}), 200),
        ("pods/p", of("containers", json!({"name": "c", "image": "j"})), 403),
        (
            "pods/p/resize",
            of("containers", json!({"name": "c", "resources": cpu})),
            200,
        ),
        ("pods/p/ephemeralcontainers", json!({}), 200),
        (
            "pods/p/ephemeralcontainers",
            of("ephemeralContainers", json!({"name": "e", "image": "i"})),
            403,
        ),
    ] {
        let (got, answer) = patch(&running, &format!("{home}/{path}"), &body).await;
        let told = got != 403 || message(&answer).contains("violates PodSecurity \"baseline:latest\"");
        assert!(got == code && told, "{path} {body}: {got} {answer}");
    }
    running.stop().await;
}
