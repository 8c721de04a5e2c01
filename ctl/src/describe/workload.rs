//! Deployments, ReplicaSets, StatefulSets, DaemonSets and Jobs.

use serde_json::Value;

use super::parts::{annotations, conditions, controller, date, head, labels, or_none, shown};
use super::pod::template;
use super::writer::Writer;
use crate::pods::{list, selector_text, text};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn start(out: &mut Writer, object: &Value) {
    head(out, object);
    out.pair(
        0,
        "CreationTimestamp",
        &date(text(object, "/metadata/creationTimestamp")),
    );
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    out.pair(0, "Selector", or_none(&selector_text(&object["spec"]["selector"])));
}

/// A Deployment with the ReplicaSets that it owns.
pub fn deployment(out: &mut Writer, object: &Value, sets: &[Value]) {
    start(out, object);
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    out.pair(
        0,
        "Replicas",
        &format!(
            "{wanted} desired | {} updated | {} total | {} available | {} unavailable",
            number(object, "/status/updatedReplicas"),
            number(object, "/status/replicas"),
            number(object, "/status/availableReplicas"),
            number(object, "/status/unavailableReplicas")
        ),
    );
    out.pair(0, "StrategyType", text(object, "/spec/strategy/type"));
    out.pair(
        0,
        "MinReadySeconds",
        &number(object, "/spec/minReadySeconds").to_string(),
    );
    if let Some(rolling) = object.pointer("/spec/strategy/rollingUpdate") {
        let line = format!(
            "{} max unavailable, {} max surge",
            shown(&rolling["maxUnavailable"]),
            shown(&rolling["maxSurge"])
        );
        out.pair(0, "RollingUpdateStrategy", &line);
    }
    template(out, &object["spec"]["template"]);
    conditions(out, object);
    let revision = |set: &Value| {
        set.pointer("/metadata/annotations")
            .and_then(|a| a[REVISION].as_str()?.parse::<i64>().ok())
            .unwrap_or(0)
    };
    let newest = sets.iter().max_by_key(|set| revision(set));
    let line = |set: &Value| {
        let (have, wanted) = (number(set, "/status/replicas"), number(set, "/spec/replicas"));
        format!("{} ({have}/{wanted} replicas created)", text(set, "/metadata/name"))
    };
    let old: Vec<String> = sets.iter().filter(|set| Some(*set) != newest).map(line).collect();
    out.pair(0, "OldReplicaSets", or_none(&old.join(", ")));
    out.pair(0, "NewReplicaSet", or_none(&newest.map(line).unwrap_or_default()));
}

fn pods_status(out: &mut Writer, pods: &[Value]) {
    let count = |phase: &str| pods.iter().filter(|pod| text(pod, "/status/phase") == phase).count();
    let line = format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    );
    out.pair(0, "Pods Status", &line);
}

/// A ReplicaSet or ReplicationController with its pods.
pub fn replica_set(out: &mut Writer, object: &Value, pods: &[Value]) {
    head(out, object);
    out.pair(0, "Selector", or_none(&selector_text(&object["spec"]["selector"])));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    if let Some(controller) = controller(object) {
        out.pair(0, "Controlled By", &controller);
    }
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    out.pair(
        0,
        "Replicas",
        &format!("{} current / {wanted} desired", number(object, "/status/replicas")),
    );
    pods_status(out, pods);
    template(out, &object["spec"]["template"]);
    conditions(out, object);
}

/// A StatefulSet with its pods.
pub fn stateful_set(out: &mut Writer, object: &Value, pods: &[Value]) {
    head(out, object);
    out.pair(
        0,
        "CreationTimestamp",
        &date(text(object, "/metadata/creationTimestamp")),
    );
    out.pair(0, "Selector", or_none(&selector_text(&object["spec"]["selector"])));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    out.pair(
        0,
        "Replicas",
        &format!("{wanted} desired | {} total", number(object, "/status/replicas")),
    );
    out.pair(0, "Update Strategy", text(object, "/spec/updateStrategy/type"));
    if let Some(partition) = object.pointer("/spec/updateStrategy/rollingUpdate/partition") {
        out.pair(1, "Partition", &shown(partition));
    }
    pods_status(out, pods);
    template(out, &object["spec"]["template"]);
    let claims = list(object, "/spec/volumeClaimTemplates");
    if claims.is_empty() {
        out.pair(0, "Volume Claims", "<none>");
    } else {
        out.line(0, "Volume Claims:");
        for claim in claims {
            out.pair(1, "Name", text(claim, "/metadata/name"));
            out.pair(1, "StorageClass", text(claim, "/spec/storageClassName"));
            out.pair(1, "Capacity", text(claim, "/spec/resources/requests/storage"));
            let modes: Vec<&str> = list(claim, "/spec/accessModes")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            out.pair(1, "Access Modes", &format!("[{}]", modes.join(" ")));
        }
    }
}

