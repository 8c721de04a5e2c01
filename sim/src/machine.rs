//! A machine: a disk, and the member that runs on it while it does.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coxswain_consensus::disk::{Disk, MemoryDisk};
use coxswain_consensus::engine::{Engine, Job, Setup, Write, Writer};
use coxswain_consensus::{Compacted, Config, Cursor, Keyring, Message, OpenError, RingLimit, Store, Transport};

use crate::clients::RESOURCES;

/// Size of a log segment: small, so that there are many.
const SEGMENT: u64 = 16 << 10;

/// The file that says how far the log is durable.
pub const MARKS: &str = "synced";

/// Most ticks that a member makes up for at once.
const MOST_TICKS: u64 = 5;

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
    /// Follows every resource, for the truth; and the last revision seen there.
    pub recorders: Vec<(Cursor, u64)>,
    pub jobs: VecDeque<Job>,
    /// What is on its way to the disk, and who writes it.
    pub writes: Vec<Write>,
    writer: Writer,
    /// Index applied when its state was last looked at.
    pub looked_at: u64,
}

impl Running {
    /// The term in which it leads.
    pub fn leads(&self) -> Option<u64> {
        self.engine.leads().then(|| self.engine.term())
    }
}

/// What came of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The member runs.
    Runs,
    /// The disk failed meanwhile.
    Failed,
    /// The files are not what they were: the member refuses to run.
    Damaged,
}

/// A machine.
pub struct Machine {
    pub id: u64,
    pub disk: MemoryDisk,
    pub running: Option<Running>,
    /// Counts its starts.
    pub life: u64,
    /// Its own clock is ahead of the world's by so many microseconds; it does not go below 0.
    pub ahead: i64,
    /// Until when it is paused, and what has come in since.
    pub paused_until: u64,
    pub held: Vec<(u64, Message)>,
    /// Whether the disk is writing, and until when it is held up.
    pub is_writing: bool,
    pub disk_stalled_until: u64,
    /// Whether its files were damaged or lost.
    pub is_damaged: bool,
    /// A damaged file, and what it held before.
    pub undamaged: Option<(String, Vec<u8>)>,
    /// The mark of a log without records.
    pub first_mark: Vec<u8>,
    /// When the next turn for the sake of raft's clock is planned; 0 for not at all.
    pub alarm: u64,
    /// Raft's clock has been let go on up to here.
    ticked: u64,
    /// Length of a tick: clocks run a little fast or slow.
    tick: u64,
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
            ahead: 0,
            paused_until: 0,
            held: Vec::new(),
            is_writing: false,
            disk_stalled_until: 0,
            is_damaged: false,
            undamaged: None,
            first_mark: Vec::new(),
            alarm: 0,
            ticked: 0,
            tick: 0,
            voters: voters.to_vec(),
            outbox: outbox.clone(),
            keyring: keyring.clone(),
        }
    }

    /// Starts the member, with ticks of this length.
    pub fn start(&mut self, session: u64, now: u64, tick: u64) -> Result<Opened, String> {
        self.life += 1;
        self.is_writing = false;
        self.held.clear();
        (self.alarm, self.ticked, self.tick) = (0, now, tick);
        let is_empty = || self.disk.list().is_ok_and(|names| names.is_empty());
        if self.is_damaged && is_empty() {
            // The directory says that there was a store.
            return Ok(Opened::Damaged);
        }
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
            Ok(Err(OpenError::Io { .. } | OpenError::NoSpace { .. })) => return Ok(Opened::Failed),
            Ok(Err(error)) if error.is_damage() && self.is_damaged => return Ok(Opened::Damaged),
            Ok(Err(error)) => {
                let names = self.disk.list().unwrap_or_default();
                return Err(format!(
                    "member {} does not start: {error}; its files: {names:?}",
                    self.id
                ));
            }
            Err(_) => return Err(format!("member {} fails when it starts", self.id)),
        };
        if self.first_mark.is_empty() {
            self.first_mark = self.disk.contents(MARKS).unwrap_or_default();
        }
        let writer = engine.detach().ok_or("the log has been detached before")?;
        let store = engine.store();
        let cursors = RESOURCES
            .iter()
            .map(|resource| Ok((store.watch(resource, store.oldest_revision(resource))?, 0)));
        let recorders = cursors
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error: Compacted| error.to_string())?;
        self.running = Some(Running {
            engine,
            store,
            recorders,
            jobs: VecDeque::new(),
            writes: Vec::new(),
            writer,
            looked_at: 0,
        });
        Ok(Opened::Runs)
    }

    /// How it stands, for a message.
    pub fn describe(&self) -> String {
        let id = self.id;
        match &self.running {
            None => format!("{id} is off{}", if self.is_damaged { ", damaged" } else { "" }),
            Some(running) => {
                let (applied, snapshot) = running.engine.applied();
                let cluster = running.store.cluster().borrow().clone();
                let term = running.engine.term();
                format!(
                    "{id} applied {applied} revision {} term {term} leader {:?} voters {:?} learners {:?}",
                    snapshot.revision(),
                    cluster.leader,
                    cluster.voters,
                    cluster.learners
                )
            }
        }
    }

    /// Whether a tick has passed that may ask for something.
    pub fn is_due(&self, now: u64) -> bool {
        let quiet = self.running.as_ref().map_or(0, |running| running.engine.quiet_ticks());
        now >= self.ticked + (u64::from(quiet) + 1) * self.tick
    }

    /// When to look again because of raft's clock, if that is not planned yet.
    pub fn next_alarm(&mut self, now: u64) -> Option<u64> {
        let quiet = self.running.as_ref()?.engine.quiet_ticks();
        let next = (self.ticked + (u64::from(quiet) + 1) * self.tick).max(now);
        if self.alarm != 0 && self.alarm <= next {
            return None;
        }
        self.alarm = next;
        Some(next)
    }

    /// After the member was held up, only so many ticks are made up for.
    pub fn skip_ticks(&mut self, now: u64, but: u64) {
        self.ticked = self.ticked.max(now.saturating_sub(but * self.tick));
    }

    /// The member's own clock leaps ahead, and raft's with it as far as ticks are made up for.
    pub fn jump(&mut self, by: u64) {
        self.ahead = self.ahead.saturating_add_unsigned(by);
        self.ticked = self.ticked.saturating_sub(by.min(MOST_TICKS * self.tick));
    }

    /// The member's own clock leaps back, and raft's stands still until it is where it was.
    pub fn jump_back(&mut self, now: u64, by: u64) {
        self.ahead = self.ahead.saturating_sub_unsigned(by);
        self.ticked = self.ticked.max(now + by);
    }

    /// One turn of the member. `Ok(false)` when that was its last.
    pub fn turn(&mut self, now: u64) -> Result<bool, String> {
        let Some(running) = &mut self.running else {
            return Ok(false);
        };
        let due = now.saturating_sub(self.ticked) / self.tick;
        self.ticked += due * self.tick;
        let quiet = due.min(u64::from(running.engine.quiet_ticks())) as u32;
        running.engine.pass(quiet);
        let ticks = due as u32 - quiet;
        let now = Duration::from_micros(now.saturating_add_signed(self.ahead));
        let turned = catch_unwind(AssertUnwindSafe(|| running.engine.turn(now, ticks)));
        match turned {
            Ok(Ok(_)) => {
                running.writes.extend(running.engine.writes());
                running.jobs.extend(running.engine.jobs());
                Ok(true)
            }
            Ok(Err(OpenError::Io { .. } | OpenError::Removed)) => Ok(false),
            Ok(Err(error)) if error.is_damage() && self.is_damaged => Ok(false),
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
