//! The handle on the real disk: writing, reading, watching, reopening, and being refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coxswain_consensus::{
    Config, Draft, Event, EventKind, Expired, Head, Key, Keyring, OpenError, Outcome, Precondition, ProposeError,
    RingLimit, Snapshot, Store, Txn,
};

fn config(dir: &Path) -> Config {
    Config {
        segment_bytes: 64 << 10,
        checkpoint_bytes: 64 << 10,
        history: RingLimit {
            events: 50,
            bytes: 1 << 20,
        },
        ..Config::new(dir.join("store"))
    }
}

fn put(resource: &str, name: &str, bytes: usize) -> Txn {
    let value = serde_json::json!({"metadata": {"name": name}, "text": "x".repeat(bytes)});
    let key = Key::new(resource, "default", name);
    Txn::put(Draft::new(key, value, Head::default()), Precondition::None)
}

async fn written(store: &Store, txn: Txn) -> u64 {
    match store.propose(txn).await.expect("written") {
        Outcome::Committed { revision, .. } => revision,
        Outcome::Rejected { .. } => panic!("rejected"),
    }
}

fn names(snapshot: &Snapshot, resource: &str) -> String {
    let names: Vec<&str> = snapshot
        .list(resource, None, None)
        .map(|object| &*object.key.name)
        .collect();
    names.join(" ")
}

fn told(events: &[Arc<Event>]) -> String {
    let one = |event: &Arc<Event>| {
        let kind = match event.kind {
            EventKind::Added => '+',
            EventKind::Modified => '~',
            EventKind::Deleted => '-',
        };
        format!("{kind}{}@{}", event.object.key.name, event.revision)
    };
    events.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_every_change_once_and_in_order() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Store::open(config(dir.path())).await.expect("opened");
    assert_eq!(store.snapshot().revision(), 1);
    let mut pods = store.watch("pods", 1).expect("a cursor");
    written(&store, put("pods", "a", 1)).await;
    written(&store, put("nodes", "n", 1)).await;
    written(&store, put("pods", "a", 2)).await;
    let gone = Txn::delete(Key::new("pods", "default", "a"), Precondition::Revision(4));
    written(&store, gone).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(pods.next().await.expect("events"));
    }
    assert_eq!(told(&seen), "+a@2 ~a@4 -a@5");
    written(&store, put("nodes", "m", 1)).await;
    assert_eq!(pods.revision(), 6, "a bookmark moves on without events");
    let mut resumed = store.watch("pods", 3).expect("a cursor");
    assert_eq!(told(&resumed.next().await.expect("events")), "~a@4 -a@5");

    // A waiting watcher is woken by the next change of its resource.
    let waiting = tokio::spawn(async move { pods.next().await.map(|events| told(&events)) });
    tokio::task::yield_now().await;
    written(&store, put("pods", "b", 1)).await;
    assert_eq!(waiting.await.expect("joined"), Ok("+b@7".into()));

    // A watcher that stays behind is told so, and how far it could go back.
    let mut slow = store.watch("pods", 7).expect("a cursor");
    for _ in 0..60 {
        written(&store, put("pods", "c", 1)).await;
    }
    let oldest = store.oldest_revision("pods");
    assert_eq!(oldest, 17);
    match slow.next().await {
        Err(Expired::Compacted(compacted)) => assert_eq!(compacted.oldest, oldest),
        other => panic!("{other:?}"),
    }
    assert!(store.watch("pods", 16).is_err());
    assert!(store.watch("nodes", 1).is_ok(), "other resources keep their history");

    let mut last = store.watch("pods", store.snapshot().revision()).expect("a cursor");
    let waiting = tokio::spawn(async move { last.next().await.map(|events| told(&events)) });
    store.shutdown().await;
    assert_eq!(waiting.await.expect("joined"), Err(Expired::Stopped));
    let refused = store.propose(put("pods", "d", 1)).await;
    assert!(matches!(refused, Err(ProposeError::Stopped(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn earlier_revisions_can_be_read_for_a_while() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Store::open(config(dir.path())).await.expect("opened");
    written(&store, put("pods", "a", 1)).await;
    written(&store, put("pods", "b", 1)).await;
    let delete = |name: &str| Txn::delete(Key::new("pods", "default", name), Precondition::None);
    written(&store, delete("a")).await;
    written(&store, put("nodes", "n", 1)).await;
    let table = [(1, ""), (2, "a"), (3, "a b"), (4, "b"), (5, "b")];
    for (revision, expected) in table {
        let snapshot = store.snapshot_at(revision).expect("kept");
        assert_eq!(snapshot.revision(), revision);
        assert_eq!(names(&snapshot, "pods"), expected);
    }
    let kept = store.snapshot_at(3).expect("kept");
    for _ in 0..100 {
        written(&store, put("events", "e", 1)).await;
    }
    assert!(store.snapshot_at(4).is_ok(), "was asked for before");
    store.retain(&kept);
    assert!(store.snapshot_at(6).is_err(), "events reach back less far");
    let pods = store.snapshot_of("pods", 6).expect("pods reach back");
    assert_eq!(names(&pods, "pods"), "b");
    let now = store.read_barrier().await.expect("confirmed");
    assert_eq!(now.revision(), 105);
    let wait = Duration::from_millis(20);
    assert!(store.wait_revision(105, wait).await.is_ok());
    let late = store.wait_revision(106, wait).await.expect_err("not yet");
    assert_eq!((late.wanted, late.current), (106, 105));
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reopens_with_everything_and_has_one_owner() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path());
    let mut revision = 1;
    for round in 0..4u64 {
        let store = Store::open(config.clone()).await.expect("opened");
        assert!(*store.leader().borrow());
        assert_eq!(store.snapshot().revision(), revision);
        let second = Store::open(config.clone()).await.err().map(|error| error.to_string());
        let expected = format!("is in use by process {}; stop that process", std::process::id());
        assert!(
            second.as_ref().is_some_and(|told| told.contains(&expected)),
            "{second:?}"
        );
        for number in 0..100 {
            revision = written(&store, put("pods", &format!("p{number}"), 2000)).await;
        }
        if round == 2 {
            Keyring::load(&config.key_file)
                .expect("read")
                .rotate()
                .expect("rotated");
        }
        let stats = store.stats();
        assert!(stats.segments < 12, "the log is trimmed: {stats:?}");
        store.shutdown().await;
    }
    let moved = config.key_file.with_extension("away");
    std::fs::rename(&config.key_file, &moved).expect("renamed");
    let error = Store::open(config.clone()).await.err().map(|error| error.to_string());
    assert!(error.is_some_and(|told| told.starts_with("the store's key file is missing")));
    std::fs::rename(&moved, &config.key_file).expect("renamed");
    let store = Store::open(config.clone()).await.expect("opened");
    assert_eq!(store.snapshot().len(), 100);
    assert_eq!(store.snapshot().revision(), revision);
    // History reaches back to the checkpoint that the replay began with.
    let oldest = store.oldest_revision("pods");
    assert!(oldest > 1 && oldest <= revision);
    store.shutdown().await;

    std::fs::write(config.data_dir.join("FORMAT"), "3\n").expect("written");
    let newer = Store::open(config).await.err();
    assert!(matches!(newer, Some(OpenError::NewerFormat { found: 3, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_writes_are_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Store::open(config(dir.path())).await.expect("opened");
    let refused = store.propose(put("pods", "a", 9 << 20)).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })));
    let accepted = store.propose(put("pods", "a", 3 << 20)).await;
    assert!(accepted.is_ok(), "larger than a segment");
    store.shutdown().await;
}
