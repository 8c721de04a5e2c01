//! The connections of a server: how many there may be of whom, and which have had their time.
//!
//! A connection is *unproven* until a request on it was identified as a user's. Unproven ones have places of their own:
//! when those are full the oldest idle one makes room, so that whoever opens connections without credentials keeps out
//! nobody who has some. A user's connections are bounded too. One task looks at all connections twice a second and
//! ends those that are past a limit ([`Connection::overdue`]): no connection has a timer of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits::ConnectionLimits;
use super::response::Response;
use super::usage::Usage;

/// How often all connections are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time to end after being told to.
const RETIRED_MAX: Duration = Duration::from_secs(5);
/// Places that are looked at to find an idle connection.
const LOOKED_AT_MAX: usize = 256;
/// A privileged user's connections are so many times a plain one's.
const PRIVILEGED_TIMES: usize = 8;

/// All connections of a server, and what their clients hold.
pub(crate) struct Connections {
    pub limits: ConnectionLimits,
    /// Request bodies.
    pub bodies: Arc<Usage>,
    /// Responses.
    pub responses: Arc<Usage>,
    epoch: Instant,
    next: AtomicU64,
    places: Mutex<Places>,
    /// Connections ended for a limit.
    ended: AtomicU64,
}

#[derive(Default)]
struct Places {
    all: BTreeMap<u64, Arc<Connection>>,
    unproven: BTreeSet<u64>,
    users: HashMap<Arc<str>, BTreeSet<u64>>,
}

/// What a connection is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    Handshake,
    Head,
    Idle,
    Stalled,
    Retired,
}

/// One connection.
pub(crate) struct Connection {
    id: u64,
    connections: Weak<Connections>,
    epoch: Instant,
    user: OnceLock<Arc<str>>,
    /// 0 until the TLS handshake is done, then when it was.
    open_ms: AtomicU64,
    accepted_ms: u64,
    is_h2: AtomicBool,
    /// It speaks another protocol now.
    upgraded: AtomicBool,
    /// Requests in progress, how many of them go on after their answer has begun, and how many were ever answered.
    requests: AtomicU32,
    long: AtomicU32,
    answered: AtomicU64,
    had_request: AtomicBool,
    /// When a request last began or ended.
    active_ms: AtomicU64,
    /// When the head that is being received began; 0: none is.
    head_ms: AtomicU64,
    /// Since when the client has not taken what was written; 0: it has.
    blocked_ms: AtomicU64,
    retired_ms: AtomicU64,
    responses: Mutex<HashMap<u64, Weak<Response>>>,
    next_response: AtomicU64,
    /// Asks the connection to end after what is in progress.
    pub retire: CancellationToken,
    /// Ends it at once.
    pub kill: CancellationToken,
    pub reader: AtomicWaker,
    pub writer: AtomicWaker,
}

impl Connections {
    /// No connections yet.
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            bodies: Usage::new(limits.body_bytes, limits.body_bytes_per_user),
            responses: Usage::new(limits.response_bytes, limits.response_bytes_per_user),
            limits,
            epoch: Instant::now(),
            next: AtomicU64::new(1),
            places: Mutex::default(),
            ended: AtomicU64::new(0),
        })
    }

    /// A place for a connection that was just accepted; it may be another one's that has to go.
    pub fn accept(self: &Arc<Self>) -> Arc<Connection> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(id, self));
        let mut places = self.places();
        if places.unproven.len() >= self.limits.unproven {
            let victim = places.idle_of(&places.unproven).or(places.unproven.first().copied());
            self.end(&mut places, victim);
        }
        if places.all.len() >= self.limits.connections {
            let most = places.users.values().max_by_key(|ids| ids.len());
            let most = most.filter(|ids| ids.len() > places.unproven.len());
            let from = most.unwrap_or(&places.unproven);
            let victim = places.idle_of(from).or(from.first().copied());
            self.end(&mut places, victim);
        }
        places.unproven.insert(id);
        places.all.insert(id, connection.clone());
        connection
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, places: &mut Places, id: Option<u64>) {
        if let Some(connection) = id.and_then(|id| places.remove(id)) {
            self.ended.fetch_add(1, Ordering::Relaxed);
            connection.end();
        }
    }

    /// Notes that a connection is a user's; false when the user has too many that are busy.
    fn prove(&self, connection: &Connection, user: &str, privileged: bool) -> bool {
        let mut places = self.places();
        if !places.unproven.remove(&connection.id) {
            // Another request of the same connection was faster, or the connection is being ended.
            return true;
        }
        let most = self
            .limits
            .per_user
            .saturating_mul(if privileged { PRIVILEGED_TIMES } else { 1 });
        let full = places.users.get(user).filter(|ids| ids.len() >= most);
        if let Some(ids) = full {
            let Some(victim) = places.idle_of(ids) else {
                places.unproven.insert(connection.id);
                return false;
            };
            self.end(&mut places, Some(victim));
        }
        let name: Arc<str> = match places.users.get_key_value(user) {
            Some((name, _)) => name.clone(),
            None => Arc::from(user),
        };
        places.users.entry(name.clone()).or_default().insert(connection.id);
        let _ = connection.user.set(name);
        true
    }

    /// Gives a place back.
    fn remove(&self, id: u64) {
        self.places().remove(id);
    }

    /// Looks at all connections until the server has stopped; ends those that are overdue.
    pub async fn watch(self: Arc<Self>, stopped: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stopped.run_until_cancelled(ticks.tick()).await.is_some() {
            let all: Vec<Arc<Connection>> = self.places().all.values().cloned().collect();
            let now_ms = millis(self.epoch);
            for connection in all {
                match connection.overdue(now_ms, &self.limits) {
                    None => {}
                    // A client that is idle learns of it in the words of its protocol.
                    Some(Overdue::Idle) => connection.retire(),
                    Some(why) => {
                        tracing::debug!(?why, "connection ended: it took too long");
                        let mut places = self.places();
                        self.end(&mut places, Some(connection.id));
                    }
                }
            }
        }
    }

    /// Connections open now, and those that were ended for a limit.
    pub fn counts(&self) -> (usize, u64) {
        (self.places().all.len(), self.ended.load(Ordering::Relaxed))
    }
}

