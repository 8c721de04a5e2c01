//! Members in faults chosen one by one.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use coxswain_consensus::disk::{Disk, Fault, MemoryDisk};
use coxswain_consensus::{Keyring, Message, Outcome, Precondition, ProposeError, Snapshot, Store, Txn};

use crate::clients::{draft_of, hash_of};
use crate::machine::{Machine, Opened, Outbox};

const MILLISECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000;

type Pending<T> = Pin<Box<dyn Future<Output = Result<T, ProposeError>>>>;

/// Three members, each by its number less one, in steps of a millisecond.
struct Three {
    now: u64,
    machines: Vec<Machine>,
    outbox: Outbox,
    /// The member that the others don't hear, and that does not hear them.
    alone: Option<u64>,
    /// The member that does not hear another, and that one.
    deaf: Option<(u64, u64)>,
    /// Number, and sender, of each part of a snapshot that has been sent.
    parts: Vec<(u64, u64)>,
    /// Whether messages are kept, and those that were: sender, receiver.
    keeps: bool,
    kept: Vec<(u64, u64, Message)>,
}

impl Three {
    fn started() -> Three {
        Three::seeded(0)
    }

    fn seeded(seed: u64) -> Three {
        let (outbox, keyring) = (Outbox::default(), Arc::new(Keyring::in_memory(1)));
        let machines = (1..=3).map(|id| Machine::new(id, &[1, 2, 3], &outbox, &keyring));
        let mut three = Three {
            now: seed * SECOND,
            machines: machines.collect(),
            outbox,
            alone: None,
            deaf: None,
            parts: Vec::new(),
            keeps: false,
            kept: Vec::new(),
        };
        (1..=3).for_each(|id| three.start(id));
        three
    }

    fn machine(&mut self, id: u64) -> &mut Machine {
        &mut self.machines[id as usize - 1]
    }

    fn start(&mut self, id: u64) {
        let now = self.now;
        let opened = self.machine(id).start(now + id, now, 20 * MILLISECOND);
        assert_eq!(opened, Ok(Opened::Runs));
    }

    /// The power fails: what was not synced may be gone.
    fn stop(&mut self, id: u64) {
        let seed = self.now;
        let machine = self.machine(id);
        machine.running = None;
        machine.disk.reboot(seed);
    }

    fn store(&self, id: u64) -> Store {
        let running = self.machines[id as usize - 1].running.as_ref();
        running.expect("it runs").store.clone()
    }

    fn leader(&self) -> Option<u64> {
        let running = self.machines.iter();
        let terms = running.filter_map(|machine| Some((machine.running.as_ref()?.leads()?, machine.id)));
        terms.max().map(|(_, id)| id)
    }

    fn step(&mut self) {
        self.now += MILLISECOND;
        let sent = std::mem::take(&mut *self.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        for (from, to, message) in sent {
            if let Message::Chunk { number, .. } = message {
                self.parts.push((number, from));
            }
            if self.keeps {
                self.kept.push((from, to, message.clone()));
            }
            let is_cut = self.alone.is_some_and(|alone| alone == from || alone == to) || self.deaf == Some((to, from));
            if let Some(running) = self.machine(to).running.as_ref().filter(|_| !is_cut) {
                running.store.deliver(from, message);
            }
        }
        for id in 1..=3 {
            let now = self.now;
            let machine = self.machine(id);
            if machine.running.is_none() {
                continue;
            }
            machine.write();
            let lives = machine.turn(now).expect("no failure");
            machine.work();
            if !lives {
                self.stop(id);
            }
        }
    }

    /// Steps until something comes about, and returns how long that took, in microseconds.
    fn until<T>(&mut self, what: &str, limit: u64, mut look: impl FnMut(&mut Three) -> Option<T>) -> (T, u64) {
        let from = self.now;
        loop {
            if let Some(found) = look(self) {
                return (found, self.now - from);
            }
            let members: Vec<_> = self.machines.iter().map(Machine::describe).collect();
            assert!(self.now < from + limit, "{what}: not within {limit} us: {members:?}");
            self.step();
        }
    }

    fn answer<T>(&mut self, what: &str, limit: u64, mut pending: Pending<T>) -> (Result<T, ProposeError>, u64) {
        self.until(what, limit, |_| {
            match pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => Some(answer),
                Poll::Pending => None,
            }
        })
    }

