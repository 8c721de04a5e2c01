//! What a Job needs now: pods to make, to end and to let go, and its status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;

use super::count::{self, Count, Course, failures_before, index_of, is_failed, is_indexed, is_tracked};
use super::ending::{self, Ending, condition};
use super::policy::{Verdict, finished_s, verdict};
use crate::adoption::claim;
use crate::pods;

/// No reconcile creates more pods than this.
const BURST_MAX: usize = 500;
const BACKOFF_S: i64 = 10;
const BACKOFF_S_MAX: i64 = 600;

#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub job: Arc<Job>,
    /// Pods that it controls, and the namespace's pods without a controller.
    pub pods: Vec<Arc<Pod>>,
    pub now: Timestamp,
}

/// A pod to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub index: Option<i32>,
    /// How often its index has failed, for Jobs that limit that.
    pub failures: Option<i32>,
}

/// Something to tell users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    /// Written before anything below.
    pub status: Option<JobStatus>,
    /// They lose their finalizer.
    pub untrack: Vec<Arc<Pod>>,
    pub delete: Vec<Arc<Pod>>,
    pub create: Vec<Wanted>,
    pub notes: Vec<Note>,
    /// The Job itself goes: it was finished long enough ago.
    pub remove: bool,
    pub requeue_after: Option<Duration>,
}

pub(super) fn plan(observed: Observed) -> Plan {
    let Observed {
        job,
        pods: candidates,
        now,
    } = observed;
    let Some(spec) = &job.spec else {
        return Plan::default();
    };
    let selector = spec.selector.clone().unwrap_or_default();
    let claimed = claim(&job.metadata, &selector, candidates);
    let mut plan = Plan {
        adopt: claimed.adopt,
        release: claimed.release,
        ..Plan::default()
    };
    plan.untrack
        .extend(plan.release.iter().filter(|pod| is_tracked(pod)).cloned());
    let owned = claimed.owned;
    if let Some(finished) = finished_at(&job) {
        plan.untrack.extend(owned.iter().filter(|pod| is_tracked(pod)).cloned());
        after_the_end(&mut plan, &job, spec, finished, now);
        return plan;
    }
    let active: Vec<Arc<Pod>> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let mut count = count::count(&job, spec, &owned, Course::On);
    let known = ending::decided(&job);
    let ending = known
        .clone()
        .or_else(|| ending::decide(&job, spec, &count, &active, now));
    if let Some(ending) = &ending {
        let course = if ending.won { Course::Won } else { Course::Lost };
        count = count::count(&job, spec, &owned, course);
        plan.delete.clone_from(&active);
        if ending.won {
            plan.untrack
                .extend(active.iter().filter(|pod| is_tracked(pod)).cloned());
        }
    }
    let mut status = base_status(&job, spec, &owned, &count);
    let suspended = spec.suspend == Some(true);
    match &ending {
        Some(ending) => {
            let over = active.is_empty() && !owned.iter().any(|p| !pods::is_finished(p)) && count.is_settled();
            end(&mut plan, &mut status, ending, over, now);
        }
        None if suspended => {
            plan.untrack
                .extend(active.iter().filter(|pod| is_tracked(pod)).cloned());
            plan.delete.clone_from(&active);
            suspend(&mut plan, &mut status, now);
        }
        None => {
            resume(&mut plan, &mut status, now);
            if job.metadata.deletion_timestamp.is_none() {
                staff(&mut plan, spec, &count, &owned, &active, now);
            }
            if let Some(left_s) = ending::deadline_left_s(&job, spec, now) {
                requeue(&mut plan, left_s);
            }
        }
    }
    plan.untrack.extend(count.untrack);
    if job.status.as_ref() != Some(&status) {
        plan.status = Some(status);
    }
    plan
}

fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref();
    let condition = condition(status, "Complete").or_else(|| condition(status, "Failed"))?;
    Some(
        condition
            .last_transition_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0),
    )
}

/// A finished Job goes when its time to live is over.
fn after_the_end(plan: &mut Plan, job: &Job, spec: &JobSpec, finished: Timestamp, now: Timestamp) {
    let Some(ttl_s) = spec.ttl_seconds_after_finished else {
        return;
    };
    let left_s = i64::from(ttl_s).saturating_sub(now.duration_since(finished).as_secs());
    if left_s > 0 {
        requeue(plan, left_s);
    } else {
        plan.remove = job.metadata.deletion_timestamp.is_none();
    }
}

