//! What a Deployment does next: one phase at a time, the status last.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use jiff::Timestamp;

use super::replicas::{self, Limits, limits, size};
use super::revision::{self, REVISION, same_template};
use super::{rollout, status};
use crate::adoption::claim;
use crate::labels;

#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub deployment: Arc<Deployment>,
    /// Sets it controls, and the namespace's sets without a controller.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// Unfinished pods by the uid of their set.
    pub running: HashMap<String, usize>,
    pub now: Timestamp,
}

/// A new size and new annotations of one set.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SetChange {
    pub set: Arc<ReplicaSet>,
    pub replicas: i32,
    pub annotations: BTreeMap<String, String>,
    pub min_ready_s: Option<i32>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub adopt: Vec<Arc<ReplicaSet>>,
    pub release: Vec<Arc<ReplicaSet>>,
    pub create: Option<ReplicaSet>,
    pub change: Vec<SetChange>,
    pub delete: Vec<Arc<ReplicaSet>>,
    /// Scaling steps in order, for events: set, from, to.
    pub scaled: Vec<(String, i32, i32)>,
    /// The Deployment's revision annotation, when it must change.
    pub revision: Option<String>,
    pub status: Option<DeploymentStatus>,
    pub requeue_after: Option<Duration>,
    /// The selector selects every pod: nothing is done, and said so.
    pub selects_all: bool,
}

/// The sets as they will be once the plan so far is carried out.
#[derive(Debug, Clone)]
pub(super) struct Sets {
    /// The one with the Deployment's template.
    pub new: Option<ReplicaSet>,
    /// All others.
    pub old: Vec<ReplicaSet>,
}

impl Sets {
    pub fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.new.iter().chain(self.old.iter())
    }

    pub fn total(&self) -> i32 {
        self.all().map(size).fold(0, i32::saturating_add)
    }
}

/// Gathers changes while phases are decided.
pub(super) struct Draft<'a> {
    pub observed: &'a Observed,
    pub deployment: Deployment,
    pub limits: Limits,
    pub sets: Sets,
    pub plan: Plan,
}

pub(super) fn plan(observed: Observed) -> Plan {
    let Some(spec) = &observed.deployment.spec else {
        return Plan::default();
    };
    if labels::is_empty(&spec.selector) {
        return Plan {
            selects_all: true,
            ..Plan::default()
        };
    }
    let claimed = claim(&observed.deployment.metadata, &spec.selector, observed.sets.clone());
    let mut owned: Vec<ReplicaSet> = claimed.owned.iter().map(|set| (**set).clone()).collect();
    owned.sort_by_key(by_age);
    let position = owned.iter().position(|set| {
        let template = set.spec.as_ref().and_then(|s| s.template.as_ref());
        template.is_some_and(|t| same_template(t, &spec.template))
    });
    let new = position.map(|at| owned.remove(at));
    let mut draft = Draft {
        observed: &observed,
        deployment: (*observed.deployment).clone(),
        limits: limits(&observed.deployment),
        sets: Sets { new, old: owned },
        plan: Plan {
            adopt: claimed.adopt,
            release: claimed.release,
            ..Plan::default()
        },
    };
    if observed.deployment.metadata.deletion_timestamp.is_some() {
        status::counts_only(&mut draft);
        return finish(draft);
    }
    status::pause(&mut draft);
    if spec.paused == Some(true) {
        draft.sync_revision();
        draft.scale();
        draft.clean_up();
        status::counts_only(&mut draft);
    } else if draft.is_scaling() {
        draft.sync_revision();
        draft.scale();
        status::counts_only(&mut draft);
    } else if draft.limits.rolling {
        rollout::rolling(&mut draft);
    } else {
        rollout::recreate(&mut draft);
    }
    finish(draft)
}

/// Oldest first, names decide ties.
pub(super) fn by_age(set: &ReplicaSet) -> (Option<Timestamp>, Option<String>) {
    let created = set.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (created, set.metadata.name.clone())
}