    fn put(&self, at: u64, name: u64) -> Pending<Outcome> {
        let store = self.store(at);
        let txn = Txn::put(draft_of(("pods", name), name, 1000), Precondition::None);
        Box::pin(async move { store.propose(txn).await })
    }

    fn read(&self, at: u64) -> Pending<Snapshot> {
        let store = self.store(at);
        Box::pin(async move { store.read_barrier().await })
    }

    fn write(&mut self, at: u64, name: u64) {
        let pending = self.put(at, name);
        let (outcome, _) = self.answer("a write", 5 * SECOND, pending);
        assert!(matches!(outcome, Ok(Outcome::Committed { .. })), "{outcome:?}");
    }

    /// Waits until all hold the same, and have it on disk: what is applied may not be there yet.
    fn settle(&mut self) {
        let mut calm = 0;
        self.until("the same state everywhere", 20 * SECOND, |three| three.calm(&mut calm));
    }

    /// All have held the same for a hundred steps, which are counted.
    fn calm(&mut self, steps: &mut u32) -> Option<()> {
        *steps = self.agree().map_or(0, |()| *steps + 1);
        (*steps > 100).then_some(())
    }

    /// All run and hold the same.
    fn agree(&mut self) -> Option<()> {
        let states = self.machines.iter().map(|machine| {
            let (index, snapshot) = machine.running.as_ref()?.engine.applied();
            Some((index, hash_of(&snapshot)))
        });
        let states: Option<Vec<_>> = states.collect();
        states?.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
    }
}

/// A member that has missed more than the log of the others reaches back.
fn lagging() -> (Three, u64, u64) {
    let mut three = Three::started();
    let (leader, _) = three.until("a leader", 5 * SECOND, |three| three.leader());
    let late = leader % 3 + 1;
    three.write(leader, 0);
    three.stop(late);
    for name in 0..40 {
        three.write(leader, name);
    }
    (three, leader, late)
}

/// Who ends, when so many parts of a snapshot have been sent.
fn crash_in_transfer(sender_ends: bool, parts: usize) -> bool {
    let (mut three, leader, late) = lagging();
    three.start(late);
    let enough = |three: &mut Three| (three.parts.len() >= parts || three.agree().is_some()).then_some(());
    three.until("parts of a snapshot", 20 * SECOND, enough);
    let is_early = three.agree().is_none();
    let victim = if sender_ends { leader } else { late };
    three.stop(victim);
    three.step();
    three.start(victim);
    let ((), took) = three.until("the same state everywhere", 20 * SECOND, Three::agree);
    // It is not waited until the transfer that nobody completes has been given up.
    assert!(took < 5 * SECOND, "{sender_ends} {parts}: {took} us");
    assert_eq!(three.store(late).snapshot().len(), 40);
    is_early
}

#[test]
fn a_transfer_that_a_crash_cuts_off_is_made_again() {
    for sender_ends in [false, true] {
        let cut_off = (1..60).filter(|parts| crash_in_transfer(sender_ends, *parts)).count();
        assert!(cut_off > 30, "only {cut_off} crashes came in the middle");
    }
}

/// The member takes a snapshot in, and its power fails at a step of its disk, if there are so many.
fn power_cut_in_transfer(three: &mut Three, late: u64, steps: u64) -> bool {
    three.parts.clear();
    three.start(late);
    let first = |three: &mut Three| (!three.parts.is_empty()).then_some(());
    three.until("a part of a snapshot", 20 * SECOND, first);
    three.machine(late).disk.set_fault(Some(Fault::PowerCut(steps)));
    let mut calm = 0;
    let life = |three: &mut Three| {
        let is_off = three.machine(late).running.is_none();
        (three.calm(&mut calm).is_some() || is_off).then_some(is_off)
    };
    let (is_off, _) = three.until("the end of the transfer", 20 * SECOND, life);
    if !is_off {
        // It may have failed at a step that nobody waits for.
        three.stop(late);
    }
    three.start(late);
    three.settle();
    is_off
}

