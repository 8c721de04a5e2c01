//! One pod's worker: observe, plan, act, report, wait; until the pod is gone.
//!
//! Long steps (pulling, starting, killing) run as tasks of the worker so that it keeps seeing events;
//! at most one step that brings the pod forward runs at a time, kills run beside it. A turn is cheap
//! and idempotent: any wake-up, for whatever reason, leads to the same turn.

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

use super::backoff::Backoff;
use super::events::PodEvents;
use super::plan::{self, Action, Memory, Plan, Situation, Stop};
use super::probes::{self, HealthTable, Probing};
use super::report::{self, Sent};
use super::status;
use super::steps::{self, Place, Shared, Started, Subject};
use crate::runtime::{Observed, Runtime, RuntimeError, State};
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
    let mut worker = Worker::new(shared, pod, signal);
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
                if let Ok(outcome) = outcome {
                    worker.take(outcome);
                }
            }
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
    fn new(shared: Arc<Shared<R>>, pod: Arc<Pod>, signal: Arc<Signal>) -> Worker<R> {
        let events = PodEvents::new(&shared.recorder, &pod);
        let references = Arc::new(shared.references.acquire(&pod, signal.wake.clone()));
        let reported = pod
            .status
            .as_ref()
            .and_then(|status| serde_json::to_value(status).ok())
            .unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let memory = Memory {
            ended: matches!(phase, Some("Failed" | "Succeeded")),
            ..Memory::default()
        };
        Worker {
            subject: Subject {
                shared: shared.clone(),
                pod,
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
            recheck_ms: RECHECK_MS.0,
        }
    }

    fn desire(&mut self, next: Desired) {
        match next {
            Desired::Present(pod) => {
                let metadata_changed = pod.metadata.labels != self.subject.pod.metadata.labels
                    || pod.metadata.annotations != self.subject.pod.metadata.annotations;
                self.subject.pod = pod;
                if metadata_changed {
                    self.refresh_volumes();
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
        self.follow_health(&observed);
        let stop = self.stop();
        if stop.is_some() {
            self.starts.cancel();
        }
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
        self.recheck_ms = (self.recheck_ms * 2).min(longest);
        now.checked_add(pause).ok()
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
            if self.probes.contains_key(&container.id) || stopping {
                continue;
            }
            let ips = observed
                .ready_sandbox()
                .map(|sandbox| sandbox.ips.clone())
                .unwrap_or_default();
            let target = steps::target(&self.subject, wanted, container.id.clone(), &ips);
            let known_ready = was_ready(&pod, &container.id);
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

    /// Nothing runs any more: remove the object, then everything on the node. True when all is done.
    fn settle(&mut self, uid: &str) -> bool {
        if self.cleaned {
            return true;
        }
        if self.gone {
            if !self.cleaning {
                self.cleaning = true;
                let (shared, uid) = (self.shared.clone(), uid.to_string());
                let paths = shared.paths(&self.subject.pod);
                let cgroup = super::resources::cgroup(&self.subject.pod);
                self.tasks.spawn(async move {
                    let result = steps::clean(&*shared.runtime, &uid, &paths, Some(&cgroup)).await;
                    if result.is_err() {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    Outcome::Cleaned(result)
                });
            }
            return false;
        }
        if !self.deleting && !self.reporting {
            self.deleting = true;
            let (client, pod) = (self.shared.client.clone(), self.subject.pod.clone());
            self.tasks.spawn(async move {
                let sent = report::delete(&client, &pod).await;
                if sent == Sent::Failed {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Outcome::Deleted(sent)
            });
        }
        false
    }

    fn act(&mut self, plan: &Plan, observed: &Observed, now: Timestamp) {
        let mut starts = Vec::new();
        for action in &plan.actions {
            match action {
                Action::CreateSandbox { attempt } if !self.advancing => self.make_sandbox(*attempt, observed),
                Action::Start { container, restarts } if !self.advancing => starts.push((container.clone(), *restarts)),
                Action::StopSandbox { id } if !self.advancing && !self.stopping_sandbox => {
                    self.stopping_sandbox = true;
                    let (runtime, id) = (self.shared.runtime.clone(), id.clone());
                    self.tasks.spawn(async move {
                        if let Err(error) = runtime.stop_sandbox(&id).await {
                            tracing::warn!(sandbox = id, %error, "stopping");
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                        Outcome::SandboxStopped
                    });
                }
                Action::Kill {
                    id,
                    container,
                    grace_s,
                    message,
                } => {
                    let shorter = self.kills.get(id).is_none_or(|grace| grace_s < grace);
                    if shorter {
                        self.kills.insert(id.clone(), *grace_s);
                        let (subject, id, name) = (self.subject.clone(), id.clone(), container.clone());
                        let (grace_s, message) = (*grace_s, message.clone());
                        let ips = observed
                            .ready_sandbox()
                            .map(|sandbox| sandbox.ips.clone())
                            .unwrap_or_default();
                        self.tasks.spawn(async move {
                            steps::kill(&subject, &name, &id, grace_s, &message, &ips).await;
                            Outcome::Killed(id)
                        });
                    }
                }
                _ => {}
            }
        }
        if !starts.is_empty() {
            self.start(starts, observed, now);
        }
    }

    fn make_sandbox(&mut self, attempt: u32, observed: &Observed) {
        self.advancing = true;
        let subject = self.subject.clone();
        let needed = observed.ready_sandbox().is_none();
        let dead = observed
            .sandboxes
            .iter()
            .filter(|_| needed)
            .map(|sandbox| sandbox.id.clone())
            .collect();
        if needed && attempt > 0 && observed.sandboxes.first().is_some_and(|sandbox| !sandbox.ready) {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.subject.events.normal(None, "SandboxChanged", message);
        }
        self.tasks.spawn(async move {
            let (volumes, sandbox) = tokio::join!(steps::make_volumes(&subject), async {
                if needed {
                    steps::make_sandbox(&subject, attempt, dead).await
                } else {
                    Ok(())
                }
            });
            Outcome::Sandbox(sandbox, Box::new(volumes))
        });
    }

    fn start(&mut self, starts: Vec<(String, u32)>, observed: &Observed, now: Timestamp) {
        let Some(sandbox) = observed.ready_sandbox() else {
            return;
        };
        let Some(spec) = self.subject.pod.spec.clone() else {
            return;
        };
        for (name, restarts) in &starts {
            if *restarts > 0 {
                let previous = self.memory.backoffs.get(name).copied().or_else(|| {
                    let container = observed.newest(name)?;
                    Backoff::after_restarts(container.restarts, container.created_at)
                });
                self.memory.backoffs.insert(name.clone(), Backoff::next(previous, now));
            }
        }
        self.advancing = true;
        let place = Place {
            sandbox_id: sandbox.id.clone(),
            attempt: sandbox.attempt,
            ips: sandbox.ips.clone(),
            volumes: self.volumes.clone(),
        };
        let (subject, stop) = (self.subject.clone(), self.starts.clone());
        let old: Vec<String> = starts
            .iter()
            .flat_map(|(name, _)| observed.containers.iter().filter(move |c| c.name == *name).skip(1))
            .filter(|container| container.state == State::Exited)
            .map(|container| container.id.clone())
            .collect();
        let wake = self.signal.clone();
        self.tasks.spawn(async move {
            let mut results = Vec::new();
            for (name, restarts) in starts {
                let wanted = spec
                    .containers
                    .iter()
                    .chain(spec.init_containers.iter().flatten())
                    .find(|c| c.name == name);
                let Some(wanted) = wanted else { continue };
                results.push(steps::start(&subject, wanted, restarts, &place, &stop).await);
                wake.wake();
            }
            for id in old {
                let _ = subject.shared.runtime.remove_container(&id).await;
            }
            Outcome::Started(results)
        });
    }
}

/// Whether the last reported status called this very container ready.
fn was_ready(pod: &Pod, id: &str) -> bool {
    let id = format!("containerd://{id}");
    pod.status
        .iter()
        .flat_map(|status| {
            status
                .container_statuses
                .iter()
                .flatten()
                .chain(status.init_container_statuses.iter().flatten())
        })
        .any(|status| status.container_id.as_deref() == Some(&id) && status.ready)
}
