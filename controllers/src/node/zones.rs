//! Zones: how fast nodes that stopped reporting get the taint that moves their pods away.
//!
//! One silent node is a broken node. When most nodes of a zone are silent at once, the network or the control plane is
//! the likelier cause, and moving every pod helps nobody. As in kube-controller-manager, each zone has a state and the
//! state a rate of nodes per second; when every zone is fully silent, nothing is tainted and the taints that exist are
//! removed. Pure: times and observations are arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::core::v1::Node;
use jiff::{SignedDuration, Timestamp};

use super::plan;

/// Fewer nodes than this that are not ready never make a partial disruption.
const PARTIAL_NODES_MIN: usize = 3;
/// A look at the nodes is good for so long.
const OUTDATED_AFTER: Duration = Duration::from_secs(1);

/// When evictions slow down, and how far: the flags of kube-controller-manager with their names and defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvictionLimits {
    /// `--unhealthy-zone-threshold`: the part of a zone's nodes (0 to 1) that must be not ready for the zone to count
    /// as partially disrupted.
    pub unhealthy_zone_threshold: f64,
    /// `--node-eviction-rate`: nodes per second whose pods are moved away, in a zone that is healthy, and in one that
    /// is fully silent while others are not.
    pub node_eviction_rate: f64,
    /// `--secondary-node-eviction-rate`: the same in a partially disrupted zone.
    pub secondary_node_eviction_rate: f64,
    /// `--large-cluster-size-threshold`: a partially disrupted zone of at most so many nodes evicts nothing.
    pub large_cluster_size_threshold: usize,
}

impl Default for EvictionLimits {
    fn default() -> Self {
        EvictionLimits {
            unhealthy_zone_threshold: 0.55,
            node_eviction_rate: 0.1,
            secondary_node_eviction_rate: 0.01,
            large_cluster_size_threshold: 50,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZoneState {
    Normal,
    PartialDisruption,
    FullDisruption,
}

/// What a look at all nodes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    None,
    /// A zone has another state, so that nodes may have to wait for a shorter or longer time.
    ZoneChanged,
    /// Every zone is silent now: the taints go.
    AllDisrupted,
    /// Some node reports again after all were silent: every node's silence counts from now.
    Recovered,
}

/// Whether a node may get the taint that moves its pods away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Now.
    Granted,
    /// Not before this time has passed; `None`: not in this state of the zone.
    Wait(Option<Duration>),
    /// No node has it while every zone is silent.
    Suspended,
}

struct Zone {
    state: ZoneState,
    /// Nodes per second.
    rate: f64,
    /// Part of the next permission that has accrued, at most one whole.
    accrued: f64,
    at: Timestamp,
}

/// The state of every zone that has nodes.
#[derive(Default)]
pub(super) struct Zones {
    zones: BTreeMap<String, Zone>,
    all_disrupted: bool,
    /// What [`Zones::transition`] reported last, and whether a zone has changed since.
    reported_all_disrupted: bool,
    changed: bool,
    observed: Option<Timestamp>,
}

/// Region and zone of a node; empty for a node without either.
pub(super) fn zone_of(node: &Node) -> String {
    let label = |name: &str, older: &str| {
        let labels = node.metadata.labels.as_ref();
        let found = labels.and_then(|labels| labels.get(name).or_else(|| labels.get(older)));
        found.map(String::as_str).unwrap_or_default().to_owned()
    };
    let region = label(
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/region",
    );
    let zone = label("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone");
    match (region.is_empty(), zone.is_empty()) {
        (true, true) => String::new(),
        _ => format!("{region}:\0:{zone}"),
    }
}

/// The state of a zone with so many nodes that are ready and that are not.
pub(super) fn state(ready: usize, not_ready: usize, limits: &EvictionLimits) -> ZoneState {
    let part = not_ready as f64 / ready.saturating_add(not_ready).max(1) as f64;
    if ready == 0 && not_ready > 0 {
        ZoneState::FullDisruption
    } else if not_ready >= PARTIAL_NODES_MIN && part >= limits.unhealthy_zone_threshold {
        ZoneState::PartialDisruption
    } else {
        ZoneState::Normal
    }
}

/// Nodes per second that a zone of so many nodes may taint in a state.
pub(super) fn rate(state: ZoneState, size: usize, limits: &EvictionLimits) -> f64 {
    match state {
        ZoneState::Normal | ZoneState::FullDisruption => limits.node_eviction_rate,
        ZoneState::PartialDisruption if size > limits.large_cluster_size_threshold => {
            limits.secondary_node_eviction_rate
        }
        ZoneState::PartialDisruption => 0.0,
    }
}

impl Zone {
    /// Accrues what the time since the last look is worth.
    fn accrue(&mut self, now: Timestamp) {
        let elapsed_s = now.duration_since(self.at).as_secs_f64().max(0.0);
        self.accrued = (self.accrued + elapsed_s * self.rate).min(1.0);
        self.at = now;
    }
}

impl Zones {
    /// Whether the last look at the nodes is older than a second.
    pub fn is_outdated(&self, now: Timestamp) -> bool {
        self.observed
            .is_none_or(|at| now.duration_since(at).unsigned_abs() >= OUTDATED_AFTER)
    }

