//! Names, hashes and annotations of a Deployment's ReplicaSets.

use std::collections::BTreeMap;

use coxswain_api::bounded;
use coxswain_client::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use coxswain_client::k8s_openapi::api::core::v1::PodTemplateSpec;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::replicas::Limits;
use crate::pods::{controller_reference, template_hash};

pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that its sets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
];
const HISTORY_BYTES_MAX: usize = 2000;

type Annotations = BTreeMap<String, String>;

pub(super) fn annotation<'a>(set: &'a ReplicaSet, name: &str) -> Option<&'a str> {
    let annotations = set.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

pub(super) fn revision(annotations: Option<&Annotations>) -> i64 {
    let text = annotations.and_then(|a| a.get(REVISION));
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The templates are equal but for the hash label.
pub(super) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn labels(template: &PodTemplateSpec) -> Vec<(&String, &String)> {
        let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        labels
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key != HASH_LABEL)
            .collect()
    }
    fn annotations(template: &PodTemplateSpec) -> Vec<(&String, &String)> {
        let annotations = template.metadata.as_ref().and_then(|m| m.annotations.as_ref());
        annotations.into_iter().flatten().collect()
    }
    a.spec == b.spec && labels(a) == labels(b) && annotations(a) == annotations(b)
}

/// The annotations a set should have, given what it has.
pub(super) fn set_annotations(
    deployment: &Deployment,
    current: Option<&Annotations>,
    revision_wanted: i64,
    limits: Option<Limits>,
) -> Annotations {
    let mut wanted = current.cloned().unwrap_or_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            wanted.insert(key.clone(), value.clone());
        }
    }
    let old = revision(current);
    if old < revision_wanted {
        wanted.insert(REVISION.to_string(), revision_wanted.to_string());
        if old > 0 {
            remember(&mut wanted, old);
        }
    }
    if let Some(limits) = limits {
        size_annotations(&mut wanted, limits);
    }
    wanted
}

/// Appends a revision to the list of those a set has had.
fn remember(annotations: &mut Annotations, old: i64) {
    let known = annotations.get(HISTORY).cloned().unwrap_or_default();
    let mut list: Vec<&str> = known.split(',').filter(|r| !r.is_empty()).collect();
    let old = old.to_string();
    list.push(&old);
    while bounded::sum(list.iter().map(|r| r.len().saturating_add(1))) > HISTORY_BYTES_MAX {
        list.remove(0);
    }
    annotations.insert(HISTORY.to_string(), list.join(","));
}

/// Records what the set's size was computed for.
pub(super) fn size_annotations(annotations: &mut Annotations, limits: Limits) {
    annotations.insert(DESIRED.to_string(), limits.replicas.to_string());
    annotations.insert(MAX.to_string(), limits.most().to_string());
}

/// The size the set was computed for.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(set, DESIRED).and_then(|v| v.parse().ok())
}

/// The set for the Deployment's template.
pub(super) fn new_set(
    deployment: &Deployment,
    replicas: i32,
    revision_wanted: i64,
    limits: Limits,
) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    let labels = meta.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_string(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    let wanted = selector.match_labels.get_or_insert_default();
    wanted.insert(HASH_LABEL.to_string(), hash.clone());
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let owner = controller_reference("apps/v1", "Deployment", &deployment.metadata);
    Some(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(set_annotations(deployment, None, revision_wanted, Some(limits))),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    })
}
