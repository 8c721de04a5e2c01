//! How far an applied object has come, decided from what the cluster says about it and its pods.

use std::collections::BTreeMap;

use serde_json::Value;

/// What is known about one namespace.
#[derive(Default)]
pub struct Scene {
    /// Workloads and ReplicaSets by uid.
    pub objects: BTreeMap<String, Value>,
    /// Pods by uid.
    pub pods: BTreeMap<String, Value>,
    /// Warning events by uid.
    pub events: BTreeMap<String, Value>,
}

/// How far an object has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Waiting(String),
    Done(String),
    Failed(Failure),
    /// A failure if it lasts: the cluster may still be making room.
    Stuck(Failure),
}

/// Why an object will not get there by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One sentence.
    pub cause: String,
    /// The container whose last log lines help: pod, container, and whether they are its previous run's.
    pub log: Option<(String, String, bool)>,
}

impl Failure {
    fn plain(cause: String) -> Self {
        Self { cause, log: None }
    }
}

/// Kinds that take time after they are accepted.
#[must_use]
pub fn takes_time(api_version: &str, kind: &str) -> bool {
    matches!(
        (api_version, kind),
        ("v1", "Pod" | "ReplicationController")
            | ("apps/v1", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
            | ("batch/v1", "Job")
    )
}

/// Looks at one object. `known` is its state in the scene, absent until the watch has delivered it. All pods
/// of an object that is `new` are new too: one that was restarted after a failure counts as failed even when
/// it runs again at the moment.
#[must_use]
pub fn judge(kind: &str, known: Option<&Value>, new: bool, scene: &Scene) -> Verdict {
    let Some(object) = known else {
        return Verdict::Waiting("waiting for the server".into());
    };
    let pods = pods_of(kind, object, scene);
    let progress = match kind {
        "Deployment" => deployment(object),
        "StatefulSet" => stateful_set(object),
        "DaemonSet" => daemon_set(object),
        "ReplicaSet" | "ReplicationController" => replica_set(object),
        "Job" => job(object),
        _ => pod(object),
    };
    if !matches!(progress, Verdict::Waiting(_)) {
        let crashed = pods
            .into_iter()
            .filter(|_| new && kind != "Job")
            .find_map(|pod| crash(pod, scene));
        return match progress {
            Verdict::Done(_) => crashed.map_or(progress, Verdict::Failed),
            other => other,
        };
    }
    let mut stuck = None;
    for pod in pods {
        match pod_failure(pod, scene, kind == "Job") {
            Some(Verdict::Failed(failure)) => return Verdict::Failed(failure),
            Some(other) => stuck = Some(other),
            None => {}
        }
    }
    stuck.unwrap_or(progress)
}

fn int(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object
        .pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind)
}

fn unobserved(object: &Value) -> bool {
    int(object, "/status/observedGeneration") < int(object, "/metadata/generation")
}

fn deployment(object: &Value) -> Verdict {
    if unobserved(object) {
        return Verdict::Waiting("waiting for the controller".into());
    }
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    if object.pointer("/spec/paused") == Some(&Value::Bool(true)) {
        return Verdict::Done("paused".into());
    }
    if let Some(c) = condition(object, "Progressing").filter(|c| c["reason"] == "ProgressDeadlineExceeded") {
        return Verdict::Failed(Failure::plain(format!(
            "exceeded its progress deadline: {}",
            text(c, "/message")
        )));
    }
    if let Some(c) = condition(object, "ReplicaFailure").filter(|c| c["status"] == "True") {
        return Verdict::Failed(Failure::plain(format!(
            "{}: {}",
            text(c, "/reason"),
            text(c, "/message")
        )));
    }
    let (updated, total) = (int(object, "/status/updatedReplicas"), int(object, "/status/replicas"));
    let available = int(object, "/status/availableReplicas");
    if updated < wanted {
        return Verdict::Waiting(format!("{updated} of {wanted} replicas updated"));
    }
    if total > updated {
        return Verdict::Waiting(format!(
            "{available} of {wanted} replicas available, {} old to go",
            total - updated
        ));
    }
    progress(available.min(updated), wanted, "available")
}

fn progress(have: i64, wanted: i64, word: &str) -> Verdict {
    let line = format!("{have} of {wanted} replicas {word}");
    if have >= wanted {
        Verdict::Done(line)
    } else {
        Verdict::Waiting(line)
    }
}

fn stateful_set(object: &Value) -> Verdict {
    if unobserved(object) {
        return Verdict::Waiting("waiting for the controller".into());
    }
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let current = text(object, "/status/updateRevision") == text(object, "/status/currentRevision");
    let (ready, updated) = (
        int(object, "/status/readyReplicas"),
        int(object, "/status/updatedReplicas"),
    );
    let rolling = text(object, "/spec/updateStrategy/type") != "OnDelete";
    progress(
        if rolling && !current { ready.min(updated) } else { ready },
        wanted,
        "ready",
    )
}

