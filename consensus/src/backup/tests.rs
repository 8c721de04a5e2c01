//! Backups that are whole, and all the ways in which one is not.

use std::fs;
use std::path::{Path, PathBuf};

use coxswain_store::{Draft, Head as ObjectHead, Precondition, State, Txn};

use super::*;
use crate::{Config, Expired, Outcome, Store};

const CANARY: &str = "a-canary-that-sings";
/// Bytes of a file's header, and of a block's.
const HEADER: usize = 41 + 60 + 4;
const BLOCK_HEADER: usize = 5;

fn key_file() -> Secret {
    Secret::KeyFile(vec![7; 32])
}

/// A state with a roster, some small objects and a large one.
fn state() -> State {
    let mut state = State::new();
    let mut put = |resource: &str, name: String, bytes: usize| {
        let value = serde_json::json!({"metadata": {"name": name}, "secret": CANARY, "text": "x".repeat(bytes)});
        let key = Key::new(resource, "default", name);
        state.apply(Txn::put(
            Draft::new(key, value, ObjectHead::default()),
            Precondition::None,
        ));
    };
    put("members.coxswain", "1".into(), 10);
    put("secrets", "large".into(), 700 << 10);
    for round in 0..2 {
        (0..300).for_each(|number| put("secrets", format!("s{number}"), 3000 + round));
    }
    state
}

fn cluster() -> Cluster {
    Cluster {
        taken: "2026-01-02T03:04:05Z".into(),
        files: BTreeMap::from([("ca.key".to_owned(), format!("-----{CANARY}-----"))]),
    }
}

/// The bytes of a backup, by the way that a snapshot travels.
fn backup(secret: &Secret, state: &State) -> Vec<u8> {
    let stream: Vec<u8> = Parts::of(state.snapshot()).flat_map(|part| framed(&part)).collect();
    let mut writer = Writer::begin(Vec::new(), secret, &cluster()).expect("begun");
    let mut frames = Frames::default();
    for piece in stream.chunks(10_007) {
        frames.take(piece, |part| writer.part(part)).expect("taken in");
    }
    let (bytes, head) = writer.finish().expect("whole");
    let expected = Head {
        revision: state.revision(),
        objects: state.view().len() as u64,
    };
    assert_eq!(head, expected);
    bytes
}

fn saved(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("backup");
    fs::write(&path, bytes).expect("saved");
    path
}

/// Where the blocks of a backup begin, and where the last one ends.
fn places(bytes: &[u8]) -> Vec<usize> {
    let mut places = vec![HEADER];
    while let Some(length) = bytes
        .get(places[places.len() - 1] + 1..)
        .and_then(|rest| rest.first_chunk())
    {
        places.push(places[places.len() - 1] + BLOCK_HEADER + u32::from_le_bytes(*length) as usize);
    }
    places
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_restored_store_goes_on_where_no_client_has_been() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let state = state();
    let bytes = backup(&key_file(), &state);
    assert!(!contains(&bytes, CANARY), "in the clear");
    let path = saved(dir.path(), &bytes);
    let (found, head) = verify(&path, &key_file()).expect("whole");
    assert_eq!((found, head.revision), (cluster(), state.revision()));
    let config = Config::new(dir.path().join("data/store"));
    let revision = restore(&path, &key_file(), head, &config).expect("restored");
    assert_eq!(revision, state.revision() + AHEAD);
    let again = restore(&path, &key_file(), head, &config)
        .err()
        .map(|error| error.to_string());
    assert!(again.is_some_and(|told| told.contains("there is a store in")));

    let store = Store::open(config.clone()).await.expect("opened");
    let snapshot = store.snapshot();
    assert_eq!(
        (snapshot.revision(), snapshot.count("members.coxswain", None)),
        (revision, 0)
    );
    let expected = state.view().list("secrets", None, None);
    let expected: Vec<Stored> = expected
        .map(|object| object.at_revision(object.revision + AHEAD))
        .collect();
    let restored: Vec<Stored> = snapshot
        .all()
        .map(|object| object.at_revision(object.revision))
        .collect();
    assert_eq!(restored, expected);
    // A watch from any moment before the restore, seen by a client of the old cluster or not.
    for before in [1, state.revision(), state.revision() + 1000, revision - 1] {
        let told = store.watch("secrets", before).err().map(Expired::from);
        assert!(matches!(told, Some(Expired::Compacted(_))), "{before}: {told:?}");
        assert!(store.snapshot_at(before).is_err(), "{before}");
    }
    let value = serde_json::json!({"metadata": {"name": "new"}});
    let key = Key::new("secrets", "default", "new");
    let txn = Txn::put(Draft::new(key, value, ObjectHead::default()), Precondition::None);
    let written = store.propose(txn).await.expect("written");
    assert!(matches!(written, Outcome::Committed { revision: at, .. } if at == revision + 1));
    store.shutdown().await;
    for entry in fs::read_dir(&config.data_dir).expect("listed") {
        let path = entry.expect("an entry").path();
        assert!(!contains(&fs::read(&path).expect("read"), CANARY), "{}", path.display());
    }
}