/// Tries a power cut at each step of the disk, until there is no such step: `scenario` tells.
fn at_every_step(mut scenario: impl FnMut(u64) -> bool) {
    let steps = (0..).find(|steps| !scenario(*steps)).expect("an end");
    assert!(steps > 5, "only {steps} steps");
}

/// What the member takes on from here is still there after its next start.
fn keeps_what_comes(three: &mut Three, leader: u64, late: u64, names: Range<u64>, steps: u64) {
    for name in names {
        three.write(leader, name);
    }
    three.settle();
    three.stop(late);
    three.start(late);
    let there = three.store(late).snapshot().len();
    assert!(there > 55, "{steps} steps: {there} objects are left");
}

#[test]
fn a_power_cut_at_every_step_of_taking_a_snapshot_in() {
    at_every_step(|steps| {
        let (mut three, leader, late) = lagging();
        let is_off = power_cut_in_transfer(&mut three, late, steps);
        assert_eq!(three.store(late).snapshot().len(), 40);
        keeps_what_comes(&mut three, leader, late, 40..60, steps);
        is_off
    });
}

/// The newest files of the log still have what connected it with an earlier snapshot, when the next one is cut off, and
/// have it no more at the start after that. Between them is less than makes a checkpoint.
#[test]
fn a_second_snapshot_is_not_taken_for_the_first() {
    at_every_step(|steps| {
        let (mut three, leader, late) = lagging();
        power_cut_in_transfer(&mut three, late, 1 << 40);
        for name in 0..12 {
            three.write(leader, name);
        }
        three.settle();
        three.stop(late);
        for name in 0..40 {
            three.write(leader, name);
        }
        let is_off = power_cut_in_transfer(&mut three, late, steps);
        keeps_what_comes(&mut three, leader, late, 40..58, steps);
        is_off
    });
}

#[test]
fn who_is_cut_off_sends_its_clients_away_in_time() {
    for leads in [true, false] {
        let mut three = Three::started();
        let (leader, _) = three.until("a leader", 5 * SECOND, |three| three.leader());
        three.write(leader, 0);
        let (alone, other) = match leads {
            true => (leader, leader % 3 + 1),
            false => (leader % 3 + 1, leader),
        };
        three.alone = Some(alone);
        let (lost, elsewhere) = (three.put(alone, 1), three.put(other, 2));
        // A leader knows sooner: the others go on without it.
        let limit = if leads { 700 } else { 1_100 } * MILLISECOND;
        let (answer, _) = three.answer("an answer", limit, lost);
        assert!(matches!(answer, Err(ProposeError::Unknown)), "{answer:?}");
        let (answer, _) = three.answer("a write elsewhere", 400 * MILLISECOND, elsewhere);
        assert!(matches!(answer, Ok(Outcome::Committed { .. })), "{answer:?}");
        // What comes now is told at once.
        let (write, read) = (three.put(alone, 3), three.read(alone));
        let (answer, _) = three.answer("a refusal", 2 * MILLISECOND, write);
        assert!(matches!(answer, Err(ProposeError::NoLeader)), "{answer:?}");
        let (answer, _) = three.answer("a refusal", 2 * MILLISECOND, read);
        assert!(matches!(answer, Err(ProposeError::NoLeader)), "{:?}", answer.err());
        three.alone = None;
        three.until("the same state everywhere", 10 * SECOND, Three::agree);
        three.write(alone, 4);
        for _ in 0..2 {
            let read = three.read(alone);
            let (answer, _) = three.answer("a read", SECOND, read);
            assert!(answer.is_ok_and(|snapshot| snapshot.len() > 2));
        }
    }
}

#[test]
fn an_election_sends_nobody_away() {
    let mut three = Three::started();
    let (leader, _) = three.until("a leader", 5 * SECOND, |three| three.leader());
    three.write(leader, 0);
    three.stop(leader);
    for other in (1..=3).filter(|id| *id != leader) {
        three.write(other, 1);
    }
}

