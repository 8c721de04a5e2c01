//! Tables for the state machine, and a model that knows nothing of maps or bytes to check against.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use crate::codec::{DecodeError, decode_objects, decode_txn, encode_object, encode_txn};
use crate::*;

fn key(name: &str) -> Key {
    Key::new("pods", "default", name)
}

fn draft(key: Key, text: &str) -> Draft {
    let value = json!({
        "kind": "Pod",
        "metadata": {"name": &*key.name, "uid": "u", "resourceVersion": "77"},
        "text": text,
    });
    let head = Head {
        uid: "u".into(),
        labels: vec![("app".into(), text.into())],
        generation: -3,
        ..Head::default()
    };
    Draft::new(key, value, head)
}

fn put(name: &str, when: Precondition) -> Op {
    Op::Put {
        draft: draft(key(name), name),
        when,
    }
}

fn delete(name: &str, when: Precondition) -> Op {
    Op::Delete { key: key(name), when }
}

/// A one-line account of an outcome.
fn told(outcome: &Outcome) -> String {
    let revision = |object: &Option<Arc<Stored>>| match object {
        None => "nothing".to_owned(),
        Some(object) => format!("{}", object.revision),
    };
    match outcome {
        Outcome::Committed { revision, objects } => {
            let objects: Vec<u64> = objects.iter().map(|object| object.revision).collect();
            format!("committed {revision} {objects:?}")
        }
        Outcome::Rejected { op, current } => format!("rejected {op}, is {}", revision(current)),
    }
}

#[test]
fn transactions_happen_as_a_whole_or_not_at_all() {
    use Precondition::{Absent, Exists, None, Revision};
    // Each row runs against a store that holds "a" at revision 2 and "b" at revision 3.
    let table: Vec<(Vec<Op>, &str)> = vec![
        (vec![], "committed 3 []"),
        (vec![put("c", Absent)], "committed 4 [4]"),
        (vec![put("a", Absent)], "rejected 0, is 2"),
        (vec![put("c", Exists)], "rejected 0, is nothing"),
        (vec![put("a", Exists)], "committed 4 [4]"),
        (vec![put("a", None)], "committed 4 [4]"),
        (vec![put("a", Revision(2))], "committed 4 [4]"),
        (vec![put("a", Revision(3))], "rejected 0, is 2"),
        (vec![put("c", Revision(3))], "rejected 0, is nothing"),
        (vec![delete("a", None)], "committed 4 [4]"),
        (vec![delete("a", Revision(2))], "committed 4 [4]"),
        (vec![delete("a", Revision(1))], "rejected 0, is 2"),
        (vec![delete("a", Absent)], "rejected 0, is 2"),
        (vec![delete("c", None)], "rejected 0, is nothing"),
        (vec![delete("c", Absent)], "rejected 0, is nothing"),
        (
            vec![put("c", Absent), put("a", Revision(2)), delete("b", Exists)],
            "committed 6 [4, 5, 6]",
        ),
        (vec![put("c", Absent), put("a", Revision(9))], "rejected 1, is 2"),
        (vec![put("c", Absent), put("c", Absent)], "rejected 1, is nothing"),
        (vec![put("c", Absent), put("c", Revision(4))], "committed 5 [4, 5]"),
        (vec![delete("a", None), put("a", Absent)], "committed 5 [4, 5]"),
        (vec![delete("a", None), delete("a", None)], "rejected 1, is 2"),
    ];
    for (ops, expected) in table {
        let mut state = State::new();
        state.apply(Txn::put(draft(key("a"), "a"), None));
        state.apply(Txn::put(draft(key("b"), "b"), None));
        let before: Vec<Stored> = objects(&state.snapshot());
        let shown = format!("{ops:?}");
        let (outcome, events) = state.apply(Txn { ops });
        assert_eq!(told(&outcome), expected, "{shown}");
        if let Outcome::Committed { objects, .. } = &outcome {
            assert_eq!(events.len(), objects.len());
        } else {
            assert!(events.is_empty());
            assert_eq!(objects(&state.snapshot()), before, "{shown}");
        }
    }
}

fn objects(snapshot: &Snapshot) -> Vec<Stored> {
    snapshot
        .all()
        .map(|object| object.at_revision(object.revision))
        .collect()
}

