//! A pod's status from what the runtime has: phases, conditions and container states in the words and
//! by the rules every Kubernetes client knows. Pure.

use coxswain_api::bounded;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as Wanted, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::fields::{self, NodeFacts};
use super::plan::{Memory, Plan, is_sidecar};
use super::{reported, resize};
use crate::runtime::{Container, Observed, State};

/// Everything a status is made from.
pub struct Inputs<'a> {
    /// The pod with its last status.
    pub pod: &'a Pod,
    /// What the runtime has.
    pub observed: &'a Observed,
    /// What the worker remembers.
    pub memory: &'a Memory,
    /// What is planned, for the reasons of waiting containers.
    pub plan: &'a Plan,
    /// The node.
    pub node: &'a NodeFacts,
    /// The pod ended or is to end and nothing runs any more.
    pub settled: bool,
    /// Now.
    pub now: Timestamp,
}

/// The status to report.
pub fn status(inputs: &Inputs<'_>) -> PodStatus {
    let Inputs {
        pod,
        observed,
        memory,
        node,
        now,
        ..
    } = inputs;
    let spec = pod.spec.clone().unwrap_or_default();
    let old = pod.status.clone().unwrap_or_default();
    let init: Vec<ContainerStatus> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|wanted| container(inputs, wanted, true))
        .collect();
    let ordinary: Vec<ContainerStatus> = spec
        .containers
        .iter()
        .map(|wanted| container(inputs, wanted, false))
        .collect();
    let ephemeral: Vec<ContainerStatus> = fields::ephemeral(pod)
        .iter()
        .map(|wanted| ContainerStatus {
            ready: false,
            started: None,
            ..container(inputs, wanted, false)
        })
        .collect();
    let phase = phase(inputs, &spec, &old, &init, &ordinary);
    let (phase, failed) = match old.phase.as_deref() {
        Some(before @ ("Pending" | "Running")) if is_final(&phase) && observed.any_running() => {
            // Others start replacements of pods that ended: none does while a container still runs.
            (before.to_string(), None)
        }
        _ => (phase, memory.failed.as_ref()),
    };
    let (reason, message) = match failed {
        Some((reason, message)) => (Some(reason.clone()), Some(message.clone())),
        None => (old.reason.clone(), old.message.clone()),
    };
    let host_network = spec.host_network.unwrap_or(false);
    let ips: Vec<String> = match observed.ready_sandbox() {
        Some(_) if host_network => node.ips.clone(),
        Some(sandbox) => sandbox.ips.clone(),
        None => old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    };
    // Nothing was ever made of a pod that the node refused: its containers have no state.
    let refused = memory.failed.is_some() && observed.containers.is_empty() && observed.sandboxes.is_empty();
    let conditions = conditions(inputs, &spec, &old, &phase, &init, &ordinary);
    PodStatus {
        phase: Some(phase),
        reason,
        message,
        conditions: Some(conditions),
        host_ip: node.ips.first().cloned(),
        host_ips: Some(node.ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: old.start_time.clone().or_else(|| Some(Time(seconds(*now)))),
        init_container_statuses: (!init.is_empty() && !refused).then_some(init),
        container_statuses: (!refused).then_some(ordinary),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        qos_class: old.qos_class.clone(),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn container(inputs: &Inputs<'_>, wanted: &Wanted, is_init: bool) -> ContainerStatus {
    let found = inputs.observed.newest(&wanted.name);
    let previous = inputs.observed.previous(&wanted.name);
    let has_init = inputs
        .pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.init_containers.as_ref().is_some_and(|l| !l.is_empty()));
    let default_reason = if has_init {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let in_post_start = inputs.memory.in_post_start.contains(&wanted.name);
    let shown = found.filter(|container| !(in_post_start && container.state == State::Running));
    let mut state = shown.map_or_else(
        || waiting(default_reason, ""),
        |container| runtime_state(container, default_reason),
    );
    let mut last = previous
        .filter(|container| container.state == State::Exited)
        .map(terminated);
    if let Some(reason) = inputs.plan.waiting.get(&wanted.name) {
        if let Some(ended) = state.terminated.take() {
            last = Some(ContainerState {
                terminated: Some(ended),
                ..ContainerState::default()
            });
        }
        state = waiting(&reason.reason, &reason.message);
    }
    if inputs.settled && found.is_none() && inputs.pod.metadata.deletion_timestamp.is_some() {
        state = waiting(default_reason, "");
    }
    let health = shown
        .filter(|container| container.state == State::Running)
        .and_then(|container| inputs.memory.health.get(&container.id));
    let running = shown.is_some_and(|container| container.state == State::Running);
    let started = running && health.is_some_and(|health| health.started);
    let ready = if is_init && !is_sidecar(wanted) {
        found.is_some_and(|container| container.state == State::Exited && container.exit_code == 0)
    } else {
        started && health.is_some_and(|health| health.ready)
    };
    let old = reported::statuses(inputs.pod).find(|status| status.name == wanted.name);
    let resize = &inputs.memory.resize;
    let allocated = resize.allocated.get(&wanted.name).or(wanted.resources.as_ref());
    ContainerStatus {
        name: wanted.name.clone(),
        state: Some(state),
        last_state: Some(last.unwrap_or_default()),
        ready,
        started: Some(started),
        restart_count: found.map_or_else(
            || old.map_or(0, |old| old.restart_count),
            |container| i32::try_from(container.restarts).unwrap_or(i32::MAX),
        ),
        image: found
            .map(|container| container.image.clone())
            .filter(|image| !image.is_empty())
            .unwrap_or_else(|| wanted.image.clone().unwrap_or_default()),
        image_id: found.map(|container| container.image_ref.clone()).unwrap_or_default(),
        container_id: found.map(container_id),
        allocated_resources: allocated
            .and_then(|resources| resources.requests.clone())
            .filter(|r| !r.is_empty() && running),
        resources: running.then(|| {
            let given = found
                .and_then(|container| resize.actual.get(&container.id))
                .or(allocated);
            ResourceRequirements {
                claims: None,
                ..given.cloned().unwrap_or_default()
            }
        }),
        volume_mounts: mounts(wanted),
        ..ContainerStatus::default()
    }
}

fn mounts(wanted: &Wanted) -> Option<Vec<VolumeMountStatus>> {
    let mounts = wanted.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let read_only = |mount: &k8s_openapi::api::core::v1::VolumeMount| mount.read_only.filter(|read_only| *read_only);
    Some(
        mounts
            .iter()
            .map(|mount| VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: read_only(mount),
                recursive_read_only: read_only(mount).map(|_| "Disabled".to_string()),
                ..VolumeMountStatus::default()
            })
            .collect(),
    )
}

fn container_id(container: &Container) -> String {
    format!("containerd://{}", container.id)
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = Some(message.to_string()).filter(|message| !message.is_empty());
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_string()),
            message,
        }),
        ..ContainerState::default()
    }
}

