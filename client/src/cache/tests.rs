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

fn put(cache: &Cache<ConfigMap>, object: ConfigMap) {
    cache.put(cache.take(object, None));
}

fn names(objects: &[Arc<ConfigMap>]) -> Vec<&str> {
    objects.iter().filter_map(|o| o.metadata.name.as_deref()).collect()
}

#[test]
fn indexes_follow_owners() {
    let cache = Cache::fixed(vec![object("a", 1, Some("u")), object("b", 2, None)]);
    assert_eq!(names(&cache.controlled_by("u")), ["a"]);
    assert_eq!(names(&cache.without_controller("ns", |_| true)), ["b"]);
    put(&cache, object("a", 3, None));
    assert!(cache.controlled_by("u").is_empty());
    assert_eq!(names(&cache.without_controller("ns", |_| true)), ["a", "b"]);
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
    put(&cache, object("a", 2, None));
    put(&cache, object("a", 3, None));
    put(&cache, object("b", 4, None));
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
    put(&cache, object("z", 10, None));
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

fn pod(name: &str, revision: u64, note: &str) -> serde_json::Value {
    let env: Vec<_> = (0..20)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": "http://service.example.svc.cluster.local:8080/path"}))
        .collect();
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}"), "resourceVersion": revision.to_string(),
            "labels": {"app": "web", "tier": "front"}, "annotations": {"note": note},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:metadata": {}}}]},
        "spec": {"containers": [{"name": "a", "env": env.clone()}, {"name": "b", "env": env}]},
    })
}

/// A server in this process: the pieces of a watch, whose objects are the store's bytes.
fn beside_the_store(events: Vec<(&'static str, Bytes)>, as_stored: bool) -> Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        assert!(request.extensions().get::<coxswain_api::AsStored>().is_some());
        let end = json!({"type": "BOOKMARK", "object": {"metadata": {
            "resourceVersion": "90", "annotations": {"k8s.io/initial-events-end": "true"}}}});
        let mut pieces = Vec::new();
        for (kind, object) in &events {
            pieces.push(Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":")));
            pieces.extend([object.clone(), Bytes::from_static(b"}\n")]);
        }
        pieces.push(Bytes::from(format!("{end}\n")));
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let frames = futures::stream::iter(frames).chain(futures::stream::pending());
        let mut response = http::Response::new(StreamBody::new(frames));
        if as_stored {
            response.extensions_mut().insert(coxswain_api::AsStored);
        }
        async move { Ok::<_, Infallible>(response) }
    });
    Client::in_process(service)
}

type Pod = k8s_openapi::api::core::v1::Pod;

/// Beside the store an object costs its entry; elsewhere its text without managed fields. Neither keeps it decoded.
#[tokio::test]
async fn an_object_costs_its_entry_and_at_most_its_text() {
    const PODS: usize = 2000;
    let texts: Vec<Bytes> = (0..PODS)
        .map(|n| pod(&format!("p-{n:05}"), n as u64 + 1, "x").to_string().into())
        .collect();
    let stored: usize = texts.iter().map(Bytes::len).sum();
    let spans: Vec<_> = texts.iter().map(|text| text.as_ptr_range()).collect();
    for as_stored in [true, false] {
        let events = texts.iter().map(|text| ("ADDED", text.clone())).collect();
        let token = CancellationToken::new();
        let cache = Cache::<Pod>::spawn(&beside_the_store(events, as_stored), Scope::all(), token.clone());
        cache.synced().await;
        assert_eq!(cache.len(), PODS);
        let held: Vec<_> = cache.held(None, |_| true);
        let shared = held
            .iter()
            .zip(&spans)
            .filter(|(held, span)| held.text_range() == Some((*span).clone()));
        assert_eq!(
            shared.count(),
            if as_stored { PODS } else { 0 },
            "texts that are the store's"
        );
        assert!(cache.text_bytes() <= stored && cache.text_bytes() > stored / 2);
        // The entry, labels and namespace shared with the neighbours, and a bounded number of decoded objects.
        let entries = PODS * 500;
        assert!(
            cache.bytes() <= entries + (2 << 20) * held::DECODED_TIMES,
            "{}",
            cache.bytes()
        );
        assert!(
            held.windows(2)
                .all(|two| Arc::ptr_eq(two[0].labels.as_ref().unwrap(), two[1].labels.as_ref().unwrap()))
        );
        let decoded = cache.get("ns", "p-00007").expect("it is there");
        assert!(decoded.metadata.managed_fields.is_none());
        assert!(
            Arc::ptr_eq(&decoded, &cache.get("ns", "p-00007").expect("still")),
            "decoded once"
        );
        assert_eq!(
            cache
                .select(None, |pod| pod.metadata.name.as_deref() == Some("p-00003"))
                .len(),
            1
        );
        assert!(cache.labelled("ns", |labels| labels.is_none()).is_empty());
        assert_eq!(cache.labelled("ns", |labels| labels.is_some()).len(), PODS);
        token.cancel();
    }
}

