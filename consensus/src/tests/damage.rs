//! The end of the log: torn, changed, or gone.

use raft::eraftpb::{Message as RaftMessage, MessageType};

use super::*;
use crate::backup::AHEAD;
use crate::message::Message;
use crate::wal::downgrade;
use protobuf::Message as _;

const SYNCED: &str = "synced";
const SECTOR: usize = 512;
/// Long enough for the log to be marked.
const IDLE: Duration = Duration::from_secs(1);
/// Number of the last record of [`killed_after`]: an election, forty writes and one.
const LAST: u64 = 42;

fn idle(member: &mut Member) {
    let mut nothing = VecDeque::new();
    let turned = member.turn(&mut nothing, Vec::new(), IDLE, &mut Turn::default());
    turned.expect("marked");
}

/// What the error says: file, byte and detail.
fn damage_of(disk: &MemoryDisk) -> (String, usize, String) {
    match begin(disk, 1).err() {
        Some(
            OpenError::LogDamaged {
                file, offset, detail, ..
            }
            | OpenError::Corrupted { file, offset, detail },
        ) => {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
            (name.unwrap_or_default(), offset as usize, detail)
        }
        Some(error) => panic!("{error}"),
        None => panic!("it starts"),
    }
}

fn newest_log(disk: &MemoryDisk) -> String {
    let names = disk.list().expect("listed").into_iter();
    let logs = names.filter(|name| name.starts_with("log-"));
    logs.max().expect("a log")
}

fn overwrite(disk: &MemoryDisk, name: &str, offset: usize, bytes: &[u8]) {
    let mut file = disk.open(name).expect("opened");
    file.write_at(offset as u64, bytes).expect("written");
    file.sync().expect("synced");
}

/// A disk after a write of so many bytes, as a kill left it; and the states before and after that write.
fn killed_after(bytes: usize) -> (MemoryDisk, State, State) {
    let disk = MemoryDisk::new();
    let mut member = begin(&disk, 1).expect("starts").member;
    for number in 0..40 {
        turn(&mut member, &[put(&format!("p{number}"), 700)], Duration::ZERO).expect("written");
        background(&mut member, &disk).expect("tidied");
    }
    let before = member.state.clone();
    turn(&mut member, &[put("last", bytes)], Duration::ZERO).expect("written");
    (disk, before, member.state.clone())
}

#[test]
fn a_changed_bit_anywhere_in_the_last_record_is_damage() {
    for bytes in [0, 900, 40_000] {
        let (disk, before, after) = killed_after(bytes);
        let name = newest_log(&disk);
        let last = last_record(&disk.contents(&name).expect("there"));
        for at in last.clone().step_by(1 + bytes / 300) {
            disk.damage(&name, at);
            let (file, offset, detail) = damage_of(&disk);
            assert_eq!(file, name, "{at} of {last:?}: {detail}");
            assert_eq!(offset, at / SECTOR * SECTOR, "{detail}");
            disk.damage(&name, at);
        }
        disk.damage(&name, last.start + 1);
        let error = begin(&disk, 1).err().expect("refused").to_string();
        let expected = format!(
            "/memory/{name} is damaged at byte {}: the first sector of record {} has changed since it was written; \
             nothing was changed; restore the data directory from a backup, or start once with --accept-log-damage, \
             which gives up every write after revision {}",
            last.start,
            LAST,
            before.revision()
        );
        assert_eq!(error, expected);
        disk.damage(&name, last.start + 1);
        assert!(same(&begin(&disk, 1).expect("whole again").member.state, &after));
    }
}

