//! The threads of an open store.
//!
//! The driver thread turns the [`Member`]: it takes everything that waits, has it made durable and
//! applied in one go, publishes, and answers. What waits meanwhile makes up the next batch; that is
//! all there is to group commit. Alone, it sleeps until there is something to do; with other
//! members it also wakes for raft's clock.
//!
//! The files thread does what may take long: checkpoints, spare segments, removals.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coxswain_store::Snapshot;

use crate::checkpoint::{self, Meta};
use crate::crypt::{Keyring, io_error};
use crate::datadir::DataDir;
use crate::disk::{Disk, RealDisk, is_full};
use crate::inbox::{Proposal, Request};
use crate::member::{Member, Turn};
use crate::start::{Parts, Started, start};
use crate::store::{Shared, Stats};
use crate::transport::Transport;
use crate::{Config, OpenError, wal};

/// Raft's clock.
const TICK: Duration = Duration::from_millis(50);

/// Something that ended in the background.
pub(crate) enum Background {
    /// A checkpoint at this index is on disk, or is not.
    Checkpoint(u64, Result<(), OpenError>),
}

/// Something to do in the background.
enum Job {
    Checkpoint(Box<(Meta, Snapshot)>),
    Spare,
    Discard(Vec<String>),
}

/// Numbers that the driver keeps for others to read.
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

/// Opens a store and starts its threads. Blocks.
pub(crate) fn open(config: Config, transport: Box<dyn Transport>) -> Result<Arc<Shared>, OpenError> {
    let data_dir = DataDir::acquire(&config.data_dir)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&config.data_dir));
    let keyring = if data_dir.is_new() && !has_data(&*disk)? {
        Keyring::load_or_create(&config.key_file)?
    } else {
        Keyring::load(&config.key_file)?
    };
    let keyring = Arc::new(keyring);
    let Started { member, hub, leftovers } = start(Parts {
        id: config.member,
        disk: disk.clone(),
        keyring: keyring.clone(),
        segment_bytes: config.segment_bytes,
        history: config.history,
        transport,
        voters: config.voters,
        election_ticks: None,
    })?;
    for name in &leftovers {
        disk.remove(name).map_err(io_error("remove", disk.path(name)))?;
    }
    data_dir.mark_format()?;
    let shared = Arc::new(Shared::new(hub));
    let files = Files::spawn(disk, keyring, config.segment_bytes, shared.clone())?;
    files.add(Job::Spare);
    let mut driver = Driver {
        member,
        shared: shared.clone(),
        files: Some(files),
        checkpoint_bytes: config.checkpoint_bytes,
        pending: VecDeque::new(),
        started: Instant::now(),
        next_tick: Instant::now() + TICK,
        _data_dir: data_dir,
    };
    driver.announce();
    std::thread::Builder::new()
        .name("store-driver".into())
        .spawn(move || driver.run_to_end())
        .map_err(io_error("start", "the store's driver thread"))?;
    Ok(shared)
}

fn has_data(disk: &dyn Disk) -> Result<bool, OpenError> {
    let checkpoints = checkpoint::checkpoint_indexes(disk)?;
    Ok(!checkpoints.is_empty() || !wal::segment_numbers(disk)?.is_empty())
}

struct Driver {
    member: Member,
    shared: Arc<Shared>,
    files: Option<Files>,
    checkpoint_bytes: u64,
    pending: VecDeque<Proposal>,
    started: Instant,
    next_tick: Instant,
    /// Released last.
    _data_dir: DataDir,
}

impl Driver {
    fn run_to_end(mut self) {
        let shared = self.shared.clone();
        let ended = catch_unwind(AssertUnwindSafe(|| self.run()));
        let reason: Arc<str> = match ended {
            Ok(Ok(())) => "it was shut down".into(),
            Ok(Err(error)) => {
                tracing::error!(%error, "the store stops");
                error.to_string().into()
            }
            Err(_) => {
                tracing::error!("the store stops after a panic of its driver");
                "its driver failed; the log tells more".into()
            }
        };
        // Whoever waits is told why before the answers' senders go away with the member.
        shared.inbox.close(&reason);
        shared.leader.send_replace(false);
        if let Some(files) = self.files.take() {
            files.finish();
        }
        drop(self);
        shared.hub.close();
        shared.ended.send_replace(Some(reason));
    }

