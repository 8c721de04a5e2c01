//! Hostile requests through the whole pipeline, credentials included: whatever comes, the answer is one of HTTP's, and no
//! request finds a defect.

use std::io::Write as _;

use axum::body::Body;
use coxswain_fuzz::{Answer, fuzz, recorded};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderName, HeaderValue, Method, Request};
use serde_json::{Value, json};
use tower::Service;

use crate::harness::{Running, start, user};

/// Words of paths, queries and headers.
const WORDS: &[&str] = &[
    "/api/v1/",
    "/apis/apps/v1/",
    "namespaces/default/",
    "configmaps",
    "pods/x/log",
    "?",
    "&",
    "=",
    "%00",
    "%2e%2e",
    "%zz",
    "limit=1",
    "continue=",
    "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0",
    "resourceVersion=0",
    "resourceVersionMatch=Exact",
    "labelSelector=a in (b",
    "fieldSelector=metadata.name=x",
    "fieldManager=m",
    "dryRun=All",
    "fieldValidation=Strict",
    "force=true",
    "pretty=true",
    "timeoutSeconds=1",
    "propagationPolicy=Orphan",
    "gracePeriodSeconds=0",
    "watch=0",
    "as=Table;v=v1;g=meta.k8s.io",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/apply-patch+yaml",
    "application/strategic-merge-patch+json",
    "application/merge-patch+json",
    "application/json-patch+json",
    "q=0.5",
    "gzip",
    "system:masters",
    "Bearer ",
    "eyJhbGciOiJub25lIn0.e30.",
    "abcdef.0123456789abcdef",
    "impersonate-extra-a%2fb",
];

/// Kinds that go on for ever are not asked for, nor what takes the server's own start away.
fn is_left_out(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    ["watch", "follow", "log", "exec", "attach", "portforward", "proxy"]
        .iter()
        .any(|word| path.contains(word))
}

async fn answer(running: &Running, case: &Value) -> Answer {
    let text = |key: &str| case[key].as_str().unwrap_or_default();
    let (path, body) = (text("path"), text("body").as_bytes().to_vec());
    if is_left_out(path) {
        return Err("left out".to_owned());
    }
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::from_bytes(text("method").as_bytes()).map_err(|error| error.to_string())?;
    *request.uri_mut() = path.parse().map_err(|_| "no address".to_owned())?;
    let headers = case["headers"].as_object().into_iter().flatten();
    for (name, value) in headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|error| error.to_string())?;
        let value = HeaderValue::try_from(value.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
        request.headers_mut().append(name, value);
    }
    let zipped = request
        .headers()
        .get("content-encoding")
        .is_some_and(|value| value == "gzip");
    *request.body_mut() = Body::from(if zipped { packed(&body) } else { body });
    let fuzzer = user("fuzzer", &["system:masters", "system:authenticated"]);
    let reply = running
        .server
        .in_process(fuzzer)
        .call(request)
        .await
        .expect("an answer");
    let code = reply.status().as_u16();
    let bytes = axum::body::to_bytes(reply.into_body(), 64 << 20)
        .await
        .expect("a whole body");
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("hit a defect in the server"), "{code} {text}");
    if code < 300 {
        return Ok(());
    }
    let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Err(format!("{code} {}", status["message"].as_str().unwrap_or("no Status")))
}

fn packed(body: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(body).expect("written");
    packer.finish().expect("packed")
}

fn seeds() -> Vec<Value> {
    let mut seeds: Vec<Value> = recorded()
        .into_iter()
        .filter(|request| !is_left_out(&request.path))
        .map(|request| {
            json!({"method": request.method, "path": request.path, "headers": {"content-type": request.media, "accept": "application/json"},
                "body": request.body.unwrap_or_default()})
        })
        .collect();
    let post = |headers: Value, body: &str| json!({"method": "POST", "path": "/api/v1/namespaces/default/configmaps", "headers": headers, "body": body});
    seeds.extend([
        post(json!({"content-type": "application/json", "content-encoding": "gzip"}), "{\"metadata\":{\"generateName\":\"g-\"}}"),
        post(json!({"content-type": "application/yaml"}), "metadata: {name: y}\n"),
        json!({"method": "GET", "path": "/api/v1/pods?limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0&resourceVersion=1&resourceVersionMatch=Exact",
            "headers": {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;q=0.5", "impersonate-user": "ann", "impersonate-extra-a": "b"}, "body": ""}),
        json!({"method": "GET", "path": "/apis/apps/v1/namespaces/default/deployments?labelSelector=a%3Db&fieldSelector=metadata.name%3Dx", "headers": {"accept": "application/yaml"}, "body": ""}),
    ]);
    seeds
}

#[test]
fn requests() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let running = runtime.block_on(start());
    fuzz("requests", seeds(), WORDS, |case: &Value| {
        runtime.block_on(answer(&running, case))
    });
    runtime.block_on(running.stop());
}
