//! The handle by which everybody reaches the store.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use coxswain_store::{Compacted, Event, Outcome, Snapshot, Txn, codec};
use tokio::sync::{oneshot, watch};

use crate::crypt::Keyring;
use crate::driver;
use crate::engine::Counters;
use crate::history::{Ages, History, Moment};
use crate::hub::{Cursor, Hub};
use crate::inbox::{Inbox, Proposal, Request};
use crate::member::{Change, Cluster, Origin, Status};
use crate::peers::{Links, WeakLinks};
use crate::transport::{NoPeers, Transport};
use crate::{Config, Message, OpenError, ProposeError};

/// Largest encoded transaction in bytes; a record of the log holds at least one.
pub(crate) const MOST_TXN_BYTES: usize = 8 << 20;

/// How long to wait for another member to take over.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(1);

/// A handle on the open store; clones are cheap and equal.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// What the handles and the driver thread share.
pub(crate) struct Shared {
    pub hub: Arc<Hub>,
    pub inbox: Inbox,
    pub leader: watch::Sender<bool>,
    pub cluster: watch::Sender<Cluster>,
    pub ended: watch::Sender<Option<Arc<str>>>,
    pub counters: Counters,
    pub keyring: Arc<Keyring>,
    history: Mutex<History>,
    ages: Mutex<Ages>,
    links: OnceLock<WeakLinks>,
    started: Instant,
}

impl Shared {
    pub fn new(hub: Hub, keyring: Arc<Keyring>) -> Shared {
        Shared {
            hub: Arc::new(hub),
            inbox: Inbox::default(),
            leader: watch::Sender::new(false),
            cluster: watch::Sender::new(Cluster::default()),
            ended: watch::Sender::new(None),
            counters: Counters::default(),
            keyring,
            history: Mutex::default(),
            ages: Mutex::default(),
            links: OnceLock::new(),
            started: Instant::now(),
        }
    }
}

impl Shared {
    fn now(&self) -> Moment {
        Moment {
            time: self.started.elapsed(),
            superseded: self.hub.superseded(),
        }
    }

    /// Lets go of earlier snapshots that are too old or cost too much. Called as writes go on:
    /// without writes, a snapshot pins nothing.
    pub fn forget_old_snapshots(&self) {
        let now = self.now();
        self.history.lock().unwrap_or_else(PoisonError::into_inner).forget(now);
    }
}

/// The awaited revision did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {wanted} has not been reached, the current one is {current}")]
pub struct WaitTimeout {
    /// What was waited for.
    pub wanted: u64,
    /// What there is.
    pub current: u64,
}

/// Numbers about a store, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Revision of the last write.
    pub revision: u64,
    /// Number of objects.
    pub objects: usize,
    /// Bytes of all objects, without bookkeeping.
    pub stored_bytes: u64,
    /// Writes answered since start.
    pub proposals: u64,
    /// Log records written since start; each is one fdatasync.
    pub records: u64,
    /// Bytes of log written since start.
    pub log_bytes: u64,
    /// Log segments on disk.
    pub segments: u64,
    /// Checkpoints written since start.
    pub checkpoints: u64,
    /// Writes refused because the disk is full.
    pub refused_no_space: u64,
    /// Events held for watchers.
    pub events: usize,
    /// Bytes that those events keep alive, encoded frames included.
    pub event_bytes: usize,
    /// Events dropped by the bounds.
    pub events_dropped: u64,
    /// Earlier snapshots kept for paging.
    pub snapshots_kept: usize,
    /// Bytes that they keep alive, by estimate.
    pub snapshot_bytes: u64,
}

impl Store {
    /// Opens the store in a data directory, to be ended with [`Store::shutdown`]: takes its lock, loads the newest good checkpoint,
    /// replays the log, starts the driver thread and waits until this member leads or follows.
    pub async fn open(config: Config) -> Result<Store, OpenError> {
        Store::open_with_peers(config, Box::new(NoPeers)).await
    }

    /// Like [`Store::open`], for a member of several: raft's messages go out by `transport` and come
    /// in by [`Store::deliver`].
    pub async fn open_with_peers(config: Config, transport: Box<dyn Transport>) -> Result<Store, OpenError> {
        let opened = tokio::task::spawn_blocking(move || driver::open(config, transport)).await;
        match opened {
            Ok(shared) => Ok(Store { shared: shared? }),
            Err(panic) => Err(OpenError::Raft(panic.to_string())),
        }
    }

