//! What to do next for one pod: a pure function from what is wanted and what is there.
//!
//! A turn of a pod worker is observe, plan, act. The plan never waits: it says what can be done now,
//! why nothing is done for the rest, and when to look again at the latest.

use std::collections::{BTreeMap, BTreeSet};

use coxswain_api::bounded;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Wanted, Pod, PodSpec};

use super::backoff::{Backoff, text};
use super::resize::{self, Resize};
use super::{config, fields};
use crate::runtime::{Container, Observed, State, label};

/// Why a container does not run: the waiting state's reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// One CamelCase word.
    pub reason: String,
    /// A sentence, may be empty.
    pub message: String,
}

/// A container that could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// What happened.
    pub waiting: Waiting,
    /// What the state becomes after a second, while waiting for the next attempt.
    pub then: Option<Waiting>,
    /// When.
    pub at: Timestamp,
    /// When to try again.
    pub retry_at: Timestamp,
    /// How often in a row.
    pub failures: u32,
}

/// What the probes say about one running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The startup probe passed, or there is none.
    pub started: bool,
    /// The readiness probe passes, or there is none.
    pub ready: bool,
    /// A liveness or startup probe gave up: the sentence of the event.
    pub failed: Option<String>,
}

/// What a worker remembers between turns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Pauses between restarts, by container name.
    pub backoffs: BTreeMap<String, Backoff>,
    /// Failed starts, by container name.
    pub failures: BTreeMap<String, StartFailure>,
    /// Probe results, by container id.
    pub health: BTreeMap<String, Health>,
    /// When to try the sandbox or the volumes again.
    pub sandbox_retry_at: Option<Timestamp>,
    /// The volumes are there.
    pub volumes_ready: bool,
    /// The pod as a whole failed: reason and message of its status.
    pub failed: Option<(String, String)>,
    /// The pod was reported as ended before this agent started.
    pub ended: bool,
    /// Resources that change while containers run.
    pub resize: Resize,
    /// Containers whose postStart hook still runs: they do not count as running yet.
    pub in_post_start: BTreeSet<String>,
}

/// A wish to end the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Seconds its processes get.
    pub grace_s: i64,
}

/// Everything a plan is made from.
pub struct Situation<'a> {
    /// The pod as the API server has it.
    pub pod: &'a Pod,
    /// The pod as the runtime has it.
    pub observed: &'a Observed,
    /// What happened before.
    pub memory: &'a Memory,
    /// Whether it is to end.
    pub stop: Option<Stop>,
    /// Now.
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the sandbox, and the volumes beside it.
    CreateSandbox {
        /// Sandboxes before this one.
        attempt: u32,
    },
    /// Take the sandbox's network and processes away.
    StopSandbox {
        /// The sandbox.
        id: String,
    },
    /// Bring the image, make the container, start it.
    Start {
        /// Its name.
        container: String,
        /// Containers of this name before it.
        restarts: u32,
    },
    /// End a container.
    Kill {
        /// The container.
        id: String,
        /// Its name.
        container: String,
        /// Seconds its process gets.
        grace_s: i64,
        /// The event's sentence.
        message: String,
    },
    /// Give running containers the resources that their pod asks for.
    Resize {
        /// Ids by container name.
        containers: BTreeMap<String, String>,
    },
    /// The pod is to end and nothing of it runs any more.
    Settled,
}

/// The result of planning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done now, in order.
    pub actions: Vec<Action>,
    /// Why containers wait, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// When to plan again at the latest.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn resize(&mut self, name: &str, id: &str) {
        let known = self.actions.iter_mut().find_map(|action| match action {
            Action::Resize { containers } => Some(containers),
            _ => None,
        });
        match known {
            Some(containers) => {
                containers.insert(name.to_string(), id.to_string());
            }
            None => self.actions.push(Action::Resize {
                containers: BTreeMap::from([(name.to_string(), id.to_string())]),
            }),
        }
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }
}

