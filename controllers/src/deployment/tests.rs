//! Rollouts played against a cluster of plain values: the plan is carried out, sets and pods
//! move on, and the promises are checked at every step.

use std::collections::HashMap;
use std::sync::Arc;

use coxswain_api::schema::extremes;
use coxswain_client::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Observed, Plan, plan};
use super::replicas::{limits, size};
use super::revision::REVISION;
use crate::pods::template_hash;

/// A Deployment, its sets, and a clock.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now_s: i64,
    events: Vec<String>,
}

fn deployment(replicas: i32, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1},
        "spec": {"replicas": replicas, "strategy": strategy, "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 600, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
                {"name": "c", "image": "one"}]}}}}))
    .expect("a deployment")
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

impl World {
    fn new(deployment: Deployment) -> World {
        World {
            deployment,
            sets: Vec::new(),
            now_s: 1000,
            events: Vec::new(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.now_s).expect("a time")
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().expect("a spec");
        let pod = spec.template.spec.as_mut().expect("a pod");
        if let Some(container) = pod.containers.first_mut() {
            container.image = Some(image.to_string());
        }
        self.changed();
    }

    fn scale(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().expect("a spec").replicas = Some(replicas);
        self.changed();
    }

    fn changed(&mut self) {
        let generation = self.deployment.metadata.generation.get_or_insert(0);
        *generation += 1;
    }

    fn plan(&self) -> Plan {
        let running = self.sets.iter().map(|set| {
            let count = set.status.as_ref().map_or(0, |s| s.replicas);
            (
                set.metadata.uid.clone().unwrap_or_default(),
                usize::try_from(count).unwrap_or(0),
            )
        });
        plan(Observed {
            deployment: Arc::new(self.deployment.clone()),
            sets: self.sets.iter().cloned().map(Arc::new).collect(),
            running: running.collect::<HashMap<_, _>>(),
            now: self.now(),
        })
    }

    /// Plans once and carries it out. True when something was done.
    fn reconcile(&mut self) -> bool {
        let plan = self.plan();
        let idle = plan.create.is_none()
            && plan.change.is_empty()
            && plan.delete.is_empty()
            && plan.status.is_none()
            && plan.revision.is_none();
        if let Some(mut set) = plan.create {
            set.metadata.uid = set.metadata.name.clone();
            set.metadata.generation = Some(1);
            set.metadata.creation_timestamp = Some(Time(self.now()));
            set.status = Some(ReplicaSetStatus::default());
            self.sets.push(set);
        }
        for change in plan.change {
            let same = |s: &&mut ReplicaSet| s.metadata.uid == change.set.metadata.uid;
            let set = self.sets.iter_mut().find(same).expect("the set");
            set.metadata.annotations = Some(change.annotations);
            set.spec.as_mut().expect("a spec").replicas = Some(change.replicas);
        }
        for gone in plan.delete {
            self.sets.retain(|s| s.metadata.uid != gone.metadata.uid);
        }
        for (name, from, to) in plan.scaled {
            let hash = name.rsplit('-').next().unwrap_or_default().to_string();
            let at = self
                .sets
                .iter()
                .position(|s| s.metadata.name.as_deref().is_some_and(|n| n.ends_with(&hash)));
            self.events
                .push(format!("{}: {from} to {to}", at.map_or(0, |at| at + 1)));
        }
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(REVISION.to_string(), revision);
        }
        if let Some(status) = plan.status {
            self.deployment.status = Some(status);
        }
        !idle
    }

    /// Lets sets make or delete pods, of which `healthy` images become available.
    fn pods_follow(&mut self, healthy: &dyn Fn(&str) -> bool) {
        for set in &mut self.sets {
            let spec = set.spec.as_ref();
            let template = spec.and_then(|s| s.template.as_ref()).and_then(|t| t.spec.as_ref());
            let image = template
                .and_then(|p| p.containers.first())
                .and_then(|c| c.image.clone());
            let count = size(set);
            let good = if healthy(&image.unwrap_or_default()) { count } else { 0 };
            set.status = Some(ReplicaSetStatus {
                replicas: count,
                ready_replicas: Some(good),
                available_replicas: Some(good),
                observed_generation: set.metadata.generation,
                terminating_replicas: Some(0),
                ..ReplicaSetStatus::default()
            });
        }
        self.now_s += 1;
    }

    fn settle(&mut self, healthy: &dyn Fn(&str) -> bool) {
        for _ in 0..200 {
            if !self.reconcile() {
                let before: Vec<_> = self.sets.iter().map(|s| s.status.clone()).collect();
                self.pods_follow(healthy);
                let after: Vec<_> = self.sets.iter().map(|s| s.status.clone()).collect();
                if before == after && !self.reconcile() {
                    return;
                }
            }
        }
        panic!("the rollout does not settle: {:?}", self.events);
    }