/// Each sector of the last record holds what was written or what was there before, be that zeros or an earlier use of
/// the segment: the log ends before it, and that is no damage.
#[test]
fn a_torn_last_record_is_no_damage() {
    let mut random = StdRng::seed_from_u64(5);
    let (mut torn, mut reused) = (0, 0);
    let disk = MemoryDisk::new();
    let mut member = begin(&disk, 1).expect("starts").member;
    for number in 0..160 {
        background(&mut member, &disk).expect("tidied");
        let (earlier, before) = (copy(&disk), member.state.clone());
        let txn = put(&format!("p{}", number % 9), random.random_range(0..6000));
        turn(&mut member, &[txn], Duration::ZERO).expect("written");
        let name = newest_log(&disk);
        let now = disk.contents(&name).expect("there");
        let last = last_record(&now);
        // What is not there yet has become the segment from a spare.
        let Some(old) = earlier.contents(&name) else {
            continue;
        };
        for _ in 0..4 {
            let mixed = copy(&disk);
            let mut changed = 0;
            for sector in last.clone().step_by(SECTOR) {
                if random.random_bool(0.5) {
                    overwrite(&mixed, &name, sector, &old[sector..sector + SECTOR]);
                    changed += 1;
                    reused += usize::from(old[sector..sector + SECTOR].iter().any(|byte| *byte != 0));
                }
            }
            let found = begin(&mixed, 1).unwrap_or_else(|error| panic!("write {number}: {error}"));
            let expected = if changed == 0 { &member.state } else { &before };
            assert!(same(&found.member.state, expected), "write {number}");
            torn += usize::from(changed > 0);
        }
    }
    assert!(
        torn > 300 && reused > 300,
        "{torn} torn records, {reused} sectors used before"
    );
}

#[test]
fn a_log_at_rest_that_has_lost_its_end_is_damaged() {
    let (disk, ..) = killed_after(2000);
    // The disk as it was before the last writes, and a member that goes on for a while and rests.
    let earlier = copy(&disk);
    let mut member = begin(&disk, 1).expect("starts").member;
    for number in 0..3 {
        turn(&mut member, &[put(&format!("q{number}"), 800)], Duration::ZERO).expect("written");
    }
    let name = newest_log(&disk);
    let last = last_record(&disk.contents(&name).expect("there"));
    let unmarked = disk.contents(SYNCED);
    idle(&mut member);
    assert!(disk.contents(SYNCED) != unmarked, "the log is marked");
    assert!(begin(&copy(&disk), 1).is_ok());

    let zeroed = copy(&disk);
    overwrite(&zeroed, &name, last.start, &vec![0; last.len()]);
    let (file, offset, detail) = damage_of(&zeroed);
    assert_eq!((file.as_str(), offset), (name.as_str(), last.start));
    assert!(detail.contains("had been made durable"), "{detail}");

    let older = copy(&disk);
    overwrite(&older, &name, 0, &earlier.contents(&name).expect("the same segment"));
    assert_eq!(damage_of(&older).0, name);

    let cut = copy(&disk);
    cut.cut(&name, last.start);
    assert_eq!(damage_of(&cut).0, name);

    let gone = copy(&disk);
    gone.remove(&name).expect("removed");
    assert!(damage_of(&gone).2.contains("the file is missing"));

    // Without the mark these are what a power cut leaves: the mark is what tells them apart.
    overwrite(&zeroed, SYNCED, 0, &unmarked.expect("there"));
    assert!(begin(&zeroed, 1).is_ok(), "nothing else shows it");
}

#[test]
fn a_mark_that_is_damaged_or_gone_is_missed() {
    let (disk, _) = filled();
    let one = copy(&disk);
    one.damage(SYNCED, 30);
    assert!(begin(&one, 1).is_ok(), "the other one does");
    let both = copy(&disk);
    both.damage(SYNCED, 30);
    both.damage(SYNCED, 4096 + 30);
    assert_eq!(damage_of(&both).0, SYNCED);
    let gone = copy(&disk);
    gone.remove(SYNCED).expect("removed");
    let (file, _, detail) = damage_of(&gone);
    assert_eq!((file.as_str(), detail.as_str()), (SYNCED, "the file is missing"));
}

