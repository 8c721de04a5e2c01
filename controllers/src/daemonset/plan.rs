//! What a DaemonSet needs now: pods to make and to end, node by node, and its status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use coxswain_client::k8s_openapi::api::core::v1::{Node, Pod};
use jiff::Timestamp;

use super::nodes::{Belongs, belongs, node_of, pin, tolerations};
use crate::adoption::claim;
use crate::history::{self, HASH, Newest};
use crate::pods;

const OWNER: (&str, &str) = ("apps/v1", "DaemonSet");
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
/// No reconcile makes or ends more pods than this.
const BURST_MAX: usize = 250;
/// A pod that failed is replaced this long after it was made.
const RETRY_S: i64 = 5;

#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub set: Arc<DaemonSet>,
    pub nodes: Vec<Arc<Node>>,
    /// Pods that it controls, and the namespace's pods without a controller.
    pub pods: Vec<Arc<Pod>>,
    /// Revisions that it controls.
    pub revisions: Vec<Arc<ControllerRevision>>,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    pub newest: Option<Newest>,
    pub forget: Vec<Arc<ControllerRevision>>,
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that ended by themselves, with what they did, for events.
    pub ended: Vec<(Arc<Pod>, String)>,
    pub status: Option<DaemonSetStatus>,
    pub requeue_after: Option<Duration>,
}

pub(super) fn plan(observed: Observed) -> Plan {
    let Observed {
        set,
        nodes,
        pods: candidates,
        revisions,
        now,
    } = observed;
    let Some(spec) = &set.spec else {
        return Plan::default();
    };
    let claimed = claim(&set.metadata, &spec.selector, candidates);
    let collisions = set.status.as_ref().and_then(|s| s.collision_count);
    let newest = history::newest(OWNER, &set.metadata, &spec.template, &revisions, collisions);
    let hash = hash_of(&newest);
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in &claimed.owned {
        by_node.entry(node_of(pod).unwrap_or_default()).or_default().push(pod);
    }
    let template = spec.template.spec.clone().unwrap_or_default();
    let places: Vec<(&str, Belongs)> = nodes
        .iter()
        .map(|node| {
            (
                node.metadata.name.as_deref().unwrap_or_default(),
                belongs(&template, node),
            )
        })
        .collect();
    let mut plan = Plan {
        adopt: claimed.adopt,
        release: claimed.release,
        ..Plan::default()
    };
    let used: BTreeSet<String> = claimed.owned.iter().filter_map(|pod| revision_of(&set, pod)).collect();
    plan.forget = history::surplus(&revisions, &used, spec.revision_history_limit)
        .into_iter()
        .filter(|r| r.metadata.name.as_deref() != Some(newest.name()))
        .collect();
    if set.metadata.deletion_timestamp.is_none() {
        let sight = Sight {
            set: &set,
            spec,
            hash: &hash,
            now,
        };
        for (node, place) in &places {
            let there = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
            staff(&mut plan, &sight, node, *place, there);
        }
        renew(&mut plan, spec, &hash, &places, &by_node, now);
    }
    plan.create.truncate(BURST_MAX);
    plan.delete.truncate(BURST_MAX);
    let status = status(&set, spec, &hash, &places, &by_node, now);
    if let Some(after) = next_available(spec, &claimed.owned, now) {
        sooner(&mut plan, after);
    }
    plan.newest = Some(newest);
    if set.status.as_ref() != Some(&status) {
        plan.status = Some(status);
    }
    plan
}

/// The hash that pods of a revision carry.
fn hash_of(newest: &Newest) -> String {
    newest
        .name()
        .rsplit_once('-')
        .map(|(_, hash)| hash.to_string())
        .unwrap_or_default()
}

fn hash(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|l| l.get(HASH)).map_or("", String::as_str)
}

fn revision_of(set: &DaemonSet, pod: &Pod) -> Option<String> {
    Some(format!("{}-{}", set.metadata.name.as_deref()?, hash(pod)))
}

fn sooner(plan: &mut Plan, after: Duration) {
    plan.requeue_after = Some(plan.requeue_after.map_or(after, |before| before.min(after)));
}

/// What every node is looked at with.
struct Sight<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    /// Of the newest revision.
    hash: &'a str,
    now: Timestamp,
}

/// One pod where it belongs, none elsewhere.
fn staff(plan: &mut Plan, sight: &Sight<'_>, node: &str, place: Belongs, there: &[&Arc<Pod>]) {
    if there.is_empty() && place.run {
        plan.create.push(pod(sight.set, sight.spec, sight.hash, node));
    }
    if !place.stay {
        plan.delete.extend(
            there
                .iter()
                .filter(|pod| !pods::is_terminating(pod))
                .map(|pod| (*pod).clone()),
        );
        return;
    }
    let mut running: Vec<&Arc<Pod>> = Vec::new();
    for pod in there.iter().filter(|pod| !pods::is_terminating(pod)) {
        if !pods::is_finished(pod) {
            running.push(pod);
            continue;
        }
        let made = pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        if let Some(left) = bounded::left(made, RETRY_S, sight.now) {
            sooner(plan, left);
            continue;
        }
        plan.ended.push(((*pod).clone(), pods::phase(pod).to_lowercase()));
        plan.delete.push((*pod).clone());
    }
    // The oldest of several stays.
    running.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
    plan.delete.extend(running.into_iter().skip(1).cloned());
}

