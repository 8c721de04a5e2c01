//! Rights: where resources stand, who may create, who may talk with containers, and who somebody is.

use axum::body::Body;
use http::{Method, Request};
use rcgen::{CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::Service;

use crate::harness::{Running, authority, start, start_with, user};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const NO_PATH: &str = "the server could not find the requested resource";

async fn make(running: &Running, path: &str, body: Value) {
    let (code, answer) = running.send(Method::POST, path, body).await;
    assert_eq!(code, 201, "{path}: {answer}");
}

/// Gives a user rules, in a namespace or (empty) in the cluster.
pub async fn grant(running: &Running, name: &str, namespace: &str, rules: Value) {
    let (home, kind, prefix) = match namespace {
        "" => (RBAC.to_owned(), "ClusterRole", "cluster"),
        namespace => (format!("{RBAC}/namespaces/{namespace}"), "Role", ""),
    };
    let role = json!({"metadata": {"name": name}, "rules": rules});
    make(running, &format!("{home}/{prefix}roles"), role).await;
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    });
    make(running, &format!("{home}/{prefix}rolebindings"), binding).await;
}

/// Every resource that discovery names: path of its group version, plural, whether it is namespaced, and verbs.
pub async fn discovered(running: &Running) -> Vec<(String, String, bool, Vec<String>)> {
    let mut roots = vec!["/api/v1".to_owned()];
    let (_, groups) = running.send(Method::GET, "/apis", Value::Null).await;
    for group in groups["groups"].as_array().expect("groups") {
        for version in group["versions"].as_array().expect("versions") {
            roots.push(format!(
                "/apis/{}",
                version["groupVersion"].as_str().expect("a version")
            ));
        }
    }
    let mut found = Vec::new();
    for root in roots {
        let (_, list) = running.send(Method::GET, &root, Value::Null).await;
        for resource in list["resources"].as_array().expect("resources") {
            let verbs = resource["verbs"].as_array().into_iter().flatten();
            let verbs = verbs.filter_map(|verb| verb.as_str().map(str::to_owned)).collect();
            let name = resource["name"].as_str().expect("a name").to_owned();
            found.push((root.clone(), name, resource["namespaced"] == true, verbs));
        }
    }
    found
}

/// Nothing of the cluster stands below a namespace, and nothing of a namespace outside one, whatever its name, for
/// whoever rules that namespace and for who rules everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_resource_stands_where_its_scope_says() {
    let running = start().await;
    make(&running, "/api/v1/namespaces", json!({"metadata": {"name": "foo"}})).await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    grant(&running, "owner", "foo", everything).await;
    let owner = || user("owner", &["system:authenticated"]);
    let root = || user("root", &["system:masters"]);
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let (mut misplaced, mut resources) = (0, 0);
    for (group, name, namespaced, verbs) in discovered(&running).await {
        let (plural, sub) = name.split_once('/').unwrap_or((&name, ""));
        let end = if sub.is_empty() {
            String::new()
        } else {
            format!("/{sub}")
        };
        let listed = namespaced && sub.is_empty() && verbs.iter().any(|verb| verb == "list");
        let paths = match namespaced {
            false => vec![
                format!("{group}/namespaces/foo/{plural}/one{end}"),
                format!("{group}/namespaces/foo/{plural}/foo{end}"),
                format!("{group}/namespaces/foo/{plural}"),
                format!("{group}/watch/namespaces/foo/{plural}"),
                format!("{group}/watch/namespaces/foo/{plural}/one"),
                format!("{group}/namespaces/foo%2F{plural}%2Fone{end}"),
            ],
            true => vec![
                format!("{group}/{plural}/one{end}"),
                format!("{group}/watch/{plural}/one"),
                format!("{group}/namespaces//{plural}/one{end}"),
                format!("{group}/namespaces//{plural}"),
            ],
        };
        resources += 1;
        for path in paths {
            for method in &methods {
                let (code, answer) = running.send_as(root(), method.clone(), &path, Value::Null).await;
                assert_eq!(
                    (code, &answer["message"]),
                    (404, &json!(NO_PATH)),
                    "{method} {path}: {answer}"
                );
                let (code, answer) = running.send_as(owner(), method.clone(), &path, Value::Null).await;
                assert!(matches!(code, 403 | 404), "{method} {path}: {code} {answer}");
                misplaced += 1;
            }
        }
        if !listed {
            continue;
        }
        // Across namespaces there are list and watch, for who has them there.
        let across = format!("{group}/{plural}");
        for (method, expected) in [
            (Method::GET, 200),
            (Method::POST, 405),
            (Method::DELETE, 405),
            (Method::PUT, 405),
        ] {
            let (code, answer) = running.send_as(root(), method.clone(), &across, Value::Null).await;
            assert_eq!(code, expected, "{method} {across}: {answer}");
            let (code, answer) = running.send_as(owner(), method.clone(), &across, Value::Null).await;
            assert_eq!(code, 403, "{method} {across}: {answer}");
        }
    }
    assert!(resources > 100 && misplaced > 2_000, "{resources} {misplaced}");
    // The smallest inputs of the fault.
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    for (method, path) in [
        (Method::GET, "/api/v1/namespaces/foo/namespaces"),
        (Method::PATCH, "/api/v1/namespaces/foo/namespaces/kube-system"),
        (Method::PUT, "/api/v1/namespaces/foo/namespaces/kube-system/finalize"),
        (Method::DELETE, "/api/v1/namespaces/foo/namespaces/foo"),
        (Method::GET, "/api/v1/namespaces/foo/namespaces?watch=1"),
    ] {
        let (code, answer) = running.send_as(owner(), method.clone(), path, label.clone()).await;
        assert_eq!(
            (code, &answer["message"]),
            (404, &json!(NO_PATH)),
            "{method} {path}: {answer}"
        );
    }
    let (code, answer) = running
        .send_as(owner(), Method::GET, "/api/v1/namespaces/foo", Value::Null)
        .await;
    assert_eq!(code, 200, "{answer}");
    running.stop().await;
}

