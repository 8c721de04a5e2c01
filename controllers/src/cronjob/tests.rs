use std::sync::Arc;

use coxswain_api::kinds::cron;
use coxswain_api::schema::extremes;
use coxswain_client::k8s_openapi::api::batch::v1::{CronJob, Job};
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use serde_json::{Value, json};

use super::plan::{Observed, Plan, plan};
use super::schedule::next;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|_| panic!("{text} is no time"))
}

#[test]
fn next_times() {
    let check = |schedule: &str, hours: i8, after: &str, expected: &str| {
        let zone = TimeZone::fixed(Offset::constant(hours));
        let schedule_read = cron::parse(schedule).expect("a schedule");
        let found = next(&schedule_read, &zone, at(after)).map(|t| t.to_string());
        assert_eq!(
            found.as_deref().unwrap_or("never"),
            expected,
            "{schedule} after {after}"
        );
    };
    check("* * * * *", 0, "2026-01-31T23:59:30Z", "2026-02-01T00:00:00Z");
    check("*/15 * * * *", 0, "2026-01-01T10:15:00Z", "2026-01-01T10:30:00Z");
    check("0 9 * * mon-fri", 0, "2026-11-20T09:00:00Z", "2026-11-23T09:00:00Z");
    check("0 0 13 * fri", 0, "2026-11-07T00:00:00Z", "2026-11-13T00:00:00Z");
    check("0 0 13 * fri", 0, "2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z");
    check("0 0 29 2 *", 0, "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
    check("0 0 31 2 *", 0, "2026-01-01T00:00:00Z", "never");
    check("30 1 * * *", 2, "2026-01-01T00:00:00Z", "2026-01-01T23:30:00Z");
    check("@every 90s", 0, "2026-01-01T00:00:00.7Z", "2026-01-01T00:01:30Z");
}

fn cron_job(spec: Value, status: Value) -> Arc<CronJob> {
    let mut value = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "cron", "creationTimestamp": "2026-01-01T00:00:30Z"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}},
            "spec": {"template": {"spec": {"containers": []}}}}},
        "status": status});
    value["spec"]
        .as_object_mut()
        .expect("a spec")
        .extend(spec.as_object().expect("a spec").clone());
    Arc::new(serde_json::from_value(value).expect("a cron job"))
}

/// A Job that runs, or with a final condition.
fn job(name: &str, condition: Option<&str>) -> Arc<Job> {
    let conditions: Vec<Value> = condition
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:02:00Z"}))
        .into_iter()
        .collect();
    let value = json!({"metadata": {"name": name, "namespace": "n", "uid": name},
        "status": {"conditions": conditions, "startTime": "2026-01-01T00:01:00Z"}});
    Arc::new(serde_json::from_value(value).expect("a job"))
}

fn planned(cron: &Arc<CronJob>, jobs: &[Arc<Job>], now: &str) -> Plan {
    plan(Observed {
        cron: cron.clone(),
        jobs: jobs.to_vec(),
        zone: Some(TimeZone::UTC),
        now: at(now),
    })
}

