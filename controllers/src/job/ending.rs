//! Whether and how a Job ends, and the conditions that say so.

use std::sync::Arc;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;

use super::count::{Count, is_indexed};
use super::indexes::Indexes;
use super::policy::restarts;

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    pub won: bool,
    pub reason: String,
    pub message: String,
}

impl Ending {
    fn lost(reason: &str, message: impl Into<String>) -> Option<Ending> {
        Some(Ending {
            won: false,
            reason: reason.to_string(),
            message: message.into(),
        })
    }

    fn won(reason: &str, message: impl Into<String>) -> Option<Ending> {
        let ending = Ending::lost(reason, message)?;
        Some(Ending { won: true, ..ending })
    }

    /// The condition that says it is decided, and the one that says it is done.
    pub fn conditions(&self) -> (&'static str, &'static str) {
        if self.won {
            ("SuccessCriteriaMet", "Complete")
        } else {
            ("FailureTarget", "Failed")
        }
    }
}

/// The true condition of a type.
pub(super) fn condition<'a>(status: Option<&'a JobStatus>, kind: &str) -> Option<&'a JobCondition> {
    let conditions = status?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind && c.status == "True")
}

/// Sets a condition; its time moves only when its status does.
pub(super) fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().position(|c| c.type_ == kind);
    if old.and_then(|at| conditions.get(at)).is_some_and(|c| c.status == value) {
        return;
    }
    let new = JobCondition {
        type_: kind.to_string(),
        status: value.to_string(),
        reason: Some(reason.to_string()),
        message: Some(message.to_string()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match old.and_then(|at| conditions.get_mut(at)) {
        Some(slot) => *slot = new,
        None => conditions.push(new),
    }
}

/// What was decided before.
pub(super) fn decided(job: &Job) -> Option<Ending> {
    for kind in ["FailureTarget", "SuccessCriteriaMet"] {
        if let Some(found) = condition(job.status.as_ref(), kind) {
            return Some(Ending {
                won: kind == "SuccessCriteriaMet",
                reason: found.reason.clone().unwrap_or_default(),
                message: found.message.clone().unwrap_or_default(),
            });
        }
    }
    None
}

/// Whether the Job has failed or succeeded now. The first reason in this order counts.
pub(super) fn decide(job: &Job, spec: &JobSpec, count: &Count, active: &[Arc<Pod>], now: Timestamp) -> Option<Ending> {
    if let Some(why) = &count.fail_job {
        return Ending::lost("PodFailurePolicy", why);
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let on_failure = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    let restarted = bounded::sum(active.iter().map(|pod| restarts(pod)));
    if count.total_failed() > limit || (on_failure && restarted > 0 && restarted >= limit) {
        return Ending::lost("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if deadline_left_s(job, spec, now).is_some_and(|left| left <= 0) {
        return Ending::lost("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    let lost = count.failed_indexes.count();
    if spec.max_failed_indexes.is_some_and(|max| lost > max) {
        return Ending::lost(
            "MaxFailedIndexesExceeded",
            "Job has exceeded the specified maximal number of failed indexes",
        );
    }
    if let Some(rule) = success_rule(spec, &count.completed) {
        return Ending::won("SuccessPolicy", format!("Matched rules at index {rule}"));
    }
    let indexed = is_indexed(spec);
    let succeeded = count.total_succeeded(indexed);
    let complete = match spec.completions {
        None => succeeded > 0,
        Some(wanted) => succeeded >= wanted,
    };
    if !active.is_empty() {
        return None;
    }
    if complete {
        return Ending::won("CompletionsReached", "Reached expected number of succeeded pods");
    }
    if lost > 0
        && spec
            .completions
            .is_some_and(|wanted| succeeded.saturating_add(lost) >= wanted)
    {
        return Ending::lost("FailedIndexes", "Job has failed indexes");
    }
    None
}

/// How much of the active deadline is left, in seconds.
pub(super) fn deadline_left_s(job: &Job, spec: &JobSpec, now: Timestamp) -> Option<i64> {
    let deadline_s = spec.active_deadline_seconds.filter(|_| spec.suspend != Some(true))?;
    let start = job.status.as_ref()?.start_time.as_ref()?;
    Some(deadline_s.saturating_sub(now.duration_since(start.0).as_secs()))
}

/// The first rule of the success policy that the completed indexes fulfil.
fn success_rule(spec: &JobSpec, completed: &Indexes) -> Option<usize> {
    let rules = &spec.success_policy.as_ref()?.rules;
    rules.iter().position(|rule| {
        let listed = rule.succeeded_indexes.as_deref();
        let listed = listed.map(|text| Indexes::parse(text, spec.completions.unwrap_or(0)));
        match (listed, rule.succeeded_count) {
            (Some(listed), Some(wanted)) => listed.count_in(completed) >= wanted,
            (Some(listed), None) => listed.count_in(completed) >= listed.count(),
            (None, Some(wanted)) => completed.count() >= wanted,
            (None, None) => false,
        }
    })
}
