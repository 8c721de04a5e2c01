//! Whole lives of pods without a runtime: a model carries out what the plan says, at once, and containers
//! end as the script says. Every line of an expected trace is an action or a change of the reported status.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use serde_json::{Value, json};

use super::backoff::Backoff;
use super::fields::NodeFacts;
use super::plan::{self, Action, Health, Memory, Situation, StartFailure, Stop, Waiting};
use super::{reported, status};
use crate::runtime::{Container, Observed, Sandbox, State};

/// How a container's run goes: it ends with this code, or runs until it is ended.
#[derive(Clone, Copy)]
enum Run {
    Ends(i32),
    Stays,
}
use Run::{Ends, Stays};

struct Model {
    pod: Pod,
    observed: Observed,
    memory: Memory,
    runs: BTreeMap<&'static str, Vec<Run>>,
    stop: Option<Stop>,
    now: Timestamp,
    made: u32,
    trace: Vec<String>,
    shown: String,
}

fn pod(spec: Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "main"}]},
    }))
    .expect("pod");
    let mut merged = serde_json::to_value(&pod.spec).expect("spec");
    if let (Some(into), Some(from)) = (merged.as_object_mut(), spec.as_object()) {
        into.extend(from.clone());
    }
    pod.spec = serde_json::from_value(merged).expect("spec");
    pod
}

