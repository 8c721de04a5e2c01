//! The daemon's tasks by name. One that ends before it was asked to ends the daemon.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tasks get this long to end by themselves.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Running tasks, and the token that ends them.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, Result<()>)>,
    names: Vec<&'static str>,
    pub token: CancellationToken,
}

impl Tasks {
    /// Runs `work` under `name` until the token is cancelled.
    pub fn spawn<F, E>(&mut self, name: &'static str, work: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error> + 'static,
    {
        self.names.push(name);
        self.set.spawn(async move { (name, work.await.map_err(Into::into)) });
    }

    /// Waits until a task ends, which none should before it was told to.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.set.join_next().await {
            Some(Ok((name, Ok(())))) => anyhow!("the {name} task ended"),
            Some(Ok((name, Err(error)))) => error.context(format!("the {name} task failed")),
            Some(Err(error)) => anyhow!("a task panicked: {error}"),
            None => std::future::pending().await,
        }
    }

    /// Ends all tasks and waits for them, up to [`STOP_WITHIN`]; what does not end by then is cut off and named.
    pub async fn stop(mut self) {
        self.token.cancel();
        let deadline = tokio::time::Instant::now() + STOP_WITHIN;
        loop {
            match tokio::time::timeout_at(deadline, self.set.join_next()).await {
                Ok(Some(Ok((name, result)))) => {
                    self.names.retain(|n| *n != name);
                    if let Err(error) = result {
                        tracing::warn!(task = name, error = format!("{error:#}"), "ended with an error");
                    }
                }
                Ok(Some(Err(error))) => tracing::error!(%error, "a task panicked"),
                Ok(None) => return,
                Err(_) => {
                    tracing::warn!(tasks = self.names.join(", "), "did not end in time and were cut off");
                    self.set.shutdown().await;
                    return;
                }
            }
        }
    }
}

/// Resolves when the user or the system asks the process to end.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn stop_requested() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The process's runtime.
///
/// # Errors
/// When its threads cannot be started.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    open_many_files();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

/// Every connection is an open file: takes as many as the system allows, instead of the few that a shell starts with.
fn open_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the number of open files stays as it is");
    }
}
