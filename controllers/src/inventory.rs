//! The relations of every object in the cluster: one metadata-only cache per resource that can be
//! listed, watched and deleted. Garbage collection and namespace emptying read it.
//!
//! Follows discovery: when a CustomResourceDefinition or APIService changes, resources are added
//! and removed. Events are left out, they own nothing and nothing owns them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use coxswain_client::discovery::{ResourceInfo, preferred_resources};
use coxswain_client::{Cache, Client, Relations, Source};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One followed resource.
#[derive(Clone)]
pub(crate) struct Followed {
    pub info: Arc<ResourceInfo>,
    pub cache: Cache<Relations>,
    pub token: CancellationToken,
}

/// A resource that began to be followed, or stopped being followed.
#[derive(Clone)]
pub(crate) enum Turn {
    Began(Followed),
    Ended(Arc<ResourceInfo>),
}

/// Clones share the same set.
#[derive(Clone)]
pub(crate) struct Inventory {
    client: Client,
    token: CancellationToken,
    followed: Arc<RwLock<BTreeMap<(String, String), Followed>>>,
}

impl Inventory {
    pub fn new(client: Client, token: CancellationToken) -> Inventory {
        Inventory {
            client,
            token,
            followed: Arc::new(RwLock::new(BTreeMap::new())),
        }
    }

    /// All followed resources.
    pub fn all(&self) -> Vec<Followed> {
        let followed = self.followed.read().unwrap_or_else(PoisonError::into_inner);
        followed.values().cloned().collect()
    }

    /// Follows discovery until cancelled and reports what begins and ends.
    pub async fn run(&self, turns: mpsc::Sender<Turn>) {
        // What an earlier run began, one that was ended by a defect.
        for followed in self.all() {
            if turns.send(Turn::Began(followed)).await.is_err() {
                return;
            }
        }
        let source = Source {
            path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_string(),
            labels: None,
            fields: None,
        };
        let mut definitions: Option<Cache<Relations>> = None;
        let mut backoff_ms = 20_u64;
        loop {
            match preferred_resources(&self.client).await {
                Ok(found) => {
                    backoff_ms = 0;
                    let custom = found.iter().any(|r| r.plural == "customresourcedefinitions");
                    self.refresh(found, &turns).await;
                    if custom && definitions.is_none() {
                        let cache = Cache::spawn_source(&self.client, source.clone(), self.token.clone());
                        definitions = Some(cache);
                    }
                }
                Err(error) => {
                    tracing::debug!("discovery failed, will try again: {error}");
                    backoff_ms = backoff_ms.saturating_mul(2).clamp(20, 10_000);
                }
            }
            let changed = wait(definitions.as_ref(), backoff_ms);
            tokio::select! {
                () = self.token.cancelled() => return,
                () = changed => {}
            }
        }
    }

    async fn refresh(&self, found: Vec<ResourceInfo>, turns: &mpsc::Sender<Turn>) {
        let wanted: BTreeMap<(String, String), ResourceInfo> = found
            .into_iter()
            .filter(|r| r.plural != "events" && r.can(&["list", "watch", "delete"]))
            .map(|r| ((r.group.clone(), r.plural.clone()), r))
            .collect();
        let mut news = Vec::new();
        {
            let mut followed = self.followed.write().unwrap_or_else(PoisonError::into_inner);
            followed.retain(|key, entry| {
                let keep = wanted.get(key).is_some_and(|w| *w == *entry.info);
                if !keep {
                    entry.token.cancel();
                    news.push(Turn::Ended(entry.info.clone()));
                }
                keep
            });
            for (key, info) in wanted {
                if followed.contains_key(&key) {
                    continue;
                }
                let token = self.token.child_token();
                let source = Source {
                    path: info.path(None),
                    labels: None,
                    fields: None,
                };
                let entry = Followed {
                    cache: Cache::spawn_source(&self.client, source, token.clone()),
                    info: Arc::new(info),
                    token,
                };
                news.push(Turn::Began(entry.clone()));
                followed.insert(key, entry);
            }
        }
        for turn in news {
            if turns.send(turn).await.is_err() {
                return;
            }
        }
    }
}

/// Until definitions change (and settle for a moment), or the backoff ends.
async fn wait(definitions: Option<&Cache<Relations>>, backoff_ms: u64) {
    if backoff_ms > 0 {
        return tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
    }
    let Some(cache) = definitions else {
        return std::future::pending().await;
    };
    cache.synced().await;
    let mut changes = cache.changes();
    while changes.try_recv().is_some() {}
    if changes.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
    // A definition is served a moment after it is stored; look again after that.
    tokio::time::sleep(Duration::from_millis(300)).await;
}
