//! What is there to keep memory small: watches in this process share the store's bytes, deletions go in parts.

use axum::body::Body;
use bytes::Bytes;
use coxswain_api::AsStored;
use futures::StreamExt;
use http::{Method, Request};
use serde_json::{Value, json};
use tower::Service;

use crate::harness::{Running, start, user};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(running: &Running, name: &str) {
    let map = json!({"metadata": {"name": name}, "data": {"a": "b"}});
    let (code, answer) = running.send(Method::POST, MAPS, map).await;
    assert_eq!(code, 201, "{answer}");
}

/// The first pieces of a watch, and whether objects are granted as they are stored.
async fn pieces(running: &Running, query: &str, asks: bool, most: usize) -> (bool, Vec<Bytes>) {
    let request = Request::get(format!("{MAPS}?watch=1&timeoutSeconds=20&{query}"));
    let mut request = request.body(Body::empty()).expect("a request");
    if asks {
        request.extensions_mut().insert(AsStored);
    }
    let administrator = user("tester", &["system:masters"]);
    let reply = running.server.in_process(administrator).call(request).await;
    let reply = reply.expect("an answer");
    let granted = reply.extensions().get::<AsStored>().is_some();
    let stream = reply.into_body().into_data_stream().take(most);
    (granted, stream.map(|piece| piece.expect("a piece")).collect().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_in_this_process_share_the_bytes_of_the_store() {
    let running = start().await;
    make(&running, "a").await;
    make(&running, "b").await;
    let fields = "fieldSelector=metadata.name%3Db";
    let (granted, first) = pieces(&running, fields, true, 3).await;
    let (_, second) = pieces(&running, fields, true, 3).await;
    assert!(granted);
    assert_eq!(
        (&*first[0], &*first[2]),
        (&b"{\"type\":\"ADDED\",\"object\":"[..], &b"}\n"[..])
    );
    assert_eq!(first[1].as_ptr(), second[1].as_ptr(), "one copy for all");
    let object: Value = serde_json::from_slice(&first[1]).expect("JSON");
    assert_eq!((&object["metadata"]["name"], object.get("kind")), (&json!("b"), None));

    // Changes come in the same way, what is deleted too, and all pieces are lines of JSON.
    let revision = object["metadata"]["resourceVersion"]
        .as_str()
        .expect("a revision")
        .to_owned();
    make(&running, "c").await;
    let (code, _) = running.send(Method::DELETE, &format!("{MAPS}/c"), Value::Null).await;
    assert_eq!(code, 200);
    let (_, changes) = pieces(&running, &format!("resourceVersion={revision}"), true, 6).await;
    let text = changes.concat();
    let lines: Vec<Value> = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("JSON"))
        .collect();
    let shown: Vec<_> = lines
        .iter()
        .map(|line| (&line["type"], &line["object"]["metadata"]["name"]))
        .collect();
    let name = json!("c");
    assert_eq!(shown, [(&json!("ADDED"), &name), (&json!("DELETED"), &name)]);

    // Who does not ask gets what everybody gets.
    let (granted, usual) = pieces(&running, fields, false, 1).await;
    let line: Value = serde_json::from_slice(&usual[0]).expect("a line");
    assert_eq!((granted, &line["object"]["kind"]), (false, &json!("ConfigMap")));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_collection_has_as_many_objects_as_its_limit() {
    let running = start().await;
    for name in ["a", "b", "c", "d", "e"] {
        make(&running, name).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().into_iter().flatten();
        items
            .filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned))
            .collect()
    };
    let path = format!("{MAPS}?limit=2&fieldSelector=metadata.name!%3Da");
    let (code, deleted) = running.send(Method::DELETE, &path, Value::Null).await;
    assert_eq!((code, names(&deleted)), (200, vec!["b".to_owned(), "c".to_owned()]));
    let (_, left) = running.send(Method::GET, MAPS, Value::Null).await;
    assert_eq!(names(&left), ["a", "d", "e"]);
    running.stop().await;
}
