//! The arithmetic of rollouts.

use coxswain_client::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use coxswain_client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision::annotation;
use crate::pods::resolve;

/// What a Deployment's strategy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub replicas: i32,
    pub rolling: bool,
    pub surge: i32,
    pub unavailable: i32,
}

impl Limits {
    /// The most pods that all sets together may have.
    pub fn most(self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }
}

pub(super) fn limits(deployment: &Deployment) -> Limits {
    let spec = deployment.spec.as_ref();
    let replicas = spec.and_then(|s| s.replicas).unwrap_or(1);
    let strategy = spec.and_then(|s| s.strategy.as_ref());
    let rolling = strategy.and_then(|s| s.type_.as_deref()) != Some("Recreate");
    let rules = strategy.and_then(|s| s.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_string());
    let rule = |value: Option<&IntOrString>, up| resolve(Some(value.unwrap_or(&quarter)), replicas, up);
    let surge = rule(rules.and_then(|r| r.max_surge.as_ref()), true);
    let mut unavailable = rule(rules.and_then(|r| r.max_unavailable.as_ref()), false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let counts = rolling && replicas > 0;
    Limits {
        replicas,
        rolling,
        surge: if rolling { surge } else { 0 },
        unavailable: if counts { unavailable.min(replicas) } else { 0 },
    }
}

pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    let status = set.status.as_ref();
    status.and_then(|s| s.available_replicas).unwrap_or(0)
}

pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

/// How large the new set may be now: it is `current`, all sets together ask for `total`.
pub(super) fn new_size(limits: Limits, total: i32, current: i32) -> i32 {
    if !limits.rolling {
        return limits.replicas;
    }
    let room = limits.most().saturating_sub(total);
    if room <= 0 {
        return current;
    }
    current.saturating_add(room.min(limits.replicas.saturating_sub(current)))
}

/// The share of `to_add` (may be negative) that a set gets when a Deployment is scaled while
/// several sets are active; `added` has been given out already.
pub(super) fn proportion(set: &ReplicaSet, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    let current = size(set);
    if current == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let share = fraction(set, deployment);
    let allowed = to_add.saturating_sub(added);
    if to_add > 0 {
        share.min(allowed)
    } else {
        share.max(allowed)
    }
}

fn fraction(set: &ReplicaSet, deployment: &Deployment) -> i32 {
    let limits = limits(deployment);
    let current = size(set);
    if limits.replicas == 0 {
        return current.saturating_neg();
    }
    let now_max = f64::from(limits.most());
    let before = annotation(set, "deployment.kubernetes.io/max-replicas").and_then(|v| v.parse::<i32>().ok());
    let status = deployment.status.as_ref().and_then(|s| s.replicas);
    let before = before.filter(|v| *v != 0).or(status).filter(|v| *v != 0);
    let Some(before) = before else {
        return 0;
    };
    let scaled = (f64::from(current) * now_max / f64::from(before)).round();
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a float becomes the nearest number, and 0 when it is none"
    )]
    let scaled = scaled.max(0.0) as i32;
    scaled.saturating_sub(current)
}