/// Plans one turn.
pub fn plan(situation: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &situation.pod.spec else { return plan };
    if let Some(stop) = situation.stop {
        if stop_containers(situation, spec, stop.grace_s, &mut plan) {
            plan.actions.push(Action::Settled);
        }
        return plan;
    }
    if situation.memory.failed.is_some() || situation.memory.ended || is_complete(situation, spec) {
        let grace = spec.termination_grace_period_seconds.unwrap_or(30);
        stop_containers(situation, spec, grace, &mut plan);
        return plan;
    }
    if let Some(deadline) = deadline(situation.pod, spec) {
        plan.wake(deadline);
    }
    let Some(sandbox) = situation.observed.ready_sandbox() else {
        plan_sandbox(situation, spec, &mut plan);
        return plan;
    };
    if !situation.memory.volumes_ready {
        // The sandbox step also makes volumes; after an agent restart only they are missing.
        plan_sandbox(situation, spec, &mut plan);
        return plan;
    }
    for wanted in fields::ephemeral(situation.pod) {
        plan_container(situation, spec, &wanted, &mut plan);
    }
    let begun = spec.containers.iter().any(|wanted| {
        situation
            .observed
            .newest(&wanted.name)
            .is_some_and(|container| container.sandbox_id == sandbox.id)
    });
    if !plan_init(situation, spec, &sandbox.id, begun, &mut plan) {
        return plan;
    }
    for wanted in &spec.containers {
        plan_container(situation, spec, wanted, &mut plan);
    }
    plan
}

/// When `activeDeadlineSeconds` is over.
pub fn deadline(pod: &Pod, spec: &PodSpec) -> Option<Timestamp> {
    let started = pod.status.as_ref()?.start_time.as_ref()?.0;
    Some(bounded::after(started, spec.active_deadline_seconds?))
}

fn plan_sandbox(situation: &Situation<'_>, spec: &PodSpec, plan: &mut Plan) {
    if let Some(at) = situation.memory.sandbox_retry_at.filter(|at| *at > situation.now) {
        plan.wake(at);
        return;
    }
    let newest = situation.observed.sandboxes.first();
    if newest.is_none_or(|sandbox| !sandbox.ready) {
        let running = situation
            .observed
            .containers
            .iter()
            .filter(|container| container.state == State::Running);
        let mut any = false;
        for container in running {
            any = true;
            plan.actions.push(Action::Kill {
                id: container.id.clone(),
                container: container.name.clone(),
                grace_s: spec.termination_grace_period_seconds.unwrap_or(30),
                message: format!("Stopping container {}", container.name),
            });
        }
        if any {
            return;
        }
    }
    plan.actions.push(Action::CreateSandbox {
        attempt: newest.map_or(0, |sandbox| sandbox.attempt.saturating_add(1)),
    });
}

/// Plans init containers; true when ordinary containers may run.
fn plan_init(situation: &Situation<'_>, spec: &PodSpec, sandbox: &str, begun: bool, plan: &mut Plan) -> bool {
    for wanted in spec.init_containers.iter().flatten() {
        let found = situation
            .observed
            .newest(&wanted.name)
            .filter(|container| container.sandbox_id == sandbox);
        if is_sidecar(wanted) {
            let started = found.is_some_and(|container| {
                container.state == State::Running
                    && situation
                        .memory
                        .health
                        .get(&container.id)
                        .is_none_or(|health| health.started)
            });
            plan_container(situation, spec, wanted, plan);
            if !started && !begun {
                return false;
            }
            continue;
        }
        if begun {
            continue;
        }
        match found.map(|container| (container.state, container.exit_code)) {
            Some((State::Exited, 0)) => {}
            Some((State::Running, _)) => return false,
            _ => {
                plan_container(situation, spec, wanted, plan);
                return false;
            }
        }
    }
    true
}

