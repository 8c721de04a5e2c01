//! The whole of a store but its threads and its clock: takes what waits in the inbox, has it made durable
//! and applied, publishes, and answers.
//!
//! Synchronous, so that the driver's threads are one way to turn it and the simulation another. Once it is
//! detached from its [`Writer`] it never waits for the disk of the log: whoever turns it has its
//! [`Engine::writes`] written, and reports them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use coxswain_store::Snapshot;

use crate::checkpoint::{self, Meta};
use crate::crypt::{Keyring, io_error};
use crate::disk::{Disk, is_full};
use crate::inbox::{Proposal, Request};
use crate::member::{Member, Turn};
use crate::rotation::{self, Asker, Rotation};
use crate::start::{Parts, Started, start};
use crate::store::{Shared, Stats, Store};
use crate::transport::Transport;
pub use crate::wal::{Write, Writer, Written, last_record, marked_end};
use crate::{Config, OpenError, RotateError, wal};

/// How long a write may wait for a leader and for its confirmation.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How long a member that is one no longer stays: those who go on may need to hear from it that it is so, or
/// its vote.
const LINGER: Duration = Duration::from_secs(2);
/// Segments that the log may have beyond three times what is stored: while there is much to do, and when there is little.
const SEGMENTS_MAX: u64 = 12;
const SEGMENTS_MAX_QUIET: u64 = 2;
/// Writes that may wait behind those under way before more are taken from the inbox.
const MOST_PENDING: usize = 16 * 1024;

/// Something that ended in the background.
pub(crate) enum Background {
    /// A checkpoint at this index is on disk, of so many bytes, or is not.
    Checkpoint(u64, Result<u64, OpenError>),
    /// Writes to the log have been done, or have failed.
    Written(Written),
}

/// Something to do in the background.
pub enum Job {
    /// Write a checkpoint.
    Checkpoint(Box<Due>),
    /// Prepare the next segment of the log.
    Spare,
    /// Remove files.
    Discard(Vec<String>),
    /// Destroy the keys that no file needs.
    Retire(Option<Asker>),
}

/// What a checkpoint is to hold.
pub struct Due(pub(crate) Meta, pub(crate) Snapshot);

/// What an engine is made of.
pub struct Setup {
    /// Settings; the paths in it are of no consequence here.
    pub config: Config,
    /// Where its files are.
    pub disk: Arc<dyn Disk>,
    /// The keys of its files.
    pub keyring: Arc<Keyring>,
    /// The way to the other members.
    pub transport: Box<dyn Transport>,
    /// A number that is different each time a member starts.
    pub session: u64,
}

/// Numbers that the engine keeps for others to read.
#[derive(Default)]
pub(crate) struct Counters {
    alone: AtomicBool,
    proposals: AtomicU64,
    records: AtomicU64,
    log_bytes: AtomicU64,
    segments: AtomicU64,
    checkpoints: AtomicU64,
    refused_no_space: AtomicU64,
}

