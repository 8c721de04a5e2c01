//! The Table form of pods.

use crate::kinds::Column;
use crate::kinds::access::{at, flag, get, has, int_of, list, str_of, text};
use crate::kinds::print::{self, AGE, NAME, shown, wide};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Columns of pods.
pub static COLUMNS: &[Column] = &[
    NAME,
    shown(
        "Ready",
        "string",
        "The aggregate readiness state of this pod for accepting traffic.",
    ),
    shown(
        "Status",
        "string",
        "The aggregate status of the containers in this pod.",
    ),
    shown(
        "Restarts",
        "string",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    wide("IP", "string", "First address of the pod."),
    wide("Node", "string", "Node that the pod was scheduled to."),
    wide(
        "Nominated Node",
        "string",
        "Node that the pod is meant to run on once lower priority pods are gone.",
    ),
    wide(
        "Readiness Gates",
        "string",
        "How many of the pod's readiness gates are fulfilled.",
    ),
];

/// Counts over the containers that keep running.
#[derive(Default)]
struct Tally {
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: String,
    /// Restarts of the init containers that keep running, and the last of them.
    of_sidecars: (i64, String),
}

/// The cells of a pod.
pub fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (at(pod, "/spec"), at(pod, "/status"));
    let mut tally = Tally {
        total: list(spec, "containers").len(),
        ..Tally::default()
    };
    let reason = reason(pod, spec, status, &mut tally);
    let mut restarts = tally.restarts.to_string();
    if tally.restarts != 0 && !tally.last_restart.is_empty() {
        restarts = format!("{restarts} ({} ago)", print::since(&tally.last_restart, now));
    }
    let ip = list(status, "podIPs")
        .first()
        .map_or(str_of(status, "podIP"), |ip| str_of(ip, "ip"));
    vec![
        json!(text(pod, "/metadata/name")),
        json!(format!("{}/{}", tally.ready, tally.total)),
        json!(reason),
        json!(restarts),
        print::age(pod, now),
        json!(print::or_none(ip.to_owned())),
        json!(print::or_none(str_of(spec, "nodeName").to_owned())),
        json!(print::or_none(str_of(status, "nominatedNodeName").to_owned())),
        json!(gates(spec, status)),
    ]
}

fn gates(spec: &Value, status: &Value) -> String {
    let gates = list(spec, "readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let mut first = BTreeMap::new();
    for condition in list(status, "conditions") {
        first
            .entry(str_of(condition, "type"))
            .or_insert(str_of(condition, "status"));
    }
    let met = gates
        .iter()
        .filter(|g| first.get(str_of(g, "conditionType")) == Some(&"True"))
        .count();
    format!("{met}/{}", gates.len())
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    list(status, "conditions").iter().find(|c| str_of(c, "type") == kind)
}

/// One word for the state of a pod, and the counts beside it.
fn reason(pod: &Value, spec: &Value, status: &Value, tally: &mut Tally) -> String {
    let mut reason = str_of(status, "phase").to_owned();
    if !str_of(status, "reason").is_empty() {
        reason = str_of(status, "reason").to_owned();
    }
    if condition(status, "PodScheduled").is_some_and(|c| str_of(c, "reason") == "SchedulingGated") {
        reason = "SchedulingGated".to_owned();
    }
    let initializing = init_reason(spec, status, tally);
    if let Some(word) = &initializing {
        reason.clone_from(word);
    }
    let initialized = condition(status, "Initialized").is_some_and(|c| str_of(c, "status") == "True");
    if initializing.is_none() || initialized {
        (tally.restarts, tally.last_restart) = std::mem::take(&mut tally.of_sidecars);
        reason = running_reason(status, reason, tally);
    }
    if has(at(pod, "/metadata"), "deletionTimestamp") {
        let phase = str_of(status, "phase");
        if str_of(status, "reason") == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            reason = "Terminating".to_owned();
        }
    }
    reason
}

/// The word for a pod whose init containers are not done yet.
fn init_reason(spec: &Value, status: &Value, tally: &mut Tally) -> Option<String> {
    let specs = list(spec, "initContainers");
    let sidecars = specs.iter().filter(|c| str_of(c, "restartPolicy") == "Always");
    let sidecars: BTreeSet<&str> = sidecars.map(|c| str_of(c, "name")).collect();
    let sidecar = |name: &str| sidecars.contains(name);
    tally.total += specs.iter().filter(|c| str_of(c, "restartPolicy") == "Always").count();
    let mut word = None;
    for (i, c) in list(status, "initContainerStatuses").iter().enumerate() {
        let restarts = int_of(c, "restartCount").unwrap_or(0);
        tally.restarts += restarts;
        later(&mut tally.last_restart, text(c, "/lastState/terminated/finishedAt"));
        let is_sidecar = sidecar(str_of(c, "name"));
        if is_sidecar {
            tally.of_sidecars.0 += restarts;
            later(&mut tally.of_sidecars.1, text(c, "/lastState/terminated/finishedAt"));
        }
        let state = get(c, "state");
        let ended = get(state, "terminated");
        if ended.is_object() && int_of(ended, "exitCode").unwrap_or(0) == 0 {
            continue;
        }
        if is_sidecar && flag(c, "started") {
            if flag(c, "ready") {
                tally.ready += 1;
            }
            continue;
        }
        let waiting = text(state, "/waiting/reason");
        word = Some(if ended.is_object() {
            match str_of(ended, "reason") {
                "" if int_of(ended, "signal").unwrap_or(0) != 0 => {
                    format!("Init:Signal:{}", int_of(ended, "signal").unwrap_or(0))
                }
                "" => format!("Init:ExitCode:{}", int_of(ended, "exitCode").unwrap_or(0)),
                reason => format!("Init:{reason}"),
            }
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", specs.len())
        });
        break;
    }
    word
}

/// The word for a pod whose containers run, from the last container to the first.
fn running_reason(status: &Value, mut reason: String, tally: &mut Tally) -> String {
    let mut running = false;
    for c in list(status, "containerStatuses").iter().rev() {
        tally.restarts += int_of(c, "restartCount").unwrap_or(0);
        later(&mut tally.last_restart, text(c, "/lastState/terminated/finishedAt"));
        let state = get(c, "state");
        let ended = get(state, "terminated");
        let waiting = text(state, "/waiting/reason");
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if ended.is_object() {
            reason = match (str_of(ended, "reason"), int_of(ended, "signal").unwrap_or(0)) {
                ("", 0) => format!("ExitCode:{}", int_of(ended, "exitCode").unwrap_or(0)),
                ("", signal) => format!("Signal:{signal}"),
                (reason, _) => reason.to_owned(),
            };
        } else if flag(c, "ready") && has(state, "running") {
            running = true;
            tally.ready += 1;
        }
    }
    if reason == "Completed" && running {
        let ready = condition(status, "Ready").is_some_and(|c| str_of(c, "status") == "True");
        reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
    reason
}

fn later(latest: &mut String, time: &str) {
    if time > latest.as_str() {
        time.clone_into(latest);
    }
}

/// A finished pod's row says so, so that printers can leave it out.
pub fn conditions(pod: &Value) -> Vec<Value> {
    let (reason, message) = match text(pod, "/status/phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}