fn plan_container(situation: &Situation<'_>, spec: &PodSpec, wanted: &Wanted, plan: &mut Plan) {
    let found = situation.observed.newest(&wanted.name);
    if let Some(container) = found
        && container.state == State::Running
    {
        plan_running(situation, spec, wanted, container, plan);
        return;
    }
    let failure = situation.memory.failures.get(&wanted.name);
    if let Some(failure) = failure {
        let settled = bounded::after(failure.at, 1);
        let waiting = match &failure.then {
            Some(then) if situation.now >= settled => then,
            Some(_) => {
                plan.wake(settled);
                &failure.waiting
            }
            None => &failure.waiting,
        };
        // The reason stays until a start succeeds, also while the next one is tried.
        plan.waiting.insert(wanted.name.clone(), waiting.clone());
        if failure.retry_at > situation.now {
            plan.wake(failure.retry_at);
            return;
        }
    }
    let Some(container) = found else {
        plan.actions.push(Action::Start {
            container: wanted.name.clone(),
            restarts: 0,
        });
        return;
    };
    if !should_restart(spec, wanted, container, situation) {
        return;
    }
    let since = container.finished_at.unwrap_or(container.created_at);
    let backoff = situation
        .memory
        .backoffs
        .get(&wanted.name)
        .copied()
        .or_else(|| Backoff::after_restarts(container.restarts, container.created_at));
    if let Some(backoff) = backoff
        && container.state == State::Exited
        && let Some(until) = backoff.wait_until(since, situation.now)
    {
        plan.wake(until);
        plan.waiting.insert(
            wanted.name.clone(),
            Waiting {
                reason: "CrashLoopBackOff".into(),
                message: format!(
                    "back-off {} restarting failed container={} pod={}",
                    text(backoff.delay_s),
                    wanted.name,
                    full_name(situation.pod)
                ),
            },
        );
        return;
    }
    plan.actions.push(Action::Start {
        container: wanted.name.clone(),
        restarts: container.restarts.saturating_add(1),
    });
}

fn plan_running(situation: &Situation<'_>, spec: &PodSpec, wanted: &Wanted, container: &Container, plan: &mut Plan) {
    let failed = situation
        .memory
        .health
        .get(&container.id)
        .and_then(|health| health.failed.as_ref());
    let changed = container
        .annotations
        .get(label::HASH)
        .is_some_and(|hash| *hash != config::hash(wanted));
    let resources = match situation.memory.resize.actual.get(&container.id) {
        Some(actual) if situation.memory.resize.pending.is_none() => resize::changed(wanted, actual),
        _ => Vec::new(),
    };
    if !resources.is_empty() && failed.is_none() && !changed && !resize::needs_restart(wanted, &resources) {
        plan.resize(&wanted.name, &container.id);
        return;
    }
    let message = match (failed, changed) {
        (Some(message), _) => message.clone(),
        (None, true) => format!("Container {} definition changed, will be restarted", wanted.name),
        (None, false) if resources.is_empty() => return,
        (None, false) => format!("Container {} resize requires restart", wanted.name),
    };
    let of_probe = failed.and_then(|_| probe_grace(wanted));
    plan.actions.push(Action::Kill {
        id: container.id.clone(),
        container: wanted.name.clone(),
        grace_s: of_probe.or(spec.termination_grace_period_seconds).unwrap_or(30),
        message,
    });
}

fn probe_grace(wanted: &Wanted) -> Option<i64> {
    let liveness = wanted
        .liveness_probe
        .as_ref()
        .and_then(|probe| probe.termination_grace_period_seconds);
    liveness.or_else(|| {
        wanted
            .startup_probe
            .as_ref()
            .and_then(|probe| probe.termination_grace_period_seconds)
    })
}

/// An init container that keeps running beside the ordinary ones.
pub fn is_sidecar(wanted: &Wanted) -> bool {
    wanted.restart_policy.as_deref() == Some("Always")
}