    fn condition(&self, name: &str) -> String {
        let status = self.deployment.status.as_ref();
        let all = status.and_then(|s| s.conditions.as_ref());
        let found = all.and_then(|c| c.iter().find(|c| c.type_ == name));
        found.map_or("none".to_string(), |c| {
            format!(
                "{} {}: {}",
                c.status,
                c.reason.clone().unwrap_or_default(),
                c.message.clone().unwrap_or_default()
            )
        })
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(size).collect()
    }
}

#[test]
fn a_first_rollout() {
    let mut world = World::new(deployment(3, rolling(json!("25%"), json!("25%"))));
    assert!(world.reconcile());
    let hash = template_hash(&world.deployment.spec.as_ref().expect("spec").template, None);
    assert_eq!(
        world.condition("Progressing"),
        format!("True NewReplicaSetCreated: Created new replica set \"web-{hash}\"")
    );
    assert_eq!(
        world.condition("Available"),
        "False MinimumReplicasUnavailable: Deployment does not have minimum availability."
    );
    world.settle(&|_| true);
    assert_eq!(world.events, ["1: 0 to 3"]);
    assert_eq!(
        world.condition("Progressing"),
        format!("True NewReplicaSetAvailable: ReplicaSet \"web-{hash}\" has successfully progressed.")
    );
    assert_eq!(
        world.condition("Available"),
        "True MinimumReplicasAvailable: Deployment has minimum availability."
    );
    let status = json!(world.deployment.status);
    assert_eq!(
        (
            &status["replicas"],
            &status["updatedReplicas"],
            &status["observedGeneration"]
        ),
        (&json!(3), &json!(3), &json!(1))
    );
    let annotations = json!(world.sets[0].metadata.annotations);
    assert_eq!(
        annotations,
        json!({"deployment.kubernetes.io/revision": "1", "deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4"})
    );
}

#[test]
fn a_rolling_update_and_its_undo() {
    let mut world = World::new(deployment(3, rolling(json!("25%"), json!("25%"))));
    world.settle(&|_| true);
    world.events.clear();
    world.set_image("two");
    world.settle(&|_| true);
    let steps = [
        "2: 0 to 1",
        "1: 3 to 2",
        "2: 1 to 2",
        "1: 2 to 1",
        "2: 2 to 3",
        "1: 1 to 0",
    ];
    assert_eq!(world.events, steps);
    world.events.clear();
    world.set_image("one");
    world.settle(&|_| true);
    assert_eq!(world.sizes(), [3, 0]);
    let revision = |at: usize| {
        world.sets[at]
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(REVISION))
            .cloned()
    };
    assert_eq!((revision(0).as_deref(), revision(1).as_deref()), (Some("3"), Some("2")));
    let annotations = world.deployment.metadata.annotations.as_ref();
    assert_eq!(annotations.and_then(|a| a.get(REVISION)).map(String::as_str), Some("3"));
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut world = World::new(deployment(2, json!({"type": "Recreate"})));
    world.settle(&|_| true);
    world.set_image("two");
    world.reconcile();
    assert_eq!(world.sizes(), [0], "no new set while old pods run");
    world.settle(&|_| true);
    assert_eq!(world.sizes(), [0, 2]);
    assert_eq!(world.events, ["1: 0 to 2", "1: 2 to 0", "2: 0 to 2"]);
}

#[test]
fn scaling_during_a_rollout_keeps_the_proportions() {
    let mut world = World::new(deployment(10, rolling(json!(3), json!(2))));
    world.settle(&|_| true);
    world.set_image("bad");
    world.settle(&|image| image != "bad");
    assert_eq!(world.sizes(), [8, 5]);
    world.scale(15);
    world.reconcile();
    assert_eq!(world.sizes(), [11, 7]);
}

#[test]
fn paused_ones_only_scale() {
    let mut world = World::new(deployment(2, rolling(json!(1), json!(0))));
    world.settle(&|_| true);
    world.deployment.spec.as_mut().expect("a spec").paused = Some(true);
    world.set_image("two");
    world.settle(&|_| true);
    assert_eq!(
        world.condition("Progressing"),
        "Unknown DeploymentPaused: Deployment is paused"
    );
    world.scale(4);
    world.settle(&|_| true);
    assert_eq!(world.sizes(), [4]);
    world.deployment.spec.as_mut().expect("a spec").paused = None;
    world.reconcile();
    assert_eq!(world.sizes().len(), 2, "the new set is made as soon as it is resumed");
}

