//! Who asks: tokens and what they are bound to, impersonation, reviews, rights that are granted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::{Running, start, start_with, user};

const HOME: &str = "/api/v1/namespaces/default";

/// One HTTP/1.1 request without a certificate, with these headers: code and body.
async fn asks(running: &Running, path: &str, headers: &str) -> (u16, String) {
    running.ask(None, path, headers).await
}

async fn make(running: &Running, path: &str, body: Value) -> Value {
    let (code, answer) = running.send(Method::POST, path, body).await;
    assert_eq!(code, 201, "{path}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let running = start().await;
    make(
        &running,
        &format!("{HOME}/serviceaccounts"),
        json!({"metadata": {"name": "robot"}}),
    )
    .await;
    make(
        &running,
        &format!("{HOME}/serviceaccounts"),
        json!({"metadata": {"name": "default"}}),
    )
    .await;
    make(&running, "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    make(&running, &format!("{HOME}/secrets"), json!({"metadata": {"name": "s"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "robot", "nodeName": "n",
        "containers": [{"name": "c", "image": "i"}]}});
    make(&running, &format!("{HOME}/pods"), pod).await;
    let issue = |kind: &'static str, name: &'static str, audiences: Value| {
        let running = &running;
        async move {
            let mut spec = json!({"audiences": audiences});
            if !kind.is_empty() {
                spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": kind, "name": name});
            }
            let path = format!("{HOME}/serviceaccounts/robot/token");
            make(running, &path, json!({"spec": spec})).await["status"]["token"]
                .as_str()
                .expect("a token")
                .to_owned()
        }
    };
    let review = |token: String, audiences: Value| {
        let running = &running;
        async move {
            let body = json!({"spec": {"token": token, "audiences": audiences}});
            make(running, "/apis/authentication.k8s.io/v1/tokenreviews", body).await["status"].clone()
        }
    };
    for (kind, name, path) in [
        ("Pod", "p", format!("{HOME}/pods/p?gracePeriodSeconds=0")),
        ("Secret", "s", format!("{HOME}/secrets/s")),
        ("Node", "n", "/api/v1/nodes/n".to_owned()),
        ("", "", format!("{HOME}/serviceaccounts/robot")),
    ] {
        let token = issue(kind, name, Value::Null).await;
        let claims = token.split('.').nth(1).expect("claims");
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("claims");
        assert_eq!(claims["kubernetes.io"]["serviceaccount"]["name"], "robot");
        let headers = format!("authorization: Bearer {token}\r\n");
        // Known, but not allowed to.
        let (code, text) = asks(&running, &format!("{HOME}/secrets"), &headers).await;
        assert!(
            code == 403 && text.contains("system:serviceaccount:default:robot"),
            "{text}"
        );
        let status = review(token.clone(), Value::Null).await;
        assert_eq!(status["authenticated"], true, "{status}");
        assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
        assert_eq!(
            status["user"]["groups"],
            json!([
                "system:serviceaccounts",
                "system:serviceaccounts:default",
                "system:authenticated"
            ])
        );
        if kind == "Pod" {
            let extra = &status["user"]["extra"];
            assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["p"]), "{status}");
            assert_eq!(
                extra["authentication.kubernetes.io/node-name"],
                json!(["n"]),
                "{status}"
            );
        }
        let (code, answer) = running.send(Method::DELETE, &path, Value::Null).await;
        assert_eq!(code, 200, "{answer}");
        let (code, text) = asks(&running, &format!("{HOME}/secrets"), &headers).await;
        assert_eq!(code, 401, "{kind}: {text}");
        let status = review(token, Value::Null).await;
        assert_ne!(status["authenticated"], true, "{kind}: {status}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_credentials_are_never_anonymous() {
    let running = start().await;
    make(
        &running,
        &format!("{HOME}/serviceaccounts"),
        json!({"metadata": {"name": "robot"}}),
    )
    .await;
    let path = format!("{HOME}/serviceaccounts/robot/token");
    let made = make(&running, &path, json!({"spec": {"audiences": ["vault"]}})).await;
    let foreign = made["status"]["token"].as_str().expect("a token").to_owned();
    let body = |audiences: Value| json!({"spec": {"token": foreign, "audiences": audiences}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let status = make(&running, reviews, body(json!(["vault", "x"]))).await["status"].clone();
    assert_eq!(
        (&status["authenticated"], &status["audiences"]),
        (&json!(true), &json!(["vault"])),
        "{status}"
    );
    let status = make(&running, reviews, body(json!(["x"]))).await["status"].clone();
    assert_eq!(status["authenticated"], Value::Null, "{status}");
    let secret = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": {
        "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}});
    make(&running, "/api/v1/namespaces/kube-system/secrets", secret).await;
    for (headers, code, told) in [
        (
            "authorization: Bearer abcdef.0123456789abcdef\r\n".to_owned(),
            403,
            "system:bootstrap:abcdef",
        ),
        (
            "authorization: Bearer abcdef.0123456789abcdeg\r\n".to_owned(),
            401,
            "Unauthorized",
        ),
        (
            "authorization: Bearer abcdeg.0123456789abcdef\r\n".to_owned(),
            401,
            "Unauthorized",
        ),
        (format!("authorization: Bearer {foreign}\r\n"), 401, "Unauthorized"),
        ("authorization: Bearer x.y.z\r\n".to_owned(), 401, "Unauthorized"),
        (
            "x-remote-user: admin\r\nx-remote-group: system:masters\r\n".to_owned(),
            403,
            "system:anonymous",
        ),
        (
            "impersonate-user: admin\r\nimpersonate-group: system:masters\r\n".to_owned(),
            403,
            "cannot impersonate resource",
        ),
        (String::new(), 403, "system:anonymous"),
    ] {
        let (got, text) = asks(&running, &format!("{HOME}/secrets"), &headers).await;
        assert!(got == code && text.contains(told), "{headers}: {text}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_grants_more_than_they_have() {
    let running = start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let roles = format!("{rbac}/namespaces/default/roles");
    let bindings = format!("{rbac}/namespaces/default/rolebindings");
    let role = |name: &str, resources: &[&str], verbs: &[&str]| json!({"metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": resources, "verbs": verbs}]});
    let editor = json!({"metadata": {"name": "editor"}, "rules": [
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "update"]},
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]});
    make(&running, &roles, editor).await;
    let bind = |name: &str, kind: &str, role: &str, who: &str| {
        json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": who}]})
    };
    make(&running, &bindings, bind("editor", "Role", "editor", "ann")).await;
    let cases = [
        (&roles, role("a", &["pods"], &["get"]), 201, ""),
        (&roles, role("b", &["pods/log"], &["get"]), 201, ""),
        (
            &roles,
            role("c", &["pods/exec"], &["get"]),
            403,
            "is attempting to grant RBAC permissions not currently held",
        ),
        (&roles, role("d", &["*"], &["get"]), 403, "not currently held"),
        (
            &roles,
            role("e", &["pods", "nodes"], &["*", "get"]),
            403,
            "(groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"*\" \"get\"]}\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"*\"]}",
        ),
        (&bindings, bind("f", "Role", "editor", "bob"), 201, ""),
        (
            &bindings,
            bind("g", "ClusterRole", "view", "bob"),
            403,
            "not currently held",
        ),
        (
            &bindings,
            bind("h", "ClusterRole", "absent", "bob"),
            404,
            "rolebindings.rbac.authorization.k8s.io \"absent\" not found",
        ),
    ];
    for (path, body, code, told) in cases {
        let name = body["metadata"]["name"].clone();
        let ann = user("ann", &["system:authenticated"]);
        let (got, answer) = running.send_as(ann, Method::POST, path, body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(got == code && message.contains(told), "{name}: {got} {answer}");
    }
    // An aggregation rule may gather anything; URLs come after resources, one of each verb. Metadata of a role that
    // gives more is not hers to change either, but for what collectors of garbage need.
    let writer = json!({"metadata": {"name": "writer"}, "rules": [{"apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["clusterroles"], "verbs": ["create", "patch"]}]});
    let roles = format!("{rbac}/clusterroles");
    make(&running, &roles, writer).await;
    make(
        &running,
        &format!("{rbac}/clusterrolebindings"),
        bind("writer", "ClusterRole", "writer", "ann"),
    )
    .await;
    let wide = json!({"metadata": {"name": "wide"}, "rules": [{"nonResourceURLs": ["/x"], "verbs": ["get", "put"]}]});
    make(&running, &roles, wide).await;
    let gathering =
        json!({"metadata": {"name": "i"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let wide = format!("{roles}/wide");
    let cases = [
        (
            Method::POST,
            &roles,
            gathering,
            403,
            "\"i\" is forbidden: must have cluster-admin privileges to use the aggregationRule: user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}",
        ),
        (
            Method::PATCH,
            &wide,
            json!({"metadata": {"labels": {"a": "b"}}}),
            403,
            "{NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}\n{NonResourceURLs:[\"/x\"], Verbs:[\"put\"]}",
        ),
        (
            Method::PATCH,
            &wide,
            json!({"metadata": {"finalizers": ["a.example/b"]}}),
            200,
            "",
        ),
    ];
    for (method, path, body, code, told) in cases {
        let ann = user("ann", &["system:authenticated"]);
        let (got, answer) = running.send_as(ann, method, path, body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(got == code && message.contains(told), "{path}: {got} {answer}");
    }
    // A binding to a role that is gone is told as the reason.
    make(&running, &bindings, bind("z", "Role", "gone", "cat")).await;
    let cat = user("cat", &["system:authenticated"]);
    let (code, answer) = running
        .send_as(cat, Method::GET, &format!("{HOME}/pods"), Value::Null)
        .await;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(
        code == 403 && message.ends_with(": RBAC: role.rbac.authorization.k8s.io \"gone\" not found"),
        "{answer}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_name_their_flow() {
    let running = start().await;
    let get = |path: &'static str| running.send(Method::GET, path, Value::Null);
    let (_, schema) = get("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/global-default").await;
    let (_, level) = get("/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/catch-all").await;
    let (_, text) = asks(&running, "/version", "").await;
    let uid = schema["metadata"]["uid"].as_str().expect("a uid");
    assert!(
        text.contains(&format!("x-kubernetes-pf-flowschema-uid: {uid}")),
        "{text}"
    );
    let uid = level["metadata"]["uid"].as_str().expect("a uid");
    assert!(!text.contains(uid), "{text}");
    running.stop().await;
}

/// An issuer on loopback: its address, its certificate, and the key it signs with.
async fn issuer() -> (String, String, jsonwebtoken::EncodingKey) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = rcgen::KeyPair::generate().expect("a key");
    let point = key.public_key_raw();
    let (x, y) = (
        URL_SAFE_NO_PAD.encode(&point[1..33]),
        URL_SAFE_NO_PAD.encode(&point[33..65]),
    );
    let signing = jsonwebtoken::EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).expect("a key");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], private)
        .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(settings));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().expect("an address").port()
    );
    let own = url.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let request = crate::head(&mut stream).await;
            let body = if request.starts_with("GET /.well-known/openid-configuration ") {
                json!({"issuer": own, "jwks_uri": format!("{own}/keys")})
            } else {
                json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256", "x": x, "y": y}]})
            };
            let body = body.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, made.cert.pem(), signing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_other_issuers() {
    let (url, ca, key) = issuer().await;
    let configuration = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
        "jwt": [{
            "issuer": {"url": url, "audiences": ["cluster"], "certificateAuthority": ca},
            "claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}, "groups": {"claim": "roles", "prefix": "oidc:"}},
        }],
    });
    let running = start_with(|config| config.authentication = Some(configuration.to_string())).await;
    let token = |kid: &str, audience: &str, expires_s: u64| {
        let header = jsonwebtoken::Header {
            kid: Some(kid.to_owned()),
            ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
        };
        let claims = json!({"iss": url, "aud": audience, "exp": expires_s, "sub": "ann", "roles": ["dev"]});
        let token = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
        format!("authorization: Bearer {token}\r\n")
    };
    let late = 4_000_000_000;
    for (headers, path, code, told) in [
        (
            token("k1", "cluster", late),
            "/api/v1/secrets",
            403,
            "User \\\"oidc:ann\\\" cannot list",
        ),
        (token("k1", "other", late), "/api/v1/secrets", 401, "Unauthorized"),
        (token("k1", "cluster", 1), "/api/v1/secrets", 401, "Unauthorized"),
        (token("k2", "cluster", late), "/api/v1/secrets", 401, "Unauthorized"),
        (String::new(), "/livez", 200, "ok"),
        (String::new(), "/api/v1/secrets", 401, "Unauthorized"),
    ] {
        let (got, text) = asks(&running, path, &headers).await;
        assert!(got == code && text.contains(told), "{path} {headers}: {text}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_for_those_who_may_post_its_path() {
    let running = start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    for (name, verb) in [("reader", "get"), ("keeper", "post")] {
        let rules = json!([{"nonResourceURLs": ["*"], "verbs": [verb]}]);
        let role = json!({"metadata": {"name": name}, "rules": rules});
        make(&running, &format!("{rbac}/clusterroles"), role).await;
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        });
        make(&running, &format!("{rbac}/clusterrolebindings"), binding).await;
    }
    let table = [
        ("nobody", Method::POST, "backup", 403),
        ("nobody", Method::POST, "rotate-key", 403),
        ("reader", Method::POST, "backup", 403),
        ("reader", Method::POST, "rotate-key", 403),
        ("reader", Method::GET, "backup", 405),
        ("reader", Method::GET, "unknown", 404),
        ("keeper", Method::POST, "unknown", 404),
        ("keeper", Method::POST, "backup", 200),
        ("keeper", Method::POST, "rotate-key", 200),
    ];
    for (name, method, page, expected) in table {
        let who = user(name, &["system:authenticated"]);
        let path = format!("/cluster/{page}");
        let (code, answer) = running.send_as(who, method.clone(), &path, Value::Null).await;
        assert_eq!(code, expected, "{name} {method} {page}: {answer}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_about_rights_are_whole() {
    let running = start().await;
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let any = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let question = |namespace: &str| {
        let resource = json!({"namespace": namespace, "verb": "get", "resource": "pods"});
        json!({"spec": {"user": "u", "resourceAttributes": resource}})
    };
    let answer = make(&running, local, question("default")).await;
    assert_eq!(answer["metadata"]["namespace"], "default", "{answer}");
    assert_eq!(
        answer["metadata"]["managedFields"][0]["operation"], "Update",
        "{answer}"
    );
    let answer = make(&running, rules, json!({"spec": {"namespace": "default"}})).await;
    assert_eq!(answer["spec"], json!({}), "{answer}");

    let mut named = question("default");
    named["metadata"] = json!({"name": "n"});
    let mut paths = json!({"spec": {"user": "u", "nonResourceAttributes": {"path": "/x", "verb": "get"}}});
    paths["metadata"] = json!({"namespace": "default"});
    let mut elsewhere = question("other");
    elsewhere["metadata"] = json!({"namespace": "other"});
    let mut selecting = question("default");
    selecting["spec"]["resourceAttributes"]["fieldSelector"] =
        json!({"rawSelector": "a=b", "requirements": [{"operator": "In"}, {"key": "k", "operator": "Newer"}]});
    selecting["spec"]["resourceAttributes"]["labelSelector"] = json!({});
    let cases = [
        (any, named.clone(), 422, vec!["metadata"]),
        (local, named, 422, vec!["metadata"]),
        (local, question("other"), 422, vec!["spec.resourceAttributes.namespace"]),
        (local, paths, 422, vec!["spec.nonResourceAttributes"]),
        (local, elsewhere, 400, vec![]),
        (
            any,
            selecting,
            422,
            vec![
                "spec.resourceAttributes.fieldSelector.rawSelector",
                "spec.resourceAttributes.fieldSelector.requirements[0].key",
                "spec.resourceAttributes.fieldSelector.requirements[0].values",
                "spec.resourceAttributes.labelSelector.requirements",
            ],
        ),
    ];
    for (path, body, code, fields) in cases {
        let (answered, status) = running.send(Method::POST, path, body.clone()).await;
        let causes = status["details"]["causes"].as_array().map_or(&[][..], Vec::as_slice);
        let named: Vec<&str> = causes.iter().filter_map(|cause| cause["field"].as_str()).collect();
        assert_eq!((answered, named), (code, fields), "{body}: {status}");
    }
}

/// Bodies below an object belong to it: by name, namespace and identity, and they are typed as others are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_below_an_object_belong_to_it() {
    let running = start().await;
    let account = json!({"metadata": {"name": "robot"}});
    make(&running, &format!("{HOME}/serviceaccounts"), account).await;
    let apps = "/apis/apps/v1/namespaces/default/replicasets";
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template":
        {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    make(&running, apps, json!({"metadata": {"name": "r"}, "spec": spec})).await;
    let token = format!("{HOME}/serviceaccounts/robot/token");
    let set = format!("{apps}/r");
    let scale = format!("{set}/scale");
    let cases = [
        (
            Method::POST,
            &token,
            json!({"metadata": {"name": "other"}}),
            422,
            "TokenRequest.authentication.k8s.io \"robot\" is invalid: metadata.name: Invalid value: \"other\": must match the service account name if specified",
        ),
        (
            Method::POST,
            &token,
            json!({"metadata": {"uid": "1"}}),
            409,
            "the UID in the token request (1) does not match",
        ),
        (
            Method::POST,
            &token,
            json!({"metadata": {"namespace": "other"}}),
            400,
            "the namespace of the provided object does not match",
        ),
        (
            Method::PUT,
            &scale,
            json!({"spec": {"replicas": 1}}),
            400,
            "the name of the object (r based on URL) was undeterminable: name must be provided",
        ),
        (
            Method::PATCH,
            &scale,
            json!({"spec": {"replicas": "x"}}),
            422,
            "json: cannot unmarshal string into Go struct field ScaleSpec.spec.replicas of type int32",
        ),
        (Method::PATCH, &scale, json!({"spec": {"replicas": null}}), 200, ""),
        (
            Method::PUT,
            &set,
            json!({"metadata": {"name": "r", "uid": "1"}}),
            409,
            "on replicasets.apps \"r\": StorageError: invalid object, Code: 4, Key: /registry/replicasets/default/r, ",
        ),
    ];
    for (method, path, body, code, told) in cases {
        let (got, answer) = running.send(method, path, body.clone()).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(got == code && message.contains(told), "{body}: {got} {answer}");
    }
    let (_, set) = running.send(Method::GET, &set, Value::Null).await;
    assert_eq!(set["spec"]["replicas"], 0, "{set}");
}
