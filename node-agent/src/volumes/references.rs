//! The ConfigMaps and Secrets that one pod refers to, watched one by one by name.
//!
//! Watches are shared between pods: the pool holds a cache for each object as long as a pod uses it.
//! A change wakes every pod that refers to it. Nothing else of a namespace is ever read.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use coxswain_client::{Cache, Client, Scope};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvFromSource, EnvVar, Pod, Secret};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long to wait for the first answer about an object.
const PATIENCE: Duration = Duration::from_secs(10);

/// One watched object's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A ConfigMap of the pod's namespace.
    ConfigMap(String),
    /// A Secret of the pod's namespace.
    Secret(String),
}

enum Watched {
    ConfigMap(Cache<ConfigMap>),
    Secret(Cache<Secret>),
}

struct Entry {
    watched: Watched,
    _stop: DropGuard,
}

/// All watches of the node.
pub struct Pool {
    client: Client,
    entries: Mutex<HashMap<(String, Key), Weak<Entry>>>,
}

/// The objects of one pod; dropping it ends the watches nobody else uses.
pub struct References {
    namespace: String,
    entries: HashMap<Key, Arc<Entry>>,
    _stop: DropGuard,
}

impl Pool {
    /// An empty pool.
    pub fn new(client: Client) -> Pool {
        Pool {
            client,
            entries: Mutex::default(),
        }
    }

    /// Starts watching everything the pod refers to; `wake` is told of every later change.
    pub fn acquire(&self, pod: &Pod, wake: Arc<Notify>) -> References {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let token = CancellationToken::new();
        let mut entries = HashMap::new();
        for key in keys(pod) {
            let entry = self.entry(&namespace, key.clone());
            forward(&entry, wake.clone(), token.clone());
            entries.insert(key, entry);
        }
        References {
            namespace,
            entries,
            _stop: token.drop_guard(),
        }
    }

    fn entry(&self, namespace: &str, key: Key) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (namespace.to_string(), key);
        if let Some(entry) = entries.get(&place).and_then(Weak::upgrade) {
            return entry;
        }
        let token = CancellationToken::new();
        let (Key::ConfigMap(name) | Key::Secret(name)) = &place.1;
        let scope = Scope {
            namespace: Some(namespace.to_string()),
            fields: Some(format!("metadata.name={name}")),
            ..Scope::default()
        };
        let watched = match &place.1 {
            Key::ConfigMap(_) => Watched::ConfigMap(Cache::spawn(&self.client, scope, token.clone())),
            Key::Secret(_) => Watched::Secret(Cache::spawn(&self.client, scope, token.clone())),
        };
        let entry = Arc::new(Entry {
            watched,
            _stop: token.drop_guard(),
        });
        entries.retain(|_, entry| entry.strong_count() > 0);
        entries.insert(place, Arc::downgrade(&entry));
        entry
    }
}

fn forward(entry: &Entry, wake: Arc<Notify>, token: CancellationToken) {
    macro_rules! follow {
        ($cache:expr) => {{
            let mut changes = $cache.changes();
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        () = token.cancelled() => return,
                        change = changes.recv() => match change {
                            Some(_) => wake.notify_one(),
                            None => return,
                        },
                    }
                }
            });
        }};
    }
    match &entry.watched {
        Watched::ConfigMap(cache) => follow!(cache),
        Watched::Secret(cache) => follow!(cache),
    }
}

impl References {
    /// The current ConfigMap of a name; absent when the cluster has none.
    pub async fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        let entry = self.entries.get(&Key::ConfigMap(name.to_string()))?;
        let Watched::ConfigMap(cache) = &entry.watched else {
            return None;
        };
        let _ = tokio::time::timeout(PATIENCE, cache.synced()).await;
        cache.get(&self.namespace, name)
    }

    /// The current Secret of a name; absent when the cluster has none.
    pub async fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        let entry = self.entries.get(&Key::Secret(name.to_string()))?;
        let Watched::Secret(cache) = &entry.watched else {
            return None;
        };
        let _ = tokio::time::timeout(PATIENCE, cache.synced()).await;
        cache.get(&self.namespace, name)
    }
}

/// Every ConfigMap and Secret a pod refers to.
pub fn keys(pod: &Pod) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    let Some(spec) = &pod.spec else { return keys };
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        container_keys(container, &mut keys);
    }
    for container in crate::pods::fields::ephemeral(pod) {
        container_keys(&container, &mut keys);
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        keys.insert(Key::Secret(secret.name.clone()));
    }
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            keys.insert(Key::ConfigMap(source.name.clone()));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|source| source.secret_name.clone()) {
            keys.insert(Key::Secret(name));
        }
        for part in volume
            .projected
            .iter()
            .flat_map(|source| source.sources.iter().flatten())
        {
            if let Some(source) = &part.config_map {
                keys.insert(Key::ConfigMap(source.name.clone()));
            }
            if let Some(source) = &part.secret {
                keys.insert(Key::Secret(source.name.clone()));
            }
        }
    }
    keys
}

fn container_keys(container: &Container, keys: &mut BTreeSet<Key>) {
    for EnvFromSource {
        config_map_ref,
        secret_ref,
        ..
    } in container.env_from.iter().flatten()
    {
        if let Some(source) = config_map_ref {
            keys.insert(Key::ConfigMap(source.name.clone()));
        }
        if let Some(source) = secret_ref {
            keys.insert(Key::Secret(source.name.clone()));
        }
    }
    for EnvVar { value_from, .. } in container.env.iter().flatten() {
        let Some(source) = value_from else { continue };
        if let Some(key) = &source.config_map_key_ref {
            keys.insert(Key::ConfigMap(key.name.clone()));
        }
        if let Some(key) = &source.secret_key_ref {
            keys.insert(Key::Secret(key.name.clone()));
        }
    }
}
