//! What happened in a run, and whether it may have.
//!
//! Every member's own feed of events is recorded as it is published. Together they are the truth: one
//! event for each revision, the same wherever it is seen. Everything a client was told is held against it.

use std::collections::{BTreeMap, BTreeSet};

use crate::linear::{Answer, Call, Operation, is_linearizable};

/// A key: resource and name.
pub type Name = (&'static str, u64);

/// One change: which key, and the value it has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub name: Name,
    /// Its value; none when it was removed.
    pub value: Option<u64>,
}

/// What a client saw of the whole store at once.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Revision of the snapshot.
    pub revision: u64,
    /// What was in it.
    pub values: BTreeMap<Name, u64>,
    /// Place of the call in the order of calls and answers; none when the read promised nothing but
    /// consistency.
    pub called: Option<u64>,
    /// Place of the answer.
    pub returned: u64,
}

/// What one watcher of one resource was told without a break.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// The resource.
    pub resource: &'static str,
    /// Everything after this revision was promised.
    pub after: u64,
    /// Revision and change, in the order in which they came.
    pub events: Vec<(u64, Change)>,
    /// Bookmarks: the revision, and how many events had come.
    pub bookmarks: Vec<(u64, usize)>,
}

/// The history of a run.
#[derive(Default)]
pub struct History {
    truth: BTreeMap<u64, Change>,
    hashes: BTreeMap<u64, (u64, u64)>,
    operations: Vec<(Name, Operation, Option<u64>)>,
    refused: Vec<u64>,
    sights: Vec<Sight>,
    watched: Vec<Watched>,
    clock: u64,
}

impl History {
    /// The next place in the order of calls and answers.
    pub fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Operations with a known outcome so far.
    pub fn answered(&self) -> u64 {
        let known = |(_, operation, _): &&(Name, Operation, Option<u64>)| operation.answer != Answer::Unknown;
        self.operations.iter().filter(known).count() as u64
    }

    /// A member published an event.
    pub fn published(&mut self, revision: u64, change: Change) -> Result<(), String> {
        match self.truth.insert(revision, change) {
            Some(other) if other != change => Err(format!("revision {revision} is {other:?} and {change:?}")),
            _ => Ok(()),
        }
    }

    /// A member applied the entry at an index and has a state of this revision and hash now.
    pub fn applied(&mut self, index: u64, revision: u64, hash: u64) -> Result<(), String> {
        let state = (revision, hash);
        match self.hashes.insert(index, state) {
            Some(other) if other != state => Err(format!("members differ at index {index}: {other:?} and {state:?}")),
            _ => Ok(()),
        }
    }

    /// An operation came back; a write that was done, with its revision.
    pub fn operation(&mut self, name: Name, operation: Operation, revision: Option<u64>) {
        self.operations.push((name, operation, revision));
    }

    /// A write was refused for good: its value must never be seen.
    pub fn refused(&mut self, value: u64) {
        self.refused.push(value);
    }

    /// A client looked at everything.
    pub fn sight(&mut self, sight: Sight) {
        self.sights.push(sight);
    }

    /// A watch ended.
    pub fn watched(&mut self, watched: Watched) {
        self.watched.push(watched);
    }

    /// Holds everything against the truth; `end` is the revision at which all members agree.
    pub fn check(&self, end: u64) -> Result<(), String> {
        self.check_truth(end)?;
        self.check_writes()?;
        self.check_sights()?;
        self.watched
            .iter()
            .try_for_each(|watched| self.check_watched(watched))?;
        let mut by_name: BTreeMap<Name, Vec<Operation>> = BTreeMap::new();
        for (name, operation, _) in &self.operations {
            by_name.entry(*name).or_default().push(*operation);
        }
        match by_name.iter().find(|(_, operations)| !is_linearizable(operations)) {
            Some((name, _)) => Err(format!("the history of {name:?} is not linearizable")),
            None => Ok(()),
        }
    }

    /// Revisions have no gap, and no write was done twice.
    fn check_truth(&self, end: u64) -> Result<(), String> {
        let mut values = BTreeSet::new();
        let mut expected = 2;
        for (&revision, change) in &self.truth {
            if revision != expected {
                return Err(format!("revision {expected} was never published, {revision} was"));
            }
            expected += 1;
            if change.value.is_some_and(|value| !values.insert(value)) {
                return Err(format!("{change:?} was done twice, again at revision {revision}"));
            }
        }
        if expected != end + 1 {
            return Err(format!(
                "the members end at revision {end}, revision {} was published",
                expected - 1
            ));
        }
        match self.refused.iter().find(|value| values.contains(value)) {
            Some(value) => Err(format!("write {value} was refused and done")),
            None => Ok(()),
        }
    }

