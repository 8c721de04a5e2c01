//! What nodes may read and write.

use http::Method;
use rcgen::ExtendedKeyUsagePurpose::ClientAuth;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Running, named_leaf, start, user};

async fn setup(running: &Running) -> String {
    let pod = |name: &str, node: &str, secret: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "nodeName": node, "serviceAccountName": "default",
            "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": secret}}]}],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "x", "audience": "vault"}}]}}],
        }})
    };
    let volume = json!({"metadata": {"name": "volume"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "claimRef": {"namespace": "default", "name": "claim"},
        "csi": {"driver": "d.example", "volumeHandle": "h", "nodeStageSecretRef": {"namespace": "storage", "name": "stage"}},
    }});
    let secret = |name: &str| json!({"metadata": {"name": name}, "stringData": {"k": "v"}});
    let home = "/api/v1/namespaces/default";
    for (path, body) in [
        (
            "/api/v1/namespaces".to_owned(),
            json!({"metadata": {"name": "storage"}}),
        ),
        ("/api/v1/nodes".to_owned(), json!({"metadata": {"name": "n1"}})),
        ("/api/v1/nodes".to_owned(), json!({"metadata": {"name": "n2"}})),
        (
            format!("{home}/serviceaccounts"),
            json!({"metadata": {"name": "default"}}),
        ),
        (format!("{home}/secrets"), secret("mine")),
        (format!("{home}/secrets"), secret("other")),
        ("/api/v1/namespaces/storage/secrets".to_owned(), secret("stage")),
        ("/api/v1/persistentvolumes".to_owned(), volume),
        (format!("{home}/pods"), pod("p1", "n1", "mine")),
        (format!("{home}/pods"), pod("p2", "n2", "other")),
    ] {
        let (code, answer) = running.send(Method::POST, &path, body).await;
        assert_eq!(code, 201, "{path}: {answer}");
    }
    let (_, pod) = running.send(Method::GET, &format!("{home}/pods/p1"), Value::Null).await;
    pod["metadata"]["uid"].as_str().expect("a uid").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_what_its_pods_need() {
    let running = start().await;
    let uid = setup(&running).await;
    let none = || Value::Null;
    let token = |kind: &str, name: &str, uid: &str, audience: &str| json!({"spec": {"audiences": [audience], "boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}}});
    let mirror = |node: &str, annotation: bool| {
        let annotations = if annotation {
            json!({"kubernetes.io/config.mirror": "x"})
        } else {
            json!({})
        };
        json!({"metadata": {"name": "m", "annotations": annotations}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
    };
    let no_relation = "no relationship found between node 'n1' and this object";
    let (get, post, patch, delete) = (Method::GET, Method::POST, Method::PATCH, Method::DELETE);
    let home = "/api/v1/namespaces/default";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let cases: Vec<(&Method, String, Value, u16, &str)> = vec![
        (&get, format!("{home}/secrets/mine"), none(), 200, ""),
        (&get, format!("{home}/secrets/other"), none(), 403, no_relation),
        (&get, format!("{home}/secrets/absent"), none(), 403, no_relation),
        (&get, format!("{home}/secrets"), none(), 403, "No Object name found"),
        (
            &get,
            format!("{home}/secrets?fieldSelector=metadata.name%3Dmine"),
            none(),
            200,
            "",
        ),
        (
            &get,
            "/api/v1/secrets".into(),
            none(),
            403,
            "can only read namespaced object of this type",
        ),
        (
            &delete,
            format!("{home}/secrets/mine"),
            none(),
            403,
            "can only read resources of this type",
        ),
        (&get, "/api/v1/persistentvolumes/volume".into(), none(), 200, ""),
        (&get, "/api/v1/namespaces/storage/secrets/stage".into(), none(), 200, ""),
        (&get, "/api/v1/nodes/n1".into(), none(), 200, ""),
        (
            &get,
            "/api/v1/nodes/n2".into(),
            none(),
            403,
            "node 'n1' cannot read 'n2', only its own Node object",
        ),
        (
            &get,
            "/api/v1/nodes".into(),
            none(),
            403,
            "node 'n1' cannot read all nodes, only its own Node object",
        ),
        (
            &get,
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".into(),
            none(),
            200,
            "",
        ),
        (
            &get,
            "/api/v1/pods".into(),
            none(),
            403,
            "can only list/watch pods with spec.nodeName field selector",
        ),
        (&get, format!("{home}/pods/p1"), none(), 200, ""),
        (&get, format!("{home}/pods/p2"), none(), 403, no_relation),
        (&get, "/api/v1/services".into(), none(), 200, ""),
        (
            &get,
            "/apis/apps/v1/deployments".into(),
            none(),
            403,
            "cannot list resource \"deployments\"",
        ),
        (
            &post,
            format!("{home}/serviceaccounts/default/token"),
            token("Pod", "p1", &uid, "vault"),
            201,
            "",
        ),
        (
            &post,
            format!("{home}/serviceaccounts/default/token"),
            token("Pod", "p1", &uid, "x"),
            403,
            "audience \"x\" not found in pod spec volume",
        ),
        (
            &post,
            format!("{home}/serviceaccounts/default/token"),
            token("Pod", "p1", "", "vault"),
            403,
            "node requested token with a pod binding without a uid",
        ),
        (
            &post,
            format!("{home}/serviceaccounts/default/token"),
            token("Secret", "mine", "", "vault"),
            403,
            "node requested token not bound to a pod",
        ),
        (
            &post,
            format!("{home}/serviceaccounts/default/token"),
            token("Pod", "p1", "1", "vault"),
            403,
            "does not match the UID in record",
        ),
        (
            &post,
            format!("{home}/pods"),
            mirror("n1", false),
            403,
            "node \"n1\" can only create mirror pods",
        ),
        (
            &post,
            format!("{home}/pods"),
            mirror("n2", true),
            403,
            "node \"n1\" can only create pods with spec.nodeName set to itself",
        ),
        (
            &post,
            format!("{home}/pods"),
            mirror("n1", true),
            403,
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            &patch,
            "/api/v1/nodes/n1".into(),
            json!({"metadata": {"labels": {"kubernetes.io/os": "linux", "mine": "1"}}}),
            200,
            "",
        ),
        (
            &patch,
            "/api/v1/nodes/n1".into(),
            json!({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "1", "k8s.io/y": "1"}}}),
            403,
            "is not allowed to modify labels: k8s.io/y, node-restriction.kubernetes.io/x",
        ),
        (
            &patch,
            "/api/v1/nodes/n1".into(),
            json!({"spec": {"taints": []}}),
            403,
            "node \"n1\" is not allowed to modify taints",
        ),
        (
            &patch,
            "/api/v1/nodes/n2/status".into(),
            json!({"status": {}}),
            403,
            "node \"n1\" is not allowed to modify node \"n2\"",
        ),
        (
            &delete,
            "/api/v1/nodes/n1".into(),
            none(),
            403,
            "cannot delete resource \"nodes\"",
        ),
        (
            &patch,
            format!("{home}/pods/p1/status"),
            json!({"status": {"message": "m"}}),
            200,
            "",
        ),
        (
            &patch,
            format!("{home}/pods/p2/status"),
            json!({"status": {"message": "m"}}),
            403,
            "node \"n1\" can only update pod status for pods with spec.nodeName set to itself",
        ),
        (
            &delete,
            format!("{home}/pods/p2"),
            none(),
            403,
            "node \"n1\" can only delete pods with spec.nodeName set to itself",
        ),
        (
            &post,
            format!("{home}/pods/p2/eviction"),
            json!({"metadata": {"name": "p2"}}),
            403,
            "node n1 can only evict pods with spec.nodeName set to itself",
        ),
        (&post, leases.into(), json!({"metadata": {"name": "n1"}}), 201, ""),
        (
            &post,
            leases.into(),
            json!({"metadata": {"name": "n2"}}),
            403,
            "can only access node lease with the same name as the requesting node",
        ),
        (
            &get,
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/n1".into(),
            none(),
            403,
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (
            &post,
            "/apis/storage.k8s.io/v1/csinodes".into(),
            json!({"metadata": {"name": "n2"}, "spec": {"drivers": []}}),
            403,
            "can only access CSINode with the same name as the requesting node",
        ),
        // What the pod gave goes with it.
        (&delete, format!("{home}/pods/p1?gracePeriodSeconds=0"), none(), 200, ""),
        (&get, format!("{home}/secrets/mine"), none(), 403, no_relation),
        (
            &get,
            "/api/v1/namespaces/storage/secrets/stage".into(),
            none(),
            403,
            no_relation,
        ),
    ];
    for (method, path, body, code, message) in cases {
        let node = user("system:node:n1", &["system:nodes", "system:authenticated"]);
        let (got, answer) = running.send_as(node, method.clone(), &path, body).await;
        let told = answer["message"].as_str().unwrap_or_default();
        assert!(got == code && told.contains(message), "{method} {path}: {got} {answer}");
    }
    let nameless = user("system:node:", &["system:nodes", "system:authenticated"]);
    let (code, answer) = running
        .send_as(nameless, Method::GET, "/api/v1/nodes/n1", Value::Null)
        .await;
    let told = answer["message"].as_str().unwrap_or_default();
    assert!(
        code == 403 && told.ends_with(": unknown node for user \"system:node:\""),
        "{answer}"
    );
    running.stop().await;
}

/// One PATCH over TLS with a certificate: code and answer.
async fn patch(running: &Running, pair: (String, String), path: &str, body: &Value) -> (u16, String) {
    let mut stream = running.connect_with(Some(pair), &[]).await;
    let body = body.to_string();
    let request = format!(
        "PATCH {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/merge-patch+json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (code, text)
}

#[tokio::test]
async fn where_a_node_is_known_to_be_is_not_its_own_word() {
    let running = start().await;
    let node = || user("system:node:n7", &["system:nodes", "system:authenticated"]);
    let source = |object: &Value| object["metadata"]["annotations"]["coxswain.io/source-address"].clone();
    let lies = |key: &str| json!({"metadata": {"name": "n7", "annotations": {key: "203.0.113.9"}}});
    let (code, answer) = running
        .send_as(
            node(),
            Method::POST,
            "/api/v1/nodes",
            lies("coxswain.io/certificate-addresses"),
        )
        .await;
    assert_eq!(code, 403, "{answer}");
    let (code, answer) = running
        .send_as(
            node(),
            Method::POST,
            "/api/v1/nodes",
            lies("coxswain.io/source-address"),
        )
        .await;
    // It runs in the server's process, so it is where the server is.
    assert_eq!((code, source(&answer)), (201, json!("127.0.0.1")), "{answer}");
    let pair = named_leaf(&running.issuer, "system:node:n7", "system:nodes", ClientAuth);
    let moved = json!({"metadata": {"annotations": {"coxswain.io/source-address": "203.0.113.1"}}});
    let given = json!({"metadata": {"annotations": {"coxswain.io/certificate-addresses": "203.0.113.2"}}});
    // What an administrator says stays.
    for body in [&moved, &given] {
        let (code, answer) = running.send(Method::PATCH, "/api/v1/nodes/n7", body.clone()).await;
        assert_eq!(code, 200, "{answer}");
    }
    for path in ["/api/v1/nodes/n7", "/api/v1/nodes/n7/status"] {
        let other = json!({"metadata": {"annotations": {"coxswain.io/certificate-addresses": "203.0.113.3"}}});
        for body in [
            other,
            json!({"metadata": {"annotations": {"coxswain.io/certificate-addresses": null}}}),
        ] {
            let (code, answer) = patch(&running, pair.clone(), path, &body).await;
            let kept = code == 200 && path.ends_with("/status") && answer.contains("203.0.113.2");
            assert!(kept || code == 403, "{path} {body}: {answer}");
        }
        let report = json!({"metadata": {"annotations": {"coxswain.io/source-address": "203.0.113.4"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "203.0.113.4"}]}});
        let (code, answer) = patch(&running, pair.clone(), path, &report).await;
        assert_eq!(code, 200, "{path}: {answer}");
        let (_, now) = running.send(Method::GET, "/api/v1/nodes/n7", Value::Null).await;
        assert_eq!(source(&now), json!("127.0.0.1"), "{path}");
        let given = &now["metadata"]["annotations"]["coxswain.io/certificate-addresses"];
        assert_eq!(*given, json!("203.0.113.2"), "{path}");
    }
    running.stop().await;
}