impl Model {
    fn new(spec: Value, runs: &[(&'static str, &[Run])]) -> Model {
        Model {
            pod: pod(spec),
            observed: Observed::default(),
            memory: Memory::default(),
            runs: runs.iter().map(|(name, runs)| (*name, runs.to_vec())).collect(),
            stop: None,
            now: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1000),
            made: 0,
            trace: Vec::new(),
            shown: String::new(),
        }
    }

    /// One turn; false when nothing is left to do but wait, longer than `patience_s`.
    fn turn(&mut self, patience_s: i64) -> bool {
        self.follow_health();
        let situation = Situation {
            pod: &self.pod,
            observed: &self.observed,
            memory: &self.memory,
            stop: self.stop,
            now: self.now,
        };
        let plan = plan::plan(&situation);
        let settled = plan.actions.contains(&Action::Settled);
        let status = status::status(&status::Inputs {
            pod: &self.pod,
            observed: &self.observed,
            memory: &self.memory,
            plan: &plan,
            node: &NodeFacts::default(),
            settled,
            now: self.now,
        });
        self.show(&status);
        self.pod.status = Some(status);
        let mut acted = false;
        for action in plan.actions {
            acted |= self.carry_out(action);
        }
        if acted {
            return true;
        }
        match plan.wake_at {
            Some(at) if at.duration_since(self.now).as_secs() <= patience_s => {
                self.trace
                    .push(format!("wait {}s", at.duration_since(self.now).as_secs()));
                self.now = at;
                true
            }
            _ => false,
        }
    }

    fn run(&mut self, patience_s: i64) {
        for _ in 0..200 {
            if !self.turn(patience_s) {
                return;
            }
        }
        panic!("the pod never comes to rest: {:#?}", self.trace);
    }

    fn delete(&mut self) {
        self.trace.push("delete".into());
        self.stop = Some(Stop { grace_s: 30 });
        self.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
    }

    fn follow_health(&mut self) {
        let running: Vec<String> = self.alive().map(|container| container.id.clone()).collect();
        self.memory.health.retain(|id, _| running.contains(id));
        for id in running {
            self.memory.health.entry(id).or_insert(Health {
                started: true,
                ready: true,
                failed: None,
            });
        }
    }

    fn alive(&self) -> impl Iterator<Item = &Container> {
        self.observed
            .containers
            .iter()
            .filter(|container| container.state == State::Running)
    }

    fn carry_out(&mut self, action: Action) -> bool {
        match action {
            Action::CreateSandbox { attempt } => {
                self.trace.push(format!("sandbox {attempt}"));
                self.observed.sandboxes.insert(0, self.sandbox(attempt));
                self.memory.volumes_ready = true;
            }
            Action::Start { container, restarts } => {
                self.trace.push(format!("start {container} {restarts}"));
                if restarts > 0 {
                    let previous = self.memory.backoffs.get(&container).copied();
                    let next = Backoff::next(previous, self.now);
                    self.memory.backoffs.insert(container.clone(), next);
                }
                self.make(container, restarts);
            }
            Action::Kill {
                id,
                container,
                grace_s,
                message,
            } => {
                self.trace.push(format!("kill {container} {grace_s}: {message}"));
                self.end(&id, 137);
            }
            Action::StopSandbox { .. } => {
                self.trace.push("stop sandbox".into());
                self.observed
                    .sandboxes
                    .iter_mut()
                    .for_each(|sandbox| sandbox.ready = false);
            }
            Action::Resize { containers } => {
                self.trace.push(format!(
                    "resize {}",
                    containers.keys().cloned().collect::<Vec<_>>().join(" ")
                ));
                let given = super::resize::of_spec(&self.pod);
                for (name, id) in containers {
                    self.memory.resize.actual.insert(id, given[&name].clone());
                }
            }
            Action::Settled => return false,
        }
        true
    }

    fn sandbox(&self, attempt: u32) -> Sandbox {
        Sandbox {
            id: format!("s{attempt}"),
            uid: "u".into(),
            namespace: "n".into(),
            name: "p".into(),
            attempt,
            ready: true,
            created_at: self.now,
            ips: vec!["10.0.0.1".into()],
        }
    }

    fn make(&mut self, name: String, restarts: u32) {
        self.made += 1;
        let runs = self.runs.get_mut(name.as_str()).filter(|runs| !runs.is_empty());
        let run = runs.map_or(Stays, |runs| if runs.len() > 1 { runs.remove(0) } else { runs[0] });
        let id = format!("c{}", self.made);
        self.observed.containers.insert(
            0,
            Container {
                id: id.clone(),
                name,
                sandbox_id: self.observed.sandboxes[0].id.clone(),
                restarts,
                state: State::Running,
                created_at: self.now,
                started_at: Some(self.now),
                finished_at: None,
                exit_code: 0,
                reason: String::new(),
                message: String::new(),
                image: String::new(),
                image_ref: String::new(),
                annotations: Default::default(),
                log_path: String::new(),
            },
        );
        if let Ends(code) = run {
            self.end(&id, code);
        }
    }

    fn end(&mut self, id: &str, code: i32) {
        let now = self.now;
        for container in self
            .observed
            .containers
            .iter_mut()
            .filter(|container| container.id == id)
        {
            container.state = State::Exited;
            container.exit_code = code;
            container.finished_at = Some(now);
        }
    }

    /// Notes the phase, the states and the readiness when they are others than before.
    fn show(&mut self, status: &PodStatus) {
        let init = status.init_container_statuses.iter().flatten();
        let ephemeral = status.ephemeral_container_statuses.iter().flatten();
        let all = init.chain(status.container_statuses.iter().flatten()).chain(ephemeral);
        let states: Vec<String> = all.map(state).collect();
        let ready = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Ready");
        let ready = ready.map_or("", |condition| condition.status.as_str());
        let text = format!(
            "= {} {} ready={ready}",
            status.phase.as_deref().unwrap_or("-"),
            states.join(" ")
        );
        if text != self.shown {
            self.trace.push(text.clone());
            self.shown = text;
        }
    }
}

fn state(status: &ContainerStatus) -> String {
    let state = status.state.clone().unwrap_or_default();
    let word = if state.running.is_some() {
        "runs".to_string()
    } else if let Some(ended) = state.terminated {
        format!("ended({})", ended.exit_code)
    } else {
        state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default()
    };
    format!("{}:{word}", status.name)
}

fn check(title: &str, mut model: Model, patience_s: i64, then_delete: bool, expected: &[&str]) {
    model.run(patience_s);
    if then_delete {
        model.delete();
        model.run(patience_s);
    }
    assert_eq!(model.trace, expected, "{title}: {:#?}", model.trace);
}

#[test]
fn a_pod_runs_and_is_deleted() {
    check(
        "one container",
        Model::new(json!({}), &[]),
        5,
        true,
        &[
            "= Pending main:ContainerCreating ready=False",
            "sandbox 0",
            "start main 0",
            "= Running main:runs ready=True",
            "delete",
            "kill main 30: Stopping container main",
            "= Running main:ended(137) ready=False",
            "stop sandbox",
            "= Failed main:ended(137) ready=False",
        ],
    );
}

#[test]
fn init_containers_run_one_after_the_other() {
    let init = json!({"initContainers": [{"name": "a"}, {"name": "b"}], "restartPolicy": "Never"});
    check(
        "both succeed",
        Model::new(
            init.clone(),
            &[("a", &[Ends(0)]), ("b", &[Ends(0)]), ("main", &[Ends(0)])],
        ),
        5,
        false,
        &[
            "= Pending a:PodInitializing b:PodInitializing main:PodInitializing ready=False",
            "sandbox 0",
            "start a 0",
            "= Pending a:ended(0) b:PodInitializing main:PodInitializing ready=False",
            "start b 0",
            "= Pending a:ended(0) b:ended(0) main:PodInitializing ready=False",
            "start main 0",
            "= Succeeded a:ended(0) b:ended(0) main:ended(0) ready=False",
            "stop sandbox",
        ],
    );
    check(
        "the first fails for good",
        Model::new(init, &[("a", &[Ends(3)])]),
        5,
        false,
        &[
            "= Pending a:PodInitializing b:PodInitializing main:PodInitializing ready=False",
            "sandbox 0",
            "start a 0",
            "= Failed a:ended(3) b:PodInitializing main:PodInitializing ready=False",
            "stop sandbox",
        ],
    );
    check(
        "the first fails and is tried again after a pause",
        Model::new(
            json!({"initContainers": [{"name": "a"}]}),
            &[("a", &[Ends(1), Ends(1), Ends(0)])],
        ),
        10,
        false,
        &[
            "= Pending a:PodInitializing main:PodInitializing ready=False",
            "sandbox 0",
            "start a 0",
            "= Pending a:ended(1) main:PodInitializing ready=False",
            "start a 1",
            "= Pending a:CrashLoopBackOff main:PodInitializing ready=False",
            "wait 10s",
            "= Pending a:ended(1) main:PodInitializing ready=False",
            "start a 2",
            "= Pending a:ended(0) main:PodInitializing ready=False",
            "start main 0",
            "= Running a:ended(0) main:runs ready=True",
        ],
    );
}

#[test]
fn sidecars_start_first_and_end_last() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}],
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 7});
    check(
        "the work is done",
        Model::new(spec.clone(), &[("main", &[Ends(0)])]),
        5,
        false,
        &[
            "= Pending s:PodInitializing t:PodInitializing main:PodInitializing ready=False",
            "sandbox 0",
            "start s 0",
            "= Pending s:runs t:PodInitializing main:PodInitializing ready=False",
            "start t 0",
            "= Pending s:runs t:runs main:PodInitializing ready=False",
            "start main 0",
            "= Running s:runs t:runs main:ended(0) ready=False",
            "kill t 7: Stopping container t",
            "= Running s:runs t:ended(137) main:ended(0) ready=False",
            "kill s 7: Stopping container s",
            "= Succeeded s:ended(137) t:ended(137) main:ended(0) ready=False",
            "stop sandbox",
        ],
    );
    let mut model = Model::new(spec, &[("s", &[Ends(2), Stays])]);
    model.run(5);
    let restarted = model.trace.iter().filter(|line| line.starts_with("start s")).count();
    assert_eq!(restarted, 2, "a sidecar that ends starts again: {:#?}", model.trace);
}