fn daemon_set(object: &Value) -> Verdict {
    if unobserved(object) {
        return Verdict::Waiting("waiting for the controller".into());
    }
    let wanted = int(object, "/status/desiredNumberScheduled");
    let have = int(object, "/status/updatedNumberScheduled").min(int(object, "/status/numberAvailable"));
    let line = format!("available on {have} of {wanted} nodes");
    if have >= wanted {
        Verdict::Done(line)
    } else {
        Verdict::Waiting(line)
    }
}

fn replica_set(object: &Value) -> Verdict {
    if unobserved(object) {
        return Verdict::Waiting("waiting for the controller".into());
    }
    if let Some(c) = condition(object, "ReplicaFailure").filter(|c| c["status"] == "True") {
        return Verdict::Failed(Failure::plain(format!(
            "{}: {}",
            text(c, "/reason"),
            text(c, "/message")
        )));
    }
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    progress(int(object, "/status/readyReplicas"), wanted, "ready")
}

fn job(object: &Value) -> Verdict {
    if condition(object, "Complete").is_some_and(|c| c["status"] == "True") {
        return Verdict::Done("complete".into());
    }
    if let Some(c) = condition(object, "Failed").filter(|c| c["status"] == "True") {
        return Verdict::Failed(Failure::plain(format!(
            "{}: {}",
            text(c, "/reason"),
            text(c, "/message")
        )));
    }
    if object.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
        return Verdict::Done("suspended".into());
    }
    let wanted = object.pointer("/spec/completions").and_then(Value::as_i64).unwrap_or(1);
    Verdict::Waiting(format!("{} of {wanted} completions", int(object, "/status/succeeded")))
}

fn pod(object: &Value) -> Verdict {
    match text(object, "/status/phase") {
        "Succeeded" => return Verdict::Done("succeeded".into()),
        "Failed" => {
            let (reason, message) = (text(object, "/status/reason"), text(object, "/status/message"));
            if !reason.is_empty() {
                return Verdict::Failed(Failure::plain(format!("{reason}: {message}")));
            }
        }
        _ => {}
    }
    if condition(object, "Ready").is_some_and(|c| c["status"] == "True") {
        return Verdict::Done("ready".into());
    }
    let phase = text(object, "/status/phase");
    Verdict::Waiting(if phase.is_empty() {
        "waiting to be scheduled".into()
    } else {
        phase.to_lowercase()
    })
}

/// The pods whose state decides about the object: of a Deployment those of its newest ReplicaSet.
fn pods_of<'s>(kind: &str, object: &'s Value, scene: &'s Scene) -> Vec<&'s Value> {
    let uid = text(object, "/metadata/uid");
    let owned_by = |owner: &str, other: &Value| {
        other
            .pointer("/metadata/ownerReferences")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|o| o["uid"] == owner)
    };
    let revision = |o: &Value| {
        o.pointer("/metadata/annotations")
            .and_then(|a| a["deployment.kubernetes.io/revision"].as_str()?.parse().ok())
            .unwrap_or(0_i64)
    };
    let owner = match kind {
        "Pod" => return vec![object],
        "Deployment" => {
            let newest = scene
                .objects
                .values()
                .filter(|o| o["kind"] == "ReplicaSet" && owned_by(uid, o))
                .max_by_key(|o| revision(o));
            match newest {
                Some(set) => text(set, "/metadata/uid"),
                None => return Vec::new(),
            }
        }
        _ => uid,
    };
    scene.pods.values().filter(|pod| owned_by(owner, pod)).collect()
}

fn pod_failure(pod: &Value, scene: &Scene, may_fail: bool) -> Option<Verdict> {
    let name = text(pod, "/metadata/name");
    if pod.pointer("/metadata/deletionTimestamp").is_some()
        || condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
    {
        return None;
    }
    if let Some(c) = condition(pod, "PodScheduled").filter(|c| c["status"] == "False" && c["reason"] == "Unschedulable")
    {
        return Some(Verdict::Stuck(Failure::plain(format!(
            "pod {name} cannot be scheduled: {}",
            text(c, "/message")
        ))));
    }
    if let Some(failure) = containers_failure(pod, scene, may_fail) {
        return Some(Verdict::Failed(failure));
    }
    probe_failure(pod, name, scene)
        .or_else(|| start_failure(pod, name, scene))
        .map(Verdict::Stuck)
}

/// Why the containers of a pod cannot even be made: no network, or a volume that is not there.
fn start_failure(pod: &Value, name: &str, scene: &Scene) -> Option<Failure> {
    let begun = pod["status"]["containerStatuses"]
        .as_array()
        .is_some_and(|all| all.iter().any(|status| status["state"]["waiting"].is_null()));
    let event = events_of(pod, scene)
        .filter(|_| !begun)
        .find(|e| matches!(text(e, "/reason"), "FailedCreatePodSandBox" | "FailedMount"))?;
    Some(Failure::plain(format!(
        "pod {name} cannot start: {}",
        text(event, "/message")
    )))
}