impl Counters {
    /// Whether this member is the only one and leads, so that what it has published is all there is.
    pub fn alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }

    /// The counters as part of the store's numbers.
    pub fn stats(&self) -> Stats {
        Stats {
            proposals: self.proposals.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            log_bytes: self.log_bytes.load(Ordering::Relaxed),
            segments: self.segments.load(Ordering::Relaxed),
            checkpoints: self.checkpoints.load(Ordering::Relaxed),
            refused_no_space: self.refused_no_space.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
}

/// What the files take.
struct DiskUsage {
    segment_bytes: u64,
    /// Sizes of checkpoints by their index, of some that are gone too.
    checkpoints: BTreeMap<u64, u64>,
    /// Bytes of log written when it was last looked at.
    written: u64,
}

impl DiskUsage {
    fn of(disk: &dyn Disk, segment_bytes: u64) -> Result<DiskUsage, OpenError> {
        let mut checkpoints = BTreeMap::new();
        for index in checkpoint::checkpoint_indexes(disk)? {
            let name = checkpoint::checkpoint_name(index);
            let size = disk.open(&name).and_then(|file| file.size());
            checkpoints.insert(index, size.map_err(io_error("open", disk.path(&name)))?);
        }
        Ok(DiskUsage {
            segment_bytes,
            checkpoints,
            written: 0,
        })
    }

    /// Whether checkpoints and log take more than three times what is stored and so many segments.
    fn is_too_large(&mut self, member: &Member, segments_max: u64) -> bool {
        let kept = member.checkpoints();
        self.checkpoints.retain(|index, _| kept.contains(index));
        let checkpoints: u64 = self.checkpoints.values().sum();
        let log = member.log().segments().count() as u64 * self.segment_bytes;
        let stored = member.stored_bytes();
        checkpoints + log > 3 * stored + segments_max * self.segment_bytes
    }
}

/// A store that is turned by hand.
pub struct Engine {
    member: Member,
    shared: Arc<Shared>,
    checkpoint_bytes: u64,
    pending: VecDeque<Proposal>,
    rotation: Rotation,
    usage: DiskUsage,
    jobs: Vec<Job>,
    /// Number of the segment that was written to at the last turn.
    segment: u64,
    /// [`Member::place`] as it was shown last.
    shown: Option<(u64, u64)>,
    /// Since when this member is known to be one no longer.
    removed: Option<Duration>,
}

/// How things stand after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// There is more to do at once.
    pub more: bool,
    /// More writes would be taken in.
    pub takes_writes: bool,
    /// The store was asked to stop, and has nothing more to do.
    pub stopping: bool,
}

impl Engine {
    /// Brings a store up on its disk.
    pub fn open(setup: Setup) -> Result<Engine, OpenError> {
        let config = setup.config;
        let (disk, keyring) = (setup.disk.clone(), setup.keyring.clone());
        let Started { member, hub, leftovers } = start(Parts {
            id: config.member,
            disk: setup.disk,
            keyring: setup.keyring,
            segment_bytes: config.segment_bytes,
            history: config.history,
            transport: setup.transport,
            voters: config.voters,
            session: setup.session,
            lag_bytes: config.lag_bytes,
            chunk_bytes: config.chunk_bytes,
            accept_log_damage: config.accept_log_damage,
        })?;
        for name in &leftovers {
            disk.remove(name).map_err(io_error("remove", disk.path(name)))?;
        }
        let mut engine = Engine {
            shared: Arc::new(Shared::new(hub, keyring)),
            checkpoint_bytes: config.checkpoint_bytes,
            pending: VecDeque::new(),
            rotation: Rotation::default(),
            usage: DiskUsage::of(&*disk, config.segment_bytes)?,
            segment: member.log().segments().current(),
            jobs: vec![Job::Spare],
            shown: None,
            removed: None,
            member,
        };
        engine.announce();
        Ok(engine)
    }