#[test]
fn restarts_follow_the_policy() {
    let table: [(&str, Run, &[&str]); 6] = [
        (
            "Always",
            Ends(0),
            &["start main 0", "start main 1", "wait 10s", "start main 2"],
        ),
        (
            "Always",
            Ends(1),
            &["start main 0", "start main 1", "wait 10s", "start main 2"],
        ),
        (
            "OnFailure",
            Ends(1),
            &["start main 0", "start main 1", "wait 10s", "start main 2"],
        ),
        ("OnFailure", Ends(0), &["start main 0", "stop sandbox"]),
        ("Never", Ends(1), &["start main 0", "stop sandbox"]),
        ("Never", Ends(0), &["start main 0", "stop sandbox"]),
    ];
    for (policy, run, expected) in table {
        let mut model = Model::new(json!({"restartPolicy": policy}), &[("main", &[run])]);
        model.run(10);
        let did: Vec<&str> = model
            .trace
            .iter()
            .map(String::as_str)
            .filter(|line| !line.starts_with('=') && !line.starts_with("sandbox"))
            .collect();
        assert_eq!(did, expected, "{policy}");
    }
}

#[test]
fn a_containers_own_rules_come_before_its_policy() {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let main = json!({"name": "main", "restartPolicy": "Never", "restartPolicyRules": rules});
    for (code, expected) in [(42, 2), (1, 1)] {
        let spec = json!({"restartPolicy": "Never", "containers": [main.clone()]});
        let mut model = Model::new(spec, &[("main", &[Ends(code), Ends(0)])]);
        model.run(10);
        let starts = model.trace.iter().filter(|line| line.starts_with("start")).count();
        assert_eq!(starts, expected, "{:#?}", model.trace);
    }
}

