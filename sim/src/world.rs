//! The world of a run: its time, its machines, what is under way between them.
//!
//! A run is a row of storms and rests. In a storm clients are busy and things go wrong; in a rest everything
//! works, and at its end all members must have recovered and agree.

mod joining;
mod trouble;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use coxswain_consensus::{EventKind, Keyring, Message, Store};

use crate::clients::{Client, RESOURCES, Shortcut, change_of, hash_of};
use crate::faults::{Mutant, Network};
use crate::history::History;
use crate::machine::{Machine, Opened, Outbox};
use crate::plan::Plan;
use crate::random::Random;
use crate::report::{Report, Violation};
use crate::watchers::Watcher;
use joining::Joining;

/// Microseconds.
const MILLISECOND: u64 = 1_000;
const SECOND: u64 = 1_000_000;
const CLIENTS: usize = 5;
const WATCHERS: usize = 3;
/// How long all must have worked well before they have to agree.
const CALM: u64 = 30 * SECOND;
/// Longest storm, and longest rest after it with clients that do little.
const STORM: u64 = 60 * SECOND;
const REST: u64 = 360 * SECOND;

enum Event {
    Tick(u64, u64),
    Deliver { from: u64, to: u64, message: Message },
    Work { id: u64, life: u64 },
    Written { id: u64, life: u64 },
    Start(u64),
    Resume(u64),
    Gone { id: u64, at: u64 },
    Client(usize, u64),
    Watcher(usize, u64),
    Fault(u64),
    Mend,
    Join(Joining),
    Repair(u64),
}

struct World {
    now: u64,
    plan: Plan<Event>,
    random: Random,
    network: Network,
    machines: BTreeMap<u64, Machine>,
    outbox: Outbox,
    keyring: Arc<Keyring>,
    clients: Vec<Client>,
    watchers: Vec<Watcher>,
    history: History,
    mutant: Option<Mutant>,
    /// Whether things go wrong and clients are busy.
    is_wild: bool,
    /// Counts storms and rests: what was planned in an earlier one counts no more.
    phase: u64,
    /// The change of membership under way.
    joining: Option<u64>,
    /// The newest member's number: none is used twice.
    newest: u64,
    report: Report,
}