/// Looks again in so many seconds, or earlier.
fn requeue(plan: &mut Plan, seconds: i64) {
    let after = bounded::seconds(seconds.max(1));
    plan.requeue_after = Some(plan.requeue_after.map_or(after, |before| before.min(after)));
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Zero is left out.
fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn base_status(job: &Job, spec: &JobSpec, owned: &[Arc<Pod>], count: &Count) -> JobStatus {
    let of = |test: &dyn Fn(&Pod) -> bool| number(owned.iter().filter(|pod| test(pod)).count());
    let indexed = is_indexed(spec);
    let list = |names: &[String]| (!names.is_empty()).then(|| names.to_vec());
    let succeeded = if indexed {
        count.completed.count()
    } else {
        count.succeeded
    };
    JobStatus {
        active: some(of(&pods::is_active)),
        ready: Some(of(&|pod| pods::is_active(pod) && pods::is_ready(pod))),
        terminating: Some(of(&|pod| pods::is_terminating(pod) && !pods::is_finished(pod))),
        succeeded: some(succeeded),
        failed: some(count.failed),
        completed_indexes: count.completed.text().filter(|_| indexed),
        failed_indexes: count.failed_indexes.text().or_else(|| {
            let limited = spec.backoff_limit_per_index.is_some();
            limited.then(String::new)
        }),
        uncounted_terminated_pods: Some(UncountedTerminatedPods {
            succeeded: list(&count.named_succeeded),
            failed: list(&count.named_failed),
        }),
        ..job.status.clone().unwrap_or_default()
    }
}

fn end(plan: &mut Plan, status: &mut JobStatus, ending: &Ending, over: bool, now: Timestamp) {
    let (decided, done) = ending.conditions();
    ending::set(status, decided, "True", &ending.reason, &ending.message, now);
    if status.start_time.is_none() {
        status.start_time = Some(Time(now));
    }
    if !over {
        return;
    }
    ending::set(status, done, "True", &ending.reason, &ending.message, now);
    if ending.won {
        status.completion_time = Some(Time(now));
    }
    let (reason, message) = if ending.won {
        ("Completed", "Job completed")
    } else {
        (ending.reason.as_str(), ending.message.as_str())
    };
    note(plan, !ending.won, reason, message);
}

fn note(plan: &mut Plan, warning: bool, reason: &str, message: &str) {
    plan.notes.push(Note {
        warning,
        reason: reason.to_string(),
        message: message.to_string(),
    });
}

fn suspend(plan: &mut Plan, status: &mut JobStatus, now: Timestamp) {
    if condition(Some(status), "Suspended").is_none() {
        ending::set(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        note(plan, false, "Suspended", "Job suspended");
    }
    status.start_time = None;
}

fn resume(plan: &mut Plan, status: &mut JobStatus, now: Timestamp) {
    if condition(Some(status), "Suspended").is_some() {
        ending::set(status, "Suspended", "False", "JobResumed", "Job resumed", now);
        note(plan, false, "Resumed", "Job resumed");
        status.start_time = Some(Time(now));
    }
    status.start_time.get_or_insert(Time(now));
}

/// Ends pods that are too many and makes those that are missing.
fn staff(plan: &mut Plan, spec: &JobSpec, count: &Count, owned: &[Arc<Pod>], active: &[Arc<Pod>], now: Timestamp) {
    let indexed = is_indexed(spec);
    let (mut kept, mut surplus) = (Vec::new(), Vec::new());
    let mut held = BTreeSet::new();
    for pod in active {
        let index = index_of(spec, pod);
        let fits = !indexed
            || index
                .is_some_and(|i| !count.completed.contains(i) && !count.failed_indexes.contains(i) && held.insert(i));
        if fits { &mut kept } else { &mut surplus }.push(pod.clone());
    }
    let parallel = spec.parallelism.unwrap_or(1);
    let succeeded = count.total_succeeded(indexed);
    let wanted = match spec.completions {
        // Pods share a queue of work: once one has found it empty, no more are started.
        None if succeeded > 0 => number(kept.len()).min(parallel),
        None => parallel,
        Some(all) => {
            let open = all
                .saturating_sub(succeeded)
                .saturating_sub(count.failed_indexes.count());
            open.min(parallel).max(0)
        }
    };
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if kept.len() > wanted {
        // The least far along go first, and the highest index among equals.
        kept.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (
                pods::is_ready(pod),
                pods::phase(pod) == "Running",
                index_of(spec, pod).map(std::cmp::Reverse),
                created,
            )
        });
        surplus.extend(kept.drain(..kept.len().saturating_sub(wanted)));
    }
    plan.untrack
        .extend(surplus.iter().filter(|pod| is_tracked(pod)).cloned());
    plan.delete = surplus;
    let mut missing = wanted.saturating_sub(kept.len());
    let leaving: Vec<&Arc<Pod>> = owned
        .iter()
        .filter(|p| pods::is_terminating(p) && !pods::is_finished(p) && !is_failed(spec, p))
        .collect();
    missing = missing.saturating_sub(leaving.len()).min(BURST_MAX);
    if missing == 0 {
        return;
    }
    let failures = Failures::of(spec, owned);
    if spec.backoff_limit_per_index.is_none() {
        let left_s = failures.wait_s(None, now);
        if left_s > 0 {
            return requeue(plan, left_s);
        }
    }
    if !indexed {
        let pod = Wanted {
            index: None,
            failures: None,
        };
        plan.create = vec![pod; missing];
        return;
    }
    held.extend(leaving.iter().filter_map(|pod| index_of(spec, pod)));
    let end = spec.completions.unwrap_or(0);
    // Ranges that are done are passed over at once: a status may name two thousand million indexes.
    let free_from = |at: i32| {
        let mut at = at;
        loop {
            let next = count.failed_indexes.free_from(count.completed.free_from(at));
            match next == at {
                true if held.contains(&at) => at = at.saturating_add(1),
                true => return at,
                false => at = next,
            }
            if at >= end {
                return end;
            }
        }
    };
    let mut next = free_from(0);
    while next < end && plan.create.len() < missing {
        let index = next;
        next = free_from(index.saturating_add(1));
        let known = spec.backoff_limit_per_index.map(|_| failures.of_index(index));
        if known.is_some() {
            let left_s = failures.wait_s(Some(index), now);
            if left_s > 0 {
                requeue(plan, left_s);
                continue;
            }
        }
        plan.create.push(Wanted {
            index: Some(index),
            failures: known,
        });
    }
}

