//! Rotating the key that everything at rest is encrypted with, while writes go on.
//!
//! ```text
//!  a new key in the key file -> the log goes on in a new segment -> two checkpoints
//!      -> the log before the older one and the checkpoints before it are removed
//!      -> no file needs the old key any more: it is destroyed
//! ```
//! Each step leaves what a member can start from: the old key is there as long as a file needs it, and
//! a rotation that was interrupted is finished by the next member that starts ([`Store::finish_rotation`]).
//! Segments used before and kept as spares are not asked: what they still hold is unreadable without the
//! key, and is overwritten as the log comes to them.
//!
//! Does not: decide when. Each member has keys of its own.

use std::collections::BTreeSet;

use coxswain_store::Txn;
use tokio::sync::oneshot;

use crate::checkpoint;
use crate::crypt::{Keyring, io_error};
use crate::disk::Disk;
use crate::engine::{Due, Job};
use crate::inbox::Request;
use crate::member::Member;
use crate::{OpenError, ProposeError, RotateError, Store, wal};

/// Checkpoints after which a rotation must have ended; two are enough unless others come in between.
const MOST_ROUNDS: usize = 8;

/// Told whether old keys are left after a round.
pub type Asker = oneshot::Sender<Result<bool, RotateError>>;

/// Destroys the keys that no file needs. Returns whether any besides the current one are left.
pub(crate) fn retire(disk: &dyn Disk, keyring: &Keyring) -> Result<bool, OpenError> {
    let _at_rest = keyring.at_rest();
    // What was removed must not come back, needing its key.
    disk.sync_dir().map_err(io_error("sync", disk.path("")))?;
    let mut in_use = BTreeSet::new();
    for name in disk.list().map_err(io_error("list", disk.path("")))? {
        let master_key = match name.split_once('-') {
            Some(("log", _)) => wal::master_key,
            Some(("state", _)) => checkpoint::master_key,
            _ => continue,
        };
        let key = disk.open(&name).and_then(|file| master_key(&*file));
        match key.map_err(io_error("read", disk.path(&name)))? {
            Some(key) => drop(in_use.insert(key)),
            // It may need any of them.
            None => return Ok(keyring.has_old()),
        }
    }
    keyring.retire(&in_use)?;
    Ok(keyring.has_old())
}

/// The round that has been asked for.
#[derive(Default)]
pub(crate) struct Rotation {
    asker: Option<Asker>,
}

impl Rotation {
    /// Takes in a request: a checkpoint is due.
    pub fn ask(&mut self, asker: Asker) {
        self.answer(RotateError::Unfinished);
        self.asker = Some(asker);
    }

    /// What is to be done for it now.
    pub fn due(&mut self, member: &mut Member) -> Option<Job> {
        self.asker.as_ref()?;
        match member.checkpoint_now() {
            Some((meta, snapshot)) => Some(Job::Checkpoint(Box::new(Due(meta, snapshot)))),
            None if member.is_writing_checkpoint() => None,
            None => Some(Job::Retire(self.asker.take())),
        }
    }

    /// What is to be done after a checkpoint and the removal of what that made useless.
    pub fn checkpointed(&mut self, keyring: &Keyring) -> Option<Job> {
        let is_due = keyring.has_old() || self.asker.is_some();
        is_due.then(|| Job::Retire(self.asker.take()))
    }

    /// Tells whoever has asked that it does not come about.
    pub fn answer(&mut self, why: RotateError) {
        if let Some(asker) = self.asker.take() {
            let _ = asker.send(Err(why));
        }
    }
}

impl Store {
    /// Has everything on this member's disk encrypted with a new key, and destroys the old one. May be
    /// called again after an error, and goes on then where it ended.
    pub async fn rotate_key(&self) -> Result<(), RotateError> {
        let keyring = self.keyring();
        let added = tokio::task::spawn_blocking(move || keyring.rotate()).await;
        added.map_err(|_| RotateError::Unfinished)??;
        self.finish_rotation().await
    }