/// Runs a cluster for a while with faults and rests. The history must be one that the store's promises allow.
/// Ends with the first rest after `length`.
pub fn run(seed: u64, length: Duration, mutant: Option<Mutant>) -> Result<Report, Violation> {
    let mut world = World::new(seed, mutant);
    let result = world.run(length.as_micros() as u64);
    world.report.lasted = Duration::from_micros(world.now);
    result.map(|()| world.report).map_err(|what| Violation {
        seed,
        at: Duration::from_micros(world.now),
        what,
    })
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>) -> World {
        let lies = mutant == Some(Mutant::AppliesRefused);
        World {
            now: 0,
            plan: Plan::default(),
            random: Random::new(seed),
            network: Network::good(),
            machines: BTreeMap::new(),
            outbox: Outbox::default(),
            keyring: Arc::new(Keyring::in_memory(1)),
            clients: (0..CLIENTS).map(|_| Client::new(lies)).collect(),
            watchers: (0..WATCHERS).map(|_| Watcher::new(mutant)).collect(),
            history: History::default(),
            mutant,
            is_wild: false,
            phase: 0,
            joining: None,
            newest: 0,
            report: Report::default(),
        }
    }

    fn run(&mut self, length: u64) -> Result<(), String> {
        let members = match self.random.below(8) {
            0 => 1,
            1 | 2 => 5,
            _ => 3,
        };
        let ids: Vec<u64> = (1..=members).collect();
        self.newest = members;
        for &id in &ids {
            let machine = Machine::new(id, &ids, &self.outbox, &self.keyring);
            self.machines.insert(id, machine);
            self.start(id)?;
        }
        while self.now < length {
            let storm = self.random.between(STORM / 3, STORM);
            self.begin_phase(true);
            self.run_until((self.now + storm).min(length))?;
            self.calm_down();
            self.run_until(self.now + CALM)?;
            self.agree()?;
            if self.now < length {
                self.begin_phase(false);
                let rest = self.random.below(REST);
                self.run_until(self.now + rest)?;
                self.agree()?;
            }
        }
        self.finish()
    }

    /// Clients become busy, and faults begin, or the other way round.
    fn begin_phase(&mut self, is_wild: bool) {
        self.is_wild = is_wild;
        self.phase += 1;
        let phase = self.phase;
        for at in 0..CLIENTS {
            self.after(SECOND, Event::Client(at, phase));
        }
        for at in 0..WATCHERS {
            self.after(SECOND, Event::Watcher(at, phase));
        }
        if is_wild {
            self.report.storms += 1;
            self.after(2 * SECOND, Event::Fault(phase));
        }
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.plan.add(self.now + delay, event);
    }

    fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some((at, event)) = self.plan.next(end) {
            self.now = at;
            self.handle(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick(id, life) => {
                let machine = self.machines.get_mut(&id);
                let machine = machine.filter(|machine| machine.life == life && machine.alarm == self.now);
                if let Some(machine) = machine {
                    machine.alarm = 0;
                    match machine.is_due(self.now) {
                        true => self.turn(id)?,
                        false => self.set_alarm(id),
                    }
                }
            }
            Event::Deliver { from, to, message } => self.deliver(from, to, message)?,
            Event::Work { id, life } => {
                let machine = self.machines.get_mut(&id).filter(|machine| machine.life == life);
                if machine.is_some_and(Machine::work) {
                    let next = self.random.between(MILLISECOND, 30 * MILLISECOND);
                    self.after(next, Event::Work { id, life });
                }
                self.turn(id)?;
            }
            Event::Written { id, life } => {
                if let Some(machine) = self.machines.get_mut(&id).filter(|machine| machine.life == life) {
                    machine.write();
                    machine.is_writing = false;
                }
                self.turn(id)?;
            }
            Event::Start(id) => self.start(id)?,
            Event::Resume(id) => self.resume(id)?,
            Event::Gone { id, at } => {
                if let Some(store) = self.store(at) {
                    store.gone(id);
                    self.turn(at)?;
                }
            }
            Event::Client(at, phase) if phase == self.phase => self.client(at)?,
            Event::Watcher(at, phase) if phase == self.phase => self.watcher(at),
            Event::Fault(phase) if phase == self.phase && self.is_wild => self.fault()?,
            Event::Client(..) | Event::Watcher(..) | Event::Fault(_) => {}
            Event::Mend => self.network.cut.clear(),
            Event::Join(joining) if self.joining == Some(joining.number) => self.join(joining)?,
            Event::Join(_) => {}
            Event::Repair(id) => self.repair(id),
        }
        Ok(())
    }

    /// In which life a machine's member is, while it lives.
    fn life(&self, id: u64) -> Option<u64> {
        let machine = self.machines.get(&id)?;
        machine.running.as_ref().map(|_| machine.life)
    }

    fn store(&self, id: u64) -> Option<Store> {
        let running = self.machines.get(&id)?.running.as_ref()?;
        Some(running.store.clone())
    }

    fn running(&self) -> Vec<u64> {
        let running = self.machines.values().filter(|machine| machine.running.is_some());
        running.map(|machine| machine.id).collect()
    }

    /// The leader of the highest term.
    fn leader(&self) -> Option<u64> {
        let running = self.machines.values();
        let terms = running.filter_map(|machine| Some((machine.running.as_ref()?.leads()?, machine.id)));
        terms.max().map(|(_, id)| id)
    }

    fn start(&mut self, id: u64) -> Result<(), String> {
        let session = self.random.next();
        let tick = self.random.between(19 * MILLISECOND, 21 * MILLISECOND);
        let ignore_sync = self.mutant == Some(Mutant::AcknowledgesBeforeSync);
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&id).filter(|machine| machine.running.is_none()) else {
            return Ok(());
        };
        machine.disk.set_ignore_sync(ignore_sync && machine.life > 0);
        match machine.start(session, now, tick)? {
            Opened::Runs => {
                self.report.starts += 1;
                if self.machines.len() == 1 {
                    self.take_for_whole(id);
                }
                self.turn(id)
            }
            Opened::Failed => {
                machine.disk.reboot(session);
                self.after(SECOND, Event::Start(id));
                Ok(())
            }
            Opened::Damaged => {
                self.report.refusals += 1;
                if self.machines.len() == 1 {
                    self.put_back(id);
                }
                Ok(())
            }
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
        self.report.crashes += u64::from(was_running);
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
        self.report.messages += 1;
        running.store.deliver(from, message);
        self.turn(to)
    }

    fn resume(&mut self, id: u64) -> Result<(), String> {
        let missed = self.random.below(6);
        let now = self.now;
        let machine = self.machines.get_mut(&id);
        let Some(machine) = machine.filter(|machine| machine.paused_until <= now) else {
            return Ok(());
        };
        machine.skip_ticks(now, missed);
        for (from, message) in std::mem::take(&mut machine.held) {
            if let Some(running) = &machine.running {
                running.store.deliver(from, message);
            }
        }
        self.turn(id)
    }

    /// Turns a member and carries on what comes of it.
    fn turn(&mut self, id: u64) -> Result<(), String> {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&id) else {
            return Ok(());
        };
        let life = machine.life;
        let Some(running) = machine.running.as_ref().filter(|_| machine.paused_until <= now) else {
            return Ok(());
        };
        let (had_jobs, led) = (!running.jobs.is_empty(), running.engine.leads());
        let lives = machine.turn(now)?;
        self.report.turns += 1;
        let running = machine.running.as_ref();
        let has_jobs = running.is_some_and(|running| !running.jobs.is_empty());
        let leads = running.is_some_and(|running| running.engine.leads());
        self.report.elections += u64::from(leads && !led);
        self.post();
        if lives {
            if has_jobs && !had_jobs {
                let delay = self.random.between(MILLISECOND, 50 * MILLISECOND);
                self.after(delay, Event::Work { id, life });
            }
            self.begin_write(id);
            self.set_alarm(id);
            self.record(id)?;
            let machines = &self.machines;
            for client in self.clients.iter_mut().filter(|client| client.asked(id)) {
                client.poll(now, |id, life| is_alive(machines, id, life), &mut self.history);
            }
        } else {
            self.stop(id, true);
        }
        Ok(())
    }

    /// Has the disk write what there is, unless it is busy: mostly it is quick.
    fn begin_write(&mut self, id: u64) {
        let now = self.now;
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
            let length = self.random.between(50, 400);
            let held_up = machine.disk_stalled_until.saturating_sub(now);
            self.after(length + held_up, Event::Written { id, life });
        }
    }

    /// Plans the next turn that raft's clock asks for.
    fn set_alarm(&mut self, id: u64) {
        if let Some(machine) = self.machines.get_mut(&id)
            && let Some(at) = machine.next_alarm(self.now)
        {
            let life = machine.life;
            self.after(at - self.now, Event::Tick(id, life));
        }
    }

    /// Sends what the members have handed over.
    fn post(&mut self) {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let messages = std::mem::take(&mut *outbox);
        drop(outbox);
        for (from, to, mut message) in messages {
            if self.mutant == Some(Mutant::Diverges) && to == 2 {
                alter(&mut message);
            }
            let (first, second) = self.network.delays(from, to, &mut self.random);
            if let Some(delay) = second {
                let mut message = message.clone();
                if let Message::Forward { session, .. } = &mut message
                    && self.mutant == Some(Mutant::TakesRepeatsForNew)
                {
                    *session += 1;
                }
                self.after(delay, Event::Deliver { from, to, message });
            }
            if let Some(delay) = first {
                self.after(delay, Event::Deliver { from, to, message });
            }
        }
    }

    /// Adds what a member has published to the truth, and compares its state with the others'.
    fn record(&mut self, id: u64) -> Result<(), String> {
        let Some(running) = self.machines.get_mut(&id).and_then(|machine| machine.running.as_mut()) else {
            return Ok(());
        };
        if running.engine.applied_index() == running.looked_at {
            return Ok(());
        }
        let (index, snapshot) = running.engine.applied();
        running.looked_at = index;
        for (resource, (recorder, last)) in RESOURCES.iter().zip(&mut running.recorders) {
            loop {
                match recorder.ready() {
                    Ok(events) if events.is_empty() => break,
                    Ok(events) => {
                        for event in events {
                            if event.revision <= *last {
                                return Err(format!("revision {} follows {last} at member {id}", event.revision));
                            }
                            *last = event.revision;
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
        let hash = hash_of(&snapshot);
        self.history.applied(index, snapshot.revision(), hash)?;
        self.report.trace = self.report.trace.rotate_left(5) ^ hash ^ self.now ^ index;
        Ok(())
    }

    fn client(&mut self, at: usize) -> Result<(), String> {
        let think = match self.is_wild {
            true => self.random.between(5 * MILLISECOND, 400 * MILLISECOND),
            false => self.random.between(100 * MILLISECOND, 20 * SECOND),
        };
        self.after(think, Event::Client(at, self.phase));
        let machines = &self.machines;
        let alive = |id, life| is_alive(machines, id, life);
        self.clients[at].poll(self.now, alive, &mut self.history);
        if !self.clients[at].is_idle() {
            return Ok(());
        }
        let Some(id) = self.random.pick(&self.running()) else {
            return Ok(());
        };
        let leads = |id: u64| self.machines[&id].running.as_ref().is_some_and(|of| of.engine.leads());
        let shortcut = match self.mutant {
            Some(Mutant::ReadsWithoutConfirmation) if leads(id) => Some(Shortcut::AtOnce),
            Some(Mutant::ReadsBeforeOwnTerm) => Some(Shortcut::WhenElected),
            _ => None,
        };
        let (Some(store), Some(life)) = (self.store(id), self.life(id)) else {
            return Ok(());
        };
        self.clients[at].begin(
            (id, life),
            &store,
            self.now,
            shortcut,
            &mut self.random,
            &mut self.history,
        );
        self.turn(id)
    }

    fn watcher(&mut self, at: usize) {
        let next = match self.is_wild {
            true => self.random.between(MILLISECOND, 300 * MILLISECOND),
            false => self.random.between(MILLISECOND, 10 * SECOND),
        };
        self.after(next, Event::Watcher(at, self.phase));
        let machines = &self.machines;
        let alive = |id, life| is_alive(machines, id, life);
        let watcher = &mut self.watchers[at];
        watcher.poll(alive, &mut self.random, &mut self.history);
        if !watcher.is_idle() {
            return;
        }
        let Some(id) = self.random.pick(&self.running()) else {
            return;
        };
        if let (Some(store), Some(life)) = (self.store(id), self.life(id)) {
            self.watchers[at].follow((id, life), &store, &mut self.random, &mut self.history);
        }
    }

    /// Everybody has recovered, and knows the same.
    fn agree(&mut self) -> Result<(), String> {
        let running = || self.machines.values().filter_map(|machine| machine.running.as_ref());
        let revisions = || running().map(|running| running.store.snapshot().revision());
        let end = revisions().max().unwrap_or(0);
        let wrong = if running().count() < self.machines.len() {
            "not all members run"
        } else if running().filter(|running| running.engine.leads()).count() != 1 {
            "there is not one leader"
        } else if revisions().any(|revision| revision + 50 < end) {
            "members have not caught up"
        } else if self.joining.is_some() {
            "a change of membership has not come to its end"
        } else {
            self.report.revision = end;
            return Ok(());
        };
        let members: Vec<_> = self.machines.values().map(Machine::describe).collect();
        Err(format!("{wrong} after a rest: {}", members.join("; ")))
    }

    /// Judges the history.
    fn finish(&mut self) -> Result<(), String> {
        for watcher in &mut self.watchers {
            watcher.stop(&mut self.history);
        }
        self.report.answered = self.history.answered();
        self.history.check(self.report.revision)
    }
}

/// Whether a member still lives the life it was asked in.
fn is_alive(machines: &BTreeMap<u64, Machine>, id: u64, life: u64) -> bool {
    let machine = machines.get(&id);
    machine.is_some_and(|machine| machine.life == life && machine.running.is_some())
}

/// Changes an entry on its way, as a member does that applies it differently.
fn alter(message: &mut Message) {
    let Message::Raft(bytes) = message else { return };
    let mark = b"\"x\":\"x";
    if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
        bytes[at + mark.len() - 1] = b'y';
    }
}
