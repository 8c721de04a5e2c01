//! What goes wrong in a storm.

use coxswain_consensus::Change;
use coxswain_consensus::disk::{Disk, Fault, MemoryDisk};
use coxswain_consensus::engine::{last_record, marked_end};

use super::{Event, MILLISECOND, SECOND, World};
use crate::faults::{Mutant, Network};
use crate::machine::MARKS;

impl World {
    /// Something goes wrong.
    pub(super) fn fault(&mut self) -> Result<(), String> {
        let next = self.random.between(100 * MILLISECOND, 4 * SECOND);
        self.after(next, Event::Fault(self.phase));
        self.report.faults += 1;
        let ids: Vec<u64> = self.machines.keys().copied().collect();
        // The leader is where trouble matters most.
        let leader = self.leader().filter(|_| self.random.chance(250));
        let Some(id) = leader.or_else(|| self.random.pick(&ids)) else {
            return Ok(());
        };
        match self.random.below(31) {
            0..5 => {
                self.network.part(id, &ids, &mut self.random);
                let length = self.random.between(50 * MILLISECOND, 6 * SECOND);
                self.after(length, Event::Mend);
            }
            5..8 => self.network.change_weather(&mut self.random),
            8..10 => {
                let length = self.random.between(10 * MILLISECOND, 3 * SECOND);
                self.pause(id, length);
            }
            10 => self.jump(id),
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
                    self.turn(id)?;
                }
            }
            22 | 23 => self.damage(id),
            24..27 => {
                let until = self.now + self.random.between(50 * MILLISECOND, 4 * SECOND);
                if let Some(machine) = self.machines.get_mut(&id) {
                    machine.disk_stalled_until = until;
                }
            }
            _ => self.begin_change(&ids),
        }
        Ok(())
    }

    fn pause(&mut self, id: u64, length: u64) {
        if let Some(machine) = self.machines.get_mut(&id) {
            machine.paused_until = self.now + length;
            self.after(length, Event::Resume(id));
        }
    }

    /// A member's own clock, which counts the time since it started, leaps ahead, or back.
    fn jump(&mut self, id: u64) {
        let is_back = self.random.chance(400);
        let jump = self.random.between(MILLISECOND, 20 * SECOND);
        let now = self.now;
        if let Some(machine) = self.machines.get_mut(&id) {
            match is_back {
                true => machine.jump_back(now, jump / 4),
                false => machine.jump(jump),
            }
        }
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

    /// The member ends, and bits of its files flip meanwhile or all of them are lost. One member at a time:
    /// what a majority has lost, nobody can give back. A member that is alone loses nothing but what can be put back.
    fn damage(&mut self, id: u64) {
        let is_alone = self.machines.len() == 1 && self.joining.is_none();
        let voters = self.leader().and_then(|leader| self.store(leader));
        let voters = voters.map(|store| store.cluster().borrow().voters.clone());
        // While one takes another's place both are counted.
        let least = 3 + usize::from(self.joining.is_some());
        let is_safe = voters.is_some_and(|voters| voters.len() >= least && voters.contains(&id));
        if !(is_alone || is_safe) || self.machines.values().any(|machine| machine.is_damaged) {
            return;
        }
        self.stop(id, true);
        if is_alone {
            return self.damage_end(id);
        }
        self.after(SECOND, Event::Repair(id));
        if self.random.chance(500) {
            return self.damage_end(id);
        }
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        machine.is_damaged = true;
        if self.random.chance(250) {
            machine.disk = MemoryDisk::new();
            return;
        }
        let mut names = machine.disk.list().unwrap_or_default();
        names.retain(|name| name.starts_with("log-") || name.starts_with("state-") || name == MARKS);
        for _ in 0..self.random.between(1, 4) {
            let Some(name) = names.get(self.random.below(names.len() as u64) as usize) else {
                return;
            };
            let bytes = machine.disk.contents(name).map_or(0, |bytes| bytes.len());
            machine.disk.damage(name, self.random.below(bytes as u64) as usize);
        }
    }

    /// The end of the log changes: some bits of the last record, or all of it is as if it had not been written, which
    /// the mark has to cover to be noticed.
    fn damage_end(&mut self, id: u64) {
        let pretends = self.mutant == Some(Mutant::TakesDamageForTorn);
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let names = machine.disk.list().unwrap_or_default().into_iter();
        let Some(name) = names.filter(|name| name.starts_with("log-")).max() else {
            return;
        };
        let bytes = machine.disk.contents(&name).unwrap_or_default();
        let last = last_record(&bytes);
        if last.is_empty() {
            return;
        }
        machine.is_damaged = true;
        self.report.ends += 1;
        let is_marked = marked_end(&machine.disk) == Some((name.clone(), last.end as u64));
        if pretends {
            machine.disk.replace(MARKS, 0, &machine.first_mark.clone());
        }
        if pretends || (is_marked && self.random.chance(300)) {
            machine.disk.replace(&name, last.start, &vec![0; last.len()]);
        } else {
            for _ in 0..self.random.between(1, 4) {
                let at = self.random.between(last.start as u64, last.end as u64 - 1);
                machine.disk.damage(&name, at as usize);
            }
        }
        machine.undamaged = Some((name, bytes));
    }

    /// A member that is alone refuses to start: somebody puts back what its file had been.
    pub(super) fn put_back(&mut self, id: u64) {
        if let Some(machine) = self.machines.get_mut(&id)
            && let Some((name, bytes)) = machine.undamaged.take()
        {
            machine.disk.replace(&name, 0, &bytes);
            machine.is_damaged = false;
            self.after(SECOND, Event::Start(id));
        }
    }

    /// A member that is alone has started: whatever was damaged held nothing that was promised.
    pub(super) fn take_for_whole(&mut self, id: u64) {
        if let Some(machine) = self.machines.get_mut(&id) {
            machine.is_damaged = false;
            machine.undamaged = None;
        }
    }

    /// From here on everything works.
    pub(super) fn calm_down(&mut self) {
        self.is_wild = false;
        self.network = Network::good();
        for machine in self.machines.values_mut() {
            machine.disk.set_fault(None);
            machine.disk.set_capacity(None);
        }
    }
}
