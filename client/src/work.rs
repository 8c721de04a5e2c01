//! The loop between a queue and a reconcile function.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use coxswain_supervise::catch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::queue::Queue;

/// The pause before a worker that ended is replaced.
const REPLACE_AFTER: Duration = Duration::from_secs(1);

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
/// and comes back with its own exponential delay; it never stops other keys. A worker that ends for any other reason is
/// replaced.
pub async fn work<K, F, Fut, E>(
    name: &'static str,
    queue: Queue<K>,
    workers: usize,
    token: CancellationToken,
    reconcile: F,
) where
    K: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static,
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    let mut tasks = JoinSet::new();
    let mut wanted = workers.max(1);
    loop {
        for _ in 0..wanted {
            tasks.spawn(one_by_one(name, queue.clone(), reconcile.clone()));
        }
        tokio::select! {
            () = token.cancelled() => break,
            ended = tasks.join_next() => {
                tracing::error!(controller = name, ?ended, "a worker ended, another takes its place");
                wanted = 1;
            }
        }
        // What ended one worker may end the next as well.
        if token
            .run_until_cancelled(tokio::time::sleep(REPLACE_AFTER))
            .await
            .is_none()
        {
            break;
        }
    }
    queue.close();
    while tasks.join_next().await.is_some() {
        queue.close();
    }
}

/// One worker.
async fn one_by_one<K, F, Fut, E>(name: &'static str, queue: Queue<K>, reconcile: Arc<F>)
where
    K: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static,
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    while let Some(key) = queue.next().await {
        let working = Working {
            queue: &queue,
            key: &key,
        };
        // With what follows from the result: nothing about one key may end a worker.
        let done = catch(name, &key, async {
            match reconcile(key.clone()).await {
                Ok(Next::Done) => queue.forget(&key),
                Ok(Next::After(delay)) => {
                    queue.forget(&key);
                    queue.add_after(key.clone(), delay);
                }
                Ok(Next::Again) => {
                    queue.add_failed(key.clone());
                }
                Err(error) => {
                    let delay = queue.add_failed(key.clone());
                    tracing::warn!(controller = name, ?key, ?delay, "reconcile failed: {error}");
                }
            }
        });
        if done.await.is_err() {
            queue.add_failed(key.clone());
        }
        drop(working);
    }
}

/// Gives the key back to the queue however the work on it ended.
struct Working<'a, K: Clone + Eq + Hash + Ord> {
    queue: &'a Queue<K>,
    key: &'a K,
}

impl<K: Clone + Eq + Hash + Ord> Drop for Working<'_, K> {
    fn drop(&mut self) {
        self.queue.done(self.key);
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

    #[tokio::test(start_paused = true)]
    async fn five_keys_with_the_longest_delay_stop_no_worker() {
        let (queue, token) = (Queue::new(), CancellationToken::new());
        let (tell, mut told) = mpsc::unbounded_channel();
        let reconcile = move |key: u32| {
            let tell = tell.clone();
            async move {
                let delay = [
                    Duration::MAX,
                    Duration::from_secs(u64::MAX),
                    Duration::from_secs(i64::MAX as u64),
                ];
                let next = delay
                    .get(key as usize % 5)
                    .map_or(Next::Done, |delay| Next::After(*delay));
                tell.send(key).map(|()| next)
            }
        };
        (0..5).for_each(|key| queue.add(key));
        let worker = tokio::spawn(work("test", queue.clone(), 5, token.clone(), reconcile));
        for _ in 0..5 {
            told.recv().await.expect("a first key");
        }
        (10..15).for_each(|key| queue.add(key));
        for _ in 0..5 {
            assert!(told.recv().await.expect("a later key") >= 10);
        }
        token.cancel();
        worker.await.expect("the worker ends as it was told");
    }
}