#[test]
fn a_failed_probe_restarts_and_a_dead_sandbox_starts_over() {
    let mut model = Model::new(json!({}), &[]);
    model.run(5);
    model.memory.health.insert(
        "c1".into(),
        Health {
            started: true,
            ready: true,
            failed: Some("Container main failed liveness probe, will be restarted".into()),
        },
    );
    model.trace.clear();
    model.run(5);
    model.observed.sandboxes[0].ready = false;
    model.run(10);
    let expected = [
        "kill main 30: Container main failed liveness probe, will be restarted",
        "= Running main:ended(137) ready=False",
        "start main 1",
        "= Running main:runs ready=True",
        "kill main 30: Stopping container main",
        "= Running main:ended(137) ready=False",
        "sandbox 1",
        "= Running main:CrashLoopBackOff ready=False",
        "wait 10s",
        "= Running main:ended(137) ready=False",
        "start main 2",
        "= Running main:runs ready=True",
    ];
    assert_eq!(model.trace, expected, "{:#?}", model.trace);
}

#[test]
fn a_reason_stays_until_a_start_succeeds() {
    let mut model = Model::new(json!({}), &[]);
    let waiting = |reason: &str| Waiting {
        reason: reason.into(),
        message: String::new(),
    };
    model.observed.sandboxes.push(model.sandbox(0));
    model.memory.volumes_ready = true;
    let failure = StartFailure {
        waiting: waiting("ErrImagePull"),
        then: Some(waiting("ImagePullBackOff")),
        at: model.now,
        retry_at: model.now + SignedDuration::from_secs(10),
        failures: 1,
    };
    model.memory.failures.insert("main".into(), failure);
    model.run(9);
    let expected = [
        "= Pending main:ErrImagePull ready=False",
        "wait 1s",
        "= Pending main:ImagePullBackOff ready=False",
        "wait 9s",
        "start main 0",
        "= Running main:runs ready=True",
    ];
    assert_eq!(model.trace, expected, "{:#?}", model.trace);

    // The next agent shows the same reason and tries at once.
    let mut status = PodStatus::default();
    let shown = json!([{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "m"}}}]);
    status.container_statuses = serde_json::from_value(shown).expect("statuses");
    model.pod.status = Some(status);
    let known = reported::known_failures(&model.pod, model.now);
    assert_eq!(known["main"].waiting.reason, "ImagePullBackOff");
    assert_eq!(known["main"].retry_at, model.now);
}

#[test]
fn ephemeral_containers_run_beside_the_rest_once() {
    let mut model = Model::new(
        json!({"ephemeralContainers": [{"name": "debug"}]}),
        &[("debug", &[Ends(4)])],
    );
    model.run(60);
    let expected = [
        "= Pending main:ContainerCreating debug:ContainerCreating ready=False",
        "sandbox 0",
        "start debug 0",
        "start main 0",
        "= Running main:runs debug:ended(4) ready=True",
    ];
    assert_eq!(model.trace, expected, "{:#?}", model.trace);
}

#[test]
fn a_running_post_start_hook_is_not_running_yet() {
    let mut model = Model::new(json!({}), &[]);
    model.run(5);
    model.memory.in_post_start.insert("main".into());
    model.trace.clear();
    model.run(5);
    assert_eq!(model.trace, ["= Pending main:ContainerCreating ready=False"]);
}