    /// Takes in the present state of all nodes (zone, and whether it is ready).
    pub fn observe(&mut self, nodes: &[(String, bool)], limits: &EvictionLimits, now: Timestamp) {
        self.observed = Some(now);
        let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (zone, is_ready) in nodes {
            let (ready, not_ready) = counts.entry(zone).or_default();
            bounded::count(if *is_ready { ready } else { not_ready });
        }
        self.zones.retain(|name, _| counts.contains_key(name.as_str()));
        for (name, (ready, not_ready)) in counts {
            let state = state(ready, not_ready, limits);
            let zone = self.zones.entry(name.to_owned()).or_insert(Zone {
                state: ZoneState::Normal,
                rate: limits.node_eviction_rate,
                accrued: 1.0,
                at: now,
            });
            zone.accrue(now);
            self.changed |= zone.state != state;
            zone.state = state;
            zone.rate = rate(state, ready.saturating_add(not_ready), limits).max(0.0);
        }
        let mut states = self.zones.values().map(|zone| zone.state);
        self.all_disrupted = !self.zones.is_empty() && states.all(|state| state == ZoneState::FullDisruption);
    }

    /// What has changed since the last call.
    pub fn transition(&mut self) -> Transition {
        let changed = std::mem::take(&mut self.changed);
        let was = std::mem::replace(&mut self.reported_all_disrupted, self.all_disrupted);
        match (was, self.all_disrupted) {
            (false, true) => Transition::AllDisrupted,
            (true, false) => {
                // What accrued meanwhile is not spent on nodes that had no time to report yet.
                self.zones.values_mut().for_each(|zone| zone.accrued = 0.0);
                Transition::Recovered
            }
            _ if changed => Transition::ZoneChanged,
            _ => Transition::None,
        }
    }

    /// Whether no node may have the taint: every zone is silent, or was until a moment ago.
    pub fn is_suspended(&self) -> bool {
        self.all_disrupted || self.reported_all_disrupted
    }

    /// Spends the zone's next permission, when there is one.
    pub fn admit(&mut self, zone: &str, now: Timestamp) -> Admission {
        if self.is_suspended() {
            return Admission::Suspended;
        }
        let Some(zone) = self.zones.get_mut(zone) else {
            return Admission::Wait(None);
        };
        zone.accrue(now);
        // A zone that stopped keeps what had accrued, and must not spend it.
        if zone.rate <= 0.0 {
            return Admission::Wait(None);
        }
        if zone.accrued >= 1.0 {
            zone.accrued = 0.0;
            return Admission::Granted;
        }
        let left_s = ((1.0 - zone.accrued) / zone.rate).min(3600.0);
        let left = Duration::try_from_secs_f64(left_s).unwrap_or_default();
        Admission::Wait(Some(left.saturating_add(Duration::from_millis(10))))
    }
}

/// Since when this controller has observed the cluster without a gap.
///
/// Nothing that happened before counts as silence: a control plane that was stopped, paused or without a leader for
/// longer than a node's grace period could not hear the nodes, whatever they sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Observation {
    pub since: Timestamp,
    last: Timestamp,
}

impl Observation {
    /// Begins now.
    pub fn new(now: Timestamp) -> Self {
        Observation { since: now, last: now }
    }

    /// Notes a look. True when it came so late that the observation starts anew: also when the clock was set back.
    pub fn look(&mut self, gap_max: Duration, now: Timestamp) -> bool {
        let gap = SignedDuration::try_from(gap_max).unwrap_or(SignedDuration::MAX);
        let elapsed = now.duration_since(self.last);
        let interrupted = elapsed > gap || elapsed.is_negative();
        if interrupted {
            self.since = now;
        }
        self.last = now;
        interrupted
    }
}

/// The nodes as [`Zones::observe`] takes them.
pub(super) fn ready_by_zone(nodes: &[std::sync::Arc<Node>]) -> Vec<(String, bool)> {
    let counts = nodes.iter().filter(|node| node.metadata.deletion_timestamp.is_none());
    counts.map(|node| (zone_of(node), plan::is_ready(node))).collect()
}
