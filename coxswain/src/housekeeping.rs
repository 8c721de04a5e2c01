//! Gives back what a load has left behind: watch history, files and free memory.
//!
//! Nothing happens in an idle cluster. A write starts a round: work is done soon after it, at most every two seconds while
//! writes go on, and a few times more in the minutes after the last, when what is kept for a while has become old.

use std::time::Duration;

use coxswain_consensus::Store;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// When to look after the last write.
const AFTER: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(310),
];
/// The allocator holds free memory back for one second.
const HELD_BACK: Duration = Duration::from_millis(1200);

/// Runs until the token is cancelled.
pub async fn run(store: Store, token: CancellationToken) {
    token.run_until_cancelled(rounds(store)).await;
}

async fn rounds(store: Store) {
    let mut revisions = store.revisions();
    loop {
        if revisions.changed().await.is_err() {
            return;
        }
        let mut last_write = Instant::now();
        let mut step = 0;
        while let Some(after) = AFTER.get(step) {
            // Only after the first wait may writes start over: under load it is the one that counts.
            if step == 0 {
                sleep_until(last_write + *after).await;
            } else if let Ok(changed) = timeout_at(last_write + *after, revisions.changed()).await {
                if changed.is_err() {
                    return;
                }
                (last_write, step) = (Instant::now(), 0);
                continue;
            }
            revisions.mark_unchanged();
            store.tidy();
            sleep_until(Instant::now() + HELD_BACK).await;
            release_free_memory();
            step += 1;
        }
    }
}

/// Makes the allocator return the memory that has been free for a second. It does so when a thread ends, and otherwise only
/// as pages are taken and freed, which in an idle process they are not.
fn release_free_memory() {
    let ended = std::thread::Builder::new().name("free-memory".into()).spawn(|| {});
    if let Err(error) = ended {
        tracing::debug!(%error, "no thread could be started to release free memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_come_in_order_and_the_last_after_history_is_old() {
        assert!(AFTER.is_sorted());
        assert!(AFTER[0] > HELD_BACK, "a round ends before the next begins");
        assert!(AFTER.last().is_some_and(|last| *last > Duration::from_secs(300)));
    }
}
