//! Members that come, go and take each other's place.

use coxswain_consensus::{Change, Cluster};

use super::{Event, MILLISECOND, World};
use crate::machine::Machine;

/// Most members.
const MOST: usize = 5;

/// A change of membership under way.
#[derive(Clone, Copy)]
pub(super) struct Joining {
    /// Tells it from others.
    pub number: u64,
    /// The member that leaves.
    old: Option<u64>,
    /// The member that comes.
    new: Option<u64>,
}

impl World {
    /// A machine is added, to stay or in the place of another, or one leaves.
    pub(super) fn begin_change(&mut self, ids: &[u64]) {
        let old = self.random.pick(ids);
        // Whoever lost its files has to be replaced first.
        if self.joining.is_some() || self.machines.values().any(|machine| machine.is_damaged) {
            return;
        }
        let may_grow = ids.len() < MOST;
        match self.random.below(4) {
            0 if ids.len() > 3 => self.begin(old, false),
            1 | 2 if may_grow => self.begin(None, true),
            _ => self.begin(old, true),
        }
    }

    /// A member whose files are damaged, or gone, is replaced as soon as nothing else changes.
    pub(super) fn repair(&mut self, id: u64) {
        if !self.machines.contains_key(&id) {
            return;
        }
        if self.joining.is_some() {
            self.after(500 * MILLISECOND, Event::Repair(id));
            return;
        }
        self.report.repairs += 1;
        self.begin(Some(id), true);
    }

    fn begin(&mut self, old: Option<u64>, grows: bool) {
        self.report.changes += 1;
        let number = self.report.changes;
        self.joining = Some(number);
        let new = grows.then(|| {
            self.newest += 1;
            let machine = Machine::new(self.newest, &[], &self.outbox, &self.keyring);
            self.machines.insert(self.newest, machine);
            self.after(0, Event::Start(self.newest));
            self.newest
        });
        self.after(MILLISECOND, Event::Join(Joining { number, old, new }));
    }

    /// One step of a change of membership: learner, then voter, and the old one goes.
    pub(super) fn join(&mut self, joining: Joining) -> Result<(), String> {
        let joining = self.give_up(joining);
        let Joining { old, new, .. } = joining;
        self.after(500 * MILLISECOND, Event::Join(joining));
        let Some((leader, store)) = self.leader().and_then(|leader| Some((leader, self.store(leader)?))) else {
            return Ok(());
        };
        let cluster = store.cluster().borrow().clone();
        let waits = new.filter(|new| !cluster.voters.contains(new));
        let old_is_in = old.filter(|old| has(&cluster, *old));
        let stranger = cluster.voters.iter().chain(&cluster.learners);
        let stranger = stranger.copied().find(|id| !self.machines.contains_key(id));
        let change = match (waits, old_is_in) {
            (Some(new), _) if !cluster.learners.contains(&new) => Some(Change::Learn(new)),
            (Some(new), Some(old)) if old != leader => Some(Change::Replace { old, new }),
            (Some(new), _) => Some(Change::Promote(new)),
            (None, Some(old)) => Some(Change::Remove(old)),
            (None, None) => stranger.map(Change::Remove),
        };
        if let Some(change) = change {
            let _ = store.change(change);
            return self.turn(leader);
        }
        // All that will ever run again must know before the old one's machine may go.
        let knows = |machine: &Machine| {
            let running = machine.running.as_ref();
            let cluster = running.map(|running| running.store.cluster().borrow().clone());
            let is_done = |cluster: Cluster| {
                new.is_none_or(|new| cluster.voters.contains(&new)) && old.is_none_or(|old| !has(&cluster, old))
            };
            let is_lost = machine.is_damaged && running.is_none();
            Some(machine.id) == old || is_lost || cluster.is_some_and(is_done)
        };
        if self.machines.values().all(knows) {
            if let Some(old) = old {
                self.machines.remove(&old);
            }
            self.joining = None;
        }
        Ok(())
    }

    /// Now and then whoever adds a member thinks better of it.
    fn give_up(&mut self, joining: Joining) -> Joining {
        let Joining { number, old: None, new } = joining else {
            return joining;
        };
        if new.is_none() || !self.is_wild || !self.random.chance(60) {
            return joining;
        }
        Joining {
            number,
            old: new,
            new: None,
        }
    }
}

fn has(cluster: &Cluster, id: u64) -> bool {
    cluster.voters.contains(&id) || cluster.learners.contains(&id)
}
