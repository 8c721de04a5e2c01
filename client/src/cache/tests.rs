use super::*;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body::Frame;
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use std::convert::Infallible;

fn object(name: &str, revision: u64, owner: Option<&str>) -> ConfigMap {
    let owners: Vec<_> = owner
        .iter()
        .map(|uid| json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": true}))
        .collect();
    serde_json::from_value(json!({"metadata": {
        "name": name, "namespace": "ns", "resourceVersion": revision.to_string(),
        "ownerReferences": owners}}))
    .expect("a valid object")
}

fn names(objects: &[Arc<ConfigMap>]) -> Vec<&str> {
    objects.iter().filter_map(|o| o.metadata.name.as_deref()).collect()
}

#[test]
fn indexes_follow_owners() {
    let cache = Cache::fixed(vec![object("a", 1, Some("u")), object("b", 2, None)]);
    assert_eq!(names(&cache.controlled_by("u")), ["a"]);
    assert_eq!(names(&cache.without_controller("ns")), ["b"]);
    cache.put(object("a", 3, None));
    assert!(cache.controlled_by("u").is_empty());
    assert_eq!(names(&cache.without_controller("ns")), ["a", "b"]);
    cache.remove(&ObjectKey::new("ns", "a"), 4);
    assert_eq!(names(&cache.list_in("ns")), ["b"]);
    assert_eq!(cache.revision(), 4);
}

#[tokio::test]
async fn changes_start_with_what_is_there_and_fold() {
    let cache = Cache::fixed(vec![object("a", 1, None)]);
    let mut changes = cache.changes();
    let first = changes.recv().await.expect("a change");
    assert!(first.old.is_none() && first.new.is_some());
    cache.put(object("a", 2, None));
    cache.put(object("a", 3, None));
    cache.put(object("b", 4, None));
    cache.remove(&ObjectKey::new("ns", "b"), 5);
    let folded = changes.recv().await.expect("a change");
    let revision = |o: Option<Arc<ConfigMap>>| o.map(|o| o.revision());
    assert_eq!((revision(folded.old), revision(folded.new)), (Some(1), Some(3)));
    assert!(changes.try_recv().is_none(), "b came and went unseen");
    cache.close();
    assert!(changes.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_revision() {
    let cache = Cache::fixed(vec![object("a", 7, None)]);
    assert!(cache.caught_up(1, Duration::from_secs(1)).await);
    assert!(!cache.caught_up(9, Duration::from_secs(1)).await);
    let waiter = cache.clone();
    let task = tokio::spawn(async move {
        waiter
            .until(Duration::from_secs(5), |c| c.get("ns", "z").is_some())
            .await
    });
    tokio::task::yield_now().await;
    cache.put(object("z", 10, None));
    assert!(task.await.expect("the task ends"));
}

/// A server that vanished leaves its connections open: nothing comes, and nothing ends them.
#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_silent_is_gone_on_with() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let queries = asked.clone();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let mut queries = queries.lock().unwrap_or_else(PoisonError::into_inner);
        queries.push(request.uri().query().unwrap_or_default().to_owned());
        let revision = 4 + queries.len();
        let event = json!({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {
            "resourceVersion": revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}});
        let first = Frame::data(Bytes::from(format!("{event}\n")));
        let frames = futures::stream::iter([Ok::<_, Infallible>(first)]).chain(futures::stream::pending());
        async move { Ok::<_, Infallible>(http::Response::new(StreamBody::new(frames))) }
    });
    let token = CancellationToken::new();
    let cache = Cache::<ConfigMap>::spawn(&Client::in_process(service), Scope::all(), token.clone());
    assert!(cache.caught_up(6, Duration::from_secs(3600)).await);
    token.cancel();
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
    assert!(asked[1].contains("resourceVersion=5"), "{asked:?}");
}
