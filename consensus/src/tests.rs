//! A member on a disk that loses power, fails, fills up and decays.
//!
//! The rig runs a member with tiny segments and frequent checkpoints, remembers what was
//! acknowledged in a second state machine, and compares after every restart. Seeds are fixed, and
//! printed with every failure.

mod damage;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use coxswain_store::{Draft, Head, Key, Op, Outcome, Precondition, RingLimit, State, Stored, Txn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;
use tokio::sync::oneshot::Receiver;

use crate::checkpoint;
use crate::crypt::Keyring;
use crate::disk::{Disk, Fault, MemoryDisk};
use crate::inbox::Proposal;
use crate::member::{Member, Origin, Turn};
use crate::start::{Parts, Started, start};
use crate::transport::NoPeers;
use crate::wal::{discard, last_record, make_spare};
use crate::{OpenError, ProposeError};

const SEGMENT: u64 = 16 << 10;
const CHECKPOINT: u64 = 24 << 10;

fn begin(disk: &MemoryDisk, key: u8) -> Result<Started, OpenError> {
    start(Parts {
        keyring: Arc::new(Keyring::in_memory(key)),
        ..parts(disk)
    })
}

/// A member that is alone.
fn parts(disk: &MemoryDisk) -> Parts {
    Parts {
        id: 1,
        disk: Arc::new(disk.clone()),
        keyring: Arc::new(Keyring::in_memory(1)),
        segment_bytes: SEGMENT,
        history: RingLimit::default(),
        transport: Box::new(NoPeers),
        voters: vec![1],
        session: 1,
        lag_bytes: 1 << 20,
        chunk_bytes: 1 << 10,
        accept_log_damage: false,
    }
}

fn put(name: &str, bytes: usize) -> Txn {
    let value = serde_json::json!({"metadata": {"name": name, "uid": "u"}, "text": "x".repeat(bytes)});
    let draft = Draft::new(Key::new("pods", "default", name), value, Head::default());
    Txn::put(draft, Precondition::None)
}

fn delete(name: &str) -> Txn {
    Txn::delete(Key::new("pods", "default", name), Precondition::None)
}

fn proposal(txn: &Txn) -> (Proposal, Receiver<Result<Outcome, ProposeError>>) {
    let (answer, outcome) = oneshot::channel();
    let proposal = Proposal::new(txn.clone(), Origin::Local(answer), Duration::MAX);
    (proposal, outcome)
}

/// One turn with these transactions, and what their proposers hear.
fn turn(member: &mut Member, txns: &[Txn], now: Duration) -> Result<Vec<Result<Outcome, ProposeError>>, OpenError> {
    let mut pending = VecDeque::new();
    let mut outcomes = Vec::new();
    for txn in txns {
        let (proposal, outcome) = proposal(txn);
        pending.push_back(proposal);
        outcomes.push(outcome);
    }
    while !pending.is_empty() {
        let mut turn = Turn::default();
        member.turn(&mut pending, Vec::new(), now, &mut turn)?;
        for (answer, outcome) in turn.answers {
            answer.send(outcome).expect("somebody listens");
        }
    }
    let heard = |mut outcome: Receiver<_>| outcome.try_recv().expect("answered");
    Ok(outcomes.into_iter().map(heard).collect())
}

/// What the files thread does, on the spot.
fn background(member: &mut Member, disk: &MemoryDisk) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io {
        action: "tidy",
        path: disk.path(""),
        source,
    };
    if let Some((meta, snapshot)) = member.checkpoint_due(CHECKPOINT, false) {
        checkpoint::write(disk, &Keyring::in_memory(1), &meta, &snapshot)?;
        let unneeded = member.checkpointed(meta.index);
        discard(disk, &unneeded, SEGMENT).map_err(failed)?;
    }
    make_spare(disk, SEGMENT).map_err(failed)
}

fn objects(state: &State) -> Vec<Stored> {
    state
        .view()
        .all()
        .map(|object| object.at_revision(object.revision))
        .collect()
}

fn same(one: &State, other: &State) -> bool {
    one.revision() == other.revision() && objects(one) == objects(other)
}

fn random_txns(random: &mut StdRng) -> Vec<Txn> {
    let txn = |random: &mut StdRng| {
        let name = format!("p{}", random.random_range(0..12));
        match random.random_range(0..10) {
            0..7 => put(&name, random.random_range(0..1500)),
            7..9 => delete(&name),
            _ => put(&name, random.random_range(0..40_000)),
        }
    };
    (0..random.random_range(1..5)).map(|_| txn(random)).collect()
}

/// What became of a rig.
#[derive(Debug, PartialEq)]
enum Verdict {
    Kept,
    Lost(String),
}

