//! Keeps a process's tasks running: a task that panics or ends before it was told to is logged, counted and restarted
//! with a growing pause, and until it runs again a health check with its name fails.
//!
//! ```text
//!   Supervisor::keep("controllers/job", ..) --panic--> check "controllers/job" fails --pause--> runs again, check passes
//! ```
//!
//! What may panic because of one object is caught close to it ([`catch`], [`catch_now`]): it is reported with the
//! object's key, and the task goes on with the others.
//!
//! Does not: restart a process, or know what the tasks do.

#![warn(clippy::arithmetic_side_effects)]

mod caught;
mod wait;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use caught::{Caught, Panicked, catch, catch_now, panics};
pub use wait::{WAIT_MAX, deadline, later};

/// The first pause before a task that ended is restarted; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause before a task is restarted.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A task that has run for so long since its restart counts as repaired: its next pause is the shortest again.
const HEALTHY_AFTER: Duration = Duration::from_secs(120);

/// The kept tasks of a process, by name. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    tasks: Arc<Mutex<BTreeMap<String, TaskHealth>>>,
}

/// What is known of one kept task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskHealth {
    /// Why it does not run at the moment; `None` while it runs.
    pub failed: Option<String>,
    /// How often it has been restarted.
    pub restarts: u64,
}

impl Supervisor {
    /// Runs the future that `start` makes until `token` is cancelled. When it panics or ends before that, it is made
    /// and run again after a pause of one second, doubling up to a minute.
    pub async fn keep<F, Fut>(&self, name: &str, token: &CancellationToken, mut start: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = ()>,
    {
        let _listed = Listed::new(self, name);
        let mut pause = PAUSE_MIN;
        loop {
            let started = Instant::now();
            let ended = catch(name, &"the whole task", async { start().await }).await;
            if token.is_cancelled() {
                return;
            }
            if started.elapsed() >= HEALTHY_AFTER {
                pause = PAUSE_MIN;
            }
            let why = match ended {
                Ok(()) => "it ended before it was told to".to_owned(),
                Err(panicked) => format!("it panicked: {panicked}"),
            };
            tracing::error!(
                task = name,
                ?pause,
                "the task does not run, it will be restarted: {why}"
            );
            self.update(name, |task| task.failed = Some(why));
            if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
            self.update(name, |task| {
                task.failed = None;
                task.restarts = task.restarts.saturating_add(1);
            });
        }
    }

    /// Runs a task that cannot be started a second time. When it panics or ends before `token` is cancelled, its check
    /// fails from then on.
    pub async fn once(&self, name: &str, token: &CancellationToken, task: impl Future<Output = ()>) {
        let _listed = Listed::new(self, name);
        let ended = catch(name, &"the whole task", task).await;
        if token.is_cancelled() {
            return;
        }
        let why = match ended {
            Ok(()) => "it ended before it was told to".to_owned(),
            Err(panicked) => format!("it panicked: {panicked}"),
        };
        tracing::error!(task = name, "the task does not run, restart the process: {why}");
        self.update(name, |task| task.failed = Some(why));
        token.cancelled().await;
    }

    /// Every kept task that has not been stopped, by name.
    #[must_use]
    pub fn tasks(&self) -> BTreeMap<String, TaskHealth> {
        self.all().clone()
    }

    /// The names of the tasks that do not run, with the reasons.
    #[must_use]
    pub fn failed(&self) -> Vec<(String, String)> {
        let all = self.all();
        let failed = all
            .iter()
            .filter_map(|(name, task)| Some((name.clone(), task.failed.clone()?)));
        failed.collect()
    }

    fn update(&self, name: &str, change: impl FnOnce(&mut TaskHealth)) {
        if let Some(task) = self.all().get_mut(name) {
            change(task);
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, TaskHealth>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lists a task for as long as somebody keeps it.
struct Listed<'a> {
    supervisor: &'a Supervisor,
    name: &'a str,
}

impl<'a> Listed<'a> {
    fn new(supervisor: &'a Supervisor, name: &'a str) -> Listed<'a> {
        supervisor.all().insert(name.to_owned(), TaskHealth::default());
        Listed { supervisor, name }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.supervisor.all().remove(self.name);
    }
}

#[cfg(test)]
mod tests;
