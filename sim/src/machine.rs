//! A machine: a disk, and the member that runs on it while it does.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coxswain_consensus::disk::MemoryDisk;
use coxswain_consensus::engine::{Engine, Job, Setup, Write, Writer};
use coxswain_consensus::{Config, Cursor, Keyring, Message, OpenError, RingLimit, Store, Transport};

use crate::clients::RESOURCES;

/// Size of a log segment: small, so that there are many.
const SEGMENT: u64 = 16 << 10;

/// Messages on their way out: from, to, message.
pub type Outbox = Arc<Mutex<Vec<(u64, u64, Message)>>>;

struct Post {
    from: u64,
    outbox: Outbox,
}

impl Transport for Post {
    fn send(&mut self, to: u64, message: Message) {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.push((self.from, to, message));
    }
}

/// A member that runs.
pub struct Running {
    pub engine: Engine,
    pub store: Store,
    /// Follows every resource, for the truth.
    pub recorders: Vec<Cursor>,
    pub jobs: VecDeque<Job>,
    /// What is on its way to the disk, and who writes it.
    pub writes: Vec<Write>,
    writer: Writer,
    /// Index applied when its state was last looked at.
    pub looked_at: u64,
}

/// A machine.
pub struct Machine {
    pub id: u64,
    pub disk: MemoryDisk,
    pub running: Option<Running>,
    /// Counts its starts.
    pub life: u64,
    /// Its own clock is ahead of the world's by this much.
    pub ahead: Duration,
    /// Until when it is paused, and what has come in since.
    pub paused_until: u64,
    pub held: Vec<(u64, Message)>,
    /// Whether the disk is writing, and until when it is held up.
    pub is_writing: bool,
    pub disk_stalled_until: u64,
    voters: Vec<u64>,
    outbox: Outbox,
    keyring: Arc<Keyring>,
}

impl Machine {
    /// A machine that is off.
    pub fn new(id: u64, voters: &[u64], outbox: &Outbox, keyring: &Arc<Keyring>) -> Machine {
        Machine {
            id,
            disk: MemoryDisk::new(),
            running: None,
            life: 0,
            ahead: Duration::ZERO,
            paused_until: 0,
            held: Vec::new(),
            is_writing: false,
            disk_stalled_until: 0,
            voters: voters.to_vec(),
            outbox: outbox.clone(),
            keyring: keyring.clone(),
        }
    }

    /// Starts the member. `Ok(false)` when its disk fails meanwhile.
    pub fn start(&mut self, session: u64) -> Result<bool, String> {
        self.life += 1;
        self.is_writing = false;
        self.held.clear();
        let config = Config {
            member: self.id,
            voters: self.voters.clone(),
            history: RingLimit {
                events: 64,
                bytes: 1 << 20,
            },
            segment_bytes: SEGMENT,
            checkpoint_bytes: 24 << 10,
            lag_bytes: 6 << 10,
            chunk_bytes: 1 << 10,
            ..Config::new("/memory/store")
        };
        let setup = Setup {
            config,
            disk: Arc::new(self.disk.clone()),
            keyring: self.keyring.clone(),
            transport: Box::new(Post {
                from: self.id,
                outbox: self.outbox.clone(),
            }),
            session,
        };
        let opened = catch_unwind(AssertUnwindSafe(|| Engine::open(setup)));
        let mut engine = match opened {
            Ok(Ok(engine)) => engine,
            Ok(Err(OpenError::Io { .. } | OpenError::NoSpace { .. })) => return Ok(false),
            Ok(Err(error)) => {
                let names = coxswain_consensus::disk::Disk::list(&self.disk).unwrap_or_default();
                return Err(format!(
                    "member {} does not start: {error}; its files: {names:?}",
                    self.id
                ));
            }
            Err(_) => return Err(format!("member {} fails when it starts", self.id)),
        };
        let writer = engine.detach().ok_or("the log has been detached before")?;
        let store = engine.store();
        let cursors = RESOURCES
            .iter()
            .map(|resource| store.watch(resource, store.oldest_revision(resource)));
        let recorders = cursors
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        self.running = Some(Running {
            engine,
            store,
            recorders,
            jobs: VecDeque::new(),
            writes: Vec::new(),
            writer,
            looked_at: 0,
        });
        Ok(true)
    }

    /// One turn of the member. `Ok(false)` when that was its last.
    pub fn turn(&mut self, now: u64, ticks: u32) -> Result<bool, String> {
        let Some(running) = &mut self.running else {
            return Ok(false);
        };
        let now = Duration::from_micros(now) + self.ahead;
        let turned = catch_unwind(AssertUnwindSafe(|| running.engine.turn(now, ticks)));
        match turned {
            Ok(Ok(_)) => {
                running.writes.extend(running.engine.writes());
                running.jobs.extend(running.engine.jobs());
                Ok(true)
            }
            Ok(Err(OpenError::Io { .. } | OpenError::Removed)) => Ok(false),
            Ok(Err(error)) => Err(format!("member {} stops: {error}", self.id)),
            Err(_) => Err(format!("member {} fails in a turn", self.id)),
        }
    }

    /// The disk does what was to be written up to now; the member hears of it with its next turn.
    pub fn write(&mut self) {
        if let Some(running) = &mut self.running {
            let written = running.writer.perform(std::mem::take(&mut running.writes));
            running.engine.report(written);
        }
    }

    /// Performs the next of what is to be done in the background. Returns whether there is more.
    pub fn work(&mut self) -> bool {
        let Some(running) = &mut self.running else {
            return false;
        };
        if let Some(job) = running.jobs.pop_front() {
            running.engine.perform(job, &self.disk, &self.keyring, SEGMENT);
        }
        !running.jobs.is_empty()
    }
}
