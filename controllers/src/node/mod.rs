//! Nodes: notices those that stopped reporting, taints those that are not ready, moves pods away,
//! gives each its part of the pod network, and clears away pods that nobody will finish.
//!
//! Watches Nodes, their Leases and pods. Time is measured on this machine's clock from the moment
//! a renewal is seen: a node's own clock does not matter. Each node has one timer. How fast pods are moved away
//! depends on how many nodes of a zone are silent at once ([`zones`]), which is looked at every five seconds.
//! Does not: decide whether pods tolerate a taint before they are placed (the scheduler does).

pub(crate) mod ipam;
mod plan;
mod sweep;
#[cfg(test)]
mod tests;
mod zones;

pub(crate) use plan::tolerates;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
pub use zones::EvictionLimits;

use coxswain_client::k8s_openapi::api::coordination::v1::Lease;
use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod};
use coxswain_client::kube::Api;
use coxswain_client::{Cache, EventType, Next, Queue, Scope, merge_diff, revision_of, work};
use jiff::Timestamp;
use plan::NoExecute;
use serde_json::json;
use tokio::time::MissedTickBehavior;
use zones::{Admission, Observation, Transition, Zones};

use crate::context::{CATCH_UP, Context};
use crate::error::ControllerError;
use crate::pods;
use crate::writes::{self, patch_status};

struct Nodes {
    context: Context,
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods: Cache<Pod>,
    cidrs: Option<ipam::Cidrs>,
    /// When each node was last heard of, and what it said then.
    heard: Mutex<HashMap<Arc<str>, (String, Timestamp)>>,
    health: Mutex<Health>,
}

/// What is known of the nodes together.
struct Health {
    zones: Zones,
    observation: Observation,
}

/// How often the zones are looked at, `--node-monitor-period` of Kubernetes.
const MONITOR_PERIOD: Duration = Duration::from_secs(5);

/// Runs until cancelled.
pub(crate) async fn run(context: Context, cidrs: Option<ipam::Cidrs>) {
    let lease_scope = Scope {
        namespace: Some("kube-node-lease".to_string()),
        ..Scope::default()
    };
    let controller = Arc::new(Nodes {
        nodes: context.caches.of(),
        leases: context.caches.scoped(lease_scope),
        pods: context.caches.of(),
        cidrs,
        heard: Mutex::new(HashMap::new()),
        health: Mutex::new(Health {
            zones: Zones::default(),
            observation: Observation::new(Timestamp::now()),
        }),
        context: context.clone(),
    });
    controller.nodes.synced().await;
    controller.leases.synced().await;
    controller.pods.synced().await;
    let queue: Queue<Arc<str>> = Queue::new();
    let reconciler = controller.clone();
    // One worker: addresses are given out one node at a time.
    let worker = work(
        "node",
        queue.clone(),
        1,
        context.token.clone(),
        move |name: Arc<str>| {
            let controller = reconciler.clone();
            async move { controller.reconcile(&name).await }
        },
    );
    tokio::join!(
        worker,
        controller.wake(queue.clone()),
        controller.monitor(queue),
        sweep::run(controller.clone())
    );
}

impl Nodes {
    async fn wake(&self, queue: Queue<Arc<str>>) {
        let mut nodes = self.nodes.changes();
        let mut leases = self.leases.changes();
        let mut pods = self.pods.changes();
        loop {
            tokio::select! {
                change = nodes.recv() => match change {
                    Some(change) => {
                        if change.new.is_none() {
                            self.forget(&change.key.name);
                        }
                        queue.add(change.key.name);
                    }
                    None => return,
                },
                change = leases.recv() => match change {
                    // A renewal only moves the timer, unless the node had been given up.
                    Some(change) => {
                        self.hear(&change.key.name);
                        if self.nodes.get("", &change.key.name).is_some_and(|n| plan::is_given_up(&n)) {
                            queue.add(change.key.name);
                        }
                    }
                    None => return,
                },
                change = pods.recv() => match change {
                    Some(change) => {
                        let name = change.new.as_ref().map(|p| pods::node_name(p)).unwrap_or_default();
                        if self.nodes.get("", name).is_some_and(|n| plan::evicts(&n)) {
                            queue.add(name.into());
                        }
                    }
                    None => return,
                },
            }
        }
    }

