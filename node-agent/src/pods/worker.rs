//! One pod's worker: observe, plan, act, report, wait; until the pod is gone.
//!
//! Long steps (pulling, starting, killing) run as tasks of the worker so that it keeps seeing events;
//! at most one step that brings the pod forward runs at a time, kills run beside it. A turn is cheap
//! and idempotent: any wake-up, for whatever reason, leads to the same turn.

mod act;
mod outcome;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::config::PodPaths;
use super::events::PodEvents;
use super::plan::{self, Action, Memory, Plan, Situation, Stop};
use super::probes::{self, HealthTable, Probing};
use super::report::{self, Sent};
use super::reported;
use super::resize;
use super::status;
use super::steps::{self, Shared, Started, Subject};
use super::{admission, fields, files};
use crate::runtime::{Observed, Runtime, RuntimeError, State};
use crate::volumes::references::keys;
use crate::volumes::{VolumeError, Volumes};

/// What the API server wants of a pod.
#[derive(Clone, Debug)]
pub enum Desired {
    /// It exists.
    Present(Arc<Pod>),
    /// Its object is gone; this was the last one.
    Gone(Arc<Pod>),
}

/// Wakes a worker.
#[derive(Debug, Default)]
pub struct Signal {
    wake: Arc<Notify>,
    ended: Mutex<BTreeSet<String>>,
}

impl Signal {
    /// Look again, for whatever reason.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// A container or sandbox of the pod ended. The runtime's own records are behind its events: the
    /// worker looks again until they agree.
    pub fn ended(&self, id: String) {
        self.ended_ids().insert(id);
        self.wake.notify_one();
    }

    /// Whether the runtime still shows as alive what is known to have ended.
    fn is_behind(&self, observed: &Observed) -> bool {
        let mut ids = self.ended_ids();
        ids.retain(|id| observed.is_alive(id));
        !ids.is_empty()
    }

