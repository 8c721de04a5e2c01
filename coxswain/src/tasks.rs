//! The daemon's tasks by name. One that ends before it was asked to ends the daemon.

use std::future::Future;

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Running tasks, and the token that ends them.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, Result<()>)>,
    pub token: CancellationToken,
}

impl Tasks {
    /// Runs `work` under `name` until the token is cancelled.
    pub fn spawn<F, E>(&mut self, name: &'static str, work: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error> + 'static,
    {
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

    /// Ends all tasks and waits for them.
    pub async fn stop(mut self) {
        self.token.cancel();
        while let Some(ended) = self.set.join_next().await {
            if let Ok((name, Err(error))) = ended {
                tracing::warn!(task = name, error = format!("{error:#}"), "ended with an error");
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
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}
