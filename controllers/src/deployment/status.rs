//! A Deployment's status: counts, and conditions in Kubernetes' words.

use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;

use super::plan::Draft;
use super::replicas::{actual, available, size};

const PROGRESSING: &str = "Progressing";
const DONE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn find<'a>(status: &'a DeploymentStatus, name: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == name)
}

/// The deadline in seconds; `i32::MAX` means none.
fn deadline_s(deployment: &Deployment) -> Option<i32> {
    let spec = deployment.spec.as_ref();
    let deadline = spec.and_then(|s| s.progress_deadline_seconds);
    deadline.filter(|s| *s != i32::MAX)
}

/// Sets a condition unless it says the same already (same status and reason).
fn set(status: &mut DeploymentStatus, name: &str, (value, reason, message): (&str, &str, &str), now: Timestamp) {
    let old = find(status, name);
    if old.is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return;
    }
    let kept = old.filter(|c| c.status == value);
    let since = kept.and_then(|c| c.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: name.to_string(),
        status: value.to_string(),
        reason: Some(reason.to_string()),
        message: Some(message.to_string()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    };
    remove(status, name);
    status.conditions.get_or_insert_default().push(condition);
}

fn remove(status: &mut DeploymentStatus, name: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != name);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

/// Counts and the Available condition.
fn counted(draft: &Draft<'_>) -> DeploymentStatus {
    let old = draft.deployment.status.clone().unwrap_or_default();
    let sum = |f: &dyn Fn(&ReplicaSet) -> i32| draft.sets.all().map(f).fold(0, i32::saturating_add);
    let ready = |s: &ReplicaSet| s.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    let ending = |s: &ReplicaSet| s.status.as_ref().and_then(|s| s.terminating_replicas);
    let have = sum(&available);
    let terminating = draft.sets.all().map(ending).collect::<Option<Vec<i32>>>();
    let mut status = DeploymentStatus {
        observed_generation: draft.deployment.metadata.generation,
        replicas: some(sum(&actual)),
        updated_replicas: some(draft.sets.new.as_ref().map_or(0, actual)),
        ready_replicas: some(sum(&ready)),
        available_replicas: some(have),
        unavailable_replicas: some(sum(&size).saturating_sub(have).max(0)),
        terminating_replicas: terminating.map(bounded::sum),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = have >= draft.limits.replicas.saturating_sub(draft.limits.unavailable);
    let verdict = if enough {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set(&mut status, "Available", verdict, draft.observed.now);
    status
}

/// Updates counts and availability, leaves progress alone.
pub(super) fn counts_only(draft: &mut Draft<'_>) {
    draft.deployment.status = Some(counted(draft));
}

/// Says whether the rollout is held.
pub(super) fn pause(draft: &mut Draft<'_>) {
    if deadline_s(&draft.deployment).is_none() {
        return;
    }
    let paused = draft.deployment.spec.as_ref().is_some_and(|s| s.paused == Some(true));
    let mut status = draft.deployment.status.clone().unwrap_or_default();
    let reason = find(&status, PROGRESSING).and_then(|c| c.reason.clone());
    let verdict = match (reason.as_deref(), paused) {
        (Some(TIMED_OUT), _) => return,
        (Some("DeploymentPaused"), false) => ("Unknown", "DeploymentResumed", "Deployment is resumed"),
        (Some("DeploymentPaused"), true) => return,
        (_, true) => ("Unknown", "DeploymentPaused", "Deployment is paused"),
        (_, false) => return,
    };
    set(&mut status, PROGRESSING, verdict, draft.observed.now);
    draft.deployment.status = Some(status);
}

fn progressing(draft: &mut Draft<'_>, value: &str, reason: &str, message: &str) {
    if deadline_s(&draft.deployment).is_none() {
        return;
    }
    let mut status = draft.deployment.status.clone().unwrap_or_default();
    set(&mut status, PROGRESSING, (value, reason, message), draft.observed.now);
    draft.deployment.status = Some(status);
}

/// The new set has just been made.
pub(super) fn created(draft: &mut Draft<'_>, name: &str) {
    let message = format!("Created new replica set \"{name}\"");
    progressing(draft, "True", "NewReplicaSetCreated", &message);
}

/// The new set was there already, and progress has not been reported yet.
pub(super) fn found(draft: &mut Draft<'_>, name: &str) {
    let status = draft.deployment.status.as_ref();
    if status.is_none_or(|s| find(s, PROGRESSING).is_none()) {
        let message = format!("Found new replica set \"{name}\"");
        progressing(draft, "True", "FoundNewReplicaSet", &message);
    }
}

/// The status after the new set could not be made.
pub(super) fn creation_failed(
    deployment: &Deployment,
    name: &str,
    error: &str,
    now: Timestamp,
) -> Option<DeploymentStatus> {
    deadline_s(deployment)?;
    let mut status = deployment.status.clone().unwrap_or_default();
    let message = format!("Failed to create new replica set \"{name}\": {error}");
    let verdict = ("False", "ReplicaSetCreateError", message.as_str());
    set(&mut status, PROGRESSING, verdict, now);
    (deployment.status.as_ref() != Some(&status)).then_some(status)
}

fn complete(draft: &Draft<'_>, status: &DeploymentStatus) -> bool {
    let wanted = draft.limits.replicas;
    let is = |count: Option<i32>| count.unwrap_or(0) == wanted;
    is(status.updated_replicas)
        && is(status.replicas)
        && is(status.available_replicas)
        && status.observed_generation >= draft.deployment.metadata.generation
}

/// Everything wanted is updated and available, and nothing old is left.
pub(super) fn is_complete(draft: &Draft<'_>) -> bool {
    let status = draft.observed.deployment.status.clone().unwrap_or_default();
    complete(draft, &status)
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    n(new.updated_replicas) > n(old.updated_replicas)
        || n(new.replicas).saturating_sub(n(new.updated_replicas))
            < n(old.replicas).saturating_sub(n(old.updated_replicas))
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// When the current lack of progress exceeds the deadline.
fn due(draft: &Draft<'_>, status: &DeploymentStatus) -> Option<Timestamp> {
    let deadline_s = i64::from(deadline_s(&draft.deployment)?);
    let since = find(status, PROGRESSING)?.last_update_time.as_ref()?.0;
    Some(bounded::after(since, deadline_s))
}

/// The full status during a rollout, with progress and failures.
pub(super) fn rollout(draft: &mut Draft<'_>) {
    let now = draft.observed.now;
    let old = draft.deployment.status.clone().unwrap_or_default();
    let mut status = counted(draft);
    let has_deadline = deadline_s(&draft.deployment).is_some();
    if !has_deadline {
        remove(&mut status, PROGRESSING);
    }
    let current = find(&old, PROGRESSING).cloned();
    let reason = current.as_ref().and_then(|c| c.reason.as_deref());
    let settled = status.replicas == status.updated_replicas && reason == Some(DONE);
    if has_deadline && !settled {
        progress(draft, &old, &mut status);
    }
    replica_failures(draft, &mut status);
    let reason = find(&status, PROGRESSING).and_then(|c| c.reason.clone());
    let running = !complete(draft, &status) && reason.as_deref() != Some(TIMED_OUT);
    if let Some(due) = due(draft, &status).filter(|_| running) {
        let left = bounded::until(due, now).unwrap_or_default();
        draft.plan.requeue_after = Some(left.saturating_add(Duration::from_secs(1)));
    }
    draft.deployment.status = Some(status);
}

fn progress(draft: &Draft<'_>, old: &DeploymentStatus, status: &mut DeploymentStatus) {
    let now = draft.observed.now;
    let deployment = draft.deployment.metadata.name.as_deref().unwrap_or_default();
    let set_name = draft.sets.new.as_ref().and_then(|s| s.metadata.name.as_deref());
    let subject = match set_name {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => format!("Deployment \"{deployment}\""),
    };
    let current = find(old, PROGRESSING);
    let reason = current.and_then(|c| c.reason.as_deref());
    if complete(draft, status) {
        let message = format!("{subject} has successfully progressed.");
        set(status, PROGRESSING, ("True", DONE, &message), now);
    } else if has_progressed(old, status) {
        let message = format!("{subject} is progressing.");
        let kept = current.filter(|c| c.status == "True");
        let since = kept.and_then(|c| c.last_transition_time.clone());
        remove(status, PROGRESSING);
        set(status, PROGRESSING, ("True", "ReplicaSetUpdated", &message), now);
        let new = status.conditions.iter_mut().flatten().find(|c| c.type_ == PROGRESSING);
        if let (Some(new), Some(since)) = (new, since) {
            new.last_transition_time = Some(since);
        }
    } else if reason != Some(DONE) {
        let late = reason == Some(TIMED_OUT) || due(draft, status).is_some_and(|due| due < now);
        if late {
            let message = format!("{subject} has timed out progressing.");
            set(status, PROGRESSING, ("False", TIMED_OUT, &message), now);
        }
    }
}

/// A set's failure to make pods shows on the Deployment.
fn replica_failures(draft: &Draft<'_>, status: &mut DeploymentStatus) {
    let failure = draft.sets.all().find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_ == "ReplicaFailure")
    });
    match failure {
        Some(c) => {
            let reason = c.reason.as_deref().unwrap_or_default();
            let message = c.message.as_deref().unwrap_or_default();
            set(
                status,
                "ReplicaFailure",
                (&c.status, reason, message),
                draft.observed.now,
            );
        }
        None => remove(status, "ReplicaFailure"),
    }
}