/// A PUT or a patch by media type; the path, with what else belongs to the request.
async fn write(running: &Running, who: &str, apply: bool, path: &str, body: &Value) -> (u16, Value) {
    let (method, media) = match apply {
        true => (Method::PATCH, "application/apply-patch+yaml"),
        false => (Method::PUT, "application/json"),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media);
    let request = request.body(Body::from(body.to_string())).expect("a request");
    let who = user(who, &["system:authenticated"]);
    let reply = running.server.in_process(who).call(request).await.expect("an answer");
    let code = reply.status().as_u16();
    let bytes = axum::body::to_bytes(reply.into_body(), 1 << 20).await.expect("a body");
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// PUT and apply of what is not there need `create`, of that name, in every group; who has it gets the object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_makes_an_object_needs_create() {
    let running = start().await;
    let change = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["update", "patch", "get"]});
    let named = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["create", "escalate", "bind"], "resourceNames": ["named"]});
    grant(&running, "changer", "", json!([change])).await;
    grant(&running, "maker", "", json!([change, named])).await;
    let home = |group: &str| format!("{group}/namespaces/default");
    let core = home("/api/v1");
    let kinds = [
        (
            home("/apis/coordination.k8s.io/v1"),
            "leases",
            "coordination.k8s.io/v1",
            "Lease",
            json!({"spec": {}}),
            true,
        ),
        (core.clone(), "endpoints", "v1", "Endpoints", json!({}), true),
        (
            core.clone(),
            "services",
            "v1",
            "Service",
            json!({"spec": {"ports": [{"port": 1}]}}),
            true,
        ),
        (
            core.clone(),
            "limitranges",
            "v1",
            "LimitRange",
            json!({"spec": {"limits": []}}),
            true,
        ),
        (
            "/apis/node.k8s.io/v1".to_owned(),
            "runtimeclasses",
            "node.k8s.io/v1",
            "RuntimeClass",
            json!({"handler": "h"}),
            true,
        ),
        (
            home(RBAC),
            "roles",
            "rbac.authorization.k8s.io/v1",
            "Role",
            json!({"rules": []}),
            true,
        ),
        (
            RBAC.to_owned(),
            "clusterroles",
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            json!({"rules": []}),
            true,
        ),
        (core.clone(), "configmaps", "v1", "ConfigMap", json!({}), false),
        (core.clone(), "secrets", "v1", "Secret", json!({}), false),
        ("/api/v1".to_owned(), "namespaces", "v1", "Namespace", json!({}), false),
        (
            "/apis/scheduling.k8s.io/v1".to_owned(),
            "priorityclasses",
            "scheduling.k8s.io/v1",
            "PriorityClass",
            json!({"value": 1}),
            false,
        ),
        (
            "/apis/storage.k8s.io/v1".to_owned(),
            "csidrivers",
            "storage.k8s.io/v1",
            "CSIDriver",
            json!({"spec": {}}),
            false,
        ),
    ];
    for (base, plural, version, kind, rest, by_put) in kinds {
        for (who, name, apply, query) in [
            ("changer", "fresh", true, ""),
            ("changer", "fresh", true, "&dryRun=All"),
            ("changer", "named", false, ""),
            ("changer", "fresh", false, "&dryRun=All"),
            ("maker", "fresh", true, ""),
            ("maker", "fresh", false, ""),
            ("maker", "named", true, ""),
            ("maker", "named", false, ""),
        ] {
            let mut body = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
            body.as_object_mut()
                .expect("an object")
                .extend(rest.as_object().expect("fields").clone());
            let path = format!("{base}/{plural}/{name}");
            let (code, answer) = write(&running, who, apply, &format!("{path}?fieldManager=m{query}"), &body).await;
            let expected = match (by_put || apply, who, name) {
                (false, ..) if plural == "namespaces" && (who, name) == ("maker", "named") => 200,
                (false, ..) => 404,
                (true, "maker", "named") => 201,
                _ => 403,
            };
            assert_eq!(code, expected, "{who} {apply} {path}: {answer}");
            if code == 403 {
                let told = format!("User {who:?} cannot create resource {plural:?} in API group");
                let message = answer["message"].as_str().unwrap_or_default();
                assert!(message.contains(&told), "{answer}");
            }
            if plural == "namespaces" {
                // Nobody here ends a namespace: the next one gets another name.
                let (there, _) = running.send(Method::GET, &path, Value::Null).await;
                assert_eq!(there == 200, code < 300, "{who} {apply} {path}");
                continue;
            }
            let (gone, _) = running.send(Method::DELETE, &path, Value::Null).await;
            assert_eq!(gone == 200, code == 201, "{who} {apply} {path}: nothing else was made");
        }
    }
    // Below an object nothing is made.
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "named"}, "status": {}});
    for apply in [true, false] {
        let path = format!("{core}/services/named/status?fieldManager=m");
        let (code, answer) = write(&running, "maker", apply, &path, &body).await;
        assert_eq!(code, 404, "{answer}");
    }
    running.stop().await;
}