/// Whether the container is started again after it ended.
pub fn should_restart(spec: &PodSpec, wanted: &Wanted, container: &Container, situation: &Situation<'_>) -> bool {
    let is_ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .any(|ephemeral| ephemeral.name == wanted.name);
    if is_ephemeral {
        return false;
    }
    let is_init = spec
        .init_containers
        .iter()
        .flatten()
        .any(|init| init.name == wanted.name);
    let ok = container.state == State::Exited && container.exit_code == 0;
    if is_init && !is_sidecar(wanted) {
        let here = situation
            .observed
            .ready_sandbox()
            .is_some_and(|sandbox| sandbox.id == container.sandbox_id);
        let never = spec.restart_policy.as_deref() == Some("Never");
        if never && here && container.state == State::Exited {
            return false;
        }
        return !(ok && here);
    }
    if is_sidecar(wanted) {
        return true;
    }
    if container.state == State::Exited && restarts_by_rule(wanted, container.exit_code) {
        return true;
    }
    match (
        wanted.restart_policy.as_deref().or(spec.restart_policy.as_deref()),
        container.state,
    ) {
        (_, State::Created) => true,
        (Some("Never"), _) => false,
        (Some("OnFailure"), _) => !ok,
        _ => true,
    }
}

/// Whether one of the container's own rules restarts it after this exit code.
fn restarts_by_rule(wanted: &Wanted, code: i32) -> bool {
    wanted.restart_policy_rules.iter().flatten().any(|rule| {
        let codes = rule.exit_codes.as_ref();
        let listed = codes.is_some_and(|codes| codes.values.iter().flatten().any(|value| *value == code));
        let holds = codes.is_some_and(|codes| match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        });
        rule.action == "Restart" && holds
    })
}

/// Whether the pod ran to its end: nothing is running or will be started again.
fn is_complete(situation: &Situation<'_>, spec: &PodSpec) -> bool {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    if policy == "Always" {
        return false;
    }
    let ended = |wanted: &Wanted| {
        situation.observed.newest(&wanted.name).is_some_and(|container| {
            container.state == State::Exited && !should_restart(spec, wanted, container, situation)
        })
    };
    let init_failed = policy == "Never"
        && spec
            .init_containers
            .iter()
            .flatten()
            .filter(|wanted| !is_sidecar(wanted))
            .any(|wanted| {
                situation
                    .observed
                    .newest(&wanted.name)
                    .is_some_and(|container| container.state == State::Exited && container.exit_code != 0)
            });
    init_failed || (!spec.containers.is_empty() && spec.containers.iter().all(ended))
}

/// Plans the end of everything; true when nothing runs any more. Sidecars end last, in reverse order.
fn stop_containers(situation: &Situation<'_>, spec: &PodSpec, grace_s: i64, plan: &mut Plan) -> bool {
    let running = |container: &&Container| matches!(container.state, State::Running | State::Unknown);
    let sidecars: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|wanted| is_sidecar(wanted))
        .map(|wanted| wanted.name.as_str())
        .collect();
    let kill = |container: &Container| Action::Kill {
        id: container.id.clone(),
        container: container.name.clone(),
        grace_s,
        message: format!("Stopping container {}", container.name),
    };
    let ordinary: Vec<&Container> = situation
        .observed
        .containers
        .iter()
        .filter(running)
        .filter(|container| !sidecars.contains(&container.name.as_str()))
        .collect();
    if !ordinary.is_empty() {
        plan.actions.extend(ordinary.into_iter().map(kill));
        return false;
    }
    for name in sidecars.iter().rev() {
        let mut left = situation
            .observed
            .containers
            .iter()
            .filter(running)
            .filter(|container| container.name == **name);
        if let Some(container) = left.next() {
            plan.actions.push(kill(container));
            return false;
        }
    }
    match situation.observed.ready_sandbox() {
        Some(sandbox) => {
            plan.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
            false
        }
        None => true,
    }
}

/// `name_namespace(uid)`, the way pods are written in messages.
pub fn full_name(pod: &Pod) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!(
        "{}_{}({})",
        part(&pod.metadata.name),
        part(&pod.metadata.namespace),
        part(&pod.metadata.uid)
    )
}