#[test]
fn a_stuck_rollout_is_reported_after_its_deadline() {
    let mut world = World::new(deployment(1, rolling(json!(1), json!(0))));
    world.settle(&|_| false);
    let wait = world.plan().requeue_after.expect("a timer");
    assert!(wait.as_secs() > 590 && wait.as_secs() <= 601, "{wait:?}");
    world.now_s += 602;
    world.reconcile();
    let name = world.sets[0].metadata.name.clone().unwrap_or_default();
    assert_eq!(
        world.condition("Progressing"),
        format!("False ProgressDeadlineExceeded: ReplicaSet \"{name}\" has timed out progressing.")
    );
    assert!(!world.reconcile());
}

#[test]
fn old_sets_beyond_the_limit_go() {
    let mut world = World::new(deployment(1, rolling(json!(1), json!(0))));
    for image in ["one", "two", "three", "four", "five"] {
        world.set_image(image);
        world.settle(&|_| true);
    }
    assert_eq!(world.sizes(), [0, 0, 1], "two old ones are kept");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn limits_hold_at_every_step(
        replicas in 1i32..12, surge in 0i32..5, unavailable in 0i32..5,
        bad_middle in any::<bool>(), percent in any::<bool>(),
    ) {
        let value = |n: i32| if percent { json!(format!("{}%", n * 20)) } else { json!(n) };
        let mut world = World::new(deployment(replicas, rolling(value(surge), value(unavailable))));
        world.settle(&|_| true);
        let bounds = limits(&world.deployment);
        let mut step = 0;
        for image in ["middle", "last"] {
            world.set_image(image);
            for _ in 0..120 {
                step += 1;
                let busy = world.reconcile();
                let total: i32 = world.sets.iter().map(size).sum();
                prop_assert!(total <= bounds.replicas + bounds.surge, "step {}: {:?}", step, world.sizes());
                if !busy || step % 2 == 0 {
                    world.pods_follow(&|image| !(bad_middle && image == "middle"));
                }
                let up: i32 = world.sets.iter().filter_map(|s| s.status.as_ref()?.available_replicas).sum();
                prop_assert!(up >= bounds.replicas - bounds.unavailable, "step {}: {} up, {:?}", step, up, world.sizes());
            }
        }
        world.settle(&|image| !(bad_middle && image == "middle"));
        prop_assert_eq!(world.sizes().last().copied(), Some(replicas));
        prop_assert_eq!(world.sizes().iter().sum::<i32>(), replicas);
        prop_assert!(!world.reconcile(), "settled");
    }
}

/// Whatever a Deployment and its sets say, there is a plan.
#[test]
fn extremes_of_every_field_have_a_plan() {
    let planned = |deployment: Deployment, sets: Vec<ReplicaSet>| {
        plan(Observed {
            deployment: Arc::new(deployment),
            sets: sets.into_iter().map(Arc::new).collect(),
            running: HashMap::new(),
            now: Timestamp::UNIX_EPOCH,
        })
    };
    let web = deployment(3, rolling(json!(1), json!(1)));
    let old = json!({
        "metadata": {"name": "web-1", "namespace": "n", "uid": "s1", "labels": {"a": "b"},
            "annotations": {"deployment.kubernetes.io/revision": "1"}, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true}]},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "zero"}]}}},
        "status": {"replicas": 2, "availableReplicas": 1}});
    let sets = |changed: Value| -> Vec<ReplicaSet> {
        let mut new = old.clone();
        new["metadata"]["name"] = json!("web-2");
        new["metadata"]["uid"] = json!("s2");
        new["spec"]["template"] = serde_json::to_value(&web.spec.as_ref().expect("a spec").template).expect("JSON");
        let read = |value: Value| serde_json::from_value(value).ok();
        [changed, old.clone(), new].into_iter().filter_map(read).collect()
    };
    let base = serde_json::to_value(&web).expect("JSON");
    for change in extremes::changes("io.k8s.api.apps.v1.Deployment", &base) {
        let is_read = !change.field.contains(".template.spec.");
        if let (true, Ok(deployment)) = (is_read, serde_json::from_value(change.object)) {
            planned(deployment, sets(old.clone()));
        }
    }
    let most = deployment(i32::MAX, rolling(json!(i32::MAX), json!("2147483647%")));
    for change in extremes::changes("io.k8s.api.apps.v1.ReplicaSet", &old) {
        if !change.field.contains(".template.spec.") {
            planned(web.clone(), sets(change.object.clone()));
            planned(most.clone(), sets(change.object));
        }
    }
    for annotation in ["revision", "desired-replicas", "max-replicas"] {
        for number in [i64::MIN, -1, 0, i64::from(i32::MAX), i64::MAX] {
            let mut changed = old.clone();
            changed["metadata"]["annotations"][format!("deployment.kubernetes.io/{annotation}")] =
                json!(number.to_string());
            planned(web.clone(), sets(changed));
        }
    }
}
