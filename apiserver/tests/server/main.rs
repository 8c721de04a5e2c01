//! A real server on loopback over a temporary store, spoken to over TLS and in process.

mod apiservices;
mod dialling;
mod evictions;
mod flow;
mod front_proxy;
mod fuzz_tests;
mod harness;
mod hostile;
mod hostile_bodies;
mod identity;
mod matrix;
mod memory;
mod nodes;
mod pages;
mod published;
mod rights;
mod slow;
mod start_objects;
mod ways_in;
mod words;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use coxswain_api::codec::{Limits, decode_protobuf};
use coxswain_apiserver::User;
use http::{Method, Request};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::Service;

use harness::{Running, named_leaf, start, start_with};
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;

/// Reads until the empty line that ends a head.
pub async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.expect("more of the head"));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A node agent that switches protocols on any request and then echoes; answers its port and
/// tells the request line.
async fn fake_agent(running: &Running) -> (u16, tokio::sync::oneshot::Receiver<String>) {
    let (chain, key) = named_leaf(&running.issuer, "system:node:n", "system:nodes", ServerAuth);
    let chain = CertificateDer::from_pem_slice(chain.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("a pair");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(settings));
        let mut stream = acceptor.accept(stream).await.expect("TLS");
        let request = head(&mut stream).await;
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.expect("sent");
        let _ = tell.send(request.lines().next().unwrap_or_default().to_owned());
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    (port, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_joins_the_client_with_the_agent() {
    let running = start_with(|config| config.reach.loopback = true).await;
    let (port, told) = fake_agent(&running).await;
    let node = json!({"metadata": {"name": "n"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let account = json!({"metadata": {"name": "default"}});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    for (path, body) in [
        ("/api/v1/nodes", node),
        ("/api/v1/namespaces/default/serviceaccounts", account),
        ("/api/v1/namespaces/default/pods", pod),
        ("/api/v1/namespaces/default/pods/p/binding", binding),
    ] {
        let (code, answer) = running.send(Method::POST, path, body).await;
        assert_eq!(code, 201, "{answer}");
    }
    let mut stream = running.connect(true).await;
    let request = "GET /api/v1/namespaces/default/pods/p/exec?command=ls&command=-l&stdin=true&stdout=true HTTP/1.1\r\n\
        host: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let seen = told.await.expect("the request line");
    assert_eq!(
        seen,
        "GET /exec/default/p/c?input=1&output=1&command=ls&command=-l HTTP/1.1"
    );
    stream.write_all(b"hello").await.expect("sent");
    let mut echoed = [0; 5];
    let read = stream.read_exact(&mut echoed);
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .expect("an echo in time")
        .expect("an echo");
    assert_eq!(&echoed, b"hello");
    drop(stream);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_lives() {
    let running = start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let object = json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "data": {"k": "v"}});
    let (code, made) = running.send(Method::POST, maps, object.clone()).await;
    assert_eq!((code, &made["kind"]), (201, &json!("ConfigMap")), "{made}");
    let (code, again) = running.send(Method::POST, maps, object).await;
    assert_eq!((code, again["reason"].as_str()), (409, Some("AlreadyExists")));
    let patch = json!({"data": {"z": "1"}});
    let (code, patched) = running.send(Method::PATCH, &format!("{maps}/a"), patch.clone()).await;
    assert_eq!((code, patched["data"]["z"].as_str()), (200, Some("1")));
    let (_, unchanged) = running.send(Method::PATCH, &format!("{maps}/a"), patch).await;
    assert_eq!(
        unchanged["metadata"]["resourceVersion"],
        patched["metadata"]["resourceVersion"]
    );
    let (_, list) = running
        .send(Method::GET, &format!("{maps}?labelSelector=l%3D1"), Value::Null)
        .await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    let (code, status) = running.send(Method::DELETE, &format!("{maps}/a"), Value::Null).await;
    assert_eq!((code, status["status"].as_str()), (200, Some("Success")));
    let (code, _) = running.send(Method::GET, &format!("{maps}/a"), Value::Null).await;
    assert_eq!(code, 404);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_distinct_addresses() {
    let running = Arc::new(start().await);
    let mut tasks = Vec::new();
    for index in 0..8 {
        let running = running.clone();
        tasks.push(tokio::spawn(async move {
            let body = json!({"metadata": {"name": format!("s{index}")}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
            let (code, service) = running.send(Method::POST, "/api/v1/namespaces/default/services", body).await;
            assert_eq!(code, 201, "{service}");
            (service["spec"]["clusterIP"].clone(), service["spec"]["ports"][0]["nodePort"].clone())
        }));
    }
    let (mut addresses, mut ports) = (Vec::new(), Vec::new());
    for task in tasks {
        let (address, port) = task.await.expect("a task");
        addresses.push(address.to_string());
        ports.push(port.to_string());
    }
    for list in [&mut addresses, &mut ports] {
        list.sort();
        list.dedup();
        assert_eq!(list.len(), 8, "{list:?}");
    }
    if let Ok(running) = Arc::try_unwrap(running) {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_see_health_only() {
    let running = start().await;
    let health = running.anonymous("/readyz").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    let refused = running.anonymous("/api/v1/secrets").await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(refused.contains("system:anonymous"), "{refused}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_follows_its_selection() {
    let running = start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let body = json!({"metadata": {"name": "w", "labels": {"on": "1"}}});
    let (code, _) = running.send(Method::POST, maps, body).await;
    assert_eq!(code, 201);
    let user = User {
        name: "tester".to_owned(),
        groups: vec!["system:masters".to_owned()],
        ..User::default()
    };
    let request = Request::get(format!("{maps}?watch=1&labelSelector=on%3D1&timeoutSeconds=2"))
        .body(Body::empty())
        .expect("a request");
    let reply = running.server.in_process(user).call(request).await.expect("an answer");
    let (code, _) = running
        .send(
            Method::PATCH,
            &format!("{maps}/w"),
            json!({"metadata": {"labels": {"on": "0"}}}),
        )
        .await;
    assert_eq!(code, 200);
    let read = axum::body::to_bytes(reply.into_body(), 1 << 20);
    let bytes = tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("the end in time")
        .expect("a body");
    let kinds: Vec<String> = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter_map(|event| event["type"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(kinds, ["ADDED", "DELETED"]);
    running.stop().await;
}

/// The same answers in protobuf and in JSON: one object, lists short and long, metadata, refusals, watches.
#[tokio::test]
async fn protobuf_says_what_json_says() {
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    let running = start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for n in 0..3 {
        let body = json!({"metadata": {"name": format!("c{n}")}, "data": {"k": "v".repeat(50_000 * n + 1)}});
        assert_eq!(running.send(Method::POST, maps, body).await.0, 201);
    }
    let partial = ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let cases = [
        (format!("{maps}/c0"), ""),
        (format!("{maps}?limit=1"), ""),
        (maps.to_owned(), ""),
        (maps.to_owned(), partial),
        (format!("{maps}/none"), ""),
        ("/apis/apps/v1".to_owned(), ""),
        ("/apis".to_owned(), ""),
    ];
    for (path, view) in cases {
        let (media, json) = running.get_as(&path, &format!("application/json{view}")).await;
        assert_eq!(media, "application/json");
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        // Twice: made, and as it was kept.
        for _ in 0..2 {
            let (media, body) = running.get_as(&path, &format!("{PROTOBUF}{view}")).await;
            assert_eq!(media, PROTOBUF);
            let mut found = if view.is_empty() {
                decode_protobuf(&body, &Limits::default()).expect("a body")
            } else {
                // What a list of metadata holds has the numbers of a list of any objects.
                let named = String::from_utf8_lossy(&body).contains("PartialObjectMetadataList");
                assert!(named && body.len() < 5000, "only metadata");
                continue;
            };
            let mut expected = json.clone();
            for list in [&mut found, &mut expected] {
                for item in list["items"].as_array_mut().into_iter().flatten() {
                    let metadata = &item["metadata"];
                    *item = json!([metadata["name"], metadata["resourceVersion"], item["data"]]);
                }
            }
            let same = [
                "kind",
                "items",
                "data",
                "message",
                "reason",
                "code",
                "resources",
                "groups",
            ];
            for member in same.iter().filter(|member| !expected[**member].is_null()) {
                match member {
                    // Zeros that JSON leaves out are here.
                    &"resources" | &"groups" => {
                        let count = |value: &Value| value[member].as_array().map(Vec::len);
                        assert_eq!(count(&found), count(&expected), "{path} {member}");
                    }
                    _ => assert_eq!(found[*member], expected[*member], "{path} {member}"),
                }
            }
        }
    }
    let (media, mut rest) = running
        .get_as(
            &format!("{maps}?watch=1&timeoutSeconds=1"),
            &format!("{PROTOBUF};stream=watch"),
        )
        .await;
    assert_eq!(media, "application/vnd.kubernetes.protobuf;stream=watch");
    let mut frames = 0;
    while let Some((length, _)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        assert!(rest[4..4 + length].starts_with(b"\x0a\x05ADDED\x12"));
        rest.drain(..4 + length);
        frames += 1;
    }
    assert_eq!((frames, rest.len()), (3, 0));
    running.stop().await;
}
