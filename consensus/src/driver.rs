//! The threads of an open store.
//!
//! One driver thread turns the [`Engine`] while the member is alone: what waits meanwhile makes up the next
//! batch; that is all there is to group commit. It sleeps until there is something to do.
//!
//! Among other members there are two, for raft's clock and the others' messages don't wait for a disk. Either
//! turns the engine; one of them then writes what is to be written, and comes back with the report, so that a
//! write changes threads only if something else happens meanwhile.
//!
//! ```text
//!  wait for the inbox -> turn (one at a time) -> write (one at a time, in order) -> turn with the report ...
//! ```
//!
//! The files thread does what may take long: checkpoints, spare segments, removals.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::crypt::{Keyring, io_error};
use crate::datadir::DataDir;
use crate::disk::{Disk, RealDisk};
use crate::engine::{Background, Engine, Job, Setup, Turned, Write, Writer, perform};
use crate::inbox::Request;
use crate::store::Shared;
use crate::transport::Transport;
use crate::{Config, OpenError, checkpoint, wal};

/// Raft's clock.
const TICK: Duration = Duration::from_millis(20);
/// Most ticks made up for after the thread was held up: a machine that was stopped does not hurry
/// into elections.
const MOST_TICKS: u32 = 5;

/// Opens a store and starts its threads. Blocks.
pub(crate) fn open(config: Config, transport: Box<dyn Transport>) -> Result<Arc<Shared>, OpenError> {
    let data_dir = DataDir::acquire(&config.data_dir)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&config.data_dir));
    let keyring = match (data_dir.is_new(), has_data(&*disk)?) {
        (true, false) => Keyring::load_or_create(&config.key_file)?,
        (_, true) => Keyring::load(&config.key_file)?,
        (false, false) => return Err(OpenError::Lost { dir: config.data_dir }),
    };
    let keyring = Arc::new(keyring);
    let session = keyring.random()?;
    let engine = Engine::open(Setup {
        config: config.clone(),
        disk: disk.clone(),
        keyring: keyring.clone(),
        transport,
        session,
    })?;
    data_dir.mark_format()?;
    let shared = engine.shared().clone();
    let files = Files::spawn(disk, keyring, config.segment_bytes, shared.clone())?;
    let crew = Arc::new(Crew {
        shared: shared.clone(),
        turning: Mutex::new(Turning {
            engine,
            next_tick: Instant::now() + TICK,
            has_ended: false,
        }),
        desk: Mutex::default(),
        started: Instant::now(),
        reason: OnceLock::new(),
        files,
        _data_dir: data_dir,
    });
    Crew::hire(crew)?;
    Ok(shared)
}

fn has_data(disk: &dyn Disk) -> Result<bool, OpenError> {
    let checkpoints = checkpoint::checkpoint_indexes(disk)?;
    Ok(!checkpoints.is_empty() || !wal::segment_numbers(disk)?.is_empty())
}

/// What the driver's threads share.
struct Crew {
    shared: Arc<Shared>,
    turning: Mutex<Turning>,
    /// Locked for moments only, and after `turning` by who holds both.
    desk: Mutex<Desk>,
    started: Instant,
    reason: OnceLock<Arc<str>>,
    files: Files,
    /// Released last.
    _data_dir: DataDir,
}

/// What one thread at a time does.
struct Turning {
    engine: Engine,
    next_tick: Instant,
    has_ended: bool,
}

/// What is to be written, and the writer unless somebody is at it.
#[derive(Default)]
struct Desk {
    writer: Option<Writer>,
    queue: Vec<Write>,
}

/// What a thread does next.
enum Next {
    /// Wait for the inbox.
    Wait {
        patience: Option<Duration>,
        /// Whether for writes as well.
        writes: bool,
        /// Whether a second thread is needed from now on.
        hire: bool,
    },
    End,
}

impl Crew {
    /// Starts a thread.
    fn hire(crew: Arc<Crew>) -> Result<(), OpenError> {
        crew.shared.inbox.attend();
        std::thread::Builder::new()
            .name("store-driver".into())
            .spawn(move || Crew::run_to_end(crew))
            .map(drop)
            .map_err(io_error("start", "the store's driver thread"))
    }

