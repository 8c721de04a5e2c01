//! Counting the pods of a Job that ended, each exactly once.
//!
//! A pod carries a finalizer until it is counted. Counting takes two writes: the status first names the pod's uid as
//! about to be counted, then the finalizer goes, then the uid turns into one more in the counter. Whatever is
//! interrupted in between is taken up where it was. Succeeded pods of an Indexed Job need no names: their index says
//! that they were counted.

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::batch::v1::{Job, JobSpec};
use coxswain_client::k8s_openapi::api::core::v1::Pod;

use super::indexes::Indexes;
use super::policy::{Verdict, verdict};
use crate::pods;

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// No reconcile names more pods than this in the status.
const NAMED_MAX: usize = 500;

/// How a Job is being ended, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    On,
    Won,
    Lost,
}

/// Who has ended, and how.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub succeeded: i32,
    pub failed: i32,
    /// Uids that the status names.
    pub named_succeeded: Vec<String>,
    pub named_failed: Vec<String>,
    /// Pods that lose their finalizer once the status is written.
    pub untrack: Vec<Arc<Pod>>,
    pub completed: Indexes,
    pub failed_indexes: Indexes,
    /// Why the failure policy fails the Job.
    pub fail_job: Option<String>,
}

impl Count {
    /// Those that the status names included; of an Indexed Job, the indexes that are done.
    pub fn total_succeeded(&self, indexed: bool) -> i32 {
        if indexed {
            self.completed.count()
        } else {
            self.succeeded.saturating_add(size(&self.named_succeeded))
        }
    }

    pub fn total_failed(&self) -> i32 {
        self.failed.saturating_add(size(&self.named_failed))
    }

    pub fn is_settled(&self) -> bool {
        self.named_succeeded.is_empty() && self.named_failed.is_empty() && self.untrack.is_empty()
    }
}

fn size<T>(list: &[T]) -> i32 {
    i32::try_from(list.len()).unwrap_or(i32::MAX)
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// The pod was not counted yet.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// The pod's completion index, when the Job has it.
pub(super) fn index_of(spec: &JobSpec, pod: &Pod) -> Option<i32> {
    let index = pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()?;
    let end = spec.completions.unwrap_or(0);
    (0..end).contains(&index).then_some(index)
}

/// How often the pod's index had failed before the pod was made.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get(FAILURES))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// A pod counts as failed when it failed, and, unless only those are replaced, as soon as it is being deleted.
pub(super) fn is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let only_failed = spec.pod_replacement_policy.as_deref() == Some("Failed");
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        // Nobody will ever report the end of a pod that no node has.
        _ => pods::is_terminating(pod) && (!only_failed || pods::node_name(pod).is_empty()),
    }
}

/// Counts the Job's pods.
pub(super) fn count(job: &Job, spec: &JobSpec, owned: &[Arc<Pod>], course: Course) -> Count {
    let status = job.status.clone().unwrap_or_default();
    let end = spec.completions.unwrap_or(0);
    let mut count = Count {
        succeeded: status.succeeded.unwrap_or(0),
        failed: status.failed.unwrap_or(0),
        completed: Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), end),
        failed_indexes: Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), end),
        ..Count::default()
    };
    let named = status.uncounted_terminated_pods.unwrap_or_default();
    let waiting = |uid: &String| {
        owned
            .iter()
            .any(|p| is_tracked(p) && p.metadata.uid.as_ref() == Some(uid))
    };
    let (kept, done): (Vec<_>, Vec<_>) = named.succeeded.unwrap_or_default().into_iter().partition(waiting);
    count.named_succeeded = kept;
    count.succeeded = count.succeeded.saturating_add(size(&done));
    let (kept, done): (Vec<_>, Vec<_>) = named.failed.unwrap_or_default().into_iter().partition(waiting);
    count.named_failed = kept;
    count.failed = count.failed.saturating_add(size(&done));
    for pod in owned {
        one(&mut count, spec, pod, course);
    }
    count
}

fn one(count: &mut Count, spec: &JobSpec, pod: &Arc<Pod>, course: Course) {
    let (indexed, tracked) = (is_indexed(spec), is_tracked(pod));
    let index = index_of(spec, pod);
    if pods::phase(pod) == "Succeeded" {
        if tracked && indexed {
            index.into_iter().for_each(|index| count.completed.insert(index, index));
            count.untrack.push(pod.clone());
        } else if tracked {
            name(&mut count.named_succeeded, &mut count.untrack, pod);
        }
        return;
    }
    if course == Course::Won && !is_failed_by_itself(pod) {
        // What is cut short by success did not fail.
        if tracked && pods::is_terminating(pod) {
            count.untrack.push(pod.clone());
        }
        return;
    }
    if !is_failed(spec, pod) && course != Course::Lost {
        return;
    }
    let verdict = verdict(spec, pod);
    if let Verdict::FailJob(why) = &verdict {
        count.fail_job.get_or_insert_with(|| why.clone());
    }
    if let (Some(limit), Some(index)) = (spec.backoff_limit_per_index, index)
        && !count.completed.contains(index)
        && is_failed(spec, pod)
    {
        let failures = failures_before(pod).saturating_add(i32::from(verdict != Verdict::Ignore));
        if verdict == Verdict::FailIndex || failures > limit {
            count.failed_indexes.insert(index, index);
        }
    }
    if !tracked {
        return;
    }
    if verdict == Verdict::Ignore || (indexed && index.is_none()) {
        count.untrack.push(pod.clone());
    } else {
        name(&mut count.named_failed, &mut count.untrack, pod);
    }
}

fn is_failed_by_itself(pod: &Pod) -> bool {
    pods::phase(pod) == "Failed"
}

/// Names a pod in the status; its finalizer may go after that.
fn name(named: &mut Vec<String>, untrack: &mut Vec<Arc<Pod>>, pod: &Arc<Pod>) {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    if !named.contains(&uid) {
        if named.len() >= NAMED_MAX {
            return;
        }
        named.push(uid);
    }
    untrack.push(pod.clone());
}
