//! What clients send, on its way to a process that may not read it: queues that are bounded by their bytes. All queues of
//! one connection share one budget; when it is used up, the connection is not read on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes of one connection that wait to be read.
const BUDGET_BYTES: usize = 4 << 20;
/// What a piece costs beside its bytes.
const PIECE_BYTES: usize = 128;

/// The bytes that one connection may have waiting.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Budget {
        Budget(Arc::new(Semaphore::new(BUDGET_BYTES)))
    }
}

/// Puts pieces into one queue.
#[derive(Clone, Debug)]
pub struct Sender {
    budget: Arc<Semaphore>,
    pieces: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
}

/// Takes pieces out of one queue; gives their bytes back to the budget.
#[derive(Debug)]
pub struct Receiver(mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>);

impl Budget {
    /// A queue within this budget.
    pub fn queue(&self) -> (Sender, Receiver) {
        let (pieces, receiver) = mpsc::unbounded_channel();
        let budget = self.0.clone();
        (Sender { budget, pieces }, Receiver(receiver))
    }
}

impl Sender {
    /// Waits until the budget has room and puts a piece into the queue; false when nobody will take it out.
    pub async fn send(&self, bytes: Bytes) -> bool {
        let cost = (bytes.len() + PIECE_BYTES).min(BUDGET_BYTES);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        tokio::select! {
            () = self.pieces.closed() => false,
            permit = self.budget.clone().acquire_many_owned(cost) => match permit {
                Ok(permit) => self.pieces.send((bytes, permit)).is_ok(),
                Err(_) => false,
            },
        }
    }
}

impl Receiver {
    /// The next piece; `None` when the sender is gone and everything was taken.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.0.recv().await.map(|(bytes, _)| bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many queues a connection has and however small the pieces are, only so much waits.
    #[tokio::test]
    async fn what_nobody_reads_is_bounded_by_its_bytes() {
        for piece in [0, 1, 1 << 10, 1 << 20, 16 << 20] {
            let budget = Budget::default();
            let mut queues: Vec<_> = (0..1000).map(|_| budget.queue()).collect();
            let bytes = Bytes::from(vec![0; piece]);
            let mut waiting = 0;
            'full: loop {
                for (sender, _) in &queues {
                    let sent = futures::poll!(std::pin::pin!(sender.send(bytes.clone())));
                    if sent.is_pending() {
                        break 'full;
                    }
                    waiting += 1;
                }
            }
            assert!(
                waiting * piece <= BUDGET_BYTES.max(piece),
                "{waiting} pieces of {piece} bytes wait"
            );
            assert!(
                waiting <= BUDGET_BYTES / PIECE_BYTES,
                "{waiting} pieces of {piece} bytes wait"
            );
            // Room comes back with what is taken out, and with a queue that is dropped.
            assert!(queues[0].1.recv().await.is_some());
            assert!(queues[1].0.send(bytes.clone()).await);
            let (sender, receiver) = queues.remove(1);
            drop(receiver);
            assert!(!sender.send(bytes.clone()).await);
        }
    }
}