/// A DaemonSet with its pods.
pub fn daemon_set(out: &mut Writer, object: &Value, pods: &[Value]) {
    head(out, object);
    out.pair(0, "Selector", or_none(&selector_text(&object["spec"]["selector"])));
    labels(
        out,
        0,
        "Node-Selector",
        object.pointer("/spec/template/spec/nodeSelector"),
    );
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    for (name, field) in [
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        (
            "Number of Nodes Scheduled with Up-to-date Pods",
            "updatedNumberScheduled",
        ),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        out.line(0, &format!("{name}: {}", number(object, &format!("/status/{field}"))));
    }
    pods_status(out, pods);
    template(out, &object["spec"]["template"]);
}

/// A Job.
pub fn job(out: &mut Writer, object: &Value) {
    head(out, object);
    out.pair(0, "Selector", or_none(&selector_text(&object["spec"]["selector"])));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    if let Some(controller) = controller(object) {
        out.pair(0, "Controlled By", &controller);
    }
    for (name, field) in [
        ("Parallelism", "parallelism"),
        ("Completions", "completions"),
        ("Completion Mode", "completionMode"),
        ("Suspend", "suspend"),
        ("Backoff Limit", "backoffLimit"),
    ] {
        let value = &object["spec"][field];
        out.pair(
            0,
            name,
            &if value.is_null() {
                "<unset>".to_owned()
            } else {
                shown(value)
            },
        );
    }
    for (name, field) in [("Start Time", "startTime"), ("Completed At", "completionTime")] {
        let time = text(object, &format!("/status/{field}"));
        if !time.is_empty() {
            out.pair(0, name, &date(time));
        }
    }
    let ready = object
        .pointer("/status/ready")
        .map_or_else(String::new, |ready| format!(" ({} Ready)", shown(ready)));
    let line = format!(
        "{} Active{ready} / {} Succeeded / {} Failed",
        number(object, "/status/active"),
        number(object, "/status/succeeded"),
        number(object, "/status/failed")
    );
    out.pair(0, "Pods Statuses", &line);
    template(out, &object["spec"]["template"]);
}

/// A CronJob.
pub fn cron_job(out: &mut Writer, object: &Value) {
    head(out, object);
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    let spec = &object["spec"];
    let job = &spec["jobTemplate"]["spec"];
    let or_unset = |value: &Value, unit: &str| {
        if value.is_null() {
            "<unset>".to_owned()
        } else {
            format!("{}{unit}", shown(value))
        }
    };
    out.pair(0, "Schedule", text(spec, "/schedule"));
    if !text(spec, "/timeZone").is_empty() {
        out.pair(0, "Time Zone", text(spec, "/timeZone"));
    }
    out.pair(0, "Concurrency Policy", text(spec, "/concurrencyPolicy"));
    out.pair(0, "Suspend", if spec["suspend"] == true { "True" } else { "False" });
    out.pair(
        0,
        "Successful Job History Limit",
        &or_unset(&spec["successfulJobsHistoryLimit"], ""),
    );
    out.pair(
        0,
        "Failed Job History Limit",
        &or_unset(&spec["failedJobsHistoryLimit"], ""),
    );
    out.pair(
        0,
        "Starting Deadline Seconds",
        &or_unset(&spec["startingDeadlineSeconds"], "s"),
    );
    let selector = selector_text(&job["selector"]);
    out.pair(0, "Selector", if selector.is_empty() { "<unset>" } else { &selector });
    out.pair(0, "Parallelism", &or_unset(&job["parallelism"], ""));
    out.pair(0, "Completions", &or_unset(&job["completions"], ""));
    if !job["activeDeadlineSeconds"].is_null() {
        out.pair(
            0,
            "Active Deadline Seconds",
            &or_unset(&job["activeDeadlineSeconds"], "s"),
        );
    }
    template(out, &job["template"]);
    let last = text(object, "/status/lastScheduleTime");
    out.pair(
        0,
        "Last Schedule Time",
        &if last.is_empty() {
            "<unset>".to_owned()
        } else {
            date(last)
        },
    );
    let active: Vec<&str> = list(object, "/status/active")
        .iter()
        .map(|job| text(job, "/name"))
        .collect();
    out.pair(0, "Active Jobs", or_none(&active.join(", ")));
}
