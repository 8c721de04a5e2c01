use std::sync::Arc;

use coxswain_api::schema::extremes;
use coxswain_client::k8s_openapi::api::batch::v1::Job;
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::apply::new_pod;
use super::indexes::Indexes;
use super::plan::{Observed, Plan, Wanted, plan};

const NOW: i64 = 1_000_000;

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

/// A Job of the given spec and status.
fn job(spec: Value, status: Value) -> Arc<Job> {
    let mut value = json!({
        "metadata": {"name": "j", "namespace": "n", "uid": "job"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "backoffLimit": 6,
            "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}},
        "status": status});
    value["spec"]
        .as_object_mut()
        .expect("a spec")
        .extend(spec.as_object().expect("a spec").clone());
    Arc::new(serde_json::from_value(value).expect("a job"))
}

/// A pod in a state like `Running`, `Failed:3` (exit code), `Deleted`, with `@index` and `!` when counted.
fn pod(state: &str) -> Arc<Pod> {
    let (state, counted) = state.strip_suffix('!').map_or((state, false), |s| (s, true));
    let (state, index) = state.split_once('@').unwrap_or((state, ""));
    let (state, code) = state.split_once(':').unwrap_or((state, "1"));
    let mut value = json!({
        "metadata": {"name": format!("{state}{index}"), "namespace": "n", "uid": format!("{state}{index}"),
            "labels": {"a": "b"}, "annotations": {},
            "finalizers": if counted { json!([]) } else { json!(["batch.kubernetes.io/job-tracking"]) },
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "job", "controller": true}]},
        "spec": {"containers": [], "nodeName": "one"},
        "status": {"phase": state}});
    if !index.is_empty() {
        value["metadata"]["annotations"] = json!({"batch.kubernetes.io/job-completion-index": index});
    }
    match state {
        "Deleted" => {
            value["metadata"]["deletionTimestamp"] = json!(time(NOW - 3600));
            value["status"] = json!({"phase": "Running"});
        }
        "Failed" | "Succeeded" => {
            let code: i32 = if state == "Failed" {
                code.parse().expect("a code")
            } else {
                0
            };
            value["status"]["containerStatuses"] = json!([{"name": "c", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"terminated": {"exitCode": code, "finishedAt": time(NOW - 3600)}}}]);
        }
        _ => {}
    }
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn planned(job: &Arc<Job>, pods: &[&str]) -> Plan {
    plan(Observed {
        job: job.clone(),
        pods: pods.iter().map(|state| pod(state)).collect(),
        now: time(NOW),
    })
}

fn started(mut status: Value) -> Value {
    status["startTime"] = json!(time(NOW - 100));
    status
}

#[test]
fn how_many_pods() {
    let check = |spec: Value, pods: &[&str], create: usize, delete: usize| {
        let plan = planned(&job(spec.clone(), started(json!({}))), pods);
        assert_eq!(
            (plan.create.len(), plan.delete.len()),
            (create, delete),
            "{spec} {pods:?}"
        );
    };
    check(json!({"completions": 3, "parallelism": 2}), &[], 2, 0);
    check(json!({"completions": 3, "parallelism": 2}), &["Running"], 1, 0);
    check(json!({"completions": 1, "parallelism": 2}), &[], 1, 0);
    check(
        json!({"completions": 3, "parallelism": 1}),
        &["Running", "Pending"],
        0,
        1,
    );
    check(
        json!({"completions": 3, "parallelism": 2}),
        &["Succeeded", "Running"],
        1,
        0,
    );
    check(json!({"parallelism": 2}), &[], 2, 0);
    check(json!({"parallelism": 2}), &["Succeeded", "Running"], 0, 0);
    check(
        json!({"completions": 2, "parallelism": 2, "suspend": true}),
        &["Running"],
        0,
        1,
    );
    check(json!({"completions": 1, "parallelism": 1}), &["Failed"], 1, 0);
    check(json!({"completions": 1, "parallelism": 1}), &["Deleted"], 1, 0);
    check(
        json!({"completions": 1, "parallelism": 1, "podReplacementPolicy": "Failed"}),
        &["Deleted"],
        0,
        0,
    );
    check(json!({"completions": 5000, "parallelism": 5000}), &[], 500, 0);
}

#[test]
fn indexes_of_new_pods() {
    let check = |spec: Value, status: Value, pods: &[&str], expected: &[i32]| {
        let mut spec = spec;
        spec["completionMode"] = json!("Indexed");
        let plan = planned(&job(spec.clone(), started(status)), pods);
        let made: Vec<i32> = plan.create.iter().filter_map(|wanted| wanted.index).collect();
        assert_eq!(made, expected, "{spec} {pods:?}");
    };
    let spec = json!({"completions": 4, "parallelism": 2});
    check(spec.clone(), json!({}), &[], &[0, 1]);
    check(spec.clone(), json!({"completedIndexes": "0,2"}), &["Running@1"], &[3]);
    check(spec.clone(), json!({}), &["Succeeded@0", "Failed@1"], &[1, 2]);
    let limited = json!({"completions": 4, "parallelism": 4, "backoffLimitPerIndex": 0, "backoffLimit": 99});
    check(limited, json!({}), &["Failed@1", "Running@0"], &[2, 3]);
}

