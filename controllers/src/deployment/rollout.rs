//! The two ways to replace old pods: rolling, and all at once.

use super::plan::{Draft, Which};
use super::replicas::{available, new_size, size};
use super::status;
use coxswain_api::bounded;

/// Grows the new set within the surge, then shrinks the old ones within the availability limit.
pub(super) fn rolling(draft: &mut Draft<'_>) {
    if !draft.sync_revision() {
        draft.create();
    } else if grow_new(draft) {
        return status::rollout(draft);
    }
    if !shrink_old(draft) && status::is_complete(draft) {
        draft.clean_up();
    }
    status::rollout(draft);
}

fn grow_new(draft: &mut Draft<'_>) -> bool {
    let Some(current) = draft.size_of(Which::New) else {
        return false;
    };
    let wanted = if current > draft.limits.replicas {
        draft.limits.replicas
    } else if current == draft.limits.replicas {
        return false;
    } else {
        new_size(draft.limits, draft.sets.total(), current)
    };
    draft.resize(Which::New, wanted)
}

fn shrink_old(draft: &mut Draft<'_>) -> bool {
    if draft.sets.old.iter().all(|set| size(set) == 0) {
        return false;
    }
    let enough = draft.limits.replicas.saturating_sub(draft.limits.unavailable);
    let new = draft.sets.new.as_ref();
    let new_missing = new.map_or(0, |set| size(set).saturating_sub(available(set)));
    let most = draft.sets.total().saturating_sub(enough).saturating_sub(new_missing);
    if most <= 0 {
        return false;
    }
    let unhealthy = drop_unhealthy(draft, most);
    let healthy = drop_available(draft, enough);
    unhealthy || healthy
}

/// Pods of old sets that are not available go first: nobody misses them.
fn drop_unhealthy(draft: &mut Draft<'_>, most: i32) -> bool {
    let mut dropped = 0_i32;
    for index in 0..draft.sets.old.len() {
        let Some(set) = draft.sets.old.get(index) else {
            break;
        };
        let (current, healthy) = (size(set), available(set));
        if dropped >= most {
            break;
        }
        if current == 0 || current <= healthy {
            continue;
        }
        let count = most.saturating_sub(dropped).min(current.saturating_sub(healthy));
        draft.resize(Which::Old(index), current.saturating_sub(count));
        dropped = dropped.saturating_add(count);
    }
    dropped > 0
}

fn drop_available(draft: &mut Draft<'_>, enough: i32) -> bool {
    let have = bounded::sum(draft.sets.all().map(available));
    let mut left = have.saturating_sub(enough);
    let mut dropped = false;
    for index in 0..draft.sets.old.len() {
        let current = draft.size_of(Which::Old(index)).unwrap_or(0);
        if left <= 0 {
            break;
        }
        if current == 0 {
            continue;
        }
        let count = current.min(left);
        draft.resize(Which::Old(index), current.saturating_sub(count));
        left = left.saturating_sub(count);
        dropped = true;
    }
    dropped
}

/// Stops everything old, waits until its pods are gone, then starts the new set.
pub(super) fn recreate(draft: &mut Draft<'_>) {
    let exists = draft.sync_revision();
    let mut stopped = false;
    for index in 0..draft.sets.old.len() {
        if draft.size_of(Which::Old(index)).is_some_and(|s| s > 0) {
            stopped |= draft.resize(Which::Old(index), 0);
        }
    }
    if stopped || old_pods_remain(draft) {
        return status::rollout(draft);
    }
    if !exists {
        draft.create();
    } else if draft.size_of(Which::New) != Some(draft.limits.replicas) {
        draft.resize(Which::New, draft.limits.replicas);
    }
    if status::is_complete(draft) {
        draft.clean_up();
    }
    status::rollout(draft);
}

fn old_pods_remain(draft: &Draft<'_>) -> bool {
    let uids = draft.sets.old.iter().filter_map(|set| set.metadata.uid.as_ref());
    uids.into_iter()
        .any(|uid| draft.observed.running.get(uid).is_some_and(|count| *count > 0))
}