#[test]
fn resources_change_in_place_or_by_a_restart() {
    let container = |cpu: &str, policy: &str| {
        json!({"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]})
    };
    let table: [(&str, &[&str]); 2] = [
        ("NotRequired", &["resize main"]),
        (
            "RestartContainer",
            &["kill main 30: Container main resize requires restart", "start main 1"],
        ),
    ];
    for (policy, expected) in table {
        let mut model = Model::new(container("1", policy), &[]);
        model.run(5);
        let given = super::resize::of_spec(&model.pod);
        model.memory.resize.actual.insert("c1".into(), given["main"].clone());
        let status = model.pod.status.take();
        model.pod = pod(container("2", policy));
        model.pod.status = status;
        model.trace.clear();
        model.run(5);
        let did: Vec<&String> = model.trace.iter().filter(|line| !line.starts_with('=')).collect();
        assert_eq!(did, expected, "{policy}");
    }
}

#[test]
fn deadlines_and_failures_of_the_pod_end_it() {
    let mut model = Model::new(json!({"activeDeadlineSeconds": 60}), &[]);
    model.run(5);
    let situation = Situation {
        pod: &model.pod,
        observed: &model.observed,
        memory: &model.memory,
        stop: None,
        now: model.now,
    };
    let until = plan::plan(&situation)
        .wake_at
        .map(|at| at.duration_since(model.now).as_secs());
    assert_eq!(until, Some(60));
    model.memory.failed = Some(("DeadlineExceeded".into(), "too long".into()));
    model.trace.clear();
    model.run(5);
    assert_eq!(
        model.trace,
        [
            "kill main 30: Stopping container main",
            "= Failed main:ended(137) ready=False",
            "stop sandbox",
        ]
    );
    let status = model.pod.status.expect("status");
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
}

/// Whatever a pod says, its life can be planned, its status told, and its cgroups limited.
#[test]
fn extremes_of_every_field_have_a_plan() {
    let base = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {
            "containers": [{"name": "main", "resources": {"requests": {"cpu": "1m"}, "limits": {"memory": "1Mi"}}}],
            "initContainers": [{"name": "before"}],
        },
        "status": {"startTime": "1970-01-01T00:16:00Z", "containerStatuses": [{"name": "main", "restartCount": 1,
            "image": "i", "imageID": "i", "ready": true, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:16:10Z"}}}]},
    });
    let other = std::sync::Arc::new(pod(json!({})));
    let allocatable = BTreeMap::from([("cpu".to_string(), 1000), ("memory".to_string(), i64::MAX)]);
    let facts = NodeFacts {
        allocatable: allocatable.clone(),
        ..NodeFacts::default()
    };
    for change in coxswain_api::schema::extremes::changes("io.k8s.api.core.v1.Pod", &base) {
        let Ok(pod) = serde_json::from_value::<Pod>(change.object) else {
            continue;
        };
        let mut model = Model::new(json!({}), &[("before", &[Ends(0)]), ("main", &[Ends(1), Stays])]);
        model.memory.failures = reported::known_failures(&pod, model.now);
        model.pod = pod.clone();
        for _ in 0..6 {
            model.turn(60);
        }
        model.stop = Some(Stop {
            grace_s: pod.metadata.deletion_grace_period_seconds.unwrap_or(i64::MAX),
        });
        model.turn(60);
        let extreme = std::sync::Arc::new(pod.clone());
        let _ = super::admission::refusal(&pod, &[extreme.clone(), other.clone()], &facts);
        let _ = super::resize::admit(&pod, std::slice::from_ref(&extreme), &allocatable);
        let _ = super::resize::admit(&other, &[extreme.clone(), extreme], &allocatable);
        super::resources::pod_limits(&pod);
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            for memory_bytes in [0, 1, i64::MAX] {
                super::resources::update(&pod, container, memory_bytes);
            }
            for resource in ["limits.cpu", "requests.cpu", "limits.memory", "requests.memory"] {
                let divisor = container
                    .resources
                    .as_ref()
                    .and_then(|resources| resources.limits.as_ref()?.get("memory"));
                let _ = super::resources::downward(container, resource, divisor, &allocatable);
            }
        }
    }
}