#[test]
fn the_revision_is_spliced_into_canonical_bytes() {
    let table = [
        (json!({}), r#"{"metadata":{"resourceVersion":"5"}}"#),
        (json!(7), r#"{"metadata":{"resourceVersion":"5"}}"#),
        (
            json!({"metadata": 3, "a": 1}),
            r#"{"a":1,"metadata":{"resourceVersion":"5"}}"#,
        ),
        (
            json!({"metadata": {"uid": "u"}, "z": [1, null]}),
            r#"{"metadata":{"resourceVersion":"5","uid":"u"},"z":[1,null]}"#,
        ),
        (
            json!({"metadata": {"name": "n", "resourceVersion": "3"}}),
            r#"{"metadata":{"name":"n","resourceVersion":"5"}}"#,
        ),
        (
            json!({"metadata": {"name": "\"é\n", "uid": "u", "selfLink": ""}, "kind": "K"}),
            "{\"kind\":\"K\",\"metadata\":{\"name\":\"\\\"é\\n\",\"resourceVersion\":\"5\",\"selfLink\":\"\",\"uid\":\"u\"}}",
        ),
    ];
    for (value, expected) in table {
        let draft = Draft::new(key("n"), value.clone(), Head::default());
        let stored = Stored::from_draft(draft.clone(), 5);
        assert_eq!(std::str::from_utf8(&stored.bytes), Ok(expected));
        assert!(stored.same_content(&draft));
        let later = stored.at_revision(18_446_744_073_709_551_615);
        let expected = expected.replace("\"5\"", "\"18446744073709551615\"");
        assert_eq!(std::str::from_utf8(&later.bytes), Ok(expected.as_str()));
        assert!(later.same_content(&draft));
        assert_eq!(later.value()["metadata"]["resourceVersion"], "18446744073709551615");
    }
    let one = Stored::from_draft(draft(key("a"), "x"), 1);
    assert!(!one.same_content(&draft(key("a"), "y")));
}

#[test]
fn other_forms_are_kept_while_there_is_room() {
    let stored = |name: &str| Stored::from_draft(draft(key(name), name), 1);
    let budget = FormBudget::new(10);
    let form = |stored: &Stored, text: &'static str| stored.other_form(&budget, || text.into());
    let (first, second) = (stored("a"), stored("b"));
    assert_eq!(form(&first, "sixsix"), "sixsix");
    assert_eq!(form(&first, "never made"), "sixsix");
    assert_eq!(form(&second, "fives"), "fives", "there is no room");
    assert_eq!(form(&second, "again"), "again", "it was not kept");
    assert_eq!(budget.used(), 6);
    drop(first);
    assert_eq!(form(&second, "fives"), "fives");
    assert_eq!((form(&second, "again").as_ref(), budget.used()), (&b"fives"[..], 5));
}

#[test]
fn decoded_values_are_shared_while_somebody_holds_one() {
    let stored = Stored::from_draft(draft(key("a"), "x"), 9);
    let first = stored.value();
    assert!(Arc::ptr_eq(&first, &stored.value()));
    assert_eq!(first["metadata"]["resourceVersion"], "9");
}

#[test]
fn events_tell_before_and_after() {
    let mut state = State::new();
    let steps = [
        (put("a", Precondition::None), EventKind::Added, None),
        (put("a", Precondition::None), EventKind::Modified, Some(2)),
        (delete("a", Precondition::None), EventKind::Deleted, Some(3)),
        (put("a", Precondition::None), EventKind::Added, None),
    ];
    for (at, (op, kind, previous)) in steps.into_iter().enumerate() {
        let (_, events) = state.apply(Txn { ops: vec![op] });
        let event = &events[0];
        let revision = at as u64 + 2;
        assert_eq!((event.revision, event.kind), (revision, kind));
        assert_eq!(event.object.revision, revision);
        assert_eq!(
            event.object.value()["metadata"]["resourceVersion"],
            revision.to_string()
        );
        assert_eq!(event.previous.as_ref().map(|object| object.revision), previous);
    }
}

#[test]
fn lists_are_ordered_and_can_be_continued() {
    let mut state = State::new();
    for (namespace, name) in [("b", "1"), ("a", "2"), ("a", "1"), ("c", "9"), ("b", "0")] {
        let key = Key::new("pods", namespace, name);
        state.apply(Txn::put(draft(key, "x"), Precondition::None));
    }
    state.apply(Txn::put(draft(Key::new("nodes", "", "n"), "x"), Precondition::None));
    let view = state.snapshot();
    let list = |namespace: Option<&str>, after: Option<(&str, &str)>| -> String {
        let names: Vec<String> = view
            .list("pods", namespace, after)
            .map(|object| format!("{}{}", object.key.namespace, object.key.name))
            .collect();
        names.join(" ")
    };
    let table = [
        (None, None, "a1 a2 b0 b1 c9"),
        (None, Some(("a", "1")), "a2 b0 b1 c9"),
        (None, Some(("a", "11")), "a2 b0 b1 c9"),
        (None, Some(("a", "2")), "b0 b1 c9"),
        (None, Some(("aa", "zzz")), "b0 b1 c9"),
        (None, Some(("c", "9")), ""),
        (Some("b"), None, "b0 b1"),
        (Some("b"), Some(("b", "0")), "b1"),
        (Some("b"), Some(("a", "7")), "b0 b1"),
        (Some("b"), Some(("c", "0")), ""),
        (Some("x"), None, ""),
    ];
    for (namespace, after, expected) in table {
        assert_eq!(list(namespace, after), expected, "{namespace:?} {after:?}");
    }
    assert_eq!(view.count("pods", None), 5);
    assert_eq!(view.count("pods", Some("a")), 2);
    assert_eq!(view.count("pods", Some("x")), 0);
    assert_eq!(view.count("none", None), 0);
    assert_eq!(view.len(), 6);
    assert_eq!(view.list("none", None, None).count(), 0);
}

#[test]
fn rings_are_bounded_by_count_and_bytes() {
    let event = |revision: u64, text: &str| {
        Arc::new(Event {
            revision,
            kind: EventKind::Added,
            object: Arc::new(Stored::from_draft(draft(key("a"), text), revision)),
            previous: None,
            frames: Frames::default(),
        })
    };
    let revisions = |ring: &Ring, after: u64, most: usize| -> Result<Vec<u64>, u64> {
        match ring.after(after, most) {
            Ok(events) => Ok(events.iter().map(|event| event.revision).collect()),
            Err(Compacted { oldest }) => Err(oldest),
        }
    };
    let mut ring = Ring::new(
        10,
        RingLimit {
            events: 3,
            bytes: 1 << 20,
        },
    );
    assert_eq!(revisions(&ring, 9, 9), Err(10));
    assert_eq!(revisions(&ring, 10, 9), Ok(vec![]));
    for revision in [12, 14, 15] {
        ring.push(event(revision, ""));
    }
    assert_eq!(revisions(&ring, 10, 9), Ok(vec![12, 14, 15]));
    assert_eq!(revisions(&ring, 12, 1), Ok(vec![14]));
    assert_eq!(revisions(&ring, 13, 9), Ok(vec![14, 15]));
    ring.push(event(20, ""));
    assert_eq!(revisions(&ring, 11, 9), Err(12));
    assert_eq!(revisions(&ring, 12, 9), Ok(vec![14, 15, 20]));
    assert_eq!((ring.oldest(), ring.newest(), ring.dropped()), (12, 20, 1));

    let mut ring = Ring::new(
        0,
        RingLimit {
            events: 100,
            bytes: 100_000,
        },
    );
    let text = "x".repeat(10_000);
    let stored = |revision: u64| Arc::new(Stored::from_draft(draft(key("a"), &text), revision));
    let change = |revision: u64, kind| {
        Arc::new(Event {
            revision,
            kind,
            object: stored(revision),
            previous: (kind != EventKind::Added).then(|| stored(revision - 1)),
            frames: Frames::default(),
        })
    };
    // What is stored costs the history nothing, what was stored costs its size, and what a delete shows as well.
    let size = stored(5).size();
    assert!(size > text.len());
    for (kind, versions) in [
        (EventKind::Added, 0),
        (EventKind::Modified, size),
        (EventKind::Deleted, 2 * size),
    ] {
        let mut ring = Ring::new(0, RingLimit::default());
        ring.push(change(5, kind));
        let bytes = ring.bytes();
        assert!((versions..=versions + 400).contains(&bytes), "{kind:?} {bytes}");
        assert!(ring.drop_oldest() && !ring.drop_oldest());
        assert_eq!((ring.bytes(), ring.oldest()), (0, 5));
    }
    for revision in 1..=20 {
        ring.push(change(revision, EventKind::Modified));
    }
    assert!(ring.bytes() <= 100_000 && !ring.is_empty() && ring.len() < 10);
    assert_eq!(ring.oldest(), 20 - ring.len() as u64);
}

#[test]
fn frames_are_kept_within_their_budget() {
    let form: Arc<str> = "json".into();
    let get = |frames: &Frames, text: &'static str| frames.get("ADDED", &form, || text.into());
    let budget = FormBudget::new(8);
    let (first, second) = (Frames::default(), Frames::default());
    assert_eq!(
        (get(&first, "a"), get(&first, "b")),
        ("a".into(), "b".into()),
        "without a budget none is kept"
    );
    first.keep_within(&budget);
    second.keep_within(&budget);
    assert_eq!(
        (get(&first, "sixsix"), get(&first, "b")),
        ("sixsix".into(), "sixsix".into())
    );
    assert_eq!(
        (get(&second, "three"), get(&second, "fours")),
        ("three".into(), "fours".into()),
        "there is no room"
    );
    assert_eq!(budget.used(), 6);
    first.forget();
    assert_eq!((budget.used(), get(&first, "b")), (0, "b".into()));
    assert_eq!(
        (get(&second, "three"), get(&second, "b")),
        ("three".into(), "three".into())
    );
    drop(second);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_form_goes_when_its_object_is_stored_no_longer() {
    let stored = Stored::from_draft(draft(key("a"), "x"), 1);
    let budget = FormBudget::new(10);
    stored.other_form(&budget, || "six".into());
    stored.forget_form();
    assert_eq!(budget.used(), 0);
    assert_eq!(stored.other_form(&budget, || "new".into()), "new");
}

#[test]
fn an_emptied_ring_gives_its_places_back() {
    let mut ring = Ring::new(0, RingLimit::default());
    for revision in 1..=5000 {
        ring.push(Arc::new(Event {
            revision,
            kind: EventKind::Added,
            object: Arc::new(Stored::from_draft(draft(key("a"), ""), revision)),
            previous: None,
            frames: Frames::default(),
        }));
    }
    assert!(ring.places() >= 5000);
    while ring.drop_oldest() {}
    assert!(ring.places() <= 512, "{}", ring.places());
    assert_eq!(ring.oldest(), 5000);
}

/// A step of the model test.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u8),
    Delete(u8, u8),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        3 => (0..3u8, 0..4u8, 0..4u8).prop_map(|(ns, name, when)| Step::Put(ns, name, when)),
        1 => (0..3u8, 0..4u8).prop_map(|(ns, name)| Step::Delete(ns, name)),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..4), 0..40)
}