/// Each way to damage the end of a log, given up at every step of giving up.
#[test]
fn what_is_missing_is_given_up_on_demand_and_no_revision_comes_twice() {
    let accept = |disk: &MemoryDisk| {
        start(Parts {
            accept_log_damage: true,
            ..parts(disk)
        })
    };
    let (whole, before, _) = killed_after(1500);
    let name = newest_log(&whole);
    let last = last_record(&whole.contents(&name).expect("there"));
    let mut steps = 0;
    for cut in 0.. {
        let disk = copy(&whole);
        disk.damage(&name, last.start + 600);
        disk.set_fault(Some(Fault::PowerCut(cut)));
        let given_up = accept(&disk).is_ok();
        disk.reboot(cut);
        let state = match begin(&disk, 1) {
            Ok(started) => started.member.state.clone(),
            Err(OpenError::LogDamaged { revision, .. }) => {
                assert!(!given_up && revision == before.revision(), "step {cut}");
                accept(&disk).expect("given up").member.state.clone()
            }
            Err(error) => panic!("step {cut}: {error}"),
        };
        assert!(state.revision() >= before.revision() + AHEAD, "step {cut}");
        assert_eq!(objects(&state), objects(&before), "step {cut}");
        let mut member = begin(&disk, 1).expect("starts without being told").member;
        assert!(same(&member.state, &state), "step {cut}");
        turn(&mut member, &[put("later", 10)], Duration::ZERO).expect("written");
        let again = begin(&disk, 1).expect("starts").member;
        assert!(same(&again.state, &member.state), "step {cut}");
        if given_up {
            break;
        }
        steps += 1;
    }
    assert!(steps > 8, "only {steps} steps");
    let whole = accept(&whole).expect("nothing is damaged").member;
    assert_eq!(whole.snapshot().revision(), before.revision() + 1);
}

/// Damage in the middle, and a segment that is gone: all that follows is given up.
#[test]
fn what_follows_damage_is_given_up_as_well() {
    let (disk, state) = filled();
    let mut logs = disk.list().expect("listed");
    logs.retain(|name| name.starts_with("log-"));
    let gone = copy(&disk);
    gone.remove(&logs[logs.len() - 2]).expect("removed");
    disk.damage(&logs[logs.len() - 2], 1200);
    for disk in [disk, gone] {
        assert!(begin(&disk, 1).is_err());
        let started = start(Parts {
            accept_log_damage: true,
            ..parts(&disk)
        });
        let given_up = started.expect("given up").member.state.clone();
        let revision = given_up.revision() - AHEAD;
        assert!(revision < state.revision(), "{revision} of {}", state.revision());
        let again = begin(&disk, 1).expect("starts").member;
        assert!(same(&again.state, &given_up));
    }
}

/// A member of three with a vote in its log.
fn one_of_three(disk: &MemoryDisk, accept_log_damage: bool) -> Result<Started, OpenError> {
    start(Parts {
        voters: vec![1, 2, 3],
        accept_log_damage,
        ..parts(disk)
    })
}

fn deliver(member: &mut Member, message: &RaftMessage) -> Result<(), OpenError> {
    let bytes = message.write_to_bytes().expect("encoded");
    let mut turn = Turn::default();
    member.receive(message.from, Message::Raft(bytes), Duration::ZERO, &mut turn);
    member.turn(&mut VecDeque::new(), Vec::new(), Duration::ZERO, &mut turn)
}

fn message(kind: MessageType, term: u64) -> RaftMessage {
    RaftMessage {
        msg_type: kind,
        from: 2,
        to: 1,
        term,
        ..RaftMessage::default()
    }
}

/// The vote is a record like any other: a member of several that cannot read it back does not start.
#[test]
fn a_vote_whose_record_has_changed_is_damage_and_peers_are_not_left_out() {
    let disk = MemoryDisk::new();
    let mut member = one_of_three(&disk, false).expect("starts").member;
    let mut request = message(MessageType::MsgRequestVote, 7);
    (request.index, request.log_term) = (9, 6);
    for _ in 0..30 {
        member.tick();
    }
    deliver(&mut member, &request).expect("voted");
    drop(member);
    let name = newest_log(&disk);
    let last = last_record(&disk.contents(&name).expect("there"));
    assert!(!last.is_empty());
    for at in last {
        disk.damage(&name, at);
        for accept in [false, true] {
            let refused = one_of_three(&disk, accept).err();
            assert!(
                matches!(refused, Some(OpenError::Corrupted { .. })),
                "{at}: {refused:?}"
            );
        }
        disk.damage(&name, at);
    }
    let kept = one_of_three(&disk, false).expect("starts").member;
    assert_eq!(kept.term(), 7);
}

