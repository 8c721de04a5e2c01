//! Workloads that end, keep their names, or sit on every node, with real containers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coxswain_e2e::{Cluster, busybox, eventually, web};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

fn apply(cluster: &Cluster, objects: &[Value]) -> Result<()> {
    let file = cluster.data_dir().join("test.json");
    std::fs::write(
        &file,
        json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string(),
    )?;
    cluster.kubectl(&["apply", "-f", &file.to_string_lossy()]).map(drop)
}

/// A Job of busybox containers that run a script.
fn job(name: &str, script: &str, spec: Value) -> Result<Value> {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", script]}]}}}});
    let members = job["spec"].as_object_mut().context("a spec")?;
    members.extend(spec.as_object().context("a spec")?.clone());
    Ok(job)
}

/// Waits for the final condition of a Job and returns its reason and status.
fn end(cluster: &Cluster, name: &str) -> Result<(String, Value)> {
    eventually(SOON, &format!("the end of {name}"), || {
        let status = cluster.object(&["job", name])?["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let last = conditions
            .iter()
            .find(|c| c["type"] == "Complete" || c["type"] == "Failed");
        let last = last.with_context(|| status.to_string())?;
        Ok((format!("{} {}", last["type"], last["reason"]).replace('"', ""), status))
    })
}

#[test]
fn jobs_end_as_their_policies_say() -> Result<()> {
    let cluster = Cluster::up(&[busybox("busybox:1.35", &["sh"])?])?;
    let by_index = "test $((JOB_COMPLETION_INDEX % 2)) = 0";
    let rules = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    apply(
        &cluster,
        &[
            job("plain", "true", json!({"completions": 3, "parallelism": 2}))?,
            job(
                "indexed",
                by_index,
                json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 0}),
            )?,
            job(
                "early",
                "exit 42",
                json!({"completions": 2, "parallelism": 1, "podFailurePolicy": rules}),
            )?,
            job(
                "won",
                "test $JOB_COMPLETION_INDEX = 1 || sleep 600",
                json!({"completions": 2, "parallelism": 2,
                "completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "1"}]}}),
            )?,
            job("late", "sleep 600", json!({"activeDeadlineSeconds": 2}))?,
        ],
    )?;
    let counts = |status: &Value| {
        (
            status["succeeded"].as_i64().unwrap_or(0),
            status["failed"].as_i64().unwrap_or(0),
        )
    };
    for (name, expected, wanted) in [
        ("plain", "Complete CompletionsReached", (3, 0)),
        ("indexed", "Failed FailedIndexes", (2, 2)),
        ("early", "Failed PodFailurePolicy", (0, 1)),
        ("won", "Complete SuccessPolicy", (1, 0)),
        ("late", "Failed DeadlineExceeded", (0, 1)),
    ] {
        let (how, status) = end(&cluster, name)?;
        ensure!(how == expected && counts(&status) == wanted, "{name}: {how} {status}");
    }
    ensure!(cluster.object(&["job", "indexed"])?["status"]["failedIndexes"] == "1,3");
    cluster.kubectl(&["delete", "jobs", "--all"])?;
    eventually(SOON, "the pods to go with their jobs", || {
        let pods = cluster.kubectl(&["get", "pods", "-o", "name"])?;
        ensure!(pods.is_empty(), "{pods}");
        Ok(())
    })
}

#[test]
fn members_keep_their_names_and_every_node_its_daemon() -> Result<()> {
    let cluster = Cluster::up(&[web("nginx:1.19", 80, "old\n")?, web("nginx:1.20", 80, "new\n")?])?;
    let workload = |kind: &str, name: &str, more: Value| -> Result<Value> {
        let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": "nginx:1.19", "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1}}]}}}});
        object["spec"]
            .as_object_mut()
            .context("a spec")?
            .extend(more.as_object().context("a spec")?.clone());
        Ok(object)
    };
    apply(
        &cluster,
        &[
            workload("StatefulSet", "db", json!({"serviceName": "db", "replicas": 2}))?,
            workload("DaemonSet", "agent", json!({}))?,
        ],
    )?;
    let settled = |what: &str| cluster.kubectl(&["rollout", "status", what, "--timeout=90s"]).map(drop);
    let images = |name: &str| {
        let path = "jsonpath={.items[*].spec.containers[0].image}";
        cluster.kubectl(&["get", "pods", "-l", &format!("app={name}"), "-o", path])
    };
    settled("statefulset/db")?;
    settled("daemonset/agent")?;
    let old = cluster.object(&["pod", "db-1"])?["metadata"]["uid"].clone();
    cluster.kubectl(&["delete", "pod", "db-1"])?;
    eventually(SOON, "db-1 again", || {
        let pod = cluster.object(&["pod", "db-1"])?;
        ensure!(pod["metadata"]["uid"] != old, "still the old one");
        Ok(())
    })?;
    settled("statefulset/db")?;
    for what in ["statefulset/db", "daemonset/agent"] {
        cluster.kubectl(&["set", "image", what, "c=nginx:1.20"])?;
        settled(what)?;
    }
    ensure!(images("db")? == "nginx:1.20 nginx:1.20" && images("agent")? == "nginx:1.20");
    for what in ["statefulset/db", "daemonset/agent"] {
        cluster.kubectl(&["rollout", "undo", what])?;
        settled(what)?;
    }
    ensure!(images("db")? == "nginx:1.19 nginx:1.19" && images("agent")? == "nginx:1.19");
    cluster.kubectl(&["scale", "statefulset/db", "--replicas=1"])?;
    eventually(SOON, "the last member to go", || {
        let pods = cluster.kubectl(&["get", "pods", "-l", "app=db", "-o", "name"])?;
        ensure!(pods.trim() == "pod/db-0", "{pods}");
        Ok(())
    })
}