/// Turns the draft's sets into the differences from what was observed.
fn finish(draft: Draft<'_>) -> Plan {
    let mut plan = draft.plan;
    for set in draft.sets.all() {
        let uid = set.metadata.uid.as_deref();
        let before = draft
            .observed
            .sets
            .iter()
            .find(|s| uid.is_some() && s.metadata.uid.as_deref() == uid);
        let Some(before) = before else {
            continue;
        };
        if plan.delete.iter().any(|gone| gone.metadata.uid == set.metadata.uid) {
            continue;
        }
        let min_ready_s = set.spec.as_ref().and_then(|s| s.min_ready_seconds);
        let changed = size(before) != size(set)
            || before.metadata.annotations != set.metadata.annotations
            || before.spec.as_ref().and_then(|s| s.min_ready_seconds) != min_ready_s;
        if changed {
            plan.change.push(SetChange {
                set: before.clone(),
                replicas: size(set),
                annotations: set.metadata.annotations.clone().unwrap_or_default(),
                min_ready_s,
            });
        }
    }
    if draft.deployment.status != draft.observed.deployment.status {
        plan.status = draft.deployment.status;
    }
    plan
}

impl Draft<'_> {
    /// A set that is in use was computed for another number of replicas.
    fn is_scaling(&self) -> bool {
        let active = self.sets.all().filter(|set| size(set) > 0);
        active
            .filter_map(revision::desired)
            .any(|desired| desired != self.limits.replicas)
    }

    fn next_revision(&self) -> i64 {
        let old = self.sets.old.iter();
        let known = old.map(|set| revision::revision(set.metadata.annotations.as_ref()));
        known.max().unwrap_or(0).saturating_add(1)
    }

    /// Brings the new set's annotations and the Deployment's revision up to date. True when there
    /// is a new set.
    pub fn sync_revision(&mut self) -> bool {
        let wanted = self.next_revision();
        let min_ready_s = self.deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        let Some(new) = &mut self.sets.new else {
            return false;
        };
        let current = new.metadata.annotations.as_ref();
        let annotations = revision::set_annotations(&self.deployment, current, wanted, None);
        let shown = annotations.get(REVISION).cloned();
        if !annotations.is_empty() {
            new.metadata.annotations = Some(annotations);
        }
        if let Some(spec) = &mut new.spec {
            let equal = spec.min_ready_seconds.unwrap_or(0) == min_ready_s.unwrap_or(0);
            if !equal {
                spec.min_ready_seconds = min_ready_s;
            }
        }
        let name = new.metadata.name.clone().unwrap_or_default();
        self.set_revision(shown);
        status::found(self, &name);
        true
    }

    fn set_revision(&mut self, wanted: Option<String>) {
        let annotations = self.deployment.metadata.annotations.as_ref();
        let current = annotations.and_then(|a| a.get(REVISION));
        if wanted.is_some() && current != wanted.as_ref() {
            self.plan.revision = wanted;
        }
    }

    /// Creates the set for the Deployment's template.
    pub fn create(&mut self) {
        let total = self.sets.total();
        let replicas = replicas::new_size(self.limits, total, 0);
        let wanted = self.next_revision();
        let Some(set) = revision::new_set(&self.deployment, replicas, wanted, self.limits) else {
            return;
        };
        let name = set.metadata.name.clone().unwrap_or_default();
        status::created(self, &name);
        if replicas > 0 {
            self.plan.scaled.push((name, 0, replicas));
        }
        self.set_revision(Some(wanted.to_string()));
        self.plan.create = Some(set.clone());
        self.sets.new = Some(set);
    }

    /// Gives one set a size. True when it changed.
    pub fn resize(&mut self, which: Which, replicas: i32) -> bool {
        let limits = self.limits;
        let set = match which {
            Which::New => self.sets.new.as_mut(),
            Which::Old(index) => self.sets.old.get_mut(index),
        };
        let Some(set) = set else {
            return false;
        };
        let before = size(set);
        revision::size_annotations(set.metadata.annotations.get_or_insert_default(), limits);
        if before == replicas {
            return false;
        }
        set.spec.get_or_insert_default().replicas = Some(replicas);
        let name = set.metadata.name.clone().unwrap_or_default();
        self.plan.scaled.push((name, before, replicas));
        true
    }

    /// Distributes a new number of replicas over the sets in use.
    pub fn scale(&mut self) {
        if let Some(only) = self.active_or_latest() {
            if self.size_of(only) != Some(self.limits.replicas) {
                self.resize(only, self.limits.replicas);
            }
            return;
        }
        if self.is_saturated() {
            for index in 0..self.sets.old.len() {
                if self.size_of(Which::Old(index)).is_some_and(|s| s > 0) {
                    self.resize(Which::Old(index), 0);
                }
            }
            return;
        }
        if self.limits.rolling {
            self.scale_in_proportion();
        }
    }

    fn scale_in_proportion(&mut self) {
        let Limits { replicas, surge, .. } = self.limits;
        let mut active: Vec<(Which, ReplicaSet)> = self.each().filter(|(_, set)| size(set) > 0).collect();
        let total = bounded::sum(active.iter().map(|(_, set)| size(set)));
        let allowed = if replicas > 0 {
            replicas.saturating_add(surge)
        } else {
            0
        };
        let to_add = allowed.saturating_sub(total);
        // Larger sets first; among equals the newer one grows first, the older shrinks first.
        active.sort_by_key(|(_, set)| by_age(set));
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|(_, set)| std::cmp::Reverse(size(set)));
        let mut added = 0_i32;
        let mut sizes = Vec::with_capacity(active.len());
        for (_, set) in &active {
            let share = replicas::proportion(set, &self.deployment, to_add, added);
            added = added.saturating_add(share);
            sizes.push(size(set).saturating_add(share));
        }
        if let Some(first) = sizes.first_mut() {
            *first = first.saturating_add(to_add.saturating_sub(added)).max(0);
        }
        for ((which, _), size) in active.into_iter().zip(sizes) {
            self.resize(which, size);
        }
    }

    fn each(&self) -> impl Iterator<Item = (Which, ReplicaSet)> {
        let new = self.sets.new.iter().map(|set| (Which::New, set.clone()));
        let old = self.sets.old.iter().enumerate();
        new.chain(old.map(|(index, set)| (Which::Old(index), set.clone())))
    }

    pub fn size_of(&self, which: Which) -> Option<i32> {
        match which {
            Which::New => self.sets.new.as_ref().map(size),
            Which::Old(index) => self.sets.old.get(index).map(size),
        }
    }

    /// The only set in use; when none is, the new one or the latest old one; none when several are.
    fn active_or_latest(&self) -> Option<Which> {
        let mut active = self.each().filter(|(_, set)| size(set) > 0);
        match (active.next(), active.next()) {
            (Some((only, _)), None) => Some(only),
            (Some(_), Some(_)) => None,
            (None, _) if self.sets.new.is_some() => Some(Which::New),
            (None, _) => self.sets.old.len().checked_sub(1).map(Which::Old),
        }
    }

    /// The new set has everything it should and all of it is available.
    fn is_saturated(&self) -> bool {
        let wanted = self.limits.replicas;
        self.sets.new.as_ref().is_some_and(|new| {
            size(new) == wanted && revision::desired(new) == Some(wanted) && replicas::available(new) == wanted
        })
    }

    /// Deletes the oldest unused sets beyond the history limit.
    pub fn clean_up(&mut self) {
        let spec = self.deployment.spec.as_ref();
        let limit = spec.and_then(|s| s.revision_history_limit).unwrap_or(10);
        let mut old: Vec<&ReplicaSet> = self.sets.old.iter().collect();
        old.retain(|set| set.metadata.deletion_timestamp.is_none());
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| {
            let number = revision::revision(set.metadata.annotations.as_ref());
            (number, by_age(set))
        });
        let unused = |set: &&&ReplicaSet| {
            let observed = set.status.as_ref().and_then(|s| s.observed_generation);
            replicas::actual(set) == 0
                && size(set) == 0
                && observed.unwrap_or(0) >= set.metadata.generation.unwrap_or(0)
        };
        let gone: Vec<_> = old
            .iter()
            .take(surplus)
            .filter(unused)
            .filter_map(|s| s.metadata.uid.clone())
            .collect();
        let sets = self.observed.sets.iter();
        let delete = sets.filter(|s| s.metadata.uid.as_ref().is_some_and(|uid| gone.contains(uid)));
        self.plan.delete = delete.cloned().collect();
    }
}

/// One of a draft's sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    New,
    Old(usize),
}