/// Whoever talks with a container needs `create`, by whatever method, and `get` does not do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_need_create() {
    let running = start().await;
    let streams = [
        "pods/exec",
        "pods/attach",
        "pods/portforward",
        "pods/proxy",
        "services/proxy",
        "nodes/proxy",
    ];
    let rule = |verbs: &[&str]| json!([{"apiGroups": [""], "resources": streams, "verbs": verbs}]);
    for (name, verbs) in [
        ("gets", &["get", "update", "patch", "delete"][..]),
        ("creates", &["create"][..]),
        ("does-both", &["get", "create"][..]),
    ] {
        grant(&running, name, "", rule(verbs)).await;
    }
    let pod = "/api/v1/namespaces/default/pods/p";
    let paths = [
        (format!("{pod}/exec?command=ls&stdout=1"), true),
        (format!("{pod}/attach?stdout=1"), true),
        (format!("{pod}/portforward?ports=80"), true),
        (format!("{pod}/proxy/"), false),
        (format!("{pod}/proxy/deeper"), false),
        ("/api/v1/namespaces/default/services/s/proxy/".to_owned(), false),
        ("/api/v1/nodes/n/proxy/exec/default/p/c?command=ls".to_owned(), false),
    ];
    let upgrades = ["websocket", "SPDY/3.1", "anything", ""];
    for (path, always) in &paths {
        for upgrade in upgrades {
            for who in ["gets", "creates", "does-both"] {
                let mut request = Request::get(path);
                if !upgrade.is_empty() {
                    request = request.header("connection", "Upgrade").header("upgrade", upgrade);
                }
                let request = request.body(Body::empty()).expect("a request");
                let who_asks = user(who, &["system:authenticated"]);
                let reply = running
                    .server
                    .in_process(who_asks)
                    .call(request)
                    .await
                    .expect("an answer");
                let forbidden = reply.status().as_u16() == 403;
                let needs_create = *always || !upgrade.is_empty();
                let expected = who == "creates" || (who == "gets" && needs_create);
                assert_eq!(forbidden, expected, "{who} {upgrade:?} {path}: {}", reply.status());
            }
        }
    }
    // In Kubernetes' words.
    let gets = user("gets", &["system:authenticated"]);
    let (_, answer) = running.send_as(gets, Method::GET, &paths[0].0, Value::Null).await;
    assert_eq!(answer["message"], "pods \"p\" is forbidden: ");
    running.stop().await;
}