fn runtime_state(container: &Container, default_reason: &str) -> ContainerState {
    match container.state {
        State::Created => waiting(default_reason, ""),
        State::Running => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: container.started_at.map(seconds).map(Time),
            }),
            ..ContainerState::default()
        },
        State::Exited | State::Unknown => terminated(container),
    }
}

fn terminated(container: &Container) -> ContainerState {
    let reason = match (container.reason.as_str(), container.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(container)),
            exit_code: container.exit_code,
            reason: Some(reason.to_string()),
            message: Some(container.message.clone()).filter(|message| !message.is_empty()),
            started_at: Some(Time(container.started_at.map_or(Timestamp::UNIX_EPOCH, seconds))),
            finished_at: Some(Time(container.finished_at.map_or(Timestamp::UNIX_EPOCH, seconds))),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

fn failed_init(spec: &PodSpec, init: &[ContainerStatus]) -> (bool, bool) {
    let mut pending = false;
    let mut failed = false;
    for status in init {
        let sidecar = spec
            .init_containers
            .iter()
            .flatten()
            .any(|wanted| wanted.name == status.name && is_sidecar(wanted));
        let state = status.state.clone().unwrap_or_default();
        if sidecar {
            pending |= !status.started.unwrap_or(false) && state.terminated.is_none();
            continue;
        }
        match (&state.terminated, &state.waiting) {
            (Some(ended), _) => failed |= ended.exit_code != 0,
            (None, Some(_)) => {
                let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
                failed |= last.is_some_and(|last| last.exit_code != 0);
                pending |= last.is_none_or(|last| last.exit_code == 0);
            }
            (None, None) => pending = true,
        }
    }
    (pending, failed)
}

fn is_final(phase: &str) -> bool {
    matches!(phase, "Failed" | "Succeeded")
}

fn phase(
    inputs: &Inputs<'_>,
    spec: &PodSpec,
    old: &PodStatus,
    init: &[ContainerStatus],
    ordinary: &[ContainerStatus],
) -> String {
    if let Some(phase @ ("Failed" | "Succeeded")) = old.phase.as_deref() {
        return phase.to_string();
    }
    if inputs.memory.failed.is_some() {
        return "Failed".into();
    }
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let (init_pending, init_failed) = failed_init(spec, init);
    if init_failed && policy == "Never" {
        return "Failed".into();
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0_usize, 0_usize, 0_usize, 0_usize);
    let sidecars = init.iter().filter(|status| {
        let mut wanted = spec.init_containers.iter().flatten();
        wanted.any(|wanted| wanted.name == status.name && is_sidecar(wanted))
    });
    let runs = |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    let sidecars_running = sidecars.filter(runs).count();
    for status in ordinary {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            bounded::count(&mut running);
        } else if let Some(ended) = &state.terminated {
            bounded::count(&mut stopped);
            succeeded = succeeded.saturating_add(usize::from(ended.exit_code == 0));
        } else if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
            bounded::count(&mut stopped);
        } else {
            bounded::count(&mut waiting);
        }
    }
    let begun = running > 0 || stopped > 0;
    let ending = inputs.settled && inputs.pod.metadata.deletion_timestamp.is_some();
    let word = if (init_pending || init_failed) && !begun && !ending {
        "Pending"
    } else if ending && running == 0 {
        if stopped > 0 && stopped == succeeded && waiting == 0 {
            "Succeeded"
        } else {
            "Failed"
        }
    } else if waiting > 0 {
        "Pending"
    } else if running > 0 || sidecars_running > 0 {
        "Running"
    } else if stopped > 0 {
        match policy {
            "Always" => "Running",
            _ if stopped == succeeded => "Succeeded",
            "Never" => "Failed",
            _ => "Running",
        }
    } else {
        "Pending"
    };
    word.to_string()
}