    /// Looks at all nodes together, every few seconds until cancelled.
    async fn monitor(&self, queue: Queue<Arc<str>>) {
        let mut ticks = tokio::time::interval(MONITOR_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.context.token.run_until_cancelled(ticks.tick()).await.is_some() {
            for node in self.look(Timestamp::now()) {
                queue.add(name_of(&node).into());
            }
        }
    }

    /// One look: the nodes whose plan may be another one now.
    fn look(&self, now: Timestamp) -> Vec<Arc<Node>> {
        let nodes = self.nodes.list();
        let interrupted = self.note_gap(now);
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let states = zones::ready_by_zone(&nodes);
        health.zones.observe(&states, &self.context.config.evictions, now);
        let transition = health.zones.transition();
        if transition == Transition::Recovered {
            health.observation = Observation::new(now);
        }
        drop(health);
        match transition {
            Transition::AllDisrupted => tracing::warn!("no node reports: nothing is evicted until one does"),
            Transition::Recovered => self.hear_all(now),
            Transition::ZoneChanged => {}
            Transition::None if interrupted => {}
            Transition::None => return Vec::new(),
        }
        nodes
    }

    /// Whether nothing could be observed for so long that silence has to be counted anew.
    fn note_gap(&self, now: Timestamp) -> bool {
        let gap_max = Duration::from_secs(self.context.config.node_grace_s / 2).saturating_add(MONITOR_PERIOD);
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let interrupted = health.observation.look(gap_max, now);
        drop(health);
        if interrupted {
            tracing::warn!("nodes could not be observed for a while: their silence counts from now");
            self.hear_all(now);
        }
        interrupted
    }

    /// Counts every node's silence from now.
    fn hear_all(&self, now: Timestamp) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.values_mut().for_each(|(_, at)| *at = now);
    }