#[test]
fn two_that_stand_at_once_soon_agree() {
    for seed in 0..200 {
        let mut three = Three::seeded(seed);
        let (leader, _) = three.until("a leader", 5 * SECOND, |three| three.leader());
        three.write(leader, 0);
        // The last in line has heard nothing for a while when the leader falls silent, and so stands with the first.
        let last = (1..=3).rfind(|id| *id != leader).expect("three members");
        three.deaf = Some((last, leader));
        (0..seed).for_each(|_| three.step());
        three.alone = Some(leader);
        let another = |three: &mut Three| three.leader().filter(|id| *id != leader);
        three.until("another leader", 750 * MILLISECOND, another);
    }
}

#[test]
fn a_late_answer_confirms_no_newer_read() {
    let mut three = Three::started();
    let (leader, _) = three.until("a leader", 5 * SECOND, |three| three.leader());
    three.write(leader, 0);
    let (reader, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    three.keeps = true;
    let read = three.read(reader);
    assert!(three.answer("a read", SECOND, read).0.is_ok());
    three.keeps = false;
    // What belongs to the read holds its reader's number and session, which are the same here.
    let mark = [reader.to_le_bytes(), reader.to_le_bytes()].concat();
    let belongs = |message: &Message| match message {
        Message::Raft(bytes) => bytes.windows(mark.len()).any(|window| window == mark),
        _ => false,
    };
    let kept = std::mem::take(&mut three.kept);
    let to_leader = |sender: u64| {
        let of_sender =
            |(from, to, message): &&(u64, u64, Message)| (*from, *to) == (sender, leader) && belongs(message);
        kept.iter().find(of_sender).map(|(.., message)| message.clone())
    };
    let (request, answer) = (
        to_leader(reader).expect("the request"),
        to_leader(third).expect("an answer"),
    );
    // The others have a new leader, while late answers let the old one think that it leads.
    three.alone = Some(leader);
    let another = |three: &mut Three| {
        three.store(leader).deliver(third, answer.clone());
        three.leader().filter(|id| *id != leader)
    };
    let (next, _) = three.until("another leader", SECOND, another);
    three.write(next, 1);
    let mut read = three.read(leader);
    assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    three.step();
    // The earlier request comes once more, and late answers to it.
    three.store(leader).deliver(reader, request);
    three.step();
    three.store(leader).deliver(third, answer);
    let (read, _) = three.answer("an answer", 2 * SECOND, read);
    assert!(
        matches!(read, Err(ProposeError::NoLeader)),
        "{:?}",
        read.map(|seen| seen.revision())
    );
}

/// What is on a disk now, as an image of it.
fn image(disk: &MemoryDisk) -> MemoryDisk {
    let image = MemoryDisk::new();
    for name in disk.list().expect("listed") {
        let mut file = image.create(&name).expect("created");
        file.write_at(0, &disk.contents(&name).unwrap_or_default())
            .expect("written");
        file.sync().expect("synced");
    }
    image.sync_dir().expect("synced");
    image
}

/// Whoever puts an older image of a member's disk back makes it forget what it had acknowledged, and nothing in its
/// files shows that. Its leader does: the member stops, and is damaged from then on.
#[test]
fn a_member_with_an_older_disk_takes_part_no_longer() {
    let mut three = Three::started();
    let (leader, _) = three.until("a leader", 5 * SECOND, |three| three.leader());
    let old = leader % 3 + 1;
    three.write(leader, 0);
    three.settle();
    three.stop(old);
    let earlier = image(&three.machine(old).disk);
    three.start(old);
    (1..6).for_each(|name| three.write(leader, name));
    three.settle();
    three.stop(old);
    let machine = three.machine(old);
    machine.disk = earlier;
    machine.is_damaged = true;
    three.start(old);
    let has_ended = |three: &mut Three| three.machine(old).running.is_none().then_some(());
    three.until("its end", 5 * SECOND, has_ended);
    let now = three.now;
    let again = three.machine(old).start(now, now, 20 * MILLISECOND);
    assert_eq!(again, Ok(Opened::Damaged));
    three.write(leader, 6);
}