    /// A handle on the store.
    pub fn store(&self) -> Store {
        Store::over(self.shared.clone())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether this member is the only one: it needs no clock then.
    pub fn is_alone(&self) -> bool {
        self.member.is_alone()
    }

    /// How long after `now` a turn is due although nothing happens; `None` for as long as that stays so. Raft's
    /// clock is not counted.
    pub fn idle_for(&self, now: Duration) -> Option<Duration> {
        self.member.log().idle_for(now)
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        self.member.leads()
    }

    /// Raft's term.
    pub fn term(&self) -> u64 {
        self.member.term()
    }

    /// The state as applied here and the index of the last entry in it.
    pub fn applied(&self) -> (u64, Snapshot) {
        (self.member.applied(), self.member.snapshot())
    }

    /// Index of the last entry applied.
    pub fn applied_index(&self) -> u64 {
        self.member.applied()
    }

    /// How many of raft's ticks may be made up for by [`Engine::pass`] later, before the next turn, without
    /// any difference.
    pub fn quiet_ticks(&self) -> u32 {
        match self.pending.is_empty() {
            true => self.member.quiet_ticks(),
            false => 0,
        }
    }

    /// Lets ticks of raft's clock pass, not more than [`Engine::quiet_ticks`].
    pub fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.member.tick();
        }
    }

    /// From now on what [`Engine::writes`] returns is to be written by the one who gets the writer. `None`
    /// when that has been done before.
    pub fn detach(&mut self) -> Option<Writer> {
        self.member.detach()
    }

    /// What is to be written by the detached writer, in order, and reported with [`Engine::report`].
    pub fn writes(&mut self) -> Vec<Write> {
        self.member.writes()
    }

    /// Reports writes; the next turn takes it in.
    pub fn report(&self, written: Written) {
        let _ = self
            .shared
            .inbox
            .request(Request::Background(Background::Written(written)));
    }

    /// Takes in everything that waits. `now` is the member's own clock; `ticks` of raft's have passed. An
    /// error is final.
    pub fn turn(&mut self, now: Duration, ticks: u32) -> Result<Turned, OpenError> {
        let taken = self.shared.inbox.take(self.pending.len() < MOST_PENDING);
        let deadline = now + WRITE_WITHIN;
        let with_deadline = |proposal| Proposal { deadline, ..proposal };
        self.pending.extend(taken.proposals.into_iter().map(with_deadline));
        let mut barriers = Vec::new();
        let mut turn = Turn::default();
        for request in taken.requests {
            match request {
                Request::Barrier(answer) => barriers.push(answer),
                Request::Message(from, message) => self.member.receive(from, message, now, &mut turn),
                Request::Gone(id) => self.member.gone(id),
                Request::Change(change) => self.member.change(change),
                Request::Status(answer) => drop(answer.send(self.member.status())),
                Request::Tidy => self.tidy(now)?,
                Request::Renew(asker) => self.rotation.ask(asker),
                Request::Background(Background::Checkpoint(index, written)) => self.checkpointed(index, written),
                Request::Background(Background::Written(written)) => self.member.written(written, now, &mut turn)?,
            }
        }
        self.pass(ticks);
        self.member.turn(&mut self.pending, barriers, now, &mut turn)?;
        self.publish(turn);
        let segment = self.member.log().segments().current();
        if self.segment != segment {
            self.segment = segment;
            self.jobs.push(Job::Spare);
            self.shared.forget_old_snapshots();
        }
        self.jobs.extend(self.rotation.due(&mut self.member));
        let too_large = self.usage.is_too_large(&self.member, SEGMENTS_MAX);
        if let Some((meta, snapshot)) = self.member.checkpoint_due(self.checkpoint_bytes, too_large) {
            self.jobs.push(Job::Checkpoint(Box::new(Due(meta, snapshot))));
        }
        if self.member.is_removed() && now >= *self.removed.get_or_insert(now) + LINGER {
            return Err(OpenError::Removed);
        }
        let is_idle = self.pending.is_empty();
        Ok(Turned {
            more: !is_idle && self.member.accepts(),
            takes_writes: self.pending.len() < MOST_PENDING,
            stopping: taken.stop && is_idle && self.member.is_written(),
        })
    }

    /// What is to be done in the background: each with [`Engine::perform`], in order.
    pub fn jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// Performs a job on this engine's disk and reports it as done.
    pub fn perform(&self, job: Job, disk: &dyn Disk, keyring: &Keyring, segment_bytes: u64) {
        if let Some(done) = perform(job, disk, keyring, segment_bytes) {
            let _ = self.shared.inbox.request(Request::Background(done));
        }
    }

    /// Closes the log, if it is not detached: it is durable how far it is.
    pub fn close(&mut self) -> Result<(), OpenError> {
        self.member.close()
    }

    fn publish(&mut self, turn: Turn) {
        if let Some(snapshot) = turn.reset {
            self.shared.hub.reset(snapshot);
        }
        if !turn.discard.is_empty() {
            self.jobs.push(Job::Discard(turn.discard));
        }
        if !turn.events.is_empty() {
            self.shared.hub.publish(turn.events, self.member.snapshot());
        }
        self.announce();
        let counters = &self.shared.counters;
        let answered = turn.answers.len() as u64;
        counters.proposals.fetch_add(answered, Ordering::Relaxed);
        counters
            .refused_no_space
            .fetch_add(turn.refused_no_space, Ordering::Relaxed);
        for (answer, outcome) in turn.answers {
            // The asker may have gone away.
            let _ = answer.send(outcome);
        }
        for (answer, confirmed) in turn.barriers {
            let _ = answer.send(confirmed);
        }
    }

    /// Shows who leads, and the log's numbers.
    fn announce(&mut self) {
        let leads = self.member.leads();
        let alone = leads && self.member.is_alone();
        let counters = &self.shared.counters;
        counters.alone.store(alone, Ordering::Release);
        let segments = self.member.log().segments();
        let (bytes, records) = segments.written();
        counters.records.store(records, Ordering::Relaxed);
        counters.log_bytes.store(bytes, Ordering::Relaxed);
        counters.segments.store(segments.count() as u64, Ordering::Relaxed);
        self.shared.leader.send_if_modified(|known| {
            let changed = *known != leads;
            *known = leads;
            changed
        });
        let place = Some(self.member.place());
        if self.shown == place {
            return;
        }
        self.shown = place;
        let cluster = self.member.cluster();
        self.shared.cluster.send_if_modified(|known| {
            let changed = *known != cluster;
            *known = cluster;
            changed
        });
    }

    /// What deleted objects took on disk is given back when there is little to do.
    fn tidy(&mut self, now: Duration) -> Result<(), OpenError> {
        let (written, _) = self.member.log().segments().written();
        let is_quiet = written - self.usage.written < self.usage.segment_bytes;
        self.usage.written = written;
        if !is_quiet || !self.usage.is_too_large(&self.member, SEGMENTS_MAX_QUIET) {
            return Ok(());
        }
        match self.member.checkpoint_now() {
            Some((meta, snapshot)) => self.jobs.push(Job::Checkpoint(Box::new(Due(meta, snapshot)))),
            // Two checkpoints of one place make no sense: the older one goes after the next entry.
            None if self.member.is_writing_checkpoint() => {}
            None => self.member.propose_nothing(now)?,
        }
        Ok(())
    }

    fn checkpointed(&mut self, index: u64, written: Result<u64, OpenError>) {
        match written {
            Ok(bytes) => {
                self.usage.checkpoints.insert(index, bytes);
                let counters = &self.shared.counters;
                counters.checkpoints.fetch_add(1, Ordering::Relaxed);
                let unneeded = self.member.checkpointed(index);
                self.jobs.push(Job::Discard(unneeded));
                self.jobs.extend(self.rotation.checkpointed(&self.shared.keyring));
                self.jobs.push(Job::Spare);
            }
            Err(error) => {
                tracing::error!(%error, "a checkpoint could not be written; the log goes on");
                self.member.checkpoint_failed();
                self.rotation.answer(RotateError::Checkpoint);
            }
        }
    }
}

pub(crate) fn perform(job: Job, disk: &dyn Disk, keyring: &Keyring, segment_bytes: u64) -> Option<Background> {
    match job {
        Job::Checkpoint(due) => {
            let Due(meta, snapshot) = *due;
            let written = checkpoint::write(disk, keyring, &meta, &snapshot);
            return Some(Background::Checkpoint(meta.index, written));
        }
        Job::Spare => match wal::make_spare(disk, segment_bytes) {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                tracing::warn!("the disk has no room for the next segment of the log");
            }
            Err(error) => tracing::error!(%error, "cannot prepare the next segment of the log"),
        },
        Job::Retire(asker) => {
            let retired = rotation::retire(disk, keyring);
            if let Err(error) = &retired {
                tracing::warn!(%error, "old keys are not destroyed yet");
            }
            if let Some(asker) = asker {
                let _ = asker.send(retired.map_err(RotateError::from));
            }
        }
        Job::Discard(names) => {
            if let Err(error) = wal::discard(disk, &names, segment_bytes) {
                tracing::warn!(%error, "cannot remove files that are not needed");
            }
        }
    }
    None
}