#[test]
fn what_is_no_whole_backup_is_refused_in_one_sentence() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let bytes = backup(&key_file(), &state());
    let places = places(&bytes);
    let (end, blocks) = (bytes.len(), places.len() - 1);
    assert!(blocks > 4 && places[blocks] == end, "{places:?}");
    let block = |number: usize| &bytes[places[number]..places[number + 1]];
    let with = |at: usize, value: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + value.len()].copy_from_slice(value);
        changed
    };
    // A header that asks for more memory than there is, and whose check is right.
    let mut greedy = with(12, &[2]);
    greedy[13..17].copy_from_slice(&u32::MAX.to_le_bytes());
    let check = crc32fast::hash(&greedy[..HEADER - 4]).to_le_bytes();
    greedy[HEADER - 4..HEADER].copy_from_slice(&check);
    let other = backup(&key_file(), &state());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "it is not a backup"),
        ("something else", b"#!/bin/sh\n".repeat(100), "it is not a backup"),
        (
            "newer",
            with(8, &[9]),
            "it has format 9, and this version knows formats up to 1",
        ),
        ("greedy", greedy, "damaged at byte 0: its header is invalid"),
        ("half a header", bytes[..HEADER / 2].to_vec(), "byte 0: it was cut off"),
        ("a header", bytes[..HEADER].to_vec(), "it was cut off"),
        ("half", bytes[..end / 2].to_vec(), "it was cut off"),
        (
            "without its end",
            bytes[..places[blocks - 1]].to_vec(),
            "it was cut off",
        ),
        ("all but a byte", bytes[..end - 1].to_vec(), "it was cut off"),
        ("more", [&bytes[..], b"x"].concat(), "something follows its end"),
        (
            "twice",
            [&bytes[..], block(blocks - 1)].concat(),
            "something follows its end",
        ),
        (
            "a block less",
            [&bytes[..places[2]], &bytes[places[3]..]].concat(),
            "a block is invalid",
        ),
        (
            "a block twice",
            [&bytes[..places[3]], &bytes[places[2]..]].concat(),
            "a block is invalid",
        ),
        (
            "an early end",
            [&bytes[..places[2]], &[1], &bytes[places[2] + 1..places[3]]].concat(),
            "a block is invalid",
        ),
        (
            "the end of another",
            [&bytes[..places[2]], &other[places[2]..]].concat(),
            "a block is invalid",
        ),
    ];
    for (name, bytes, expected) in cases {
        let told = verify(&saved(dir.path(), &bytes), &key_file()).err();
        let told = told.unwrap_or_else(|| panic!("{name} was accepted")).to_string();
        assert!(told.contains(expected), "{name}: {told}");
    }
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let bytes = backup(&key_file(), &state());
    let everywhere = (0..HEADER + 64).chain((HEADER..bytes.len()).step_by(bytes.len() / 60));
    for at in everywhere.chain([bytes.len() - 1]) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let told = verify(&saved(dir.path(), &changed), &key_file());
        assert!(told.is_err(), "byte {at}");
    }
}

#[test]
fn only_the_right_secret_opens_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let passphrase = |text: &str| Secret::Passphrase(text.into());
    let mut small = State::new();
    let key = Key::new("secrets", "default", "s");
    let draft = Draft::new(key, serde_json::json!({}), ObjectHead::default());
    small.apply(Txn::put(draft, Precondition::None));
    let table = [
        (key_file(), key_file(), ""),
        (
            key_file(),
            Secret::KeyFile(vec![8; 32]),
            "the key file is not the one that it was made with",
        ),
        (key_file(), passphrase("correct horse"), "it was made with a key file"),
        (passphrase("correct horse"), passphrase("correct horse"), ""),
        (
            passphrase("correct horse"),
            passphrase("correct house"),
            "the passphrase is not the one that it was made with",
        ),
        (passphrase("correct horse"), key_file(), "it was made with a passphrase"),
    ];
    for (made, given, expected) in table {
        let path = saved(dir.path(), &backup(&made, &small));
        let told = verify(&path, &given).err().map(|error| error.to_string());
        assert_eq!(told.unwrap_or_default(), expected);
    }
    assert!(passphrase("seven77").weakness().is_some() && passphrase("eight888").weakness().is_none());
    assert!(Secret::KeyFile(vec![0; 31]).weakness().is_some() && key_file().weakness().is_none());
}

#[test]
fn only_a_whole_stream_becomes_a_backup() {
    let parts: Vec<Vec<u8>> = Parts::of(state().snapshot()).collect();
    let last = parts.len() - 1;
    let finished = |chosen: &[usize]| {
        let mut writer = Writer::begin(Vec::new(), &key_file(), &cluster()).expect("begun");
        chosen
            .iter()
            .try_for_each(|at| writer.part(&parts[*at]))
            .and_then(|()| writer.finish().map(drop))
    };
    let all: Vec<usize> = (0..=last).collect();
    assert!(finished(&all).is_ok());
    let without_one = [&all[..2], &all[3..]].concat();
    let end_first = [&[0, last], &all[1..]].concat();
    for wrong in [
        &all[..last],
        &all[1..],
        &[],
        &without_one,
        &end_first,
        &[&all[..], &[last]].concat(),
    ] {
        assert!(matches!(finished(wrong), Err(BackupError::Incomplete)), "{wrong:?}");
    }
    let mut frames = Frames::default();
    let too_large = frames.take(&u32::MAX.to_le_bytes(), |_| Ok(()));
    assert!(matches!(too_large, Err(BackupError::Incomplete)));
}