#[test]
fn endings() {
    let check = |spec: Value, status: Value, pods: &[&str], expected: &[(&str, &str)]| {
        let plan = planned(&job(spec.clone(), started(status.clone())), pods);
        let conditions = plan.status.and_then(|s| s.conditions).unwrap_or_default();
        let shown: Vec<(&str, &str)> = conditions
            .iter()
            .map(|c| (c.type_.as_str(), c.reason.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(shown, expected, "{spec} {status} {pods:?}");
    };
    let one = json!({"completions": 1, "parallelism": 1});
    let met = ("SuccessCriteriaMet", "CompletionsReached");
    check(one.clone(), json!({}), &["Running"], &[]);
    check(one.clone(), json!({}), &["Succeeded"], &[met]);
    let named = json!({"uncountedTerminatedPods": {"succeeded": ["Succeeded"]}});
    check(
        one.clone(),
        named,
        &["Succeeded!"],
        &[met, ("Complete", "CompletionsReached")],
    );
    let limit = |n: i32| json!({"completions": 1, "parallelism": 1, "backoffLimit": n});
    check(limit(1), json!({}), &["Failed"], &[]);
    check(
        limit(0),
        json!({}),
        &["Failed"],
        &[("FailureTarget", "BackoffLimitExceeded")],
    );
    let both = [
        ("FailureTarget", "BackoffLimitExceeded"),
        ("Failed", "BackoffLimitExceeded"),
    ];
    check(limit(0), json!({"failed": 1}), &["Failed!"], &both);
    let deadline = json!({"completions": 1, "parallelism": 1, "activeDeadlineSeconds": 60});
    check(
        deadline,
        json!({}),
        &["Running"],
        &[("FailureTarget", "DeadlineExceeded")],
    );
    let rules = |action: &str| {
        json!({"completions": 2, "parallelism": 2, "backoffLimit": 0, "podFailurePolicy": {"rules": [
            {"action": action, "onExitCodes": {"operator": "In", "values": [42]}}]}})
    };
    check(
        rules("FailJob"),
        json!({}),
        &["Failed:42"],
        &[("FailureTarget", "PodFailurePolicy")],
    );
    check(rules("Ignore"), json!({}), &["Failed:42"], &[]);
    check(
        rules("FailJob"),
        json!({}),
        &["Failed:41"],
        &[("FailureTarget", "BackoffLimitExceeded")],
    );
    let indexed = |more: Value| {
        let mut spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 99});
        spec.as_object_mut()
            .expect("a spec")
            .extend(more.as_object().expect("a spec").clone());
        spec
    };
    let per_index = indexed(json!({"backoffLimitPerIndex": 0}));
    check(
        per_index,
        json!({}),
        &["Succeeded@0", "Failed@1"],
        &[("FailureTarget", "FailedIndexes")],
    );
    let most = indexed(json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 0}));
    check(
        most,
        json!({}),
        &["Running@0", "Failed@1"],
        &[("FailureTarget", "MaxFailedIndexesExceeded")],
    );
    let policy = indexed(json!({"successPolicy": {"rules": [{"succeededIndexes": "1"}]}}));
    check(
        policy.clone(),
        json!({}),
        &["Running@0", "Succeeded@1"],
        &[("SuccessCriteriaMet", "SuccessPolicy")],
    );
    check(policy, json!({}), &["Succeeded@0", "Running@1"], &[]);
    let suspended = json!({"completions": 1, "parallelism": 1, "suspend": true});
    check(suspended, json!({}), &[], &[("Suspended", "JobSuspended")]);
}

#[test]
fn every_pod_is_counted_once() {
    let spec = json!({"completions": 3, "parallelism": 3, "backoffLimit": 9});
    let first = planned(
        &job(spec.clone(), started(json!({}))),
        &["Succeeded", "Failed", "Running"],
    );
    assert_eq!(first.untrack.len(), 2);
    let status = json!(first.status.expect("a status"));
    assert_eq!(
        status["uncountedTerminatedPods"],
        json!({"succeeded": ["Succeeded"], "failed": ["Failed"]})
    );
    assert_eq!((&status["succeeded"], &status["failed"]), (&Value::Null, &Value::Null));
    // The same again, in the middle: nobody is named twice.
    let again = planned(&job(spec.clone(), status.clone()), &["Succeeded", "Failed", "Running"]);
    assert!(again.status.is_none(), "{:?}", again.status);
    let second = planned(&job(spec.clone(), status), &["Succeeded!", "Failed!", "Running"]);
    let status = json!(second.status.expect("a status"));
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(1), &json!(1)));
    let third = planned(&job(spec, status), &["Succeeded!", "Failed!", "Running"]);
    assert!(third.status.is_none() && third.untrack.is_empty());
}

