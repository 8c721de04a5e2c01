//! What to do with one object, given the state of its owners.

use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::graph::{FOREGROUND, ORPHAN};

/// The live state of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It is there.
    Solid,
    /// It waits for its dependents to go.
    Waiting,
    /// It is gone, or another object has its name.
    Gone,
    /// It cannot be found out: an unknown kind, or a namespaced one of an object that is in no namespace.
    Unknown,
}

/// How an object's own dependents are dealt with when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

impl Policy {
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Background => "Background",
            Policy::Foreground => "Foreground",
            Policy::Orphan => "Orphan",
        }
    }
}

/// The one step to take.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// Keep only these owner references.
    KeepOwners(Vec<OwnerReference>),
    Delete(Policy),
    /// Take the finalizer away: nothing blocks the foreground deletion any more.
    FinishForeground,
    /// Look at these dependents, they hold up a foreground deletion.
    LookAt(Vec<String>),
    /// Make the dependents independent, then take the finalizer away.
    Orphan,
}

/// A dependent of the object in question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dependent {
    pub uid: String,
    pub blocks: bool,
    pub deleting: bool,
    /// It is itself waiting for its dependents to go.
    pub waits: bool,
}

pub(super) fn plan(meta: &ObjectMeta, owners: &[(OwnerReference, OwnerState)], dependents: &[Dependent]) -> Step {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if meta.deletion_timestamp.is_some() {
        return match (has(ORPHAN), has(FOREGROUND)) {
            (true, _) => Step::Orphan,
            (false, true) => foreground(dependents),
            (false, false) => Step::Nothing,
        };
    }
    let count = |state: OwnerState| owners.iter().filter(|(_, s)| *s == state).count();
    if owners.is_empty() || count(OwnerState::Unknown) > 0 {
        return Step::Nothing;
    }
    let (solid, waiting) = (count(OwnerState::Solid), count(OwnerState::Waiting));
    if solid == owners.len() {
        return Step::Nothing;
    }
    if solid > 0 {
        let kept = owners.iter().filter(|(_, state)| *state == OwnerState::Solid);
        return Step::KeepOwners(kept.map(|(owner, _)| owner.clone()).collect());
    }
    if waiting > 0 && !dependents.is_empty() {
        // A dependent that waits may be waiting for this very object: in a circle, somebody has to let go first.
        let circle = dependents.iter().any(|d| d.waits);
        if circle && owners.iter().any(|(owner, _)| owner.block_owner_deletion == Some(true)) {
            let mut freed: Vec<OwnerReference> = owners.iter().map(|(owner, _)| owner.clone()).collect();
            freed
                .iter_mut()
                .for_each(|owner| owner.block_owner_deletion = Some(false));
            return Step::KeepOwners(freed);
        }
        return Step::Delete(Policy::Foreground);
    }
    Step::Delete(match (has(ORPHAN), has(FOREGROUND)) {
        (true, _) => Policy::Orphan,
        (false, true) => Policy::Foreground,
        (false, false) => Policy::Background,
    })
}

fn foreground(dependents: &[Dependent]) -> Step {
    let blocking = dependents.iter().filter(|d| d.blocks);
    let waiting: Vec<&Dependent> = blocking.collect();
    if waiting.is_empty() {
        return Step::FinishForeground;
    }
    let idle = waiting.iter().filter(|d| !d.deleting);
    Step::LookAt(idle.map(|d| d.uid.clone()).collect())
}