    pub(crate) fn over(shared: Arc<Shared>) -> Store {
        Store { shared }
    }

    /// Other members can be asked from now on.
    pub(crate) fn connect(&self, links: WeakLinks) {
        let _ = self.shared.links.set(links);
    }

    pub(crate) fn links(&self) -> Option<Links> {
        self.shared.links.get().and_then(WeakLinks::get)
    }

    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        self.shared.keyring.clone()
    }

    pub(crate) fn request(&self, request: Request) -> Result<(), ProposeError> {
        self.shared.inbox.request(request)
    }

    /// Takes in a message of another member, whom the transport has identified. One that cannot be
    /// taken in is dropped, which its sender makes up for.
    pub fn deliver(&self, from: u64, message: Message) {
        let _ = self.shared.inbox.request(Request::Message(from, message));
    }

    /// Tells that the process of another member has ended, so that nobody waits for it.
    pub fn gone(&self, id: u64) {
        let _ = self.shared.inbox.request(Request::Gone(id));
    }

    /// Asks for a change of membership, which the leader proposes. It has come about when
    /// [`Store::cluster`] shows it, and may not come about: ask again then.
    pub fn change(&self, change: Change) -> Result<(), ProposeError> {
        self.shared.inbox.request(Request::Change(change))
    }

    /// Who belongs to the cluster and who leads it, as this member knows it; changes are announced.
    pub fn cluster(&self) -> watch::Receiver<Cluster> {
        self.shared.cluster.subscribe()
    }

    /// How this member stands.
    pub async fn status(&self) -> Result<Status, ProposeError> {
        let (answer, status) = oneshot::channel();
        self.shared.inbox.request(Request::Status(answer))?;
        match status.await {
            Ok(status) => Ok(status),
            Err(_) => Err(ProposeError::Stopped(self.reason().await)),
        }
    }

    /// Writes. When this returns `Committed`, the write is on disk and visible to every reader.
    /// A dropped call may still be written.
    pub async fn propose(&self, txn: Txn) -> Result<Outcome, ProposeError> {
        let mut encoded = Vec::with_capacity(codec::txn_size_hint(&txn));
        codec::encode_txn(&txn, &mut encoded);
        if encoded.len() > MOST_TXN_BYTES {
            return Err(ProposeError::TooLarge {
                bytes: encoded.len(),
                limit: MOST_TXN_BYTES,
            });
        }
        let (answer, outcome) = oneshot::channel();
        self.shared.inbox.propose(Proposal {
            txn,
            encoded,
            origin: Origin::Local(answer),
            deadline: Duration::MAX,
        })?;
        match outcome.await {
            Ok(outcome) => outcome,
            Err(_) => Err(ProposeError::Stopped(self.reason().await)),
        }
    }

    /// The current state as this member knows it; cheap.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::clone(&self.shared.hub.snapshot())
    }

    /// A state that contains every write acknowledged anywhere before this call.
    pub async fn read_barrier(&self) -> Result<Snapshot, ProposeError> {
        if !self.shared.counters.alone() {
            let (answer, confirmed) = oneshot::channel();
            self.shared.inbox.request(Request::Barrier(answer))?;
            match confirmed.await {
                Ok(confirmed) => confirmed?,
                Err(_) => return Err(ProposeError::Stopped(self.reason().await)),
            }
        }
        Ok(self.snapshot())
    }

    /// The state at an earlier revision, of all resources. [`Store::snapshot_of`] reaches back
    /// further.
    pub fn snapshot_at(&self, revision: u64) -> Result<Snapshot, Compacted> {
        self.earlier(revision, None)
    }

    /// The state at an earlier revision of one resource; the other resources in the snapshot
    /// are not to be looked at.
    pub fn snapshot_of(&self, resource: &str, revision: u64) -> Result<Snapshot, Compacted> {
        self.earlier(revision, Some(resource))
    }

    fn earlier(&self, revision: u64, only: Option<&str>) -> Result<Snapshot, Compacted> {
        let current = self.snapshot();
        if current.revision() == revision {
            return Ok(current);
        }
        let now = self.shared.now();
        let mut history = self.history();
        if let Some(snapshot) = history.get(revision, only, now) {
            return Ok(snapshot);
        }
        let compacted = history.compacted(now);
        if revision <= compacted {
            return Err(Compacted {
                oldest: compacted.saturating_add(1),
            });
        }
        drop(history);
        let snapshot = self.shared.hub.snapshot_at(revision, only)?;
        if snapshot.revision() == revision {
            history = self.history();
            history.keep(snapshot.clone(), only, now);
        }
        Ok(snapshot)
    }

    /// Keeps a snapshot for [`Store::snapshot_at`], for as long as the bounds allow: for handing
    /// out a continue token.
    pub fn retain(&self, snapshot: &Snapshot) {
        let now = self.shared.now();
        self.history().keep(snapshot.clone(), None, now);
    }

    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.shared.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this member has reached a revision.
    pub async fn wait_revision(&self, wanted: u64, timeout: Duration) -> Result<(), WaitTimeout> {
        let mut revisions = self.shared.hub.revisions();
        let reached = revisions.wait_for(|revision| *revision >= wanted);
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(WaitTimeout {
                wanted,
                current: self.shared.hub.snapshot().revision(),
            }),
        }
    }

    /// The published revision; changes are announced.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.shared.hub.revisions()
    }

    /// Follows the changes of a resource after a revision.
    pub fn watch(&self, resource: &str, after_revision: u64) -> Result<Cursor, Compacted> {
        self.shared.hub.watch(resource, after_revision)
    }

    /// The events of a resource after one revision up to another, both of snapshots that were handed out.
    ///
    /// # Errors
    /// When the history does not reach back that far.
    pub fn changes(&self, resource: &str, after: u64, upto: u64) -> Result<Vec<Arc<Event>>, Compacted> {
        self.shared.hub.between(resource, after, upto)
    }

    /// The oldest revision from which a watch of `resource` can begin.
    pub fn oldest_revision(&self, resource: &str) -> u64 {
        self.shared.hub.oldest(resource)
    }

    /// Whether this member leads; changes are announced.
    pub fn leader(&self) -> watch::Receiver<bool> {
        self.shared.leader.subscribe()
    }

    /// Becomes `Some(reason)` when the store has stopped, be it asked to or by a failed disk.
    pub fn stopped(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared.ended.subscribe()
    }

    /// Why the store has stopped, once it has.
    pub(crate) async fn reason(&self) -> Arc<str> {
        let mut ended = self.stopped();
        let reason = ended.wait_for(Option::is_some).await;
        let reason = reason.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "it was shut down".into())
    }

    /// Hands leadership to another member, if this one leads and there is one to take over.
    pub async fn hand_over(&self) {
        let Ok(status) = self.status().await else {
            return;
        };
        let me = status.cluster.me;
        let others = status.progress.iter().filter(|(id, (_, alive))| **id != me && *alive);
        let voters = others.filter(|(id, _)| status.cluster.voters.contains(id));
        let Some((best, _)) = voters.max_by_key(|(_, (matched, _))| *matched) else {
            return;
        };
        let mut leader = self.leader();
        if self.change(Change::Lead(*best)).is_ok() {
            let over = leader.wait_for(|leads| !leads);
            let _ = tokio::time::timeout(HAND_OVER_WITHIN, over).await;
        }
    }

    /// Hands leadership over, finishes what is queued, seals the log and releases the data directory.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.shared.inbox.stop();
        let mut ended = self.stopped();
        let _ = ended.wait_for(Option::is_some).await;
    }

    /// Gives up what is kept only for a while: watch history from more than five minutes ago but for a small part, earlier
    /// snapshots that are too old, and files that are too large for what is stored. To be called now and then while
    /// there are writes, and once more five minutes after the last.
    pub fn tidy(&self) {
        let now = self.shared.now();
        let revision = self.shared.hub.snapshot().revision();
        let old = {
            let mut ages = self.shared.ages.lock().unwrap_or_else(PoisonError::into_inner);
            ages.note(now.time, revision)
        };
        if let Some(old) = old {
            self.shared.hub.age(old);
        }
        self.shared.forget_old_snapshots();
        let _ = self.shared.inbox.request(Request::Tidy);
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> Stats {
        let snapshot = self.shared.hub.snapshot();
        let (events, events_dropped) = self.shared.hub.counts();
        let mut stats = self.shared.counters.stats();
        stats.revision = snapshot.revision();
        stats.objects = snapshot.len();
        stats.stored_bytes = snapshot.stored_bytes();
        stats.events = events;
        stats.event_bytes = self.shared.hub.history_bytes();
        stats.events_dropped = events_dropped;
        let now = self.shared.now();
        let history = self.history();
        stats.snapshots_kept = history.len();
        stats.snapshot_bytes = history.bytes(now);
        stats
    }
}