type Model = BTreeMap<(u8, u8), u64>;

/// Applies a transaction to the model.
fn model_apply(model: &mut Model, revision: &mut u64, txn: &[Step]) -> bool {
    let (mut next, mut at) = (model.clone(), *revision);
    for step in txn {
        at += 1;
        match step {
            Step::Put(ns, name, when) => {
                let current = next.get(&(*ns, *name)).copied();
                let holds = match when {
                    0 => true,
                    1 => current.is_none(),
                    2 => current.is_some(),
                    _ => current == Some(*revision),
                };
                if !holds {
                    return false;
                }
                next.insert((*ns, *name), at);
            }
            Step::Delete(ns, name) => {
                if next.remove(&(*ns, *name)).is_none() {
                    return false;
                }
            }
        }
    }
    (*model, *revision) = (next, at);
    true
}

fn real_op(step: &Step, revision: u64) -> Op {
    let key = |ns: &u8, name: &u8| Key::new("pods", format!("ns{ns}"), format!("p{name}"));
    match step {
        Step::Put(ns, name, when) => Op::Put {
            draft: draft(key(ns, name), "t"),
            when: match when {
                0 => Precondition::None,
                1 => Precondition::Absent,
                2 => Precondition::Exists,
                _ => Precondition::Revision(revision),
            },
        },
        Step::Delete(ns, name) => Op::Delete {
            key: key(ns, name),
            when: Precondition::None,
        },
    }
}