/// When and how often pods failed, by index (`None`: any).
struct Failures {
    count: BTreeMap<Option<i32>, (i32, i64)>,
}

impl Failures {
    fn of(spec: &JobSpec, owned: &[Arc<Pod>]) -> Failures {
        let successes = owned.iter().filter(|pod| pods::phase(pod) == "Succeeded");
        let last_success_s = successes.filter_map(|pod| finished_s(pod)).max().unwrap_or(i64::MIN);
        let mut count: BTreeMap<Option<i32>, (i32, i64)> = BTreeMap::new();
        for pod in owned.iter().filter(|pod| is_failed(spec, pod)) {
            let ended_s = finished_s(pod).unwrap_or(i64::MIN);
            let counts = verdict(spec, pod) != Verdict::Ignore;
            if ended_s > last_success_s {
                let (n, last_s) = count.entry(None).or_insert((0, i64::MIN));
                (*n, *last_s) = (n.saturating_add(1), ended_s.max(*last_s));
            }
            if let Some(index) = index_of(spec, pod) {
                let (n, last_s) = count.entry(Some(index)).or_insert((0, i64::MIN));
                *n = failures_before(pod).saturating_add(i32::from(counts)).max(*n);
                *last_s = ended_s.max(*last_s);
            }
        }
        Failures { count }
    }

    fn of_index(&self, index: i32) -> i32 {
        self.count.get(&Some(index)).map_or(0, |(n, _)| *n)
    }

    /// How long a new pod has to wait after the last failure, in seconds.
    fn wait_s(&self, index: Option<i32>, now: Timestamp) -> i64 {
        let Some((n, last_s)) = self.count.get(&index).filter(|(n, last)| *n > 0 && *last > i64::MIN) else {
            return 0;
        };
        // Six doublings already are more than the longest wait.
        let doublings = u32::try_from(n.saturating_sub(1)).unwrap_or(0).min(30);
        let doubled = BACKOFF_S.saturating_mul(1_i64 << doublings);
        let due_s = last_s.saturating_add(doubled.clamp(BACKOFF_S, BACKOFF_S_MAX));
        due_s.saturating_sub(now.as_second())
    }
}