/// Runs one seed: several lives, each ended by a fault at a random step.
fn crash_run(seed: u64, fault: fn(u64) -> Fault, ignore_sync: bool) -> Verdict {
    let disk = MemoryDisk::new();
    let mut random = StdRng::seed_from_u64(seed);
    // What must be there, and what may be there besides: the batch under way when it ended.
    let (mut sure, mut perhaps) = (State::new(), State::new());
    for life in 0..6 {
        disk.set_ignore_sync(ignore_sync && life > 0);
        let steps = if life == 0 { 30 } else { 200 };
        disk.set_fault(Some(fault(random.random_range(0..steps))));
        let ended = live(&disk, &mut random, &mut sure, &mut perhaps);
        if let Some(lost) = ended {
            return Verdict::Lost(format!("seed {seed}, life {life}: {lost}"));
        }
        disk.reboot(random.random());
    }
    disk.set_fault(None);
    disk.set_ignore_sync(false);
    match begin(&disk, 1) {
        Err(error) => Verdict::Lost(format!("seed {seed}: does not start: {error}")),
        Ok(started) => {
            let state = &started.member.state;
            if same(state, &sure) || same(state, &perhaps) {
                Verdict::Kept
            } else {
                Verdict::Lost(format!("seed {seed}: something else at the end"))
            }
        }
    }
}