/// One request of an administrator with a header of any bytes: the code.
async fn with_header(running: &Running, lines: &[&[u8]], pair: Option<(String, String)>) -> u16 {
    let mut stream = running.connect_with(pair, &[]).await;
    let mut text =
        b"GET /api/v1/namespaces/default/secrets HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n".to_vec();
    for line in lines {
        text.extend_from_slice(line);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    stream.write_all(&text).await.expect("sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// An administrator who wants to be somebody else is never himself, and no credential that cannot be read is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_that_cannot_be_read_are_refused() {
    let running = start().await;
    let root = || Some(running.administrator());
    assert_eq!(with_header(&running, &[], root()).await, 200);
    let known: &[u8] = b"impersonate-user: ann";
    let cases: &[(&[&[u8]], u16)] = &[
        (&[known], 403),
        (&["impersonate-user: \u{e4}nn".as_bytes()], 403),
        (&[b"impersonate-user: \xe4nn"], 400),
        (&[b"Impersonate-User: a\xff\xfeb"], 400),
        (&[b"impersonate-user:"], 400),
        (&[b"impersonate-user: ", known], 400),
        (&[known, b"impersonate-user: bob"], 400),
        (&[known, b"impersonate-group: system:masters\xff"], 400),
        (&[known, b"impersonate-group:"], 400),
        (&[known, b"impersonate-uid: \xff"], 400),
        (&[known, b"impersonate-extra-k: \xff"], 400),
        (&[known, b"impersonate-extra-k%zz: v"], 400),
        (&[known, b"impersonate-extra-k%ff: v"], 400),
        (&[b"impersonate-group: g"], 400),
        (&[b"impersonate-uid: 1"], 400),
        (&[b"impersonate-extra-k: v"], 400),
        (&[b"impersonate-usr: ann"], 400),
        (&[b"impersonate-user: a\x01b"], 400),
    ];
    for (lines, code) in cases {
        let shown: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line)).collect();
        assert_eq!(with_header(&running, lines, root()).await, *code, "{shown:?}");
    }
    let cases: &[(&[&[u8]], u16)] = &[
        (&[], 403),
        (&[b"authorization: Basic YTpi"], 403),
        (&[b"authorization: Bearer \xe4"], 401),
        (&[b"authorization: \xe4 x"], 401),
        (&[b"authorization: Bearer"], 401),
        (&[b"authorization: Bearer x", b"authorization: Basic y"], 401),
    ];
    for (lines, code) in cases {
        let shown: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line)).collect();
        assert_eq!(with_header(&running, lines, None).await, *code, "{shown:?}");
    }
    running.stop().await;
}

/// Certificates whose subject cannot be read name nobody, and are not left out either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subjects_that_cannot_be_read_are_refused() {
    let clients = authority("clients");
    let pem = clients.pem();
    let running = start_with(|config| config.client_ca_pem += &pem).await;
    let text = |text: &str| DnValue::Utf8String(text.to_owned());
    let wide = |text: &str| DnValue::BmpString(text.try_into().expect("a text"));
    let (name, group) = (DnType::CommonName, DnType::OrganizationName);
    let masters = || (group.clone(), text("system:masters"));
    let cases = [
        (vec![(name.clone(), text("ann")), masters()], 200),
        (vec![(name.clone(), text("\u{e4}nn")), masters()], 200),
        (vec![(name.clone(), text("ann"))], 403),
        (vec![masters()], 401),
        (vec![(name.clone(), text("")), masters()], 401),
        (vec![(name.clone(), wide("ann")), masters()], 401),
        (
            vec![(name.clone(), text("ann")), (group.clone(), wide("system:masters"))],
            401,
        ),
        (vec![(name, text("ann")), (group.clone(), text(""))], 401),
    ];
    for (at, (parts, code)) in cases.into_iter().enumerate() {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            parameters.distinguished_name.push(kind, value);
        }
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let made = parameters.signed_by(&key, &clients).expect("a certificate");
        let pair = Some((made.pem(), key.serialize_pem()));
        assert_eq!(with_header(&running, &[], pair).await, code, "case {at}");
    }
    running.stop().await;
}

/// Who may escalate a role of one name may not make it: the name is the path's, and there is none yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn escalation_is_asked_of_what_is_really_held() {
    let running = start().await;
    let editor = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["create", "update"]});
    let escalate = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["escalate"], "resourceNames": ["w"]});
    let nameless = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": [""]});
    grant(&running, "ann", "", json!([editor, escalate, nameless])).await;
    let roles = format!("{RBAC}/clusterroles");
    let role = |name: &str, names: Value| {
        let mut rule = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]});
        if !names.is_null() {
            rule["resourceNames"] = names;
        }
        json!({"metadata": {"name": name}, "rules": [rule]})
    };
    let of_w = format!("{roles}/w");
    for (method, path, body, code) in [
        (Method::POST, &roles, role("all", Value::Null), 403),
        (Method::POST, &roles, role("one", json!(["x"])), 403),
        (Method::POST, &roles, role("none", json!([""])), 201),
        (Method::POST, &roles, role("w", Value::Null), 403),
        (Method::PUT, &of_w, role("w", Value::Null), 201),
    ] {
        let ann = user("ann", &["system:authenticated"]);
        let (got, answer) = running.send_as(ann, method.clone(), path, body.clone()).await;
        assert_eq!(got, code, "{method} {body}: {answer}");
    }
    running.stop().await;
}