/// An older image of a disk is whole in itself. Once the leader shows what this member had promised, it takes part no
/// longer, and says so at every start.
#[test]
fn a_member_that_has_lost_what_it_had_promised_stops_for_good() {
    let disk = MemoryDisk::new();
    let mut member = one_of_three(&disk, false).expect("starts").member;
    let heartbeat = |commit: u64| {
        let mut heartbeat = message(MessageType::MsgHeartbeat, 3);
        heartbeat.commit = commit;
        heartbeat
    };
    deliver(&mut member, &heartbeat(1)).expect("an ordinary one");
    let stopped = deliver(&mut member, &heartbeat(5)).expect_err("it has lost entries");
    let words = "the leader knows that entries up to 5 had been made durable in it";
    assert!(stopped.is_damage() && stopped.to_string().contains(words), "{stopped}");
    drop(member);
    let refused = one_of_three(&disk, false).err().expect("refused").to_string();
    assert!(refused.contains(words), "{refused}");
}

#[test]
fn a_directory_of_version_1_is_upgraded_at_any_step() {
    let mut steps = 0;
    for cut in 0.. {
        let (disk, state) = filled();
        downgrade(&disk);
        disk.set_fault(Some(Fault::PowerCut(cut)));
        let done = begin(&disk, 1).is_ok();
        disk.reboot(cut);
        let mut member = begin(&disk, 1)
            .unwrap_or_else(|error| panic!("step {cut}: {error}"))
            .member;
        assert!(same(&member.state, &state), "step {cut}");
        for number in 0..30 {
            turn(&mut member, &[put(&format!("r{}", number % 5), 900)], Duration::ZERO).expect("written");
            background(&mut member, &disk).expect("tidied");
        }
        assert!(disk.contents("FORMAT").is_some_and(|text| text == b"2\n"));
        let expected = member.state.clone();
        drop(member);
        assert!(same(&begin(&copy(&disk), 1).expect("starts").member.state, &expected));
        // From now on the last record is guarded.
        let name = newest_log(&disk);
        let last = last_record(&disk.contents(&name).expect("there"));
        disk.damage(&name, last.end - 1);
        assert!(begin(&disk, 1).is_err(), "step {cut}");
        if done {
            break;
        }
        steps += 1;
    }
    assert!(steps > 8, "only {steps} steps");
}

/// Until it is upgraded, damage in an old log is told as before.
#[test]
fn damage_in_a_log_of_version_1_is_told() {
    let (disk, _) = filled();
    downgrade(&disk);
    let name = newest_log(&disk);
    disk.damage(&name, 700);
    let (file, offset, detail) = damage_of(&disk);
    assert_eq!((file, offset), (name, 512));
    assert!(detail.contains("a later record follows"), "{detail}");
}

#[test]
fn hard_states_are_kept_where_nothing_else_is_written() {
    // A record without entries is one sector; it is marked like any other.
    let disk = MemoryDisk::new();
    let mut member = one_of_three(&disk, false).expect("starts").member;
    let mut heartbeat = message(MessageType::MsgHeartbeat, 4);
    heartbeat.commit = 1;
    deliver(&mut member, &heartbeat).expect("heard");
    idle(&mut member);
    drop(member);
    let name = newest_log(&disk);
    let last = last_record(&disk.contents(&name).expect("there"));
    assert_eq!(last.len(), SECTOR);
    overwrite(&disk, &name, last.start, &[0; SECTOR]);
    let refused = one_of_three(&disk, false).err().expect("its term is gone");
    assert!(refused.is_damage(), "{refused}");
}

/// A changed number in `member.json` must not make two members of one.
#[test]
fn a_log_is_that_of_one_member() {
    let disk = MemoryDisk::new();
    let mut member = one_of_three(&disk, false).expect("starts").member;
    let mut heartbeat = message(MessageType::MsgHeartbeat, 4);
    heartbeat.commit = 1;
    deliver(&mut member, &heartbeat).expect("heard");
    idle(&mut member);
    drop(member);
    let other = start(Parts {
        id: 2,
        voters: vec![1, 2, 3],
        ..parts(&disk)
    });
    let refused = other.err().expect("another one's").to_string();
    assert!(
        refused.contains("is the data of member 1, and this server takes itself for member 2"),
        "{refused}"
    );
    assert!(one_of_three(&disk, false).is_ok());
}