/// One life of a member, until the fault. Tells what was lost, if anything.
fn live(disk: &MemoryDisk, random: &mut StdRng, sure: &mut State, perhaps: &mut State) -> Option<String> {
    let mut member = match begin(disk, 1) {
        Ok(started) => started.member,
        Err(OpenError::Io { .. }) => return None,
        Err(error) => return Some(format!("does not start: {error}")),
    };
    if !same(&member.state, sure) && !same(&member.state, perhaps) {
        return Some(format!(
            "revision {} was acknowledged, {} is there",
            sure.revision(),
            member.state.revision()
        ));
    }
    *sure = member.state.clone();
    *perhaps = sure.clone();
    loop {
        let txns = random_txns(random);
        for txn in &txns {
            perhaps.apply(txn.clone());
        }
        match turn(&mut member, &txns, Duration::ZERO) {
            Err(_) => {
                // Whatever a disk does after its first error, nothing is acknowledged any more.
                if turn(&mut member, &txns, Duration::ZERO).is_ok() {
                    return Some("acknowledged after a failed write".into());
                }
                return None;
            }
            Ok(outcomes) => {
                for (txn, outcome) in txns.into_iter().zip(outcomes) {
                    if outcome.is_err() {
                        return Some(format!("refused: {outcome:?}"));
                    }
                    sure.apply(txn);
                }
            }
        }
        if background(&mut member, disk).is_err() {
            return None;
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails() {
    for seed in 0..120 {
        assert_eq!(crash_run(seed, Fault::PowerCut, false), Verdict::Kept);
    }
}

#[test]
fn nothing_is_acknowledged_after_a_failed_write() {
    for seed in 0..50 {
        assert_eq!(crash_run(seed, Fault::Error, false), Verdict::Kept);
    }
}

/// The mutant: were answers sent before the sync, which is what a sync that does nothing amounts
/// to, the tests above would notice.
#[test]
fn acknowledging_before_the_sync_would_be_caught() {
    let lost = |seed: &u64| crash_run(*seed, Fault::PowerCut, true) != Verdict::Kept;
    let caught = (0..20).filter(lost).count();
    assert!(caught > 10, "only {caught} of 20 runs noticed");
}

#[test]
fn the_same_writes_give_the_same_state_through_log_and_checkpoints() {
    let disk = MemoryDisk::new();
    let mut random = StdRng::seed_from_u64(1);
    let mut expected = State::new();
    for _ in 0..20 {
        let started = begin(&disk, 1).expect("starts");
        let mut member = started.member;
        assert!(same(&member.state, &expected));
        assert_eq!(started.hub.snapshot().revision(), expected.revision());
        for _ in 0..10 {
            let txns = random_txns(&mut random);
            txns.iter().for_each(|txn| drop(expected.apply(txn.clone())));
            turn(&mut member, &txns, Duration::ZERO).expect("written");
            background(&mut member, &disk).expect("tidied");
        }
        member.close().expect("closed");
    }
    let names = disk.list().expect("listed");
    let count = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(count("state-"), 2, "{names:?}");
    assert!(count("log-") < 12, "the log is trimmed: {names:?}");
}

#[test]
fn a_full_disk_refuses_writes_and_goes_on_serving() {
    let disk = MemoryDisk::new();
    let mut member = begin(&disk, 1).expect("starts").member;
    make_spare(&disk, SEGMENT).expect("spare and reserve");
    disk.set_capacity(Some(disk.used() + 1000));
    let mut written = Vec::new();
    let at = Duration::from_secs;
    for number in 0..1000 {
        let name = format!("p{number}");
        let outcome = turn(&mut member, &[put(&name, 500)], at(1)).expect("alive").remove(0);
        match outcome {
            Ok(_) => written.push(name),
            Err(error) => {
                assert_eq!(
                    error.to_string(),
                    "no space is left on the disk of /memory: writes are refused, reads and deletes still work; \
                     free space on it and writes resume by themselves"
                );
                break;
            }
        }
    }
    assert!((10..200).contains(&written.len()), "{}", written.len());
    assert_eq!(member.snapshot().len(), written.len(), "reads go on");
    let mixed = [put("late", 500), delete(&written[0])];
    let outcomes = turn(&mut member, &mixed, at(1)).expect("alive");
    assert!(matches!(outcomes[0], Err(ProposeError::NoSpace { .. })));
    assert!(outcomes[1].is_ok(), "deletes still work");
    let refused = turn(&mut member, &[put("late", 500)], at(3)).expect("alive");
    assert!(refused[0].is_err(), "the reserve is for deletes");
    let started = begin(&copy(&disk), 1).expect("starts on a full disk");
    assert_eq!(started.member.snapshot().len(), written.len() - 1);
    disk.set_capacity(None);
    let refused = turn(&mut member, &[put("late", 500)], at(3)).expect("alive");
    assert!(refused[0].is_err(), "the disk is not tried again at once");
    let accepted = turn(&mut member, &[put("late", 500)], at(5)).expect("alive");
    assert!(accepted[0].is_ok(), "writes resume by themselves");
    drop(member);
    let again = begin(&disk, 1).expect("starts").member;
    assert_eq!(again.snapshot().len(), written.len());
}

/// A disk with two checkpoints and a log, closed, and the state on it.
fn filled() -> (MemoryDisk, State) {
    let disk = MemoryDisk::new();
    let mut member = begin(&disk, 1).expect("starts").member;
    for number in 0..60 {
        let txns = [put(&format!("p{}", number % 7), 900)];
        turn(&mut member, &txns, Duration::ZERO).expect("written");
        background(&mut member, &disk).expect("tidied");
    }
    member.close().expect("closed");
    (disk, member.state.clone())
}

fn all_contents(disk: &MemoryDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list().expect("listed");
    let contents = |name: String| {
        let bytes = disk.contents(&name).unwrap_or_default();
        (name, bytes)
    };
    names.into_iter().map(contents).collect()
}

#[test]
fn damage_in_the_log_is_reported_and_nothing_is_changed() {
    let (disk, _) = filled();
    let mut names = disk.list().expect("listed");
    names.retain(|name| name.starts_with("log-"));
    let mut random = StdRng::seed_from_u64(3);
    for round in 0..80 {
        let name = &names[random.random_range(0..names.len())];
        let contents = disk.contents(name).expect("there");
        // Behind the last record another segment is named, in which a change does no harm, as the other one is there.
        let end = last_record(&contents).end;
        let offset = random.random_range(0..end);
        // Nor does one in the rest of the segment's header.
        if offset < 512 && contents[offset..].iter().take_while(|byte| **byte == 0).count() > 3 {
            continue;
        }
        disk.damage(name, offset);
        let before = all_contents(&disk);
        match begin(&disk, 1) {
            Err(
                OpenError::Corrupted {
                    file,
                    offset: at,
                    detail,
                }
                | OpenError::LogDamaged {
                    file,
                    offset: at,
                    detail,
                    ..
                },
            ) => {
                assert!(
                    file.ends_with(name),
                    "round {round}: {name} {offset}: {file:?} {detail}"
                );
                assert!(at as usize <= offset + 8, "round {round}: {at} {offset} {detail}");
            }
            Err(error) => panic!("round {round}, {name} at {offset}: {error}"),
            Ok(_) => panic!("round {round}: damage at {offset} of {name} went unnoticed"),
        }
        assert_eq!(all_contents(&disk), before, "round {round}: something was changed");
        disk.damage(name, offset);
    }
    assert!(begin(&disk, 1).is_ok(), "undamaged again");
}

#[test]
fn a_log_file_that_was_cut_off_is_reported() {
    let (disk, _) = filled();
    let mut names = disk.list().expect("listed");
    names.retain(|name| name.starts_with("log-"));
    let newest = names.last().expect("some");
    let whole = disk.contents(newest).expect("there").len();
    for bytes in [whole - 1, whole / 2, 0] {
        disk.cut(newest, bytes);
        match begin(&disk, 1) {
            Err(OpenError::LogDamaged { file, .. }) => assert!(file.ends_with(newest), "{file:?}"),
            other => panic!("{bytes} of {whole} bytes: {:?}", other.err()),
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let (disk, expected) = filled();
    let mut names = disk.list().expect("listed");
    names.retain(|name| name.starts_with("state-"));
    assert_eq!(names.len(), 2);
    let mut random = StdRng::seed_from_u64(4);
    for _ in 0..25 {
        let length = disk.contents(&names[1]).expect("there").len();
        let offset = random.random_range(512..length);
        disk.damage(&names[1], offset);
        // A copy, because starting writes to the log.
        let started = begin(&copy(&disk), 1).expect("the older one and the log do it");
        assert!(same(&started.member.state, &expected), "offset {offset}");
        disk.damage(&names[1], offset);
    }
    disk.damage(&names[0], 700);
    disk.damage(&names[1], 700);
    let Err(OpenError::Corrupted { file, .. }) = begin(&disk, 1) else {
        panic!("two damaged checkpoints went unnoticed");
    };
    assert!(file.ends_with(&names[1]), "{file:?}");
}

fn copy(disk: &MemoryDisk) -> MemoryDisk {
    let copy = MemoryDisk::new();
    for (name, bytes) in all_contents(disk) {
        let mut file = copy.create(&name).expect("created");
        file.write_at(0, &bytes).expect("written");
        file.sync().expect("synced");
    }
    copy.sync_dir().expect("synced");
    copy
}

#[test]
fn files_that_are_gone_are_missed() {
    let (disk, _) = filled();
    let mut logs = disk.list().expect("listed");
    logs.retain(|name| name.starts_with("log-"));
    assert!(logs.len() > 2);
    let without = |names: &[&String]| -> String {
        let disk = copy(&disk);
        for name in names {
            disk.remove(name).expect("removed");
        }
        match begin(&disk, 1) {
            Ok(_) => "started".into(),
            Err(error) => error.to_string(),
        }
    };
    let told = without(&[&logs[1]]);
    assert!(told.contains(&logs[1]) && told.contains("missing"), "{told}");
    let newest = logs.last().expect("some");
    let told = without(&[newest]);
    assert!(told.contains(newest) && told.contains("missing"), "{told}");
    let told = without(&logs.iter().collect::<Vec<_>>());
    assert!(told.contains("missing"), "{told}");
    let states = disk.list().expect("listed");
    let states: Vec<&String> = states.iter().filter(|name| name.starts_with("state-")).collect();
    let told = without(&states);
    assert!(told.contains("no checkpoint"), "{told}");
}

#[test]
fn another_key_is_refused() {
    let (disk, _) = filled();
    let Err(error) = begin(&disk, 2) else {
        panic!("started with another key");
    };
    assert_eq!(
        error.to_string(),
        "key 1 of the key file is not the one that the data is encrypted with \
         (key file /memory/store.key); put the key file that belongs to this data back"
    );
    let plain = all_contents(&disk)
        .iter()
        .any(|(_, bytes)| bytes.windows(9).any(|window| window == b"\"metadata"));
    assert!(!plain, "something is stored in the clear");
}

#[test]
fn a_large_transaction_gets_a_segment_of_its_own() {
    let disk = MemoryDisk::new();
    let mut member = begin(&disk, 1).expect("starts").member;
    let txns = [put("small", 10), put("large", 300_000), put("small", 20)];
    turn(&mut member, &txns, Duration::ZERO).expect("written");
    let ops = (0..200).flat_map(|number| put(&format!("p{number}"), 100).ops);
    let many = Txn {
        ops: ops.collect::<Vec<Op>>(),
    };
    turn(&mut member, &[many], Duration::ZERO).expect("written");
    let expected = member.state.clone();
    let again = begin(&disk, 1).expect("starts").member;
    assert!(same(&again.state, &expected));
    assert_eq!(again.snapshot().len(), 202);
}

/// A disk whose files hold anything: the store starts with a state that there was, or says which file is damaged.
#[test]
fn fuzz_files() {
    let (disk, state) = filled();
    let files: Vec<(String, Vec<u8>)> = all_contents(&disk);
    let shown = |bytes: &[u8]| {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        bytes[..used].to_vec()
    };
    let seeds: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| shown(bytes)).collect();
    coxswain_fuzz::fuzz("store-files", seeds, &["cxwlog01", "rxcc"], |bytes: &Vec<u8>| {
        for (name, before) in files.iter().take(4) {
            let disk = copy(&disk);
            let mut file = disk.create(name).map_err(|error| error.to_string())?;
            let length = before.len().max(bytes.len());
            let mut bytes = bytes.clone();
            bytes.resize(length, 0);
            file.write_at(0, &bytes).map_err(|error| error.to_string())?;
            match begin(&disk, 1) {
                // A newest segment without records is one that was just begun.
                Ok(started) => {
                    let found = &started.member.state;
                    let earlier = found.revision() < state.revision();
                    assert!(earlier || same(found, &state), "{name}: started with something else");
                }
                Err(error) => drop(error.to_string()),
            }
        }
        Ok(())
    });
}
