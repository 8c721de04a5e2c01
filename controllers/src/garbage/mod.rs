//! Garbage collection: deletes what is owned by nothing that exists any more, and finishes
//! foreground and orphaning deletions.
//!
//! ```text
//!   inventory (metadata of everything) --> graph (who owns whom) --> queue of uids --> plan --> writes
//! ```
//!
//! Guarantees: never deletes on the word of its own caches alone. Before an object goes, its live
//! state and each owner that seems missing are read from the API server, and the deletion carries
//! the object's uid and resourceVersion.
//! Does not: look at specs, or find owners in other namespaces: for an object they are not there, and an event says so.

mod apply;
mod graph;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coxswain_client::{Change, Queue, Relations, work};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::inventory::{Followed, Inventory, Turn};
use graph::Graph;

const NEWS_MAX: usize = 4096;

pub(crate) struct Collector {
    context: Context,
    inventory: Inventory,
    graph: Mutex<Graph>,
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until cancelled; tells each of `gone` the namespace of every object that went away.
pub(crate) async fn run(context: Context, inventory: Inventory, gone: Vec<mpsc::Sender<Arc<str>>>) {
    let collector = Arc::new(Collector {
        context: context.clone(),
        inventory: inventory.clone(),
        graph: Mutex::new(Graph::default()),
    });
    let queue: Queue<Arc<str>> = Queue::new();
    let (turns, began) = mpsc::channel(NEWS_MAX);
    let reconciler = collector.clone();
    let worker = work(
        "garbage",
        queue.clone(),
        context.config.workers,
        context.token.clone(),
        move |uid| {
            let collector = reconciler.clone();
            async move { collector.reconcile(&uid).await }
        },
    );
    tokio::join!(worker, inventory.run(turns), feed(collector, began, queue, gone));
}

/// Keeps the graph current. Nothing is queued before every resource has been listed once.
async fn feed(
    collector: Arc<Collector>,
    mut turns: mpsc::Receiver<Turn>,
    queue: Queue<Arc<str>>,
    gone: Vec<mpsc::Sender<Arc<str>>>,
) {
    let (sender, mut news) = mpsc::channel::<(Arc<Followed>, Change<Relations>)>(NEWS_MAX);
    loop {
        tokio::select! {
            () = collector.context.token.cancelled() => return,
            turn = turns.recv() => match turn {
                Some(Turn::Began(followed)) => {
                    tokio::spawn(forward(Arc::new(followed), sender.clone()));
                }
                Some(Turn::Ended(info)) => {
                    let wake = collector.graph().forget_resource(&info);
                    wake.into_iter().for_each(|uid| queue.add(uid));
                }
                None => return,
            },
            Some((followed, change)) = news.recv() => {
                let went = change.new.is_none().then(|| change.key.namespace.clone());
                let wake = collector.graph().take(&followed.info, &change);
                wake.into_iter().for_each(|uid| queue.add(uid));
                if let Some(namespace) = went.filter(|n| !n.is_empty()) {
                    // A full channel only delays the next look, which has a timer behind it.
                    for listener in &gone {
                        let _ = listener.try_send(namespace.clone());
                    }
                }
            },
        }
    }
}

async fn forward(followed: Arc<Followed>, sender: mpsc::Sender<(Arc<Followed>, Change<Relations>)>) {
    followed.cache.synced().await;
    let mut changes = followed.cache.changes();
    loop {
        tokio::select! {
            () = followed.token.cancelled() => return,
            change = changes.recv() => match change {
                Some(change) => {
                    if sender.send((followed.clone(), change)).await.is_err() {
                        return;
                    }
                }
                None => return,
            },
        }
    }
}
