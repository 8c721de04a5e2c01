//! What comes of a run.

use std::ops::AddAssign;
use std::time::Duration;

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

/// What runs without violation were like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Virtual time.
    pub lasted: Duration,
    /// Storms, each followed by a rest after which all must agree.
    pub storms: u64,
    /// Operations that were answered.
    pub answered: u64,
    /// Revision at the end: number of writes.
    pub revision: u64,
    /// Faults of all sorts.
    pub faults: u64,
    /// Members that ended without warning.
    pub crashes: u64,
    /// Members that came up.
    pub starts: u64,
    /// Times that a member came to lead.
    pub elections: u64,
    /// Changes of membership.
    pub changes: u64,
    /// Members that refused to start because their files were damaged or gone.
    pub refusals: u64,
    /// Times that the last record of a log was damaged or lost.
    pub ends: u64,
    /// Members replaced because of their files.
    pub repairs: u64,
    /// Messages that arrived.
    pub messages: u64,
    /// Turns of members.
    pub turns: u64,
    /// A number that differs between runs that differ.
    pub trace: u64,
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Report) {
        self.lasted += other.lasted;
        self.storms += other.storms;
        self.answered += other.answered;
        self.revision += other.revision;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.starts += other.starts;
        self.elections += other.elections;
        self.changes += other.changes;
        self.refusals += other.refusals;
        self.ends += other.ends;
        self.repairs += other.repairs;
        self.messages += other.messages;
        self.turns += other.turns;
        self.trace ^= other.trace;
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hours = self.hours();
        write!(
            out,
            "{} operations answered, {} writes, {} storms, {} faults, {} crashes, {} elections, {} changes of membership, {} replaced for their files ({} refused to start), {} last records damaged, {} messages",
            self.answered,
            self.revision,
            self.storms,
            self.faults,
            self.crashes,
            self.elections,
            self.changes,
            self.repairs,
            self.refusals,
            self.ends,
            self.messages
        )?;
        let each = |count: u64| count as f64 / hours.max(f64::MIN_POSITIVE);
        write!(
            out,
            "; an hour has {:.0} operations, {:.0} faults, {:.0} crashes, {:.0} elections",
            each(self.answered),
            each(self.faults),
            each(self.crashes),
            each(self.elections)
        )
    }
}

impl Report {
    /// Virtual hours.
    #[must_use]
    pub fn hours(&self) -> f64 {
        self.lasted.as_secs_f64() / 3600.0
    }
}