    fn run(&mut self) -> Result<(), OpenError> {
        loop {
            let taken = self.shared.inbox.take(self.patience());
            self.pending.extend(taken.proposals);
            let mut barriers = Vec::new();
            for request in taken.requests {
                match request {
                    Request::Barrier(answer) => barriers.push(answer),
                    Request::Message(message) => self.member.receive(&message),
                    Request::Background(Background::Checkpoint(index, written)) => {
                        self.checkpointed(index, written);
                    }
                }
            }
            self.tick();
            let segments = self.member.wal().segments();
            let now = self.started.elapsed();
            let turn = self.member.turn(&mut self.pending, barriers, now)?;
            self.publish(turn);
            if self.member.wal().segments() != segments {
                self.add_job(Job::Spare);
                self.shared.forget_old_snapshots();
            }
            if let Some(due) = self.member.checkpoint_due(self.checkpoint_bytes) {
                self.add_job(Job::Checkpoint(Box::new(due)));
            }
            if taken.stop && self.pending.is_empty() {
                return self.member.seal();
            }
        }
    }

    /// How long to sleep when there is nothing to do; `None` for as long as that stays so.
    fn patience(&self) -> Option<Duration> {
        if !self.pending.is_empty() {
            return Some(Duration::ZERO);
        }
        if self.member.is_alone() {
            return None;
        }
        Some(self.next_tick.saturating_duration_since(Instant::now()))
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.member.is_alone() || now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.member.tick();
    }

    fn publish(&mut self, turn: Turn) {
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
        let (bytes, records) = self.member.wal().written();
        counters.records.store(records, Ordering::Relaxed);
        counters.log_bytes.store(bytes, Ordering::Relaxed);
        let segments = self.member.wal().segments() as u64;
        counters.segments.store(segments, Ordering::Relaxed);
        self.shared.leader.send_if_modified(|known| {
            let changed = *known != leads;
            *known = leads;
            changed
        });
    }

    fn checkpointed(&mut self, index: u64, written: Result<(), OpenError>) {
        match written {
            Ok(()) => {
                let counters = &self.shared.counters;
                counters.checkpoints.fetch_add(1, Ordering::Relaxed);
                let unneeded = self.member.checkpointed(index);
                self.add_job(Job::Discard(unneeded));
                self.add_job(Job::Spare);
            }
            Err(error) => {
                tracing::error!(%error, "a checkpoint could not be written; the log goes on");
                self.member.checkpoint_failed();
            }
        }
    }

    fn add_job(&self, job: Job) {
        if let Some(files) = &self.files {
            files.add(job);
        }
    }
}

/// The files thread, from outside.
struct Files {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

impl Files {
    fn spawn(
        disk: Arc<dyn Disk>,
        keyring: Arc<Keyring>,
        segment_bytes: u64,
        shared: Arc<Shared>,
    ) -> Result<Files, OpenError> {
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store-files".into())
            .spawn(move || {
                for job in queue {
                    perform(job, &*disk, &keyring, segment_bytes, &shared);
                }
            })
            .map_err(io_error("start", "the store's files thread"))?;
        Ok(Files { jobs, thread })
    }

    fn add(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    /// Waits for what is queued.
    fn finish(self) {
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

fn perform(job: Job, disk: &dyn Disk, keyring: &Keyring, segment_bytes: u64, shared: &Shared) {
    match job {
        Job::Checkpoint(due) => {
            let (meta, snapshot) = *due;
            let written = checkpoint::write(disk, keyring, &meta, &snapshot).map(drop);
            let done = Background::Checkpoint(meta.index, written);
            let _ = shared.inbox.request(Request::Background(done));
        }
        Job::Spare => match wal::make_spare(disk, segment_bytes) {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                tracing::warn!("the disk has no room for the next segment of the log");
            }
            Err(error) => tracing::error!(%error, "cannot prepare the next segment of the log"),
        },
        Job::Discard(names) => {
            if let Err(error) = wal::discard(disk, &names, segment_bytes) {
                tracing::warn!(%error, "cannot remove files that are not needed");
            }
        }
    }
}