    fn ended_ids(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Outcome {
    Sandbox(Result<(), RuntimeError>, Box<Result<Volumes, VolumeError>>),
    Volumes(Result<Volumes, VolumeError>),
    Started(Vec<Started>),
    Killed(String),
    Resized(Result<resize::Actual, String>),
    SandboxStopped,
    Reported(Value, Sent),
    Deleted(Sent),
    Cleaned(Result<(), String>),
}

/// First and longest pause before looking again at a runtime whose records are behind.
const RECHECK_MS: (i64, i64) = (10, 640);

struct Worker<R> {
    shared: Arc<Shared<R>>,
    subject: Subject<R>,
    signal: Arc<Signal>,
    memory: Memory,
    health: HealthTable,
    probes: BTreeMap<String, Probing>,
    volumes: Volumes,
    volume_failures: u32,
    sandbox_failures: u32,
    tasks: JoinSet<Outcome>,
    advancing: bool,
    refreshing: bool,
    stopping_sandbox: bool,
    resizing: bool,
    reporting: bool,
    deleting: bool,
    cleaning: bool,
    cleaned: bool,
    gone: bool,
    kills: BTreeMap<String, i64>,
    starts: CancellationToken,
    reported: Value,
    own_status: Option<PodStatus>,
    said: BTreeMap<String, (u32, String)>,
    in_post_start: Arc<Mutex<BTreeSet<String>>>,
    recheck_ms: i64,
}

/// Runs the worker of one pod until the pod is gone and cleaned away, or the token is cancelled.
pub async fn run<R: Runtime>(
    shared: Arc<Shared<R>>,
    mut desired: watch::Receiver<Desired>,
    signal: Arc<Signal>,
    token: CancellationToken,
) {
    let pod = match &*desired.borrow_and_update() {
        Desired::Present(pod) | Desired::Gone(pod) => pod.clone(),
    };
    let Some(paths) = shared.paths(&pod) else {
        tracing::error!(pod = ?pod.metadata.uid, "a pod whose identity cannot name a directory is left alone");
        return;
    };
    let mut worker = Worker::new(shared, pod, paths, signal);
    worker.gone = matches!(&*desired.borrow(), Desired::Gone(_));
    loop {
        let wake_at = match worker.turn().await {
            Turn::Finished => return,
            Turn::WakeAt(at) => at,
        };
        let pause = wake_at.map(|at| at.duration_since(Timestamp::now()).unsigned_abs());
        let pause = match wake_at {
            Some(at) if at <= Timestamp::now() => Some(Duration::from_millis(1)),
            _ => pause,
        };
        tokio::select! {
            () = token.cancelled() => return,
            changed = desired.changed() => {
                if changed.is_err() {
                    return;
                }
                let next = desired.borrow_and_update().clone();
                worker.desire(next);
            }
            () = worker.signal.wake.notified() => {
                worker.retry_configuration();
            }
            Some(outcome) = worker.tasks.join_next(), if !worker.tasks.is_empty() => {
                match outcome {
                    Ok(outcome) => worker.take(outcome),
                    // Nobody else ends them. What the step left is in doubt: the worker starts anew, as after a start
                    // of the agent.
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(error) => tracing::warn!(%error, "a step of a pod was ended"),
                    },
                }
            }
            () = worker.shared.room.notified(), if worker.memory.resize.pending.is_some() => {}
            () = sleep(pause) => {}
        }
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

enum Turn {
    Finished,
    WakeAt(Option<Timestamp>),
}

impl<R: Runtime> Worker<R> {
    fn new(shared: Arc<Shared<R>>, pod: Arc<Pod>, paths: PodPaths, signal: Arc<Signal>) -> Worker<R> {
        let events = PodEvents::new(&shared.recorder, &pod);
        let references = Arc::new(shared.references.acquire(&pod, signal.wake.clone()));
        let reported = pod
            .status
            .as_ref()
            .and_then(|status| serde_json::to_value(status).ok())
            .unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let mut memory = Memory {
            ended: matches!(phase, Some("Failed" | "Succeeded")),
            failures: reported::known_failures(&pod, Timestamp::now()),
            ..Memory::default()
        };
        if !admission::is_taken(&pod) && pod.metadata.deletion_timestamp.is_none() {
            memory.failed = admission::refusal(&pod, &shared.pods.list(), &shared.node);
            if let Some((reason, message)) = &memory.failed {
                let message = message.trim_start_matches("Pod was rejected: ");
                events.warning(None, reason, message);
            }
        }
        Worker {
            subject: Subject {
                shared: shared.clone(),
                pod,
                paths,
                events,
                references,
                tokens: Arc::default(),
            },
            shared,
            signal,
            memory,
            health: HealthTable::default(),
            probes: BTreeMap::new(),
            volumes: Volumes::default(),
            volume_failures: 0,
            sandbox_failures: 0,
            tasks: JoinSet::new(),
            advancing: false,
            refreshing: false,
            stopping_sandbox: false,
            resizing: false,
            reporting: false,
            deleting: false,
            cleaning: false,
            cleaned: false,
            gone: false,
            kills: BTreeMap::new(),
            starts: CancellationToken::new(),
            reported,
            own_status: None,
            said: BTreeMap::new(),
            in_post_start: Arc::default(),
            recheck_ms: RECHECK_MS.0,
        }
    }

    fn desire(&mut self, next: Desired) {
        match next {
            Desired::Present(pod) => {
                let metadata_changed = pod.metadata.labels != self.subject.pod.metadata.labels
                    || pod.metadata.annotations != self.subject.pod.metadata.annotations;
                if keys(&pod) != keys(&self.subject.pod) {
                    let wake = self.signal.wake.clone();
                    self.subject.references = Arc::new(self.shared.references.acquire(&pod, wake));
                }
                let spec_changed = pod.metadata.generation != self.subject.pod.metadata.generation;
                self.subject.pod = pod;
                if spec_changed {
                    self.subject.events = PodEvents::new(&self.shared.recorder, &self.subject.pod);
                    self.memory.failures.clear();
                }
                if metadata_changed || spec_changed {
                    self.retry_configuration();
                }
            }
            Desired::Gone(pod) => {
                self.subject.pod = pod;
                self.gone = true;
            }
        }
    }

    /// A referenced object may have changed: what failed because of one is tried again at once, and
    /// volumes are brought up to date.
    fn retry_configuration(&mut self) {
        self.memory
            .failures
            .retain(|_, failure| failure.waiting.reason != "CreateContainerConfigError");
        if !self.memory.volumes_ready && self.volume_failures > 0 {
            self.memory.sandbox_retry_at = None;
        }
        self.refresh_volumes();
    }

    fn refresh_volumes(&mut self) {
        if !self.memory.volumes_ready || self.refreshing || self.gone {
            return;
        }
        self.refreshing = true;
        let subject = self.subject.clone();
        self.tasks
            .spawn(async move { Outcome::Volumes(steps::make_volumes(&subject).await) });
    }

    async fn turn(&mut self) -> Turn {
        let uid = self.subject.pod.metadata.uid.clone().unwrap_or_default();
        let observed = match self.shared.runtime.observe(&uid).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(pod = uid, %error, "observing");
                return Turn::WakeAt(Timestamp::now().checked_add(SignedDuration::from_secs(1)).ok());
            }
        };
        let now = Timestamp::now();
        let recheck_at = self.recheck_at(&observed, now);
        self.watch_deadline(now);
        let in_post_start = self.in_post_start().clone();
        self.memory.in_post_start = in_post_start;
        self.follow_health(&observed);
        let stop = self.stop();
        if stop.is_some() {
            self.starts.cancel();
        }
        self.consider_resize(&observed);
        let situation = Situation {
            pod: &self.subject.pod,
            observed: &observed,
            memory: &self.memory,
            stop,
            now,
        };
        let plan = plan::plan(&situation);
        let settled = plan.actions.contains(&Action::Settled) && !self.advancing;
        self.say(&plan, &observed);
        self.report(&plan, &observed, settled, now);
        if settled && self.settle(&uid) {
            return Turn::Finished;
        }
        self.act(&plan, &observed, now);
        let refresh_at = self.volumes.refresh_at.filter(|_| stop.is_none() && !self.refreshing);
        if refresh_at.is_some_and(|at| at <= now) {
            self.refresh_volumes();
        }
        Turn::WakeAt(
            [plan.wake_at, recheck_at, refresh_at.filter(|at| *at > now)]
                .into_iter()
                .flatten()
                .min(),
        )
    }

    fn recheck_at(&mut self, observed: &Observed, now: Timestamp) -> Option<Timestamp> {
        let (first, longest) = RECHECK_MS;
        if !self.signal.is_behind(observed) {
            self.recheck_ms = first;
            return None;
        }
        let pause = SignedDuration::from_millis(self.recheck_ms);
        self.recheck_ms = self.recheck_ms.saturating_mul(2).min(longest);
        now.checked_add(pause).ok()
    }

    /// Brings up to date what running containers were given, and whether the node has room for what the
    /// pod asks for instead.
    fn consider_resize(&mut self, observed: &Observed) {
        let pod = &self.subject.pod;
        let paths = self.subject.paths.clone();
        let wanted = resize::of_spec(pod);
        let resize = &mut self.memory.resize;
        resize
            .actual
            .retain(|id, _| observed.containers.iter().any(|container| container.id == *id));
        let mut differs = false;
        for name in wanted.keys() {
            let Some(container) = observed
                .newest(name)
                .filter(|container| container.state == State::Running)
            else {
                continue;
            };
            let known = resize.actual.entry(container.id.clone()).or_insert_with(|| {
                files::given(&paths, container)
                    .or_else(|| wanted.get(name).cloned())
                    .unwrap_or_default()
            });
            let found = fields::find(pod, name);
            differs |= found.is_some_and(|found| !resize::changed(&found, known).is_empty());
            if !resize.allocated.contains_key(name) {
                resize.allocated.insert(name.clone(), known.clone());
            }
        }
        if !differs {
            resize.pending = None;
            resize.error = None;
            resize.allocated = wanted;
            return;
        }
        let verdict = resize::admit(pod, &self.shared.pods.list(), &self.shared.node.allocatable).err();
        if verdict.is_none() {
            resize.allocated = wanted;
        } else if resize.pending != verdict
            && let Some(pending) = &verdict
        {
            self.subject
                .events
                .warning(None, &format!("Resize{}", pending.reason()), &pending.message());
        }
        resize.pending = verdict;
    }

    fn in_post_start(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.in_post_start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch_deadline(&mut self, now: Timestamp) {
        let Some(spec) = &self.subject.pod.spec else { return };
        let over = plan::deadline(&self.subject.pod, spec).is_some_and(|deadline| deadline <= now);
        if over && self.memory.failed.is_none() && !self.memory.ended && self.stop().is_none() {
            let message = "Pod was active on the node longer than the specified deadline";
            self.subject.events.normal(None, "DeadlineExceeded", message);
            self.memory.failed = Some(("DeadlineExceeded".into(), message.into()));
        }
    }

    fn stop(&self) -> Option<Stop> {
        let meta = &self.subject.pod.metadata;
        let of_spec = self
            .subject
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30);
        if self.gone || meta.deletion_timestamp.is_some() {
            return Some(Stop {
                grace_s: meta.deletion_grace_period_seconds.unwrap_or(of_spec).max(0),
            });
        }
        None
    }

    /// Starts probes of containers that run, ends those of containers that do not, and takes over what
    /// they found.
    fn follow_health(&mut self, observed: &Observed) {
        let pod = self.subject.pod.clone();
        let Some(spec) = &pod.spec else { return };
        let stopping = self.stop().is_some();
        let mut alive = Vec::new();
        for wanted in spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten().filter(|c| plan::is_sidecar(c)))
        {
            let Some(container) = observed
                .newest(&wanted.name)
                .filter(|container| container.state == State::Running)
            else {
                continue;
            };
            alive.push(container.id.clone());
            let in_post_start = self.memory.in_post_start.contains(&wanted.name);
            if self.probes.contains_key(&container.id) || stopping || in_post_start {
                continue;
            }
            let ips = observed
                .ready_sandbox()
                .map(|sandbox| sandbox.ips.clone())
                .unwrap_or_default();
            let target = steps::target(&self.subject, wanted, container.id.clone(), &ips);
            let known_ready = reported::was_ready(&pod, &container.id);
            let probing = probes::start(target, self.health.clone(), self.signal.wake.clone(), known_ready);
            self.probes.insert(container.id.clone(), probing);
        }
        if stopping {
            // Readiness is still reported while containers end, liveness is not acted upon.
            self.probes.clear();
        }
        self.probes.retain(|id, _| alive.contains(id));
        let mut table = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|id, _| alive.contains(id));
        self.memory.health = table.clone();
    }

    /// Events that belong to waiting: once for each restart that is held back.
    fn say(&mut self, plan: &Plan, observed: &Observed) {
        for (name, waiting) in &plan.waiting {
            let restarts = observed.newest(name).map_or(0, |container| container.restarts);
            let key = (restarts, waiting.reason.clone());
            if waiting.reason == "CrashLoopBackOff" && self.said.get(name) != Some(&key) {
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    plan::full_name(&self.subject.pod)
                );
                self.subject.events.warning(Some(name), "BackOff", &message);
                self.said.insert(name.clone(), key);
            }
        }
    }

    fn report(&mut self, plan: &Plan, observed: &Observed, settled: bool, now: Timestamp) {
        if self.gone {
            return;
        }
        let mut view = (*self.subject.pod).clone();
        if let Some(own) = &self.own_status {
            let foreign: Vec<_> = view
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
                .filter(|condition| {
                    own.conditions
                        .iter()
                        .flatten()
                        .all(|ours| ours.type_ != condition.type_)
                })
                .cloned()
                .collect();
            let mut status = own.clone();
            status.conditions.get_or_insert_default().extend(foreign);
            view.status = Some(status);
        }
        let inputs = status::Inputs {
            pod: &view,
            observed,
            memory: &self.memory,
            plan,
            node: &self.shared.node,
            settled,
            now,
        };
        let next = status::status(&inputs);
        let changes = report::patch(&self.reported, &next);
        if let (Some(changes), false) = (changes, self.reporting) {
            let value = serde_json::to_value(&next).unwrap_or_default();
            self.reporting = true;
            let (client, pod) = (self.shared.client.clone(), self.subject.pod.clone());
            self.tasks.spawn(async move {
                let sent = report::send(&client, &pod, changes).await;
                if sent == Sent::Failed {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Outcome::Reported(value, sent)
            });
        }
        self.own_status = Some(next);
    }
}