    /// What was acknowledged is there, and in the order of calls and answers.
    fn check_writes(&self) -> Result<(), String> {
        let mut writes: Vec<(u64, u64, u64)> = Vec::new();
        for (name, operation, revision) in &self.operations {
            let Some(revision) = *revision else { continue };
            let value = match operation.call {
                Call::Put(value) | Call::Create(value) | Call::Swap { new: value, .. } => Some(value),
                Call::Delete | Call::Read => None,
            };
            let written = Change { name: *name, value };
            if self.truth.get(&revision) != Some(&written) {
                let there = self.truth.get(&revision);
                return Err(format!(
                    "{written:?} was acknowledged as revision {revision}, there is {there:?}"
                ));
            }
            writes.push((operation.called, operation.returned, revision));
        }
        in_order(&writes, true)
    }

    /// What was seen at once is one revision's state, and not older than promised.
    fn check_sights(&self) -> Result<(), String> {
        let mut sights: Vec<&Sight> = self.sights.iter().collect();
        sights.sort_by_key(|sight| sight.revision);
        let mut state: BTreeMap<Name, u64> = BTreeMap::new();
        let mut changes = self.truth.iter().peekable();
        for sight in sights {
            while let Some((_, change)) = changes.next_if(|(revision, _)| **revision <= sight.revision) {
                match change.value {
                    Some(value) => drop(state.insert(change.name, value)),
                    None => drop(state.remove(&change.name)),
                }
            }
            if state != sight.values {
                return Err(format!(
                    "revision {} was seen as {:?}, it is {state:?}",
                    sight.revision, sight.values
                ));
            }
        }
        let promised = self.sights.iter();
        let mut all: Vec<(u64, u64, u64)> = promised
            .filter_map(|sight| Some((sight.called?, sight.returned, sight.revision)))
            .collect();
        let written = self.operations.iter();
        all.extend(
            written.filter_map(|(_, operation, revision)| Some((operation.called, operation.returned, (*revision)?))),
        );
        in_order(&all, false)
    }

    /// Ordered, unique, complete; bookmarks never ahead.
    fn check_watched(&self, watched: &Watched) -> Result<(), String> {
        let end = watched.events.last().map_or(watched.after, |(revision, _)| *revision);
        let promised = watched.bookmarks.iter().map(|(revision, _)| *revision);
        let end = promised.fold(end, u64::max);
        let resource = watched.resource;
        let after = watched.after;
        let expected = self
            .truth
            .range(after + 1..end + 1)
            .filter(|(_, change)| change.name.0 == resource)
            .map(|(revision, change)| (*revision, *change));
        if !expected.eq(watched.events.iter().copied()) {
            return Err(format!(
                "a watch of {resource} after revision {after} saw {:?} up to {end}",
                watched.events
            ));
        }
        for &(revision, seen) in &watched.bookmarks {
            let next = watched.events.get(seen);
            if next.is_some_and(|(next, _)| *next <= revision) {
                return Err(format!("a bookmark at {revision} came before the event {next:?}"));
            }
        }
        Ok(())
    }
}

/// Operations (called, returned, revision): one that was called after another had returned has a revision
/// no lower, or for writes a higher one.
fn in_order(operations: &[(u64, u64, u64)], strictly: bool) -> Result<(), String> {
    let mut by_call = operations.to_vec();
    by_call.sort_unstable();
    let mut by_return = operations.to_vec();
    by_return.sort_unstable_by_key(|(_, returned, _)| *returned);
    let mut returned = by_return.into_iter().peekable();
    let mut highest = 0;
    for (called, _, revision) in by_call {
        while let Some((_, _, earlier)) = returned.next_if(|(_, returned, _)| *returned < called) {
            highest = highest.max(earlier);
        }
        if revision < highest || (strictly && revision == highest) {
            return Err(format!(
                "revision {revision} came after revision {highest} had been answered"
            ));
        }
    }
    Ok(())
}
