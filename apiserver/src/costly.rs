//! Costly requests: measured before they run, run beside the async workers, a few at a time and fewer of each user.
//!
//! A worker that decodes and validates a large object answers nobody else meanwhile. So each request is weighed once its
//! body is here ([`weigh`]): what its values and those of the stored object will take in memory, and how many objects a
//! selector is compared with. What is light runs at once, on the worker. What is not waits for its share of memory and for
//! one of few threads, and runs there to its end, waits included. One user never has all threads. A wait that takes too long ends in 429.
//!
//! Does not: stop work that has begun. Whoever does the work bounds it: the readers of bodies by memory, the patch engines
//! by steps, the list of errors by length.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use coxswain_api::ApiError;
use coxswain_api::codec::{Limits, Media, weight};
use coxswain_store::{Snapshot, Stored};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::call::Call;
use crate::negotiate::{Encoding, View, body_media};

/// Bytes of a request, its object included, that are worked on where they arrive: some milliseconds.
const LIGHT_BYTES: usize = 32 << 10;
/// Objects times conditions that are compared where they arrive.
const LIGHT_COMPARISONS: usize = 50_000;
/// Memory for the values of all costly requests together, in KiB.
const MEMORY_KIB: u32 = 192 << 10;
/// The old object, the new one, what it was made from and what is compared are there at the same time.
const COPIES: usize = 4;
/// Bodies in other syntaxes than JSON are not looked at before: a byte of them makes about so many.
const BYTES_PER_BYTE: usize = 24;
/// Costly requests of one user that may wait.
const USER_WAITING_MAX: usize = 100;
/// Longest wait for a thread.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Users that are known before those that ask nothing are forgotten.
const USERS_MAX: usize = 1000;

/// The threads for costly requests of one server.
pub(crate) struct Costly {
    threads: Arc<Semaphore>,
    /// How many of the threads one user may have.
    user_threads: usize,
    memory: Arc<Semaphore>,
    users: Mutex<HashMap<String, Weak<Share>>>,
}

/// What one user takes.
struct Share {
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// One that waits, counted until this is dropped.
struct Waiting<'s>(&'s AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    /// Whether this thread is one of those for costly requests.
    static COSTLY_THREAD: Cell<bool> = const { Cell::new(false) };
}

impl Default for Costly {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        Self {
            threads: Arc::new(Semaphore::new(threads)),
            user_threads: (threads / 2).max(1),
            memory: Arc::new(Semaphore::new(MEMORY_KIB as usize)),
            users: Mutex::default(),
        }
    }
}

impl Costly {
    /// Runs `work`, which takes about `kib` KiB of memory, on a thread for costly requests.
    ///
    /// # Errors
    /// What the work says; 429 when there is no thread or memory for too long, or many of the user's requests wait.
    pub async fn run<T, F>(&self, user: &str, kib: u32, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        if COSTLY_THREAD.get() {
            return work.await;
        }
        let share = self.share(user);
        let waiting = Waiting(&share.waiting);
        if waiting.0.fetch_add(1, Ordering::Relaxed) >= USER_WAITING_MAX {
            return Err(too_many("costly requests", user));
        }
        let all = async {
            // The user's own first: who waits for others holds nothing that others wait for.
            let own = share.threads.clone().acquire_owned().await.ok()?;
            let memory = self
                .memory
                .clone()
                .acquire_many_owned(kib.clamp(1, MEMORY_KIB))
                .await
                .ok()?;
            let thread = self.threads.clone().acquire_owned().await.ok()?;
            Some([own, memory, thread])
        };
        let Ok(Some(permits)) = tokio::time::timeout(WAIT_MAX, all).await else {
            return Err(too_many("costly requests", user));
        };
        drop(waiting);
        let runtime = Handle::current();
        let done = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, also when nobody waits for it any more.
            let _permits = permits;
            COSTLY_THREAD.set(true);
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(work)));
            COSTLY_THREAD.set(false);
            done
        });
        match done.await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => Err(ApiError::service_unavailable("the server is stopping; try another one")),
        }
    }

    fn share(&self, user: &str) -> Arc<Share> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = users.get(user).and_then(Weak::upgrade) {
            return share;
        }
        if users.len() >= USERS_MAX {
            users.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Share {
            threads: Arc::new(Semaphore::new(self.user_threads)),
            waiting: AtomicUsize::new(0),
        });
        users.insert(user.to_owned(), Arc::downgrade(&share));
        share
    }
}

