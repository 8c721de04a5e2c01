//! What a StatefulSet needs now: members to make and to end, one at a time unless it says otherwise, and its status.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coxswain_client::k8s_openapi::api::apps::v1::{
    ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use coxswain_client::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use jiff::Timestamp;

use super::members::{self, ordinal, revision};
use crate::adoption::claim;
use crate::history::{self, Newest};
use crate::pods;

const OWNER: (&str, &str) = ("apps/v1", "StatefulSet");
/// No reconcile makes more members than this.
const BURST_MAX: usize = 500;

#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub set: Arc<StatefulSet>,
    /// Pods that it controls, and the namespace's pods without a controller.
    pub pods: Vec<Arc<Pod>>,
    /// Claims of its namespace.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// Revisions that it controls.
    pub revisions: Vec<Arc<ControllerRevision>>,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    /// The revision of the current template, made before anything else.
    pub newest: Option<Newest>,
    pub forget: Vec<Arc<ControllerRevision>>,
    /// Made before the pods that use them.
    pub claims: Vec<PersistentVolumeClaim>,
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    /// Claims of members that the set was scaled down by, when its policy says so.
    pub drop_claims: Vec<Arc<PersistentVolumeClaim>>,
    pub status: Option<StatefulSetStatus>,
    pub requeue_after: Option<Duration>,
}

pub(super) fn plan(observed: Observed) -> Plan {
    let Observed {
        set,
        pods: candidates,
        claims,
        revisions,
        now,
    } = observed;
    let Some(spec) = &set.spec else {
        return Plan::default();
    };
    let name = set.metadata.name.clone().unwrap_or_default();
    let known = set.status.clone().unwrap_or_default();
    let candidates = candidates
        .into_iter()
        .filter(|pod| ordinal(&name, pod.metadata.name.as_deref().unwrap_or_default()).is_some())
        .collect();
    let claimed = claim(&set.metadata, &spec.selector, candidates);
    let newest = history::newest(OWNER, &set.metadata, &spec.template, &revisions, known.collision_count);
    let update = newest.name().to_string();
    let current = known
        .current_revision
        .clone()
        .filter(|r| !r.is_empty())
        .unwrap_or_else(|| update.clone());
    let mut members: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    for pod in &claimed.owned {
        if let Some(at) = ordinal(&name, pod.metadata.name.as_deref().unwrap_or_default()) {
            members.insert(at, pod.clone());
        }
    }
    let mut plan = Plan {
        adopt: claimed.adopt,
        release: claimed.release,
        ..Plan::default()
    };
    let status = status(&set, spec, &members, &current, &update, now);
    let used: BTreeSet<String> = members
        .values()
        .map(|pod| revision(pod).to_string())
        .chain([current.clone(), update.clone()])
        .collect();
    plan.forget = history::surplus(&revisions, &used, spec.revision_history_limit);
    if set.metadata.deletion_timestamp.is_none() {
        let crew = Crew {
            set: &set,
            spec,
            members: &members,
            claims: &claims,
            revisions: &revisions,
            current: &current,
            update: &update,
            now,
        };
        crew.steer(&mut plan);
        crew.drop_claims(&mut plan);
    }
    plan.requeue_after = next_available(spec, &members, now);
    plan.newest = Some(newest);
    if set.status.as_ref() != Some(&status) {
        plan.status = Some(status);
    }
    plan
}

/// Everything that the order of steps depends on.
struct Crew<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    members: &'a BTreeMap<i32, Arc<Pod>>,
    claims: &'a [Arc<PersistentVolumeClaim>],
    revisions: &'a [Arc<ControllerRevision>],
    current: &'a str,
    update: &'a str,
    now: Timestamp,
}

