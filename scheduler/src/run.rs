//! The shell: watches in, decisions out. It makes no choices of its own.

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod};
use coxswain_client::supervise::{Supervisor, catch, catch_now, later};
use coxswain_client::{Cache, Caches, Change, Client, Failure, ObjectKey, Recorder, failure};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::SchedulerError;
use crate::core::cycle::{Decision, schedule};
use crate::core::pod::PodInfo;
use crate::core::queue::Queue;
use crate::core::snapshot::Snapshot;
use crate::writes;

/// Bindings under way at once.
const BINDINGS_MAX: usize = 64;
/// The name of its health check, and under which panics are counted.
const TASK: &str = "scheduler";

/// What the scheduler is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pods that name this scheduler are its own.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
        }
    }
}

struct Scheduler {
    client: Client,
    config: Config,
    recorder: Recorder,
    pods: Cache<Pod>,
    snapshot: Snapshot,
    queue: Queue,
    started: Instant,
    cycles: u64,
    bindings: JoinSet<Bound>,
}

/// How a binding ended.
struct Bound {
    pod: Arc<PodInfo>,
    node: String,
    /// `None` after a panic.
    result: Option<Result<(), coxswain_client::kube::Error>>,
}

/// Schedules until the token is cancelled; a defect that stops it fails the check `scheduler` of `supervisor` until it
/// runs again. What it reads are `caches`, which it may share with others of its process; what it writes it writes as
/// `client`.
pub async fn run(client: Client, caches: Caches, config: Config, supervisor: &Supervisor, token: CancellationToken) {
    let start = || async {
        let ended = once(client.clone(), caches.clone(), config.clone(), token.clone()).await;
        if let Err(error) = ended {
            tracing::error!(%error, "the scheduler ended");
        }
    };
    supervisor.keep(TASK, &token, start).await;
}

/// Schedules until the token is cancelled. What it reads are `caches`, which it may share with others of its process;
/// what it writes it writes as `client`.
///
/// # Errors
/// When a watch ends although nobody asked for it.
async fn once(client: Client, caches: Caches, config: Config, token: CancellationToken) -> Result<(), SchedulerError> {
    let pods = caches.of::<Pod>();
    let nodes = caches.of::<Node>();
    let (mut pod_changes, mut node_changes) = (pods.changes(), nodes.changes());
    tokio::select! {
        () = token.cancelled() => return Ok(()),
        () = async { pods.synced().await; nodes.synced().await } => {}
    }
    let recorder = Recorder::new(&client, &config.scheduler_name, "");
    let mut this = Scheduler {
        client,
        config,
        recorder,
        pods,
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        started: Instant::now(),
        cycles: 0,
        bindings: JoinSet::new(),
    };
    loop {
        while let Some(change) = node_changes.try_recv() {
            this.node_change(&change);
        }
        while let Some(change) = pod_changes.try_recv() {
            this.pod_change(&change);
        }
        if this.bindings.len() < BINDINGS_MAX && this.step() {
            continue;
        }
        let due = this
            .queue
            .next_ms()
            .map(|ms| later(this.started, Duration::from_millis(ms)));
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            change = pod_changes.recv() => match change {
                Some(change) => this.pod_change(&change),
                None if token.is_cancelled() => return Ok(()),
                None => return Err(SchedulerError::WatchEnded("pods")),
            },
            change = node_changes.recv() => match change {
                Some(change) => this.node_change(&change),
                None if token.is_cancelled() => return Ok(()),
                None => return Err(SchedulerError::WatchEnded("nodes")),
            },
            Some(Ok(bound)) = this.bindings.join_next() => this.bound(bound),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        let now = this.now_ms();
        this.queue.tick(now);
    }
}

impl Scheduler {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wants_node(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let ours = spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == self.config.scheduler_name;
        let unbound = spec.node_name.as_deref().unwrap_or_default().is_empty();
        let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
        let ended = matches!(
            pod.status.as_ref().and_then(|s| s.phase.as_deref()),
            Some("Succeeded" | "Failed")
        );
        ours && unbound && !gated && !ended && pod.metadata.deletion_timestamp.is_none()
    }

    /// A change that cannot be taken in is left out: the others still are.
    fn pod_change(&mut self, change: &Change<Pod>) {
        let _ = catch_now(TASK, &change.key, || self.pod_changed(change));
    }

    /// See [`Scheduler::pod_change`].
    fn node_change(&mut self, change: &Change<Node>) {
        let _ = catch_now(TASK, &change.key, || self.node_changed(change));
    }

    fn pod_changed(&mut self, change: &Change<Pod>) {
        let was_placed = self.snapshot.is_placed(&change.key);
        let replaced = match (&change.old, &change.new) {
            (Some(old), Some(new)) => old.metadata.uid != new.metadata.uid,
            _ => false,
        };
        if replaced {
            self.snapshot.forget(&change.key);
            self.queue.remove(&change.key);
        }
        self.snapshot.set_pod(&change.key, change.new.as_ref());
        match change.new.as_ref().filter(|p| self.wants_node(p)) {
            Some(pod) => {
                let spec_changed = change
                    .old
                    .as_ref()
                    .is_none_or(|old| old.spec != pod.spec || old.metadata.labels != pod.metadata.labels);
                let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
                let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
                if !self.snapshot.is_placed(&change.key) && spec_changed {
                    self.queue.wake(&change.key);
                    self.queue.add(&change.key, priority, created);
                }
            }
            None => self.queue.remove(&change.key),
        }
        let freed = was_placed && !self.snapshot.is_placed(&change.key);
        // A pod that came to a node may be what others want to be near.
        let appeared = !was_placed && self.snapshot.is_placed(&change.key);
        if freed || appeared || replaced {
            let now = self.now_ms();
            self.queue.room_appeared(now);
        }
    }

