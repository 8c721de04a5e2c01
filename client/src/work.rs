//! The loop between a queue and a reconcile function.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::queue::Queue;

/// What a reconcile asks for when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Done,
    /// Once more after this time, or earlier when something changes.
    After(Duration),
    /// What was read is older than what was written by somebody else: once more, with backoff,
    /// without reporting a failure.
    Again,
}

/// Runs `workers` loops over the queue until the token is cancelled. A key that failed, or panicked, is logged once
/// and comes back with its own exponential delay; it never stops other keys.
pub async fn work<K, F, Fut, E>(
    name: &'static str,
    queue: Queue<K>,
    workers: usize,
    token: CancellationToken,
    reconcile: F,
) where
    K: Clone + Eq + Hash + Ord + Debug + Send + 'static,
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    let mut tasks = JoinSet::new();
    for _ in 0..workers.max(1) {
        let queue = queue.clone();
        let reconcile = reconcile.clone();
        tasks.spawn(async move {
            while let Some(key) = queue.next().await {
                match AssertUnwindSafe(reconcile(key.clone())).catch_unwind().await {
                    Ok(Ok(Next::Done)) => queue.forget(&key),
                    Ok(Ok(Next::After(delay))) => {
                        queue.forget(&key);
                        queue.add_after(key.clone(), delay);
                    }
                    Ok(Ok(Next::Again)) => {
                        queue.add_failed(key.clone());
                    }
                    Ok(Err(error)) => {
                        let delay = queue.add_failed(key.clone());
                        tracing::warn!(controller = name, ?key, ?delay, "reconcile failed: {error}");
                    }
                    Err(_) => {
                        let delay = queue.add_failed(key.clone());
                        tracing::error!(controller = name, ?key, ?delay, "reconcile panicked");
                    }
                }
                queue.done(&key);
            }
        });
    }
    token.cancelled().await;
    queue.close();
    while tasks.join_next().await.is_some() {
        queue.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::sync::mpsc;

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_of_its_key_only() {
        let (queue, token) = (Queue::new(), CancellationToken::new());
        let (tell, mut told) = mpsc::unbounded_channel();
        let tried = Arc::new(AtomicBool::new(false));
        let reconcile = move |key: &'static str| {
            let (tell, tried) = (tell.clone(), tried.clone());
            async move {
                assert!(key != "bad" || tried.swap(true, Ordering::Relaxed), "the first time");
                tell.send(key).map(|()| Next::Done)
            }
        };
        queue.add("bad");
        queue.add("good");
        let worker = tokio::spawn(work("test", queue, 1, token.clone(), reconcile));
        assert_eq!(told.recv().await, Some("good"));
        assert_eq!(told.recv().await, Some("bad"));
        token.cancel();
        worker.await.expect("the worker ends as it was told");
    }
}