    fn run_to_end(crew: Arc<Crew>) {
        let shared = crew.shared.clone();
        let ended = catch_unwind(AssertUnwindSafe(|| Crew::run(&crew)));
        crew.reason.get_or_init(|| match ended {
            Ok(Ok(())) => "it was shut down".into(),
            Ok(Err(error)) => {
                tracing::error!(%error, "the store stops");
                error.to_string().into()
            }
            Err(_) => {
                tracing::error!("the store stops after a panic of its driver");
                "its driver failed; the log tells more".into()
            }
        });
        let reason = crew.reason.get().cloned().unwrap_or_default();
        // Whoever waits is told why before the answers' senders go away with the member.
        shared.inbox.close(&reason);
        shared.leader.send_replace(false);
        // The last thread clears up.
        if let Some(mut crew) = Arc::into_inner(crew) {
            crew.files.finish();
            drop(crew);
            shared.hub.close();
            shared.ended.send_replace(Some(reason));
        }
    }

    fn run(crew: &Arc<Crew>) -> Result<(), OpenError> {
        loop {
            let Next::Wait { patience, writes, hire } = crew.turn()? else {
                return Ok(());
            };
            if hire {
                Crew::hire(crew.clone())?;
            }
            // With a report comes more to do.
            if !crew.write() {
                crew.shared.inbox.wait(patience, writes);
            }
        }
    }

    /// Turns the engine, unless it has ended.
    fn turn(&self) -> Result<Next, OpenError> {
        // A thread that panicked here has left nothing to go on with.
        let Ok(mut turning) = self.turning.lock() else {
            return Ok(Next::End);
        };
        if turning.has_ended {
            return Ok(Next::End);
        }
        let ended = self.turn_engine(&mut turning);
        turning.has_ended = !matches!(ended, Ok(Next::Wait { .. }));
        ended
    }

    fn turn_engine(&self, turning: &mut Turning) -> Result<Next, OpenError> {
        let ticks = turning.ticks();
        let now = self.started.elapsed();
        let Turned {
            more,
            takes_writes,
            stopping,
        } = turning.engine.turn(now, ticks)?;
        for job in turning.engine.jobs() {
            self.files.add(job);
        }
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        desk.queue.extend(turning.engine.writes());
        if stopping {
            desk.writer.as_mut().map_or(Ok(()), Writer::close)?;
            turning.engine.close()?;
            return Ok(Next::End);
        }
        let writer = match turning.engine.is_alone() {
            true => None,
            false => turning.engine.detach(),
        };
        let hire = writer.is_some();
        if hire {
            desk.writer = writer;
        }
        Ok(Next::Wait {
            patience: if more {
                Some(Duration::ZERO)
            } else {
                turning.patience(now)
            },
            writes: takes_writes,
            hire,
        })
    }

    /// Writes what is to be written, if nobody else does. Returns whether there is something to report.
    fn write(&self) -> bool {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        if desk.queue.is_empty() {
            return false;
        }
        let Some(mut writer) = desk.writer.take() else {
            return false;
        };
        let writes = std::mem::take(&mut desk.queue);
        drop(desk);
        self.shared.inbox.leave();
        let written = writer.perform(writes);
        self.shared.inbox.attend();
        // Reports come in the order of the writes: nobody else gets the writer before.
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let report = Request::Background(Background::Written(written));
        let _ = self.shared.inbox.request(report);
        desk.writer = Some(writer);
        true
    }
}

impl Turning {
    /// How long to sleep when there is nothing to do; `None` for as long as that stays so.
    fn patience(&self, now: Duration) -> Option<Duration> {
        if self.engine.is_alone() {
            return self.engine.idle_for(now);
        }
        Some(self.next_tick.saturating_duration_since(Instant::now()))
    }

    /// Ticks that are due now.
    fn ticks(&mut self) -> u32 {
        let now = Instant::now();
        if self.engine.is_alone() || now < self.next_tick {
            return 0;
        }
        let late = now.duration_since(self.next_tick).as_nanos() / TICK.as_nanos();
        let due = (late as u32).saturating_add(1);
        // The clock of one member shall not be set by what wakes all of them at once: two would stand for election together.
        self.next_tick += TICK * due;
        due.min(MOST_TICKS)
    }
}

/// The files thread, from outside.
struct Files {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
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
                    if let Some(done) = perform(job, &*disk, &keyring, segment_bytes) {
                        let _ = shared.inbox.request(Request::Background(done));
                    }
                }
            })
            .map_err(io_error("start", "the store's files thread"))?;
        Ok(Files {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    fn add(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    /// Waits for what is queued.
    fn finish(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
