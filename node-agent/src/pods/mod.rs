//! The pods of this node: which workers exist, and who wakes them.
//!
//! Watches pods by `spec.nodeName` and containerd's events; both only wake the worker of the pod they
//! are about. On start it adopts every sandbox that an earlier agent left and cleans up those whose pod
//! is gone. A slow full pass wakes everybody as a safety net.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod admission;
pub mod backoff;
pub mod cgroup;
pub mod config;
pub mod env;
pub mod events;
pub mod fields;
pub mod files;
pub mod images;
pub mod plan;
pub mod probes;
pub mod report;
pub mod reported;
pub mod resize;
pub mod resources;
pub mod security;
pub mod status;
pub mod steps;
pub mod termination;
pub mod worker;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coxswain_beneath::{Dir, Kind};
use coxswain_client::Cache;
use coxswain_client::supervise::catch;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::containerd::events::Happening;
use crate::runtime::{Cri, Runtime};
use config::PodPaths;
use steps::Shared;
use worker::{Desired, Signal};

const FULL_PASS: Duration = Duration::from_secs(300);
/// How long a pass waits for the runtime to list its sandboxes.
const LISTING: Duration = Duration::from_secs(10);
/// Until work on a pod begins again that ended in a panic.
const AFTER_PANIC: Duration = Duration::from_secs(10);

struct Handle {
    desired: watch::Sender<Desired>,
    signal: Arc<Signal>,
}

/// Runs all pod workers until cancelled; containers keep running when it returns.
pub async fn run(
    shared: Arc<Shared<Cri>>,
    cache: Cache<Pod>,
    happenings: Arc<Mutex<mpsc::Receiver<Happening>>>,
    token: CancellationToken,
) {
    let mut happenings = happenings.lock().await;
    let mut changes = cache.changes();
    tokio::select! {
        () = token.cancelled() => return,
        () = cache.synced() => {}
    }
    let mut workers: HashMap<String, Handle> = HashMap::new();
    let mut tasks: JoinSet<String> = JoinSet::new();
    for pod in cache.list() {
        desire(&shared, &mut workers, &mut tasks, Desired::Present(pod), &token);
    }
    clean_orphans(&shared, &workers).await;
    let mut full_pass = tokio::time::interval(FULL_PASS);
    full_pass.tick().await;
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            change = changes.recv() => {
                let Some(change) = change else { break };
                shared.room.notify_waiters();
                let uid = |pod: &Arc<Pod>| pod.metadata.uid.clone();
                if let Some(old) = &change.old
                    && change.new.as_ref().map(uid) != Some(uid(old))
                {
                    desire(&shared, &mut workers, &mut tasks, Desired::Gone(old.clone()), &token);
                }
                if let Some(new) = change.new {
                    desire(&shared, &mut workers, &mut tasks, Desired::Present(new), &token);
                }
            }
            happening = happenings.recv() => match happening {
                Some(Happening::Ended(id)) => {
                    if let Some(handle) = shared.runtime.pod_of(&id).and_then(|uid| workers.get(&*uid)) {
                        handle.signal.ended(id);
                    }
                }
                Some(Happening::Reconnected) => workers.values().for_each(|handle| handle.signal.wake()),
                None => break,
            },
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Ok(uid) = ended {
                    workers.remove(&uid);
                }
            }
            _ = full_pass.tick() => {
                workers.values().for_each(|handle| handle.signal.wake());
                // What could not be cleaned up before is tried again; a runtime that hangs must not stop the pods.
                let _ = tokio::time::timeout(LISTING, clean_orphans(&shared, &workers)).await;
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn desire(
    shared: &Arc<Shared<Cri>>,
    workers: &mut HashMap<String, Handle>,
    tasks: &mut JoinSet<String>,
    desired: Desired,
    token: &CancellationToken,
) {
    let (Desired::Present(pod) | Desired::Gone(pod)) = &desired;
    let Some(uid) = pod.metadata.uid.clone() else { return };
    if pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|map| map.contains_key("kubernetes.io/config.mirror"))
    {
        return;
    }
    if let Some(handle) = workers.get(&uid) {
        handle.desired.send_replace(desired);
        return;
    }
    if matches!(desired, Desired::Gone(_)) {
        return;
    }
    let (sender, receiver) = watch::channel(desired);
    let signal = Arc::new(Signal::default());
    workers.insert(
        uid.clone(),
        Handle {
            desired: sender,
            signal: signal.clone(),
        },
    );
    let (shared, token) = (shared.clone(), token.clone());
    tasks.spawn(async move {
        loop {
            let work = worker::run(shared.clone(), receiver.clone(), signal.clone(), token.clone());
            if catch("node/pods", &uid, work).await.is_ok() {
                return uid;
            }
            // A defect. What runs is adopted, as after a start of the agent.
            if token
                .run_until_cancelled(tokio::time::sleep(AFTER_PANIC))
                .await
                .is_none()
            {
                return uid;
            }
        }
    });
}

/// Cleans up what belongs to pods that no longer exist: sandboxes with their containers, and files.
async fn clean_orphans(shared: &Arc<Shared<Cri>>, workers: &HashMap<String, Handle>) {
    let sandboxes = match shared.runtime.sandboxes().await {
        Ok(sandboxes) => sandboxes,
        Err(error) => {
            tracing::warn!(%error, "listing sandboxes");
            return;
        }
    };
    let mut uids: HashMap<String, PodPaths> = HashMap::new();
    let (pods, logs) = (&shared.pods_dir, &shared.logs_dir);
    for sandbox in sandboxes {
        let paths = PodPaths::new(pods, logs, &sandbox.namespace, &sandbox.name, &sandbox.uid);
        if let Some(paths) = paths {
            uids.insert(sandbox.uid.clone(), paths);
        }
    }
    for uid in directories(pods) {
        let paths = PodPaths {
            directory: pods.join(&uid),
            logs: log_directory(logs, &uid),
        };
        uids.entry(uid).or_insert(paths);
    }
    for (uid, paths) in uids.into_iter().filter(|(uid, _)| !workers.contains_key(uid)) {
        let shared = shared.clone();
        tokio::spawn(async move {
            stop_containers(&*shared.runtime, &uid).await;
            if let Err(error) = steps::clean(&*shared.runtime, &uid, &paths, None).await {
                tracing::warn!(pod = uid, %error, "cleaning up a pod that is gone");
            }
        });
    }
}

/// The names of the directories in a directory.
fn directories(path: &Path) -> Vec<String> {
    const DIRECTORIES_MAX: usize = 1 << 16;
    let entries = Dir::open(path).and_then(|dir| dir.entries(DIRECTORIES_MAX));
    let names = entries.unwrap_or_default().into_iter();
    names
        .filter(|entry| entry.kind == Kind::Dir)
        .filter_map(|entry| entry.name.into_string().ok())
        .collect()
}

fn log_directory(logs: &Path, uid: &str) -> PathBuf {
    let suffix = format!("_{uid}");
    let found = directories(logs).into_iter().find(|name| name.ends_with(&suffix));
    logs.join(found.unwrap_or_else(|| uid.to_string()))
}

/// Stops the containers of a pod, all at once, with a short grace.
pub async fn stop_containers<R: Runtime>(runtime: &R, uid: &str) {
    const GRACE_S: i64 = 10;
    let Ok(observed) = runtime.observe(uid).await else {
        return;
    };
    let running = observed
        .containers
        .iter()
        .filter(|container| container.state == crate::runtime::State::Running);
    futures::future::join_all(running.map(|container| runtime.stop_container(&container.id, GRACE_S))).await;
}
