//! Panics that are caught where one object caused them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt as _;

/// Caught panics of this process by task. Tasks have fixed names, so that there are only as many entries as tasks.
static PANICS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// What happened instead of a value: a panic with this message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panicked {
    message: String,
}

/// The value, or the panic that was caught, logged and counted.
pub type Caught<T> = Result<T, Panicked>;

impl Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Panicked {}

/// Runs a future; a panic is counted for `task` and logged with the object it is about.
///
/// # Errors
/// The panic.
pub async fn catch<T>(task: &str, about: &dyn DebugSync, work: impl Future<Output = T>) -> Caught<T> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .map_err(|payload| record(task, about, &*payload))
}

/// Calls a function; a panic is counted for `task` and logged with the object it is about.
///
/// # Errors
/// The panic.
pub fn catch_now<T>(task: &str, about: &dyn Debug, work: impl FnOnce() -> T) -> Caught<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| record(task, about, &*payload))
}

/// How many panics were caught in each task of this process.
#[must_use]
pub fn panics() -> BTreeMap<String, u64> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What a future that may move between threads can hold to say what it is about.
pub trait DebugSync: Debug + Sync {}

impl<T: Debug + Sync + ?Sized> DebugSync for T {}

fn record(task: &str, about: &dyn Debug, payload: &(dyn Any + Send)) -> Panicked {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is not a text".to_owned());
    let mut all = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    let count = all.entry(task.to_owned()).or_default();
    *count = count.saturating_add(1);
    drop(all);
    tracing::error!(task, ?about, "panicked: {message}");
    Panicked { message }
}
