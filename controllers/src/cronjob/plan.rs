//! What a CronJob does now.

use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_api::kinds::cron;
use coxswain_client::k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use coxswain_client::k8s_openapi::api::core::v1::ObjectReference;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::schedule::next;
use crate::pods::controller_reference;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed times that are looked through one by one; beyond that, only those near now are.
const MISSED_MAX: usize = 100;

#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub cron: Arc<CronJob>,
    /// Jobs that it controls.
    pub jobs: Vec<Arc<Job>>,
    /// Its time zone; `None`: nobody knows it.
    pub zone: Option<TimeZone>,
    pub now: Timestamp,
}

/// Something to tell users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub notes: Vec<Note>,
    /// Jobs that go: finished ones beyond the history, and running ones that are replaced.
    pub delete: Vec<Arc<Job>>,
    pub create: Option<Job>,
    pub status: Option<CronJobStatus>,
    pub requeue_after: Option<Duration>,
}

pub(super) fn plan(observed: Observed) -> Plan {
    let Observed { cron, jobs, zone, now } = observed;
    let spec = &cron.spec;
    let mut plan = Plan::default();
    let mut status = cron.status.clone().unwrap_or_default();
    follow(&mut plan, &mut status, &jobs);
    trim(&mut plan, spec, &jobs);
    if cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) {
        start(&mut plan, &mut status, &cron, spec, &jobs, zone.as_ref(), now);
    }
    if cron.status.as_ref() != Some(&status) {
        plan.status = Some(status);
    }
    plan
}

/// The final condition of a Job, with its time.
fn finished(job: &Job) -> Option<(&str, Option<Timestamp>)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let is_final = |kind: &str| kind == "Complete" || kind == "Failed";
    let found = conditions.iter().find(|c| is_final(&c.type_) && c.status == "True")?;
    Some((found.type_.as_str(), found.last_transition_time.as_ref().map(|t| t.0)))
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

fn note(plan: &mut Plan, warning: bool, reason: &'static str, message: String) {
    plan.notes.push(Note {
        warning,
        reason,
        message,
    });
}

/// Keeps the list of running Jobs, and says which have ended.
fn follow(plan: &mut Plan, status: &mut CronJobStatus, jobs: &[Arc<Job>]) {
    let mut active = status.active.take().unwrap_or_default();
    let find = |uid: Option<&str>| jobs.iter().find(|job| job.metadata.uid.as_deref() == uid);
    active.retain(|entry| match find(entry.uid.as_deref()) {
        None => {
            let job = entry.name.as_deref().unwrap_or_default();
            note(plan, false, "MissingJob", format!("Active job went missing: {job}"));
            false
        }
        Some(job) => match finished(job) {
            Some((how, at)) => {
                let message = format!("Saw completed job: {}, condition: {how}", name(&job.metadata));
                note(plan, false, "SawCompletedJob", message);
                let last = status.last_successful_time.as_ref().map(|t| t.0);
                if how == "Complete" && at > last {
                    status.last_successful_time = at.map(Time);
                }
                false
            }
            None => true,
        },
    });
    for job in jobs.iter().filter(|job| finished(job).is_none()) {
        if !active.iter().any(|entry| entry.uid == job.metadata.uid) {
            active.push(reference(job));
        }
    }
    status.active = (!active.is_empty()).then_some(active);
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_string()),
        kind: Some("Job".to_string()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Finished Jobs beyond those that are kept go, the oldest first.
fn trim(plan: &mut Plan, spec: &CronJobSpec, jobs: &[Arc<Job>]) {
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (how, limit) in limits {
        let mut done: Vec<&Arc<Job>> = jobs
            .iter()
            .filter(|job| finished(job).is_some_and(|(found, _)| found == how))
            .collect();
        done.sort_by_key(|job| job.status.as_ref().and_then(|s| s.start_time.as_ref().map(|t| t.0)));
        let surplus = done.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let going = done
            .into_iter()
            .take(surplus)
            .filter(|job| job.metadata.deletion_timestamp.is_none());
        plan.delete.extend(going.cloned());
    }
}

fn start(
    plan: &mut Plan,
    status: &mut CronJobStatus,
    cron: &CronJob,
    spec: &CronJobSpec,
    jobs: &[Arc<Job>],
    zone: Option<&TimeZone>,
    now: Timestamp,
) {
    let Some(zone) = zone else {
        let unknown = spec.time_zone.as_deref().unwrap_or_default();
        let message = format!("invalid timeZone: {unknown:?}: unknown time zone {unknown}");
        return note(plan, true, "UnknownTimeZone", message);
    };
    let schedule = match cron::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            let message = format!("unparseable schedule: {:?} : {why}", spec.schedule);
            return note(plan, true, "UnparseableSchedule", message);
        }
    };
    let made = cron.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let mut earliest = status.last_schedule_time.as_ref().map_or(made, |t| t.0);
    if let Some(deadline_s) = spec.starting_deadline_seconds {
        earliest = earliest.max(bounded::after(now, deadline_s.saturating_neg()));
    }
    let due = last_due(&schedule, zone, earliest, now);
    let following = next(&schedule, zone, now);
    if let Some(following) = following {
        let wait = bounded::until(following, now).unwrap_or_default();
        plan.requeue_after = Some(wait.saturating_add(Duration::from_millis(100)));
    }
    let Some(due) = due else { return };
    let job_name = format!("{}-{}", name(&cron.metadata), due.as_second() / 60);
    if jobs.iter().any(|job| name(&job.metadata) == job_name) {
        status.last_schedule_time = Some(Time(due));
        return;
    }
    let running: Vec<&Arc<Job>> = jobs.iter().filter(|job| finished(job).is_none()).collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return note(plan, false, "JobAlreadyActive", message.to_string());
        }
        Some("Replace") => {
            plan.delete.extend(running.into_iter().cloned());
            status.active = None;
        }
        _ => {}
    }
    plan.create = Some(job(cron, spec, job_name, due));
    status.last_schedule_time = Some(Time(due));
}

/// The last time that was due after `earliest` and not after `now`.
fn last_due(schedule: &cron::Schedule, zone: &TimeZone, earliest: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let mut last = None;
    let mut after = earliest;
    for _ in 0..MISSED_MAX {
        match next(schedule, zone, after).filter(|time| *time <= now) {
            Some(time) => (last, after) = (Some(time), time),
            None => return last,
        }
    }
    // Very many were missed: the one nearest to now is within the last of the gaps between them.
    let gap = next(schedule, zone, after)?.duration_since(after);
    let near = now.checked_sub(gap.checked_mul(2)?).ok()?.max(after);
    let mut after = near;
    for _ in 0..MISSED_MAX {
        match next(schedule, zone, after).filter(|time| *time <= now) {
            Some(time) => (last, after) = (Some(time), time),
            None => break,
        }
    }
    last
}

fn job(cron: &CronJob, spec: &CronJobSpec, name: String, due: Timestamp) -> Job {
    let template = &spec.job_template;
    let meta = template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_string(), due.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference("batch/v1", "CronJob", &cron.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
