//! The shape of a controller whose every key is an object of one cached kind, woken by that
//! object's changes and by whatever else it names.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;

use coxswain_client::supervise::catch_now;
use coxswain_client::{Cache, Item, Next, ObjectKey, Queue, work};

use crate::context::Context;

/// Sends the key of every change of `cache` through `keys` into the queue, until the cache stops.
pub(crate) async fn wake<K: Item>(
    cache: &Cache<K>,
    queue: &Queue<ObjectKey>,
    keys: impl Fn(&coxswain_client::Change<K>) -> Vec<ObjectKey>,
) {
    let mut changes = cache.changes();
    while let Some(change) = changes.recv().await {
        apart(&change.key, || keys(&change))
            .into_iter()
            .for_each(|key| queue.add(key));
    }
}

/// Finds out whom a change wakes, which may depend on several objects; a defect in that concerns this change only.
pub(crate) fn apart<T: Default>(key: &ObjectKey, wake: impl FnOnce() -> T) -> T {
    catch_now("controllers/wake", key, wake).unwrap_or_default()
}

/// Runs `reconcile` for the queue's keys until cancelled.
pub(crate) async fn reconcile<C, F, Fut, E>(
    name: &'static str,
    context: &Context,
    queue: &Queue<ObjectKey>,
    controller: &Arc<C>,
    reconcile: F,
) where
    C: Send + Sync + 'static,
    F: Fn(Arc<C>, ObjectKey) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let controller = controller.clone();
    let workers = context.config.workers;
    work(name, queue.clone(), workers, context.token.clone(), move |key| {
        reconcile(controller.clone(), key)
    })
    .await;
}
