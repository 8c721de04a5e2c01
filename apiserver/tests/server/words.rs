//! What requests that cannot be served are told, in the order in which Kubernetes finds fault.

use axum::body::{Body, to_bytes};
use http::{Method, Request};
use serde_json::{Value, json};
use tower::Service;

use crate::harness::{Running, start, user};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const PATCH: &str = "application/json-patch+json";

async fn ask(running: &Running, method: &Method, path: &str, media: &str, body: &str) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(Body::from(body.to_owned()))
        .expect("a request");
    let user = user("tester", &["system:masters"]);
    let reply = running.server.in_process(user).call(request).await.expect("an answer");
    let code = reply.status().as_u16();
    let bytes = to_bytes(reply.into_body(), 16 << 20).await.expect("a body");
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals() {
    let running = start().await;
    let json = "application/json";
    for name in ["a", "b"] {
        let body = json!({"metadata": {"name": name}}).to_string();
        assert_eq!(ask(&running, &Method::POST, MAPS, json, &body).await.0, 201);
    }
    let (a, none) = (format!("{MAPS}/a"), format!("{MAPS}/none"));
    let applied = |path: &str| format!("{path}?fieldManager=m");
    let cases = [
        // Nobody reads the patch of what is not there.
        (
            Method::PATCH,
            none.clone(),
            PATCH,
            "[",
            404,
            "configmaps \"none\" not found",
        ),
        (
            Method::PATCH,
            a.clone(),
            PATCH,
            "{}",
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
        (
            Method::PATCH,
            a.clone(),
            PATCH,
            "[{\"op\":1}]",
            400,
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
        ),
        (
            Method::PATCH,
            format!("{a}?fieldValidation=Ignore"),
            MERGE,
            "[1",
            400,
            "Invalid JSON Patch",
        ),
        (
            Method::PATCH,
            applied(&none),
            APPLY,
            "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\"}",
            400,
            "the name of the object (none based on URL) was undeterminable: name must be provided",
        ),
        (
            Method::PATCH,
            applied(&a),
            APPLY,
            "[]",
            400,
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go \
             value of type map[string]interface {}",
        ),
        (
            Method::PATCH,
            applied(&none),
            APPLY,
            "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"none\",\"uid\":\"u\"}}",
            409,
            "Operation cannot be fulfilled on configmaps \"none\": uid mismatch: the provided object specified uid u, \
             and no existing object was found",
        ),
        (
            Method::DELETE,
            a.clone(),
            json,
            "{\"gracePeriodSeconds\":\"x\"}",
            400,
            "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
        ),
        (
            Method::GET,
            "/apis/batch/v1/jobs?fieldSelector=foo%3Dx".to_owned(),
            json,
            "",
            400,
            "field label \"foo\" not supported for Job",
        ),
        (
            Method::GET,
            "/api/v1/nodes?fieldSelector=metadata.namespace%3Dx".to_owned(),
            json,
            "",
            400,
            "field label not supported: metadata.namespace",
        ),
        (
            Method::GET,
            "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=foo%3Dx".to_owned(),
            json,
            "",
            400,
            "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: foo",
        ),
    ];
    for (method, path, media, body, code, message) in cases {
        let (found, status) = ask(&running, &method, &path, media, body).await;
        assert_eq!(
            (found, &status["message"]),
            (code, &message.into()),
            "{method} {path} {body}"
        );
    }
    // An owner that is named twice is one.
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"});
    let body = json!({"metadata": {"name": "owned", "ownerReferences": [owner, owner]}}).to_string();
    let (_, owned) = ask(&running, &Method::POST, MAPS, json, &body).await;
    assert_eq!(owned["metadata"]["ownerReferences"], json!([owner]), "{owned}");
    // One object that is named is the whole list; pods know the name from before there were nodes.
    let (_, list) = ask(
        &running,
        &Method::GET,
        &format!("{MAPS}?fieldSelector=metadata.name%3Da&limit=1"),
        json,
        "",
    )
    .await;
    assert_eq!(list["metadata"].get("continue"), None, "{list}");
    let pods = "/api/v1/pods?fieldSelector=spec.host%3Dx";
    assert_eq!(ask(&running, &Method::GET, pods, json, "").await.0, 200);
    assert_eq!(ask(&running, &Method::HEAD, MAPS, json, "").await.0, 405);
    running.stop().await;
}