    /// Whether the node may have a taint that moves its pods away, and since when the cluster is observed.
    fn admit(&self, node: &Node, now: Timestamp) -> (NoExecute, Timestamp) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let since = health.observation.since;
        if !plan::wants_no_execute(node) {
            let suspended = health.zones.is_suspended();
            let no_execute = if suspended {
                NoExecute::Suspended
            } else {
                NoExecute::Granted
            };
            return (no_execute, since);
        }
        // Others may have fallen silent since the last look.
        if health.zones.is_outdated(now) {
            let states = zones::ready_by_zone(&self.nodes.list());
            health.zones.observe(&states, &self.context.config.evictions, now);
        }
        let no_execute = match health.zones.admit(&zones::zone_of(node), now) {
            Admission::Granted => NoExecute::Granted,
            Admission::Wait(left) => NoExecute::Wait(left),
            Admission::Suspended => NoExecute::Suspended,
        };
        (no_execute, since)
    }

    fn forget(&self, name: &str) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// When the node was last heard of; notes it when it said something new.
    fn hear(&self, name: &str) -> Timestamp {
        let lease = self.leases.get("kube-node-lease", name);
        let renewed = lease.and_then(|l| l.spec.as_ref().and_then(|s| s.renew_time.clone()));
        let node = self.nodes.get("", name);
        let beat = node.and_then(|n| plan::ready(&n).and_then(|c| c.last_heartbeat_time.clone()));
        let said = format!("{renewed:?} {beat:?}");
        let now = Timestamp::now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let known = heard.entry(name.into()).or_insert((said.clone(), now));
        if known.0 != said {
            *known = (said, now);
        }
        known.1
    }

    async fn reconcile(&self, name: &Arc<str>) -> Result<Next, ControllerError> {
        let Some(node) = self.nodes.get("", name) else {
            return Ok(Next::Done);
        };
        if self.assign(&node).await? {
            return Ok(Next::Again);
        }
        let pods = if plan::concerns_pods(&node) {
            self.pods.select(None, |pod| pods::node_name(pod) == &**name)
        } else {
            Vec::new()
        };
        let now = Timestamp::now();
        self.note_gap(now);
        let heard = self.hear(name);
        let (no_execute, observing_since) = self.admit(&node, now);
        let plan = plan::plan(plan::Observed {
            node: node.clone(),
            pods,
            heard,
            grace_s: self.context.config.node_grace_s,
            no_execute,
            observing_since,
            now,
        });
        self.apply(&node, plan).await
    }

    /// Gives the node its part of the pod network. True when that changed the node.
    async fn assign(&self, node: &Node) -> Result<bool, ControllerError> {
        let Some(cidrs) = &self.cidrs else {
            return Ok(false);
        };
        let of = |node: &Node| node.spec.as_ref().and_then(|s| s.pod_cidr.clone());
        if of(node).is_some() || node.metadata.deletion_timestamp.is_some() {
            return Ok(false);
        }
        let nodes = self.nodes.list();
        let used: Vec<String> = nodes.iter().filter_map(|n| of(n)).collect();
        let Some(cidr) = cidrs.first_free(&used) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", name_of(node));
            self.context.recorder.warning(node, "CIDRNotAvailable", &message);
            return Ok(false);
        };
        let patch = json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
        let api: Api<Node> = self.context.client.api();
        if let Some(written) = writes::patch(&api, &node.metadata, patch).await? {
            self.nodes.caught_up(revision_of(&written.metadata), CATCH_UP).await;
        }
        Ok(true)
    }

    async fn apply(&self, node: &Arc<Node>, plan: plan::Plan) -> Result<Next, ControllerError> {
        let api: Api<Node> = self.context.client.api();
        if let Some(status) = &plan.status {
            let diff = merge_diff(&json!({"status": node.status}), &json!({"status": status}));
            if let Some(patch) = diff {
                let name = name_of(node);
                let message = format!("Node {name} status is now: NodeNotReady");
                self.context.recorder.normal(&**node, "NodeNotReady", &message);
                patch_status(&api, &node.metadata, patch).await?;
                return Ok(Next::Again);
            }
        }
        if let Some(taints) = &plan.taints {
            let patch = json!({"spec": {"taints": taints}});
            match writes::patch(&api, &node.metadata, patch).await? {
                Some(written) => {
                    self.nodes.caught_up(revision_of(&written.metadata), CATCH_UP).await;
                }
                None => return Ok(Next::Again),
            }
        }
        for pod in &plan.not_ready {
            self.mark_not_ready(pod).await?;
        }
        for pod in &plan.evict {
            self.evict(pod).await?;
        }
        Ok(plan.requeue_after.map_or(Next::Done, Next::After))
    }

    async fn mark_not_ready(&self, pod: &Pod) -> Result<(), ControllerError> {
        let status = plan::not_ready_status(pod, Timestamp::now());
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = self.context.client.namespaced(namespace);
        let diff = merge_diff(&json!({"status": pod.status}), &json!({"status": status}));
        if let Some(patch) = diff {
            self.context.recorder.warning(pod, "NodeNotReady", "Node is not ready");
            patch_status(&api, &pod.metadata, patch).await?;
        }
        Ok(())
    }

    async fn evict(&self, pod: &Pod) -> Result<(), ControllerError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let message = format!("Marking for deletion Pod {namespace}/{name}");
        let about = coxswain_client::reference(pod);
        let recorder = self.context.recorder.named("taint-eviction-controller");
        recorder.record(about, EventType::Normal, "TaintManagerEviction", &message);
        let api: Api<Pod> = self.context.client.namespaced(namespace);
        let status = plan::disrupted_status(pod, Timestamp::now());
        let diff = merge_diff(&json!({"status": pod.status}), &json!({"status": status}));
        if let Some(patch) = diff {
            patch_status(&api, &pod.metadata, patch).await?;
        }
        writes::delete(&api, &pod.metadata, None).await
    }
}

fn name_of(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// Pods are swept this long after the change that made them sweepable, in one go.
pub(super) const SWEEP_AFTER: Duration = Duration::from_secs(20);