#[tokio::test]
async fn pieces_in_any_division_are_the_same_events() {
    let object = Bytes::from(pod("a", 7, "}\\n\"object\":{").to_string());
    let events = vec![
        ("ADDED", object.clone()),
        ("MODIFIED", Bytes::from(pod("a", 8, "y").to_string())),
        ("ADDED", Bytes::from(pod("b", 9, "z").to_string())),
        ("DELETED", Bytes::from(pod("b", 10, "z").to_string())),
    ];
    let token = CancellationToken::new();
    let cache = Cache::<Pod>::spawn(&beside_the_store(events, true), Scope::all(), token.clone());
    cache.synced().await;
    assert_eq!(cache.get("ns", "a").map(|pod| pod.revision()), Some(8));
    token.cancel();
}

#[test]
fn an_emptied_cache_and_its_subscribers_hold_nothing() {
    let cache: Cache<ConfigMap> = Cache::fixed(Vec::new());
    let mut changes = cache.changes();
    for number in 0..5000 {
        let object = object(&format!("o-{number}"), number + 1, Some("u"));
        let text = serde_json::to_vec(&object).expect("JSON").into();
        cache.put(cache.take(object, Some(text)));
    }
    assert!(changes.try_recv().is_some());
    let places = |changes: &Changes<ConfigMap>| {
        let pending = changes.subscription.pending();
        pending.order.capacity() + pending.changes.capacity()
    };
    assert!(places(&changes) > 8000);
    changes.skip();
    assert!(places(&changes) <= 4 * changes::SPARE_MAX, "{}", places(&changes));
    for number in 0..5000 {
        cache.remove(&ObjectKey::new("ns", &format!("o-{number}")), 6000 + number);
    }
    changes.skip();
    assert_eq!((cache.bytes(), cache.text_bytes(), cache.len()), (0, 0, 0));
    assert!(cache.inner.state.read().expect("a lock").by_controller.capacity() < 8);
}

#[test]
fn decoded_objects_are_kept_up_to_a_number_of_bytes() {
    let cache: Cache<ConfigMap> = Cache::fixed(Vec::new());
    for number in 0..4000 {
        let mut object = object(&format!("o-{number}"), number + 1, None);
        object.data = Some(std::iter::once(("a".to_owned(), "x".repeat(1000))).collect());
        let text = serde_json::to_vec(&object).expect("JSON").into();
        cache.put(cache.take(object, Some(text)));
    }
    assert!(cache.text_bytes() > 4_000_000);
    assert!(cache.inner.recent.bytes() <= 2 << 20);
    // Looking at everything keeps no more of it, and looking at one shares it.
    assert_eq!(cache.list().len(), 4000);
    assert!(cache.inner.recent.bytes() <= 2 << 20);
    let one = cache.get("ns", "o-0").expect("it is there");
    assert!(Arc::ptr_eq(&one, &cache.get("ns", "o-0").expect("it is there")));
}
