//! Members that come, go and take each other's place.

use coxswain_consensus::Change;

use super::{Event, MILLISECOND, World};
use crate::machine::Machine;

/// A change of membership under way.
#[derive(Clone, Copy)]
pub(super) struct Joining {
    old: Option<u64>,
    new: u64,
    tries: u32,
}

impl World {
    /// A machine is added, to stay or in the place of one whose disk is lost.
    pub(super) fn begin_join(&mut self, ids: &[u64]) {
        if self.joining {
            return;
        }
        self.joining = true;
        self.report.changes += 1;
        let new = ids.iter().max().map_or(1, |id| id + 1);
        let old = match ids.len() < 5 && self.random.chance(500) {
            true => None,
            false => self.random.pick(ids),
        };
        let machine = Machine::new(new, &[], &self.outbox, &self.keyring);
        self.machines.insert(new, machine);
        self.after(0, Event::Start(new));
        self.after(MILLISECOND, Event::Join(Joining { old, new, tries: 0 }));
    }

    /// One step of a change of membership: learner, then voter, and the old one goes.
    pub(super) fn join(&mut self, joining: Joining) -> Result<(), String> {
        let Joining { old, new, tries } = joining;
        let leader = self.running().into_iter().find(|id| {
            let running = self.machines[id].running.as_ref();
            running.is_some_and(|running| running.engine.leads())
        });
        self.after(
            500 * MILLISECOND,
            Event::Join(Joining {
                tries: tries + 1,
                ..joining
            }),
        );
        let Some((leader, store)) = leader.and_then(|leader| Some((leader, self.store(leader)?))) else {
            return Ok(());
        };
        let cluster = store.cluster().borrow().clone();
        let old_is_in = old.is_some_and(|old| cluster.voters.contains(&old));
        let change = match (cluster.voters.contains(&new), cluster.learners.contains(&new)) {
            (false, false) => Some(Change::Learn(new)),
            (false, true) => match old {
                Some(old) if old_is_in && old != leader => Some(Change::Replace { old, new }),
                _ => Some(Change::Promote(new)),
            },
            (true, _) => old.filter(|_| old_is_in).map(Change::Remove),
        };
        match change {
            Some(change) => {
                let _ = store.change(change);
                self.turn(leader, 0)?;
            }
            None => {
                // The others must all know before the old one's machine may go.
                let knows = |machine: &Machine| {
                    let cluster = machine
                        .running
                        .as_ref()
                        .map(|running| running.store.cluster().borrow().clone());
                    Some(machine.id) == old
                        || cluster.is_some_and(|cluster| {
                            cluster.voters.contains(&new) && old.is_none_or(|old| !cluster.voters.contains(&old))
                        })
                };
                if self.machines.values().all(knows) {
                    if let Some(old) = old {
                        self.machines.remove(&old);
                    }
                    self.joining = false;
                    self.events.retain(|_, event| !matches!(event, Event::Join(_)));
                }
            }
        }
        Ok(())
    }
}