#[test]
fn what_is_started() {
    // The minute of the epoch at 00:03.
    let minute = at("2026-01-01T00:03:00Z").as_second() / 60;
    let check = |spec: Value, jobs: &[Arc<Job>], now: &str, expected: (Option<i64>, &[&str], &[&str])| {
        let plan = planned(&cron_job(spec.clone(), json!({})), jobs, now);
        let made = plan.create.and_then(|job| job.metadata.name);
        let gone: Vec<&str> = plan.delete.iter().filter_map(|j| j.metadata.name.as_deref()).collect();
        let notes: Vec<&str> = plan.notes.iter().map(|n| n.reason).collect();
        let wanted = expected.0.map(|offset| format!("c-{}", minute + offset));
        assert_eq!(
            (made, gone, notes),
            (wanted, expected.1.to_vec(), expected.2.to_vec()),
            "{spec} at {now}"
        );
    };
    let none: (Option<i64>, &[&str], &[&str]) = (None, &[], &[]);
    check(json!({}), &[], "2026-01-01T00:00:59Z", none);
    check(json!({}), &[], "2026-01-01T00:01:00Z", (Some(-2), &[], &[]));
    check(json!({}), &[], "2026-01-01T00:03:20Z", (Some(0), &[], &[]));
    check(json!({}), &[], "2026-03-01T00:03:20Z", (Some(59 * 24 * 60), &[], &[]));
    check(json!({"suspend": true}), &[], "2026-01-01T00:03:20Z", none);
    check(
        json!({"startingDeadlineSeconds": 10}),
        &[],
        "2026-01-01T00:03:20Z",
        none,
    );
    check(
        json!({"startingDeadlineSeconds": 30}),
        &[],
        "2026-01-01T00:03:20Z",
        (Some(0), &[], &[]),
    );
    let running = [job("old", None)];
    check(json!({}), &running, "2026-01-01T00:03:20Z", (Some(0), &[], &[]));
    let forbid = json!({"concurrencyPolicy": "Forbid"});
    check(
        forbid,
        &running,
        "2026-01-01T00:03:20Z",
        (None, &[], &["JobAlreadyActive"]),
    );
    let replace = json!({"concurrencyPolicy": "Replace"});
    check(replace, &running, "2026-01-01T00:03:20Z", (Some(0), &["old"], &[]));
    check(
        json!({}),
        &[job(&format!("c-{minute}"), None)],
        "2026-01-01T00:03:20Z",
        none,
    );
    let done = [job("a", Some("Failed")), job("b", Some("Failed"))];
    check(
        json!({"suspend": true}),
        &done,
        "2026-01-01T00:03:20Z",
        (None, &["a"], &[]),
    );
}

#[test]
fn statuses() {
    let known = json!({"active": [{"name": "done", "uid": "done"}, {"name": "lost", "uid": "lost"}]});
    let cron = cron_job(json!({"suspend": true}), known);
    let plan = planned(
        &cron,
        &[job("done", Some("Complete")), job("run", None)],
        "2026-01-01T00:03:00Z",
    );
    let notes: Vec<&str> = plan.notes.iter().map(|n| n.reason).collect();
    assert_eq!(notes, ["SawCompletedJob", "MissingJob"]);
    let status = json!(plan.status.expect("a status"));
    assert_eq!(status["lastSuccessfulTime"], "2026-01-01T00:02:00Z");
    assert_eq!(status["active"][0]["name"], "run");
    assert_eq!(status["active"].as_array().map(Vec::len), Some(1));
    let plan = planned(&cron_job(json!({}), json!({})), &[], "2026-01-01T00:03:20Z");
    assert_eq!(json!(plan.status)["lastScheduleTime"], "2026-01-01T00:03:00Z");
    assert_eq!(plan.requeue_after.map(|d| d.as_secs()), Some(40));
    let made = json!(plan.create);
    let annotation = &made["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(annotation, "2026-01-01T00:03:00Z");
}

/// Whatever a CronJob says, there is a plan, and soon.
#[test]
fn extremes_of_every_field_have_a_plan() {
    for schedule in ["* * * * *", "@every 1s", "@every 2562047h", "0 0 29 2 *"] {
        let base = serde_json::to_value(&*cron_job(json!({"schedule": schedule}), json!({}))).expect("JSON");
        for change in extremes::changes("io.k8s.api.batch.v1.CronJob", &base) {
            if change.field.contains(".jobTemplate.") {
                continue;
            }
            let Ok(cron) = serde_json::from_value::<CronJob>(change.object) else {
                continue;
            };
            plan(Observed {
                cron: Arc::new(cron),
                jobs: Vec::new(),
                zone: Some(TimeZone::UTC),
                now: at("2026-01-01T00:00:30Z"),
            });
        }
    }
}