/// Ends pods of old revisions: first those that do not serve anyway, then as many as may be missing.
fn renew(
    plan: &mut Plan,
    spec: &DaemonSetSpec,
    hash_wanted: &str,
    places: &[(&str, Belongs)],
    by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>,
    now: Timestamp,
) {
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return;
    }
    let min_ready_s = spec.min_ready_seconds.unwrap_or(0);
    let desired: Vec<&str> = places
        .iter()
        .filter(|(_, place)| place.run)
        .map(|(node, _)| *node)
        .collect();
    let total = i32::try_from(desired.len()).unwrap_or(i32::MAX);
    let rules = strategy.and_then(|s| s.rolling_update.as_ref());
    let allowed = pods::resolve(rules.and_then(|r| r.max_unavailable.as_ref()), total, true).max(1);
    let mut unavailable = 0_i32;
    let mut candidates = Vec::new();
    for node in desired {
        let there = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        let serving = there
            .iter()
            .find(|pod| pods::is_active(pod) && pods::is_available(pod, min_ready_s, now));
        let old = there
            .iter()
            .find(|pod| pods::is_active(pod) && hash(pod) != hash_wanted);
        match (serving, old) {
            (None, Some(old)) => {
                bounded::count(&mut unavailable);
                push(plan, old);
            }
            (None, None) => bounded::count(&mut unavailable),
            (Some(_), Some(old)) => candidates.push(*old),
            (Some(_), None) => {}
        }
    }
    let room = usize::try_from(allowed.saturating_sub(unavailable)).unwrap_or(0);
    candidates.into_iter().take(room).for_each(|old| push(plan, old));
}

fn push(plan: &mut Plan, pod: &Arc<Pod>) {
    if !plan.delete.iter().any(|other| Arc::ptr_eq(other, pod)) {
        plan.delete.push(pod.clone());
    }
}

fn pod(set: &DaemonSet, spec: &DaemonSetSpec, hash: &str, node: &str) -> Pod {
    let owner = pods::controller_reference(OWNER.0, OWNER.1, &set.metadata);
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = pods::from_template(&spec.template, owner, namespace);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.to_string(), hash.to_string());
    if let Some(generation) = set.metadata.annotations.as_ref().and_then(|a| a.get(GENERATION)) {
        labels.insert(GENERATION_LABEL.to_string(), generation.clone());
    }
    let pod_spec = pod.spec.get_or_insert_default();
    let own = tolerations(pod_spec);
    let stated = pod_spec.tolerations.get_or_insert_default();
    for toleration in own {
        if !stated.contains(&toleration) {
            stated.push(toleration);
        }
    }
    pin(pod_spec, node);
    pod
}

fn status(
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    hash_wanted: &str,
    places: &[(&str, Belongs)],
    by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>,
    now: Timestamp,
) -> DaemonSetStatus {
    let min_ready_s = spec.min_ready_seconds.unwrap_or(0);
    let (mut desired, mut current, mut stray, mut ready, mut available, mut updated) =
        (0_i32, 0_i32, 0_i32, 0_i32, 0_i32, 0_i32);
    let add = |count: &mut i32, one: bool| *count = count.saturating_add(i32::from(one));
    for (node, place) in places {
        let there = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        if !place.run {
            add(&mut stray, !there.is_empty());
            continue;
        }
        add(&mut desired, true);
        add(&mut current, !there.is_empty());
        // Of several, the oldest stands for the node.
        let first = there
            .iter()
            .min_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
        let Some(pod) = first else { continue };
        if pods::is_ready(pod) {
            add(&mut ready, true);
            add(&mut available, pods::is_available(pod, min_ready_s, now));
        }
        add(&mut updated, hash(pod) == hash_wanted);
    }
    let some = |count: i32| (count != 0).then_some(count);
    let known = set.status.clone().unwrap_or_default();
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: stray,
        number_ready: ready,
        number_available: some(available),
        number_unavailable: some(desired.saturating_sub(available)),
        updated_number_scheduled: some(updated),
        observed_generation: set.metadata.generation,
        collision_count: known.collision_count,
        conditions: known.conditions,
    }
}

/// When the next ready pod becomes available.
fn next_available(spec: &DaemonSetSpec, owned: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    pods::next_available(owned, spec.min_ready_seconds.unwrap_or(0), now)
}