/// A condition's status, reason and message.
type Verdict = (bool, Option<String>, Option<String>);

/// The conditions of a resize that waits or is under way; none otherwise.
fn resizing(inputs: &Inputs<'_>, spec: &PodSpec) -> Option<(&'static str, Verdict)> {
    let resize = &inputs.memory.resize;
    if let Some(pending) = &resize.pending {
        let verdict = (true, Some(pending.reason().to_string()), Some(pending.message()));
        return Some(("PodResizePending", verdict));
    }
    let under_way = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|wanted| {
            let running = inputs.observed.newest(&wanted.name);
            let actual = running.and_then(|container| resize.actual.get(&container.id));
            actual.is_some_and(|actual| !resize::changed(wanted, actual).is_empty())
        });
    let reason = resize.error.as_ref().map(|_| "Error".to_string());
    under_way.then(|| ("PodResizeInProgress", (true, reason, resize.error.clone())))
}

fn conditions(
    inputs: &Inputs<'_>,
    spec: &PodSpec,
    old: &PodStatus,
    phase: &str,
    init: &[ContainerStatus],
    ordinary: &[ContainerStatus],
) -> Vec<PodCondition> {
    let yes: Verdict = (true, None, None);
    let no = |reason: &str, message: Option<String>| -> Verdict { (false, Some(reason.to_string()), message) };
    let listed = |kind: &str, names: Vec<&str>| format!("containers with {kind} status: [{}]", names.join(" "));
    let sandbox = inputs.observed.ready_sandbox();
    let network = sandbox.is_some_and(|sandbox| spec.host_network.unwrap_or(false) || !sandbox.ips.is_empty());
    let incomplete: Vec<&str> = init
        .iter()
        .filter(|status| {
            let sidecar = spec
                .init_containers
                .iter()
                .flatten()
                .any(|w| w.name == status.name && is_sidecar(w));
            if sidecar {
                !status.started.unwrap_or(false)
            } else {
                !status.ready
            }
        })
        .map(|status| status.name.as_str())
        .collect();
    let begun = ordinary.iter().any(|status| status.container_id.is_some());
    let initialized = if phase == "Succeeded" {
        (true, Some("PodCompleted".to_string()), None)
    } else if incomplete.is_empty() || begun {
        yes.clone()
    } else {
        no("ContainersNotInitialized", Some(listed("incomplete", incomplete)))
    };
    let sidecars = init.iter().filter(|status| {
        spec.init_containers
            .iter()
            .flatten()
            .any(|w| w.name == status.name && is_sidecar(w))
    });
    let unready: Vec<&str> = sidecars
        .chain(ordinary)
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    let containers_ready = match phase {
        "Succeeded" => no("PodCompleted", None),
        "Failed" => no("PodFailed", None),
        _ if unready.is_empty() => yes.clone(),
        _ => no("ContainersNotReady", Some(listed("unready", unready))),
    };
    let gates: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let wanted = &gate.condition_type;
            let found = old
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == *wanted);
            match found {
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{wanted}\" does not exist."
                )),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{wanted}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    let ready = if containers_ready.0 && !gates.is_empty() {
        no("ReadinessGatesNotReady", Some(gates.join(", ")))
    } else {
        containers_ready.clone()
    };
    let network = (network, None, None);
    let list = [
        ("PodReadyToStartContainers", network),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", yes),
    ];
    list.into_iter()
        .chain(resizing(inputs, spec))
        .map(|(kind, (holds, reason, message))| {
            let status = if holds { "True" } else { "False" };
            let before = old
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == kind);
            let since = before
                .filter(|condition| condition.status == status)
                .and_then(|condition| condition.last_transition_time.clone())
                .unwrap_or_else(|| Time(seconds(inputs.now)));
            PodCondition {
                type_: kind.to_string(),
                status: status.to_string(),
                reason,
                message,
                last_transition_time: Some(since),
                last_probe_time: None,
                observed_generation: inputs.pod.metadata.generation,
            }
        })
        .collect()
}