impl Crew<'_> {
    fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
    }

    /// One past the last wanted ordinal.
    fn end(&self) -> i32 {
        self.start().saturating_add(self.spec.replicas.unwrap_or(1))
    }

    fn ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::phase(pod) == "Running" && pods::is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    /// The next steps: fill the ranks from below, thin them from above, renew from above.
    fn steer(&self, plan: &mut Plan) {
        for at in self.start()..self.end() {
            match self.members.get(&at) {
                None if plan.create.len() >= BURST_MAX => return,
                None => self.make(plan, at),
                Some(pod) if pods::is_finished(pod) && !pods::is_terminating(pod) => plan.delete.push(pod.clone()),
                Some(pod) if !pods::is_terminating(pod) && self.is_available(pod) => continue,
                Some(_) => {}
            }
            if self.ordered() {
                return;
            }
        }
        let unhealthy = |pod: &Arc<Pod>| pods::is_terminating(pod) || !self.is_available(pod);
        let first_unhealthy = self.members.iter().find(|(_, pod)| unhealthy(pod)).map(|(at, _)| *at);
        let beyond = |at: &&i32| **at < self.start() || **at >= self.end();
        let mut condemned: Vec<i32> = self.members.keys().filter(beyond).copied().collect();
        condemned.sort_by_key(|at| Reverse(*at));
        for at in condemned {
            let Some(pod) = self.members.get(&at) else { continue };
            if pods::is_terminating(pod) {
                if self.ordered() {
                    return;
                }
                continue;
            }
            if self.ordered() && first_unhealthy.is_some_and(|first| first != at) {
                return;
            }
            plan.delete.push(pod.clone());
            if self.ordered() {
                return;
            }
        }
        self.renew(plan);
    }

    /// Ends the highest member of an old revision, once all above it are healthy.
    fn renew(&self, plan: &mut Plan) {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()?.partition).unwrap_or(0);
        // A partition beyond the last member renews none; a range may not begin behind its end.
        let (end, first) = (self.end(), self.start().saturating_add(partition).min(self.end()));
        for (_, pod) in self.members.range(first..end).rev() {
            if revision(pod) != self.update && !pods::is_terminating(pod) {
                if !plan.delete.iter().any(|other| Arc::ptr_eq(other, pod)) {
                    plan.delete.push(pod.clone());
                }
                return;
            }
            if pods::is_terminating(pod) || !self.is_available(pod) {
                return;
            }
        }
    }

    fn make(&self, plan: &mut Plan, at: i32) {
        let old = self.keeps_current(at);
        let kept = old.then(|| {
            self.revisions
                .iter()
                .find(|r| r.metadata.name.as_deref() == Some(self.current))
        });
        let kept = kept.flatten().and_then(|r| history::template_of(r));
        let (template, revision) = match &kept {
            Some(template) => (template, self.current),
            None => (&self.spec.template, self.update),
        };
        for claim in members::claims(self.set, self.spec, at) {
            if !self
                .claims
                .iter()
                .any(|known| known.metadata.name == claim.metadata.name)
            {
                plan.claims.push(claim);
            }
        }
        plan.create
            .push(members::pod(self.set, self.spec, template, revision, at));
    }

    /// A member that is made again comes back as it was, below the partition and before the roll-out reached it.
    fn keeps_current(&self, at: i32) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return false;
        }
        let below = match strategy.and_then(|s| s.rolling_update.as_ref()) {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None => self.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
        };
        at < self.start().saturating_add(below)
    }

    fn drop_claims(&self, plan: &mut Plan) {
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        if policy.and_then(|p| p.when_scaled.as_deref()) != Some("Delete") {
            return;
        }
        let set = self.set.metadata.name.as_deref().unwrap_or_default();
        for template in self.spec.volume_claim_templates.iter().flatten() {
            let prefix = format!("{}-{set}", template.metadata.name.as_deref().unwrap_or_default());
            for claim in self.claims {
                let at = ordinal(&prefix, claim.metadata.name.as_deref().unwrap_or_default());
                let unused = at.is_some_and(|at| at >= self.end() && !self.members.contains_key(&at));
                if unused && claim.metadata.deletion_timestamp.is_none() {
                    plan.drop_claims.push(claim.clone());
                }
            }
        }
    }
}

fn status(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    members: &BTreeMap<i32, Arc<Pod>>,
    current: &str,
    update: &str,
    now: Timestamp,
) -> StatefulSetStatus {
    let min_ready_s = spec.min_ready_seconds.unwrap_or(0);
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(members.values().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let running = |pod: &Pod| pods::phase(pod) == "Running" && pods::is_ready(pod);
    let of = |name: &str| count(&|pod| revision(pod) == name && !pods::is_terminating(pod));
    let (replicas, ready, updated) = (count(&|_| true), count(&running), of(update));
    let rolling = spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete");
    let complete = rolling && updated == replicas && ready == replicas && spec.replicas.unwrap_or(1) == replicas;
    let current = if complete { update } else { current };
    let some = |count: i32| (count != 0).then_some(count);
    StatefulSetStatus {
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(count(&|p| running(p) && pods::is_available(p, min_ready_s, now))),
        current_replicas: some(of(current)),
        updated_replicas: some(updated),
        current_revision: Some(current.to_string()),
        update_revision: Some(update.to_string()),
        collision_count: Some(set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0)),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    }
}

/// When the next ready member becomes available.
fn next_available(spec: &StatefulSetSpec, members: &BTreeMap<i32, Arc<Pod>>, now: Timestamp) -> Option<Duration> {
    pods::next_available(members.values(), spec.min_ready_seconds.unwrap_or(0), now)
}