    fn node_changed(&mut self, change: &Change<Node>) {
        let matters = match (&change.old, &change.new) {
            (Some(old), Some(new)) => {
                let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
                old.spec != new.spec
                    || old.metadata.labels != new.metadata.labels
                    || allocatable(old) != allocatable(new)
            }
            _ => true,
        };
        self.snapshot.set_node(&change.key.name, change.new.clone());
        if matters {
            let now = self.now_ms();
            self.queue.room_appeared(now);
        }
    }

    /// Decides for one pod; false when none is ready.
    fn step(&mut self) -> bool {
        let Some(key) = self.queue.pop() else { return false };
        let Some(pod) = self.pods.by_key(&key).filter(|p| self.wants_node(p)) else {
            self.queue.remove(&key);
            return true;
        };
        let Ok(info) = catch_now(TASK, &key, || Arc::new(PodInfo::new(pod))) else {
            let now = self.now_ms();
            self.queue.failed(&key, now, true);
            return true;
        };
        self.cycles = self.cycles.wrapping_add(1);
        let decision = catch_now(TASK, &key, || schedule(&info, &self.snapshot, self.cycles));
        let decision = match decision {
            Ok(decision) => decision,
            Err(panicked) => {
                // It waits like one that fits nowhere; those behind it are scheduled.
                let message = format!("the scheduler cannot decide about this pod because of a defect: {panicked}");
                self.refused(&info, &message, None);
                return true;
            }
        };
        match decision {
            Decision::Bind { node } => {
                self.snapshot.place(info.clone(), &node);
                let client = self.client.clone();
                self.bindings.spawn(async move {
                    let bind = writes::bind(&client, &info.key, &info.uid, &node);
                    let result = catch(TASK, &info.key, bind).await.ok();
                    Bound {
                        pod: info,
                        node,
                        result,
                    }
                });
            }
            Decision::Unschedulable(explain) => self.refused(&info, &explain.to_string(), None),
            Decision::Preempt(preemption, explain) => {
                self.preempt(&info, &preemption.node, &preemption.victims);
                self.refused(&info, &explain.to_string(), Some(preemption.node));
            }
        }
        true
    }

    /// The pod waits; the reason goes to its condition and into an event.
    fn refused(&mut self, info: &Arc<PodInfo>, message: &str, nominated: Option<String>) {
        let now = self.now_ms();
        self.queue.failed(&info.key, now, true);
        let Some(pod) = info.pod.as_ref() else { return };
        self.recorder.warning(&**pod, "FailedScheduling", message);
        let conditions = pod
            .status
            .as_ref()
            .and_then(|s| s.conditions.as_deref())
            .unwrap_or_default();
        let said = conditions
            .iter()
            .any(|c| c.type_ == "PodScheduled" && c.status == "False" && c.message.as_deref() == Some(message));
        if said && nominated.is_none() {
            return;
        }
        let (client, info, message) = (self.client.clone(), info.clone(), message.to_owned());
        tokio::spawn(async move {
            let result = writes::explain(
                &client,
                &info.key,
                &info.uid,
                &message,
                nominated.as_deref(),
                &timestamp(),
            )
            .await;
            if let Err(error) = result {
                tracing::debug!(pod = %info.key, %error, "the pod's condition could not be written");
            }
        });
    }

    fn preempt(&self, info: &Arc<PodInfo>, node: &str, victims: &[ObjectKey]) {
        for victim in victims.iter().filter_map(|k| self.pods.by_key(k)) {
            if victim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let message = format!("Preempted by pod {} on node {node}", info.uid);
            self.recorder.normal(&*victim, "Preempted", &message);
            let (client, scheduler) = (self.client.clone(), self.config.scheduler_name.clone());
            tokio::spawn(async move {
                if let Err(error) = writes::evict(&client, &victim, &scheduler, &timestamp()).await {
                    tracing::warn!(%error, "a victim of preemption could not be deleted");
                }
            });
        }
    }

    fn bound(&mut self, bound: Bound) {
        let Bound { pod, node, result } = bound;
        match result {
            Some(Ok(())) => {
                self.queue.remove(&pod.key);
                let message = format!("Successfully assigned {}/{} to {node}", pod.key.namespace, pod.key.name);
                if let Some(pod) = &pod.pod {
                    self.recorder.normal(&**pod, "Scheduled", &message);
                }
            }
            None => {
                self.snapshot.forget(&pod.key);
                let now = self.now_ms();
                self.queue.failed(&pod.key, now, false);
            }
            Some(Err(error)) => {
                self.snapshot.forget(&pod.key);
                let now = self.now_ms();
                match failure(&error) {
                    Failure::NotFound | Failure::Conflict => self.queue.remove(&pod.key),
                    _ => {
                        tracing::warn!(pod = %pod.key, %error, "binding failed");
                        self.queue.failed(&pod.key, now, false);
                    }
                }
            }
        }
    }
}

fn timestamp() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