#[test]
fn backoff_deadline_and_time_to_live() {
    let check = |spec: Value, status: Value, pods: &[Arc<Pod>], expected: (Option<u64>, bool)| {
        let plan = plan(Observed {
            job: job(spec.clone(), status),
            pods: pods.to_vec(),
            now: time(NOW),
        });
        assert_eq!(
            (plan.requeue_after.map(|d| d.as_secs()), plan.remove),
            expected,
            "{spec}"
        );
    };
    let failed_s = |ago: i64| {
        let mut value = json!(*pod("Failed"));
        value["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = json!(time(NOW - ago));
        Arc::new(serde_json::from_value::<Pod>(value).expect("a pod"))
    };
    let one = json!({"completions": 1, "parallelism": 1});
    check(one.clone(), started(json!({})), &[failed_s(4)], (Some(6), false));
    check(one.clone(), started(json!({})), &[failed_s(11)], (None, false));
    check(
        one.clone(),
        started(json!({})),
        &[failed_s(4), failed_s(30)],
        (Some(16), false),
    );
    let deadline = json!({"completions": 1, "parallelism": 1, "activeDeadlineSeconds": 130});
    check(deadline, started(json!({})), &[pod("Running")], (Some(30), false));
    let done = |ago: i64| {
        started(json!({"conditions": [
            {"type": "Complete", "status": "True", "lastTransitionTime": time(NOW - ago)}]}))
    };
    let ttl = json!({"completions": 1, "parallelism": 1, "ttlSecondsAfterFinished": 10});
    check(ttl.clone(), done(4), &[], (Some(6), false));
    check(ttl, done(10), &[], (None, true));
    check(one, done(10), &[], (None, false));
}

#[test]
fn new_pods_know_their_index() {
    let job = job(json!({"completions": 2, "completionMode": "Indexed"}), json!({}));
    let wanted = Wanted {
        index: Some(1),
        failures: Some(2),
    };
    let made = json!(new_pod(&job, &wanted));
    assert_eq!(made["metadata"]["generateName"], "j-1-");
    assert_eq!(
        made["metadata"]["finalizers"],
        json!(["batch.kubernetes.io/job-tracking"])
    );
    assert_eq!(
        made["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"],
        "1"
    );
    assert_eq!(
        made["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"],
        "2"
    );
    assert_eq!(made["spec"]["hostname"], "j-1");
    assert_eq!(made["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
}

#[test]
fn index_sets() {
    let check = |text: &str, expected: &str, count: i32| {
        let set = Indexes::parse(text, 100);
        assert_eq!((set.to_string().as_str(), set.count()), (expected, count), "{text}");
    };
    check("", "", 0);
    check("3,1,2", "1-3", 3);
    check("1,2,5-7,9", "1,2,5-7,9", 6);
    check("1-3,2-8", "1-8", 8);
    check("x,5,200,98-300", "5,98,99", 3);
    let set = Indexes::parse("1,4-6", 100);
    assert!(set.contains(5) && set.contains(1) && !set.contains(0) && !set.contains(7));
    assert_eq!(set.count_in(&Indexes::parse("5-9", 100)), 2);
}

/// Whatever a Job and its pods say, there is a plan.
#[test]
fn extremes_of_every_field_have_a_plan() {
    let base =
        serde_json::to_value(&*job(json!({"completions": 3, "completionMode": "Indexed"}), json!({}))).expect("JSON");
    let pods = [pod("Running"), pod("Failed:3@1"), pod("Succeeded@0"), pod("Deleted")];
    let of_job = |value: Value, pods: &[Arc<Pod>]| {
        let Ok(job) = serde_json::from_value::<Job>(value) else {
            return;
        };
        let job = Arc::new(job);
        for seconds in [0, NOW, 253_402_207_199] {
            let observed = Observed {
                job: job.clone(),
                pods: pods.to_vec(),
                now: time(seconds),
            };
            plan(observed);
        }
    };
    for change in extremes::changes("io.k8s.api.batch.v1.Job", &base) {
        if !change.field.contains(".template.spec.") {
            of_job(change.object, &pods);
        }
    }
    for index in ["0-2147483647", "2147483646,2147483647", "-1-5", "5-1", "0-2147483646"] {
        let mut value = base.clone();
        value["spec"]["completions"] = json!(i32::MAX);
        value["spec"]["parallelism"] = json!(i32::MAX);
        value["status"] = json!({"completedIndexes": index, "failedIndexes": index, "succeeded": i32::MAX});
        of_job(value, &pods);
    }
    let pod = serde_json::to_value(&*pods[1]).expect("JSON");
    for change in extremes::changes("io.k8s.api.core.v1.Pod", &pod) {
        let is_read = [".metadata", ".status"]
            .iter()
            .any(|part| change.field.starts_with(part));
        if let (true, Ok(pod)) = (is_read, serde_json::from_value(change.object)) {
            of_job(base.clone(), &[Arc::new(pod)]);
        }
    }
}