fn summary(snapshot: &Snapshot) -> Model {
    let digit = |text: &str| text.as_bytes()[text.len() - 1] - b'0';
    snapshot
        .list("pods", None, None)
        .map(|object| {
            let place = (digit(&object.key.namespace), digit(&object.key.name));
            (place, object.revision)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The state agrees with the model, earlier snapshots stay what they were, and undoing the
    /// events gives them again.
    #[test]
    fn agrees_with_the_model(txns in steps()) {
        let mut state = State::new();
        let (mut model, mut revision) = (Model::new(), 1);
        let mut history = vec![(state.snapshot(), model.clone())];
        let mut ring = Ring::new(1, RingLimit::default());
        for txn in &txns {
            let ops = txn.iter().map(|step| real_op(step, revision)).collect();
            let accepted = model_apply(&mut model, &mut revision, txn);
            let (outcome, events) = state.apply(Txn { ops });
            prop_assert_eq!(matches!(outcome, Outcome::Committed { .. }), accepted);
            prop_assert_eq!(state.revision(), revision);
            events.into_iter().for_each(|event| ring.push(event));
            history.push((state.snapshot(), model.clone()));
        }
        for (snapshot, model) in &history {
            prop_assert_eq!(&summary(snapshot), model);
            prop_assert_eq!(snapshot.count("pods", None), model.len());
            let mut walked = state.snapshot();
            for event in ring.back_to(snapshot.revision()).expect("all events are held") {
                walked.undo(event);
            }
            walked.set_revision(snapshot.revision());
            prop_assert_eq!(objects(&walked), objects(snapshot));
            prop_assert_eq!(walked.stored_bytes(), snapshot.stored_bytes());
        }
    }

    /// Decoding gives back what was encoded, and a state survives a checkpoint.
    #[test]
    fn encodings_are_reversible(txns in steps()) {
        let mut state = State::new();
        for txn in &txns {
            let ops = txn.iter().map(|step| real_op(step, 9)).collect();
            let txn = Txn { ops };
            let mut bytes = Vec::new();
            encode_txn(&txn, &mut bytes);
            prop_assert!(bytes.len() <= codec::txn_size_hint(&txn));
            prop_assert_eq!(decode_txn(&bytes), Ok(txn.clone()));
            state.apply(txn);
        }
        let mut bytes = Vec::new();
        state.view().all().for_each(|object| encode_object(object, &mut bytes));
        let mut read = Vec::new();
        decode_objects(&bytes, |object| read.push(object)).expect("decodes");
        let restored = State::restore(state.revision(), read);
        prop_assert_eq!(objects(restored.view()), objects(state.view()));
        prop_assert_eq!(restored.view().stored_bytes(), state.view().stored_bytes());
    }

    /// No input makes decoding do anything worse than refuse.
    #[test]
    fn decoding_survives_anything(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in 0..200usize,
        flip in any::<u8>(),
    ) {
        let _ = decode_txn(&bytes);
        let _ = decode_objects(&bytes, |_| ());
        let mut encoded = Vec::new();
        let ops = vec![put("a", Precondition::Revision(7)), delete("b", Precondition::None)];
        encode_txn(&Txn { ops }, &mut encoded);
        encoded.truncate(at.max(1));
        if let Some(byte) = encoded.get_mut(at / 2) {
            *byte ^= flip;
        }
        let _ = decode_txn(&encoded);
    }
}

#[test]
fn a_newer_encoding_is_refused() {
    let mut bytes = Vec::new();
    encode_txn(&Txn::default(), &mut bytes);
    bytes[0] = 9;
    assert_eq!(decode_txn(&bytes), Err(DecodeError::Version(9)));
    assert_eq!(decode_txn(&[]), Err(DecodeError::Malformed));
}

/// Transactions and objects of any bytes: read as they were written, or refused.
#[test]
fn fuzz_encodings() {
    use crate::codec::{decode_objects, decode_txn, encode_object, encode_txn};
    let txn = Txn {
        ops: vec![put("a", Precondition::None), delete("b", Precondition::Absent)],
    };
    let mut bytes = Vec::new();
    encode_txn(&txn, &mut bytes);
    let words = &["metadata", "\u{1}", "\u{7f}"];
    coxswain_fuzz::fuzz("transactions", vec![bytes], words, |bytes: &Vec<u8>| {
        let txn = decode_txn(bytes).map_err(|error| error.to_string())?;
        let mut again = Vec::new();
        encode_txn(&txn, &mut again);
        assert_eq!(decode_txn(&again).expect("what was written can be read"), txn);
        let mut state = State::new();
        state.apply(txn);
        Ok(())
    });
    let mut state = State::new();
    state.apply(txn);
    let mut seed = Vec::new();
    for object in state.snapshot().all() {
        encode_object(object, &mut seed);
    }
    coxswain_fuzz::fuzz("stored-objects", vec![seed], words, |bytes: &Vec<u8>| {
        let mut state = State::new();
        let read = decode_objects(bytes, |object| {
            let _ = (object.value(), object.size());
            state.restore_object(object);
        });
        read.map_err(|error| error.to_string())
    });
}
