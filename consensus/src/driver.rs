//! The threads of an open store.
//!
//! The driver thread turns the [`Engine`]: what waits meanwhile makes up the next batch; that is all there
//! is to group commit. Alone, it sleeps until there is something to do; with other members it also wakes
//! for raft's clock.
//!
//! The files thread does what may take long: checkpoints, spare segments, removals.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::crypt::{Keyring, io_error};
use crate::datadir::DataDir;
use crate::disk::{Disk, RealDisk};
use crate::engine::{Engine, Job, Setup, perform};
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
    let driver = Driver {
        engine,
        files,
        started: Instant::now(),
        next_tick: Instant::now() + TICK,
        _data_dir: data_dir,
    };
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
    engine: Engine,
    files: Files,
    started: Instant,
    next_tick: Instant,
    /// Released last.
    _data_dir: DataDir,
}

impl Driver {
    fn run_to_end(mut self) {
        let shared = self.engine.shared().clone();
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
        self.files.finish();
        drop(self.engine);
        drop(self._data_dir);
        shared.hub.close();
        shared.ended.send_replace(Some(reason));
    }

    fn run(&mut self) -> Result<(), OpenError> {
        loop {
            let patience = self.patience();
            let ticks = self.ticks();
            let stopping = self.engine.turn(self.started.elapsed(), ticks, patience)?;
            for job in self.engine.jobs() {
                self.files.add(job);
            }
            if stopping {
                return self.engine.seal();
            }
        }
    }

    /// How long to sleep when there is nothing to do; `None` for as long as that stays so.
    fn patience(&self) -> Option<Duration> {
        if self.engine.is_alone() {
            return None;
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
        self.next_tick = now + TICK;
        (late as u32).saturating_add(1).min(MOST_TICKS)
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