    /// Ends a rotation that was begun, if there is one.
    pub async fn finish_rotation(&self) -> Result<(), RotateError> {
        for _ in 0..MOST_ROUNDS {
            if !self.keyring().has_old() {
                return Ok(());
            }
            // So that there is something in a segment of the new key, and to make a checkpoint of.
            self.propose(Txn { ops: Vec::new() }).await?;
            let (asker, answer) = oneshot::channel();
            self.request(Request::Renew(asker))?;
            match answer.await {
                Ok(has_old) => drop(has_old?),
                Err(_) => return Err(ProposeError::Stopped(self.reason().await).into()),
            }
        }
        Err(RotateError::Unfinished)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::time::Duration;

    use coxswain_store::{Draft, Head, Key, Precondition, Stored};
    use futures::FutureExt;

    use super::*;
    use crate::disk::{Fault, MemoryDisk};
    use crate::engine::{Engine, Setup};
    use crate::{Config, NoPeers};

    const SEGMENT: u64 = 16 << 10;

    /// A store on a disk in memory.
    struct Rig {
        disk: MemoryDisk,
        keyring: Arc<Keyring>,
        engine: Engine,
    }

    impl Rig {
        fn open(disk: &MemoryDisk, keyring: &Arc<Keyring>) -> Result<Rig, OpenError> {
            let config = Config {
                segment_bytes: SEGMENT,
                checkpoint_bytes: 24 << 10,
                ..Config::new("/memory")
            };
            let engine = Engine::open(Setup {
                config,
                disk: Arc::new(disk.clone()),
                keyring: keyring.clone(),
                transport: Box::new(NoPeers),
                session: 1,
            })?;
            Ok(Rig {
                disk: disk.clone(),
                keyring: keyring.clone(),
                engine,
            })
        }

        /// Turns the engine until something that is asked of it has ended.
        fn until<T>(&mut self, asked: impl Future<Output = T>) -> Result<T, OpenError> {
            let mut asked = pin!(asked);
            for _ in 0..1000 {
                if let Some(ended) = asked.as_mut().now_or_never() {
                    return Ok(ended);
                }
                self.engine.turn(Duration::ZERO, 0)?;
                for job in self.engine.jobs() {
                    self.engine.perform(job, &self.disk, &self.keyring, SEGMENT);
                }
            }
            panic!("it does not end");
        }

        fn write(&mut self, number: usize) {
            let key = Key::new("secrets", "default", (number % 9).to_string());
            let value = serde_json::json!({"number": number, "text": "x".repeat(1500)});
            let txn = Txn::put(Draft::new(key, value, Head::default()), Precondition::None);
            let store = self.engine.store();
            let written = self.until(store.propose(txn)).expect("alive");
            written.expect("written");
        }

        fn objects(&self) -> Vec<Stored> {
            let (_, snapshot) = self.engine.applied();
            snapshot
                .all()
                .map(|object| object.at_revision(object.revision))
                .collect()
        }
    }

    #[test]
    fn a_power_cut_at_any_step_leaves_a_store_that_starts_and_a_rotation_that_can_end() {
        let mut interrupted = 0;
        for cut in 0.. {
            let disk = MemoryDisk::new();
            let keyring = Arc::new(Keyring::in_memory(1));
            let mut rig = Rig::open(&disk, &keyring).expect("opened");
            (0..40).for_each(|number| rig.write(number));
            let expected = rig.objects();
            disk.set_fault(Some(Fault::PowerCut(cut)));
            keyring.rotate().expect("a new key");
            let store = rig.engine.store();
            let ended = rig.until(store.finish_rotation());
            drop(rig);
            disk.reboot(cut);
            let mut rig = Rig::open(&disk, &keyring).unwrap_or_else(|error| panic!("step {cut}: {error}"));
            assert_eq!(rig.objects(), expected, "step {cut}");
            rig.write(40);
            let store = rig.engine.store();
            rig.until(store.finish_rotation()).expect("alive").expect("rotated");
            assert_eq!((keyring.current(), keyring.has_old()), (2, false), "step {cut}");
            let expected = rig.objects();
            drop(rig);
            let rig = Rig::open(&disk, &keyring).unwrap_or_else(|error| panic!("step {cut}: {error}"));
            assert_eq!(rig.objects(), expected, "step {cut}");
            assert!(
                Rig::open(&disk, &Arc::new(Keyring::in_memory(1))).is_err(),
                "the old key opens nothing"
            );
            if matches!(ended, Ok(Ok(()))) {
                break;
            }
            interrupted += 1;
        }
        assert!(interrupted > 15, "only {interrupted} steps");
    }

    #[test]
    fn a_full_disk_is_told() {
        let disk = MemoryDisk::new();
        let keyring = Arc::new(Keyring::in_memory(1));
        let mut rig = Rig::open(&disk, &keyring).expect("opened");
        rig.write(0);
        disk.set_capacity(Some(disk.used()));
        keyring.rotate().expect("a new key");
        let store = rig.engine.store();
        let told = rig.until(store.finish_rotation()).expect("alive");
        assert!(matches!(told, Err(RotateError::Checkpoint)), "{told:?}");
        rig.write(1);
        disk.set_capacity(None);
        rig.until(store.finish_rotation()).expect("alive").expect("rotated");
        assert!(!keyring.has_old());
    }
}