fn too_many(of: &str, user: &str) -> ApiError {
    let message = format!("too many large {of} at the same time, of all users or of {user:?}; send fewer at once");
    ApiError::too_many_requests(message, 5)
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// The KiB of memory that a request will about take, when it is costly.
pub(crate) fn weigh(call: &Call, verb: &str) -> Option<u32> {
    match verb {
        "list" | "watch" => is_heavy(call, &call.snapshot()).then_some(1024),
        // Each object that it deletes is a small request of its own.
        "deletecollection" => None,
        "get" => {
            let plain = call.form.view == View::Whole && call.form.encoding == Encoding::Json && !call.form.pretty;
            let (bytes, weight) = stored(call);
            (bytes > LIGHT_BYTES && (!plain || call.converted())).then(|| kib(2 * weight + bytes))
        }
        _ => {
            let (bytes, old) = stored(call);
            let body = call.body.len();
            // Who may grant what is the product of the rules that are held and those that are granted.
            let grants = &*call.row.group == "rbac.authorization.k8s.io";
            let costly = bytes + body > LIGHT_BYTES || grants && !call.user.is_in("system:masters");
            costly.then(|| kib(COPIES * (old + body_weight(call)) + 2 * (bytes + body)).max(1024))
        }
    }
}

/// Whether the request's selectors are compared with many objects.
pub(crate) fn is_heavy(call: &Call, snapshot: &Snapshot) -> bool {
    let terms = |name: &str| match call.query.text(name) {
        "" => 0,
        text => 1 + text.bytes().filter(|byte| *byte == b',').count(),
    };
    let terms = terms("labelSelector") + terms("fieldSelector");
    if terms == 0 {
        return false;
    }
    let namespace = Some(call.namespace()).filter(|namespace| !namespace.is_empty());
    snapshot.count(&call.row.storage, namespace).saturating_mul(terms) > LIGHT_COMPARISONS
}

/// The KiB of memory that a list of so many bytes takes as one document, when it is costly.
pub(crate) fn of_list(bytes: usize) -> Option<u32> {
    (bytes > LIGHT_BYTES).then(|| kib(bytes.saturating_mul(BYTES_PER_BYTE / 2)))
}

/// The bytes of the object that the request names, and what they weigh.
fn stored(call: &Call) -> (usize, usize) {
    if call.path.name.is_empty() {
        return (0, 0);
    }
    let snapshot = call.snapshot();
    let stored = snapshot.get(&call.key(&call.path.name));
    stored.map_or((0, 0), |stored| {
        let bytes = stored.bytes.len();
        // A small one is not worth a look.
        let weight = if bytes > LIGHT_BYTES / 4 {
            weight::of_json(&stored.bytes)
        } else {
            bytes * BYTES_PER_BYTE
        };
        (bytes, weight)
    })
}

fn body_weight(call: &Call) -> usize {
    let most = Limits::default().memory_max;
    let is_json = matches!(body_media(&call.content_type), Ok(Media::Json)) || call.content_type.contains("json");
    let weight = if is_json || call.body.first() == Some(&b'{') {
        weight::of_json(&call.body)
    } else {
        call.body.len().saturating_mul(BYTES_PER_BYTE)
    };
    weight.min(most)
}

impl Call {
    /// Whether an object is large, and has to be decoded for the form that this request asked for.
    pub fn decodes(&self, stored: &Stored) -> bool {
        let as_it_is = match (self.form.view, self.form.encoding) {
            (View::Table, _) | (_, Encoding::Yaml) => false,
            // What a list holds of metadata is read from the bytes.
            (View::Partial | View::PartialList, encoding) => encoding == Encoding::Json,
            (View::Whole, Encoding::Json) => !self.form.pretty,
            (View::Whole, Encoding::Protobuf) => stored.has_other_form(),
        };
        stored.bytes.len() > LIGHT_BYTES && (!as_it_is || self.converted())
    }

    /// Runs a costly step of this request beside the workers.
    ///
    /// # Errors
    /// As [`Costly::run`].
    pub async fn aside<T: Send + 'static>(
        &self,
        kib: u32,
        step: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.server
            .costly
            .run(&self.user.name, kib, async move { step() })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(20);

    /// While one user's requests fill what they may have, another's runs.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_user_never_has_all_threads() {
        let costly = Arc::new(Costly::default());
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let begin = |user: &'static str| {
            let (costly, released) = (costly.clone(), released.clone());
            tokio::spawn(async move {
                costly
                    .run(user, 1, async move {
                        let released = released.lock().unwrap_or_else(PoisonError::into_inner);
                        let _ = released.recv_timeout(WAIT);
                        Ok(())
                    })
                    .await
            })
        };
        let greedy: Vec<_> = (0..20).map(|_| begin("greedy")).collect();
        let other = tokio::time::timeout(WAIT, costly.run("other", 1, async { Ok(7) })).await;
        assert_eq!(other.expect("in time").expect("a result"), 7);
        for _ in 0..20 {
            release.send(()).expect("sent");
        }
        for one in greedy {
            tokio::time::timeout(WAIT, one)
                .await
                .expect("in time")
                .expect("no panic")
                .expect("done");
        }
    }

    /// Work in work does not wait for a second thread.
    #[tokio::test]
    async fn steps_of_costly_work_run_where_it_runs() {
        let costly = Arc::new(Costly::default());
        let inner = costly.clone();
        let work = async move { inner.run("a", MEMORY_KIB, async { Ok(COSTLY_THREAD.get()) }).await };
        let nested = tokio::time::timeout(WAIT, costly.run("a", MEMORY_KIB, work)).await;
        assert!(nested.expect("in time").expect("done"));
        assert!(!COSTLY_THREAD.get());
    }
}
