//! The world of a run: its time, its machines, what is under way between them.

mod joining;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use coxswain_consensus::disk::Fault;
use coxswain_consensus::{Change, EventKind, Keyring, Message};

use crate::clients::{Client, RESOURCES, change_of};
use crate::faults::{Mutant, Network};
use crate::history::History;
use crate::machine::{Machine, Outbox};
use crate::random::Random;
use crate::watchers::Watcher;
use joining::Joining;

/// Microseconds.
const MILLISECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000;
/// Raft's clock.
const TICK: u64 = 20 * MILLISECOND;
const CLIENTS: usize = 5;
const WATCHERS: usize = 3;
/// How long all must have worked well before they have to agree.
const CALM: u64 = 30 * SECOND;

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The run's seed: gives the same again.
    pub seed: u64,
    /// When in the run, in virtual time.
    pub at: Duration,
    /// What happened.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "seed {}, at {:?}: {}", self.seed, self.at, self.what)
    }
}

/// What a run without violation was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations that were answered.
    pub answered: u64,
    /// Revision at the end.
    pub revision: u64,
    /// Faults of all sorts.
    pub faults: u64,
    /// Members that came up with another's snapshot or replaced one.
    pub changes: u64,
    /// A number that differs between runs that differ.
    pub trace: u64,
}

enum Event {
    Tick { id: u64, life: u64 },
    Deliver { from: u64, to: u64, message: Message },
    Work { id: u64, life: u64 },
    Written { id: u64, life: u64 },
    Start(u64),
    Resume(u64),
    Gone { id: u64, at: u64 },
    Client(usize),
    Watcher(usize),
    Fault,
    Mend,
    Join(Joining),
}

struct World {
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    scheduled: u64,
    random: Random,
    network: Network,
    machines: BTreeMap<u64, Machine>,
    outbox: Outbox,
    keyring: Arc<Keyring>,
    clients: Vec<Client>,
    watchers: Vec<Watcher>,
    history: History,
    mutant: Option<Mutant>,
    /// Whether things still go wrong.
    is_wild: bool,
    joining: bool,
    report: Report,
}

