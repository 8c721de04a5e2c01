//! What a namespace that is being emptied says about itself.

use std::collections::BTreeMap;

use coxswain_api::bounded;
use coxswain_client::discovery::ResourceInfo;
use coxswain_client::k8s_openapi::api::core::v1::NamespaceCondition;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// What one pass over a namespace found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub discovery_error: Option<String>,
    pub trouble: Vec<Trouble>,
    pub left: Vec<Left>,
    /// The longest grace period of what is left, in seconds.
    pub grace_s: Option<u64>,
}

/// A resource that could not be emptied.
#[derive(Debug, PartialEq)]
pub(super) struct Trouble {
    message: String,
}

/// Objects of a resource that are still there.
#[derive(Debug, PartialEq)]
pub(super) struct Left {
    /// `pods.` or `deployments.apps`.
    resource: String,
    count: usize,
    finalizers: BTreeMap<String, usize>,
}

impl Trouble {
    pub fn of(resource: &ResourceInfo, error: &str) -> Trouble {
        let version = resource.api_version();
        Trouble {
            message: format!("{version}, Resource={}: {error}", resource.plural),
        }
    }
}

impl Left {
    pub fn of(resource: &ResourceInfo, objects: &[ObjectMeta]) -> Left {
        let mut finalizers = BTreeMap::new();
        for finalizer in objects.iter().flat_map(|meta| meta.finalizers.iter().flatten()) {
            bounded::count(finalizers.entry(finalizer.clone()).or_default());
        }
        Left {
            resource: format!("{}.{}", resource.plural, resource.group),
            count: objects.len(),
            finalizers,
        }
    }
}

impl Outcome {
    pub fn is_empty(&self) -> bool {
        self.discovery_error.is_none() && self.trouble.is_empty() && self.left.is_empty()
    }

    fn remaining(&self) -> Option<String> {
        let mut parts: Vec<String> = self
            .left
            .iter()
            .map(|left| format!("{} has {} resource instances", left.resource, left.count))
            .collect();
        parts.sort_unstable();
        let joined = parts.join(", ");
        (!parts.is_empty()).then(|| format!("Some resources are remaining: {joined}"))
    }

    fn finalizers(&self) -> Option<String> {
        let mut total: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, count) in self.left.iter().flat_map(|left| &left.finalizers) {
            let sum = total.entry(name).or_default();
            *sum = sum.saturating_add(*count);
        }
        let parts: Vec<String> = total
            .iter()
            .map(|(name, count)| format!("{name} in {count} resource instances"))
            .collect();
        let joined = parts.join(", ");
        let message = format!("Some content in the namespace has finalizers remaining: {joined}");
        (!parts.is_empty()).then_some(message)
    }

    fn failures(&self) -> Option<String> {
        let messages: Vec<&str> = self.trouble.iter().map(|t| t.message.as_str()).collect();
        let joined = messages.join(", ");
        let message = format!(
            "Failed to delete all resource types, {} remaining: {joined}",
            messages.len()
        );
        (!messages.is_empty()).then_some(message)
    }
}

/// The five conditions of a namespace on its way out; times move only when a status does.
pub(super) fn conditions(old: Option<&[NamespaceCondition]>, outcome: &Outcome, now: &Time) -> Vec<NamespaceCondition> {
    type Row = (&'static str, Option<String>, &'static str, &'static str, &'static str);
    let rows: [Row; 5] = [
        (
            "NamespaceDeletionDiscoveryFailure",
            outcome
                .discovery_error
                .as_ref()
                .map(|e| format!("Discovery failed for some groups, 1 failing: {e}")),
            "DiscoveryFailed",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "GroupVersionParsingFailed",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            outcome.failures(),
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            outcome.remaining(),
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            outcome.finalizers(),
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let mut all: Vec<NamespaceCondition> = old.unwrap_or_default().to_vec();
    for (type_, bad, bad_reason, good_reason, good) in rows {
        let (status, reason) = match bad {
            Some(_) => ("True", bad_reason),
            None => ("False", good_reason),
        };
        let known = all.iter().position(|c| c.type_ == type_);
        let before = known.and_then(|at| all.get(at));
        let since = before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        let condition = NamespaceCondition {
            type_: type_.to_string(),
            status: status.to_string(),
            reason: Some(reason.to_string()),
            message: Some(bad.unwrap_or_else(|| good.to_string())),
            last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        };
        match known.and_then(|at| all.get_mut(at)) {
            Some(place) => *place = condition,
            None => all.push(condition),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn says_what_is_left_and_then_that_all_is_gone() {
        let pods = ResourceInfo {
            group: String::new(),
            version: "v1".into(),
            plural: "pods".into(),
            kind: "Pod".into(),
            namespaced: true,
            ..ResourceInfo::default()
        };
        let held = ObjectMeta {
            finalizers: Some(vec!["x/y".into()]),
            ..ObjectMeta::default()
        };
        let outcome = Outcome {
            left: vec![Left::of(&pods, &[held, ObjectMeta::default()])],
            ..Outcome::default()
        };
        let time = |s| Time(Timestamp::from_second(s).expect("a time"));
        let first = conditions(None, &outcome, &time(1));
        let shown = |all: &[NamespaceCondition], at: usize| {
            all.get(at)
                .map(|c| format!("{} {}", c.status, c.message.clone().unwrap_or_default()))
        };
        assert_eq!(
            shown(&first, 3).as_deref(),
            Some("True Some resources are remaining: pods. has 2 resource instances")
        );
        assert_eq!(
            shown(&first, 4).as_deref(),
            Some("True Some content in the namespace has finalizers remaining: x/y in 1 resource instances")
        );
        assert_eq!(conditions(Some(&first), &outcome, &time(2)), first, "nothing changed");
        let last = conditions(Some(&first), &Outcome::default(), &time(3));
        assert_eq!(
            shown(&last, 3).as_deref(),
            Some("False All content successfully removed")
        );
        assert_eq!(last.first().and_then(|c| c.last_transition_time.clone()), Some(time(1)));
    }
}