/// A failed run of a pod that is up again.
fn crash(pod: &Value, scene: &Scene) -> Option<Failure> {
    if text(pod, "/status/phase") == "Succeeded" {
        None
    } else {
        containers_failure(pod, scene, false)
    }
}

fn containers_failure(pod: &Value, scene: &Scene, may_fail: bool) -> Option<Failure> {
    let name = text(pod, "/metadata/name");
    ["initContainerStatuses", "containerStatuses"]
        .iter()
        .flat_map(|list| pod["status"][*list].as_array().into_iter().flatten())
        .find_map(|status| container_failure(pod, name, status, scene, may_fail))
}

fn container_failure(pod: &Value, name: &str, status: &Value, scene: &Scene, may_fail: bool) -> Option<Failure> {
    let container = text(status, "/name");
    let (reason, message) = (
        text(status, "/state/waiting/reason"),
        text(status, "/state/waiting/message"),
    );
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
            let image = text(status, "/image");
            let why = if reason == "ImagePullBackOff" {
                pull_message(pod, scene).unwrap_or(message)
            } else {
                message
            };
            return Some(Failure::plain(format!(
                "pod {name}: image \"{image}\" cannot be had: {why}"
            )));
        }
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "PreStartHookError"
        | "PostStartHookError" => {
            return Some(Failure::plain(format!(
                "pod {name}: container {container} cannot start: {message}"
            )));
        }
        _ => {}
    }
    if may_fail {
        return None;
    }
    let (ended, previous) = match (
        status.pointer("/state/terminated"),
        status.pointer("/lastState/terminated"),
    ) {
        (Some(now), _) => (now, false),
        (None, Some(before)) => (before, true),
        _ => return None,
    };
    let code = int(ended, "/exitCode");
    // An init container that ended well, or a container that waits for its turn again after success.
    if code == 0 && text(ended, "/reason") != "Error" {
        return None;
    }
    let killed_by_probe = probe_message(pod, scene, "Liveness").or_else(|| probe_message(pod, scene, "Startup"));
    let cause = match (text(ended, "/reason"), killed_by_probe) {
        ("OOMKilled", _) => format!("pod {name}: container {container} used more memory than its limit and was killed"),
        (_, Some(probe)) => format!("pod {name}: container {container} was restarted: {probe}"),
        (_, None) => {
            let note = text(ended, "/message");
            let note = if note.is_empty() {
                String::new()
            } else {
                format!(": {note}")
            };
            format!("pod {name}: container {container} exited with code {code}{note}")
        }
    };
    Some(Failure {
        cause,
        log: Some((name.to_owned(), container.to_owned(), previous)),
    })
}

fn events_of<'s>(pod: &'s Value, scene: &'s Scene) -> impl Iterator<Item = &'s Value> {
    let uid = text(pod, "/metadata/uid");
    scene
        .events
        .values()
        .filter(move |event| event.pointer("/involvedObject/uid").and_then(Value::as_str) == Some(uid))
}

/// Why the last pull failed, while the pod only says that it is being retried.
fn pull_message<'s>(pod: &'s Value, scene: &'s Scene) -> Option<&'s str> {
    events_of(pod, scene)
        .filter(|e| e["reason"] == "Failed")
        .map(|e| text(e, "/message"))
        .find(|m| m.starts_with("Failed to pull"))
}

fn probe_message<'s>(pod: &'s Value, scene: &'s Scene, probe: &str) -> Option<&'s str> {
    let unhealthy = events_of(pod, scene).filter(|e| e["reason"] == "Unhealthy");
    unhealthy.map(|e| text(e, "/message")).find(|m| m.starts_with(probe))
}

/// A readiness probe that failed as often as it may.
fn probe_failure(pod: &Value, name: &str, scene: &Scene) -> Option<Failure> {
    let threshold = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|c| {
            c.pointer("/readinessProbe/failureThreshold")
                .and_then(Value::as_i64)
                .unwrap_or(3)
        })
        .max()
        .unwrap_or(3);
    let failed: Vec<&Value> = events_of(pod, scene)
        .filter(|e| e["reason"] == "Unhealthy" && text(e, "/message").starts_with("Readiness"))
        .collect();
    let count: i64 = failed
        .iter()
        .map(|e| int(e, "/count").max(int(e, "/series/count")).max(1))
        .sum();
    let last = failed.last()?;
    (count >= threshold).then(|| Failure::plain(format!("pod {name} is not ready: {}", text(last, "/message"))))
}

#[cfg(test)]
mod tests;