/// Runs a cluster for a while with faults, and then until it has recovered. The history must be one that
/// the store's promises allow.
pub fn run(seed: u64, length: Duration, mutant: Option<Mutant>) -> Result<Report, Violation> {
    let mut world = World::new(seed, mutant);
    let result = world.run(length.as_micros() as u64);
    result.map(|()| world.report).map_err(|what| Violation {
        seed,
        at: Duration::from_micros(world.now),
        what,
    })
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>) -> World {
        World {
            now: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            random: Random::new(seed),
            network: Network::good(),
            machines: BTreeMap::new(),
            outbox: Outbox::default(),
            keyring: Arc::new(Keyring::in_memory(1)),
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            watchers: (0..WATCHERS).map(|_| Watcher::default()).collect(),
            history: History::default(),
            mutant,
            is_wild: true,
            joining: false,
            report: Report::default(),
        }
    }

    fn run(&mut self, length: u64) -> Result<(), String> {
        let ids = [1, 2, 3];
        for id in ids {
            let machine = Machine::new(id, &ids, &self.outbox, &self.keyring);
            self.machines.insert(id, machine);
            self.start(id)?;
        }
        for at in 0..CLIENTS {
            self.after(SECOND, Event::Client(at));
        }
        for at in 0..WATCHERS {
            self.after(SECOND, Event::Watcher(at));
        }
        self.after(2 * SECOND, Event::Fault);
        self.run_until(length)?;
        self.calm_down();
        self.run_until(length + CALM)?;
        self.finish()
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now + delay, self.scheduled)));
        self.events.insert(self.scheduled, event);
    }

    fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            if let Some(event) = self.events.remove(&number) {
                self.handle(event)?;
            }
        }
        self.now = end;
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { id, life } => {
                if self.life(id) == Some(life) {
                    // Clocks run a little fast or slow.
                    let next = self.random.between(TICK - TICK / 20, TICK + TICK / 20);
                    self.after(next, Event::Tick { id, life });
                    self.turn(id, 1)?;
                }
            }
            Event::Deliver { from, to, message } => self.deliver(from, to, message)?,
            Event::Work { id, life } => {
                let machine = self.machines.get_mut(&id).filter(|machine| machine.life == life);
                if machine.is_some_and(Machine::work) {
                    let next = self.random.between(MILLISECOND, 30 * MILLISECOND);
                    self.after(next, Event::Work { id, life });
                }
                self.turn(id, 0)?;
            }
            Event::Written { id, life } => {
                if let Some(machine) = self.machines.get_mut(&id).filter(|machine| machine.life == life) {
                    machine.write();
                    machine.is_writing = false;
                }
                self.turn(id, 0)?;
            }
            Event::Start(id) => self.start(id)?,
            Event::Resume(id) => self.resume(id)?,
            Event::Gone { id, at } => {
                if let Some(store) = self.store(at) {
                    store.gone(id);
                    self.turn(at, 0)?;
                }
            }
            Event::Client(at) => self.client(at)?,
            Event::Watcher(at) => self.watcher(at),
            Event::Fault => self.fault()?,
            Event::Mend => self.network.cut.clear(),
            Event::Join(joining) => self.join(joining)?,
        }
        Ok(())
    }

    /// In which life a machine's member is, while it lives.
    fn life(&self, id: u64) -> Option<u64> {
        let machine = self.machines.get(&id)?;
        machine.running.as_ref().map(|_| machine.life)
    }

    fn store(&self, id: u64) -> Option<coxswain_consensus::Store> {
        let running = self.machines.get(&id)?.running.as_ref()?;
        Some(running.store.clone())
    }

    fn running(&self) -> Vec<u64> {
        let running = self.machines.values().filter(|machine| machine.running.is_some());
        running.map(|machine| machine.id).collect()
    }

    fn start(&mut self, id: u64) -> Result<(), String> {
        let session = self.random.next();
        let ignore_sync = self.mutant == Some(Mutant::AcknowledgesBeforeSync);
        let Some(machine) = self.machines.get_mut(&id).filter(|machine| machine.running.is_none()) else {
            return Ok(());
        };
        machine.disk.set_ignore_sync(ignore_sync && machine.life > 0);
        if machine.start(session)? {
            let life = machine.life;
            self.after(TICK, Event::Tick { id, life });
            self.turn(id, 0)
        } else {
            self.machines
                .entry(id)
                .and_modify(|machine| machine.disk.reboot(session));
            self.after(SECOND, Event::Start(id));
            Ok(())
        }
    }

    /// The member ends. With the power goes what was not synced.
    fn stop(&mut self, id: u64, power: bool) {
        let seed = self.random.next();
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let was_running = machine.running.take().is_some();
        machine.held.clear();
        machine.disk.set_fault(None);
        if power {
            machine.disk.reboot(seed);
        }
        let delay = self.random.between(20 * MILLISECOND, 4 * SECOND);
        self.after(delay, Event::Start(id));
        // Others see the connection break, mostly.
        for at in self.running() {
            if was_running && self.random.chance(700) {
                self.after(MILLISECOND, Event::Gone { id, at });
            }
        }
    }

    fn deliver(&mut self, from: u64, to: u64, message: Message) -> Result<(), String> {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&to) else {
            return Ok(());
        };
        let Some(running) = &machine.running else {
            return Ok(());
        };
        if machine.paused_until > now {
            machine.held.push((from, message));
            return Ok(());
        }
        running.store.deliver(from, message);
        self.turn(to, 0)
    }

    fn pause(&mut self, id: u64, length: u64) {
        if let Some(machine) = self.machines.get_mut(&id) {
            machine.paused_until = self.now + length;
            self.after(length, Event::Resume(id));
        }
    }

    fn resume(&mut self, id: u64) -> Result<(), String> {
        let Some(machine) = self
            .machines
            .get_mut(&id)
            .filter(|machine| machine.paused_until <= self.now)
        else {
            return Ok(());
        };
        for (from, message) in std::mem::take(&mut machine.held) {
            if let Some(running) = &machine.running {
                running.store.deliver(from, message);
            }
        }
        self.turn(id, 0)
    }

    /// Turns a member and carries on what comes of it.
    fn turn(&mut self, id: u64, ticks: u32) -> Result<(), String> {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&id) else {
            return Ok(());
        };
        if machine.running.is_none() || machine.paused_until > now {
            return Ok(());
        }
        let had_jobs = machine.running.as_ref().is_some_and(|running| !running.jobs.is_empty());
        let lives = machine.turn(now, ticks)?;
        let life = machine.life;
        let has_jobs = machine.running.as_ref().is_some_and(|running| !running.jobs.is_empty());
        self.post();
        if !lives {
            self.stop(id, true);
        } else {
            if has_jobs && !had_jobs {
                let delay = self.random.between(MILLISECOND, 50 * MILLISECOND);
                self.after(delay, Event::Work { id, life });
            }
            self.begin_write(id);
            self.record(id)?;
        }
        self.answer();
        Ok(())
    }

    /// Has the disk write what there is, unless it is busy: mostly it is quick.
    fn begin_write(&mut self, id: u64) {
        let (now, length) = (self.now, self.random.between(50, 400));
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let has_writes = machine
            .running
            .as_ref()
            .is_some_and(|running| !running.writes.is_empty());
        if has_writes && !machine.is_writing {
            machine.is_writing = true;
            let life = machine.life;
            let held_up = machine.disk_stalled_until.saturating_sub(now);
            self.after(length + held_up, Event::Written { id, life });
        }
    }

    /// Sends what the members have handed over.
    fn post(&mut self) {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let messages = std::mem::take(&mut *outbox);
        drop(outbox);
        for (from, to, message) in messages {
            let delays = self.network.delays(from, to, &mut self.random);
            for (copy, delay) in delays.into_iter().enumerate() {
                let mut message = message.clone();
                if let Message::Forward { session, .. } = &mut message
                    && self.mutant == Some(Mutant::TakesRepeatsForNew)
                {
                    *session += copy as u64;
                }
                self.after(delay, Event::Deliver { from, to, message });
            }
        }
    }

    /// Adds what a member has published to the truth, and compares its state with the others'.
    fn record(&mut self, id: u64) -> Result<(), String> {
        let Some(running) = self.machines.get_mut(&id).and_then(|machine| machine.running.as_mut()) else {
            return Ok(());
        };
        for (resource, recorder) in RESOURCES.iter().zip(&mut running.recorders) {
            loop {
                match recorder.ready() {
                    Ok(events) if events.is_empty() => break,
                    Ok(events) => {
                        for event in events {
                            let change = change_of(&event.object, event.kind == EventKind::Deleted);
                            self.history.published(event.revision, change)?;
                        }
                    }
                    // A snapshot came: what was skipped here is seen at other members.
                    Err(_) => {
                        let from = running.store.oldest_revision(resource);
                        let again = running.store.watch(resource, from);
                        *recorder = again.map_err(|error| error.to_string())?;
                    }
                }
            }
        }
        let (index, snapshot) = running.engine.applied();
        if index != running.looked_at {
            running.looked_at = index;
            let mut hasher = DefaultHasher::new();
            for object in snapshot.all() {
                object.bytes.hash(&mut hasher);
                object.revision.hash(&mut hasher);
            }
            let hash = hasher.finish();
            self.history.applied(index, snapshot.revision(), hash)?;
            self.report.trace = self.report.trace.rotate_left(5) ^ hash ^ self.now ^ index;
        }
        Ok(())
    }

    /// Looks whether clients have their answers.
    fn answer(&mut self) {
        for client in &mut self.clients {
            let machines = &self.machines;
            let alive = |id: u64, life: u64| {
                let machine = machines.get(&id);
                machine.is_some_and(|machine| machine.life == life && machine.running.is_some())
            };
            client.poll(self.now, alive, &mut self.history);
        }
    }

    fn client(&mut self, at: usize) -> Result<(), String> {
        let think = self.random.between(5 * MILLISECOND, 400 * MILLISECOND);
        self.after(think, Event::Client(at));
        self.answer();
        if !self.clients[at].is_idle() {
            return Ok(());
        }
        let Some(id) = self.random.pick(&self.running()) else {
            return Ok(());
        };
        let (Some(store), Some(life)) = (self.store(id), self.life(id)) else {
            return Ok(());
        };
        let leads = self.machines[&id]
            .running
            .as_ref()
            .is_some_and(|running| running.engine.leads());
        let shortcut = leads && self.mutant == Some(Mutant::ReadsWithoutConfirmation);
        self.clients[at].begin(
            (id, life),
            &store,
            self.now,
            shortcut,
            &mut self.random,
            &mut self.history,
        );
        self.answer();
        self.turn(id, 0)
    }

    fn watcher(&mut self, at: usize) {
        let next = self.random.between(MILLISECOND, 300 * MILLISECOND);
        self.after(next, Event::Watcher(at));
        let machines = &self.machines;
        let alive = |id: u64, life: u64| {
            let machine = machines.get(&id);
            machine.is_some_and(|machine| machine.life == life && machine.running.is_some())
        };
        let watcher = &mut self.watchers[at];
        watcher.poll(alive, &mut self.random, &mut self.history);
        if !watcher.is_idle() {
            return;
        }
        let Some(id) = self.random.pick(&self.running()) else {
            return;
        };
        if let (Some(store), Some(life)) = (self.store(id), self.life(id)) {
            let skip = self.mutant == Some(Mutant::SkipsOnResume);
            self.watchers[at].follow((id, life), &store, skip, &mut self.random, &mut self.history);
        }
    }

    /// Something goes wrong.
    fn fault(&mut self) -> Result<(), String> {
        if !self.is_wild {
            return Ok(());
        }
        let next = self.random.between(100 * MILLISECOND, 4 * SECOND);
        self.after(next, Event::Fault);
        self.report.faults += 1;
        let ids: Vec<u64> = self.machines.keys().copied().collect();
        let Some(id) = self.random.pick(&ids) else {
            return Ok(());
        };
        match self.random.below(27) {
            0..5 => {
                self.network.part(&ids, &mut self.random);
                let length = self.random.between(50 * MILLISECOND, 6 * SECOND);
                self.after(length, Event::Mend);
            }
            5..8 => self.network.change_weather(&mut self.random),
            8..10 => {
                let length = self.random.between(10 * MILLISECOND, 3 * SECOND);
                self.pause(id, length);
            }
            10 => {
                let jump = Duration::from_micros(self.random.between(MILLISECOND, 20 * SECOND));
                self.machines.entry(id).and_modify(|machine| machine.ahead += jump);
            }
            11..13 => self.stop(id, true),
            13..16 => self.plan_failure(id, Fault::PowerCut),
            16 => self.plan_failure(id, Fault::Error),
            17 => self.stop(id, false),
            18 => ids.into_iter().for_each(|id| self.stop(id, true)),
            19 => self.fill(id),
            20 | 21 => {
                let to = self.random.pick(&ids);
                if let (Some(store), Some(to)) = (self.store(id), to) {
                    let _ = store.change(Change::Lead(to));
                    self.turn(id, 0)?;
                }
            }
            22..25 => {
                let until = self.now + self.random.between(50 * MILLISECOND, 4 * SECOND);
                self.machines
                    .entry(id)
                    .and_modify(|machine| machine.disk_stalled_until = until);
            }
            _ => self.begin_join(&ids),
        }
        Ok(())
    }

    /// The disk fails at one of its next steps.
    fn plan_failure(&mut self, id: u64, fault: fn(u64) -> Fault) {
        let step = self.random.below(60);
        if let Some(machine) = self.machines.get(&id) {
            machine.disk.set_fault(Some(fault(step)));
        }
    }

    /// The disk is nearly full, or has room again.
    fn fill(&mut self, id: u64) {
        let room = self.random.between(1_000, 60_000) as usize;
        let is_full = self.random.chance(500);
        if let Some(machine) = self.machines.get(&id) {
            let used = machine.disk.used();
            machine.disk.set_capacity(is_full.then_some(used + room));
        }
    }

    /// From here on everything works.
    fn calm_down(&mut self) {
        self.is_wild = false;
        self.network = Network::good();
        for machine in self.machines.values_mut() {
            machine.disk.set_fault(None);
            machine.disk.set_capacity(None);
        }
    }

    /// Everybody must have recovered and agree; then the history is judged.
    fn finish(&mut self) -> Result<(), String> {
        for watcher in &mut self.watchers {
            watcher.stop(&mut self.history);
        }
        let mut ends = Vec::new();
        for machine in self.machines.values() {
            let Some(running) = &machine.running else {
                return Err(format!("member {} is down at the end", machine.id));
            };
            ends.push((machine.id, running.store.snapshot().revision(), running.engine.leads()));
        }
        let end = ends.iter().map(|(_, revision, _)| *revision).max().unwrap_or(0);
        if ends.iter().filter(|(.., leads)| *leads).count() != 1 {
            return Err(format!("there is not one leader at the end: {ends:?}"));
        }
        if ends.iter().any(|(_, revision, _)| *revision + 50 < end) {
            return Err(format!("members have not caught up at the end: {ends:?}"));
        }
        if self.joining {
            return Err("a change of membership has not come to its end".into());
        }
        self.report.answered = self.history.answered();
        self.report.revision = end;
        self.history.check(end)
    }
}