impl Places {
    fn remove(&mut self, id: u64) -> Option<Arc<Connection>> {
        let connection = self.all.remove(&id)?;
        self.unproven.remove(&id);
        if let Some(user) = connection.user.get()
            && let Some(ids) = self.users.get_mut(user)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.users.remove(user);
            }
        }
        Some(connection)
    }

    /// The oldest of some connections that has no request in progress.
    fn idle_of(&self, ids: &BTreeSet<u64>) -> Option<u64> {
        let idle = |id: &&u64| self.all.get(id).is_some_and(|connection| connection.is_idle());
        ids.iter().take(LOOKED_AT_MAX).find(idle).copied()
    }
}

fn millis(epoch: Instant) -> u64 {
    // 0 means "never" in what is compared with this.
    1 + u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
}

/// Whether so much time has passed since a moment, which is 0 when it has not come.
fn past(since_ms: u64, now_ms: u64, limit: Duration) -> bool {
    since_ms > 0 && u128::from(now_ms.saturating_sub(since_ms)) >= limit.as_millis()
}

impl Connection {
    fn new(id: u64, connections: &Arc<Connections>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            id,
            connections: Arc::downgrade(connections),
            epoch: connections.epoch,
            user: OnceLock::new(),
            open_ms: zero(),
            accepted_ms: millis(connections.epoch),
            is_h2: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            long: AtomicU32::new(0),
            answered: zero(),
            had_request: AtomicBool::new(false),
            active_ms: zero(),
            head_ms: zero(),
            blocked_ms: zero(),
            retired_ms: zero(),
            responses: Mutex::default(),
            next_response: zero(),
            retire: CancellationToken::new(),
            kill: CancellationToken::new(),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        }
    }

    /// Milliseconds of the connections' clock, never 0.
    pub fn now_ms(&self) -> u64 {
        millis(self.epoch)
    }

    /// Notes that the TLS handshake is done.
    pub fn opened(&self, is_h2: bool) {
        let now_ms = self.now_ms();
        self.is_h2.store(is_h2, Ordering::Relaxed);
        self.open_ms.store(now_ms, Ordering::Relaxed);
        self.active_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Notes that HTTP is over on it; what may remain is another protocol.
    pub fn left_http(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Notes that a byte came while no request was in progress.
    pub fn head_began(&self) {
        if !self.is_h2.load(Ordering::Relaxed) && self.requests.load(Ordering::Relaxed) == 0 {
            let now_ms = self.now_ms();
            let _ = self
                .head_ms
                .compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Notes that the client takes nothing of what is written, or takes it again.
    pub fn blocked(&self, blocked: bool) {
        if !blocked {
            self.blocked_ms.store(0, Ordering::Relaxed);
        } else if self.blocked_ms.load(Ordering::Relaxed) == 0 {
            self.blocked_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// Whether writing was blocked and has not been free since.
    pub fn is_blocked(&self) -> bool {
        self.blocked_ms.load(Ordering::Relaxed) > 0
    }

    /// Counts it as a connection of a user that was identified; false when the user has too many.
    pub fn belongs_to(&self, user: &str, privileged: bool) -> bool {
        if self.user.get().is_some() {
            return true;
        }
        let connections = self.connections.upgrade();
        connections.is_none_or(|connections| connections.prove(self, user, privileged))
    }

    /// The server's limits and what its clients hold; `None` when it is gone.
    pub fn connections(&self) -> Option<Arc<Connections>> {
        self.connections.upgrade()
    }

    /// Adds a response that is on its way; its number.
    pub fn add_response(&self, response: &Arc<Response>) -> u64 {
        let number = self.next_response.fetch_add(1, Ordering::Relaxed);
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        responses.insert(number, Arc::downgrade(response));
        number
    }

    /// Takes out a response that was sent or given up.
    pub fn remove_response(&self, number: u64) {
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        responses.remove(&number);
        if responses.is_empty() {
            responses.shrink_to(16);
        }
    }

    /// Requests that were finished since the last call.
    pub fn take_answered(&self) -> u64 {
        self.answered.swap(0, Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0 && !self.upgraded.load(Ordering::Relaxed)
    }

    fn retire(&self) {
        let now_ms = self.now_ms();
        let _ = self
            .retired_ms
            .compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        self.retire.cancel();
    }

    /// Ends it at once, whatever is in progress.
    pub fn end(&self) {
        self.kill.cancel();
        self.reader.wake();
        self.writer.wake();
    }

    /// Gives its place back; what it was part of goes on.
    pub fn closed(&self) {
        if let Some(connections) = self.connections.upgrade() {
            connections.remove(self.id);
        }
    }

    /// The limit that it is past, if any.
    fn overdue(&self, now_ms: u64, limits: &ConnectionLimits) -> Option<Overdue> {
        let at = |moment: &AtomicU64| moment.load(Ordering::Relaxed);
        if at(&self.open_ms) == 0 {
            return past(self.accepted_ms, now_ms, limits.handshake).then_some(Overdue::Handshake);
        }
        let upgraded = self.upgraded.load(Ordering::Relaxed);
        let patient = upgraded || self.long.load(Ordering::Relaxed) > 0;
        let stall = if patient { limits.stall_long } else { limits.stall };
        if past(at(&self.blocked_ms), now_ms, stall) || self.has_stalled_response(now_ms, limits) {
            return Some(Overdue::Stalled);
        }
        if !self.is_idle() {
            return None;
        }
        let waits_for_first = !self.had_request.load(Ordering::Relaxed) && past(at(&self.open_ms), now_ms, limits.head);
        if waits_for_first || past(at(&self.head_ms), now_ms, limits.head) {
            return Some(Overdue::Head);
        }
        if past(at(&self.retired_ms), now_ms, RETIRED_MAX) {
            return Some(Overdue::Retired);
        }
        past(at(&self.active_ms), now_ms, limits.idle).then_some(Overdue::Idle)
    }

    fn has_stalled_response(&self, now_ms: u64, limits: &ConnectionLimits) -> bool {
        let responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Arc<Response>> = responses.values().filter_map(Weak::upgrade).collect();
        // Whoever drops the last handle on a response takes it out, under the same lock.
        drop(responses);
        all.iter().any(|response| {
            let limit = if response.is_long {
                limits.stall_long
            } else {
                limits.stall
            };
            past(response.waiting_since_ms(), now_ms, limit)
        })
    }
}

/// A request in progress on a connection.
pub(crate) struct RequestGuard {
    connection: Arc<Connection>,
    is_long: bool,
}

impl RequestGuard {
    /// It begins now.
    pub fn begin(connection: Arc<Connection>) -> Self {
        connection.requests.fetch_add(1, Ordering::Relaxed);
        connection.had_request.store(true, Ordering::Relaxed);
        connection.head_ms.store(0, Ordering::Relaxed);
        connection.active_ms.store(connection.now_ms(), Ordering::Relaxed);
        Self {
            connection,
            is_long: false,
        }
    }

    /// Notes that it goes on after its answer has begun.
    pub fn set_long(&mut self) {
        if !self.is_long {
            self.is_long = true;
            self.connection.long.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The connection that it came on.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.connection
            .active_ms
            .store(self.connection.now_ms(), Ordering::Relaxed);
        if self.is_long {
            self.connection.long.fetch_sub(1, Ordering::Relaxed);
        }
        self.connection.answered.fetch_add(1, Ordering::Relaxed);
        self.connection.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
