//! ControllerRevisions: the templates that a StatefulSet or DaemonSet has had, so that clients can go back to one.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::ControllerRevision;
use coxswain_client::k8s_openapi::api::core::v1::PodTemplateSpec;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use coxswain_client::k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use coxswain_client::kube::Api;
use coxswain_client::{Cache, revision_of};
use serde_json::{Value, json};

use crate::context::CATCH_UP;
use crate::error::{ControllerError, call};
use crate::pods::{controller_reference, template_hash};
use crate::writes;

/// On revisions: the hash that their name ends in. On pods: the revision that they were made from.
pub(crate) const HASH: &str = "controller-revision-hash";

/// The revision that stands for a template, and how to get it.
#[derive(Debug, Clone)]
pub(crate) enum Newest {
    /// It is there, and is the newest.
    Kept(Arc<ControllerRevision>),
    /// It is there, and becomes the newest again.
    Renumbered(Arc<ControllerRevision>, i64),
    /// It has to be made.
    Made(Box<ControllerRevision>),
}

impl Newest {
    /// Its name.
    pub fn name(&self) -> &str {
        let meta = match self {
            Newest::Kept(known) | Newest::Renumbered(known, _) => &known.metadata,
            Newest::Made(made) => &made.metadata,
        };
        meta.name.as_deref().unwrap_or_default()
    }
}

/// Finds or makes the revision of `template` among those an owner has.
pub(crate) fn newest(
    (api_version, kind): (&str, &str),
    owner: &ObjectMeta,
    template: &PodTemplateSpec,
    known: &[Arc<ControllerRevision>],
    collisions: Option<i32>,
) -> Newest {
    let data = data(template);
    let last = known.iter().map(|r| r.revision).max().unwrap_or(0);
    let equal = known.iter().filter(|r| r.data.as_ref().is_some_and(|d| d.0 == data));
    if let Some(found) = equal.max_by_key(|r| r.revision) {
        return if found.revision == last {
            Newest::Kept(found.clone())
        } else {
            Newest::Renumbered(found.clone(), last.saturating_add(1))
        };
    }
    let hash = template_hash(template, collisions);
    let mut labels = template
        .metadata
        .as_ref()
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    labels.insert(HASH.to_string(), hash.clone());
    Newest::Made(Box::new(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.name.as_deref().unwrap_or_default())),
            namespace: owner.namespace.clone(),
            labels: Some(labels),
            annotations: owner.annotations.clone(),
            owner_references: Some(vec![controller_reference(api_version, kind, owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: last.saturating_add(1),
    }))
}

/// A patch that puts the template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    if let Some(members) = template.as_object_mut() {
        members.insert("$patch".to_string(), json!("replace"));
    }
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Revisions that nobody uses, beyond those that are kept: the oldest.
pub(crate) fn surplus(
    known: &[Arc<ControllerRevision>],
    used: &BTreeSet<String>,
    limit: Option<i32>,
) -> Vec<Arc<ControllerRevision>> {
    let unused = |r: &&Arc<ControllerRevision>| !used.contains(r.metadata.name.as_deref().unwrap_or_default());
    let mut unused: Vec<_> = known.iter().filter(unused).cloned().collect();
    unused.sort_by_key(|r| r.revision);
    let kept = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    unused.truncate(unused.len().saturating_sub(kept));
    unused
}

/// Makes or renumbers the newest revision and deletes `surplus`. `false` when its name is taken by something else:
/// the caller counts a collision and plans again.
pub(crate) async fn apply(
    api: &Api<ControllerRevision>,
    cache: &Cache<ControllerRevision>,
    newest: &Newest,
    surplus: &[Arc<ControllerRevision>],
) -> Result<bool, ControllerError> {
    let written = match newest {
        Newest::Kept(_) => None,
        Newest::Renumbered(known, number) => writes::patch(api, &known.metadata, json!({"revision": number})).await?,
        Newest::Made(made) => {
            let params = writes::creation();
            match api.create(&params, made).await.map_err(call("creating a revision")) {
                Ok(created) => Some(created),
                Err(error) if error.failure() == coxswain_client::Failure::AlreadyExists => {
                    let name = made.metadata.name.as_deref().unwrap_or_default();
                    let existing = api.get(name).await.map_err(call(format!("reading {name}")))?;
                    let ours = existing.metadata.owner_references == made.metadata.owner_references;
                    if !ours || existing.data != made.data {
                        return Ok(false);
                    }
                    Some(existing)
                }
                Err(error) => return Err(error),
            }
        }
    };
    for revision in surplus {
        writes::delete(api, &revision.metadata, None).await?;
    }
    if let Some(written) = written {
        cache.caught_up(revision_of(&written.metadata), CATCH_UP).await;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        let value =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        serde_json::from_value(value).expect("a template")
    }

    fn revisions(images: &[(&str, i64)]) -> Vec<Arc<ControllerRevision>> {
        let owner = ObjectMeta {
            name: Some("web".to_string()),
            ..ObjectMeta::default()
        };
        let made = images.iter().map(|(image, number)| {
            let Newest::Made(mut made) = newest(("apps/v1", "StatefulSet"), &owner, &template(image), &[], None) else {
                panic!("nothing is known yet");
            };
            made.revision = *number;
            Arc::new(*made)
        });
        made.collect()
    }

    #[test]
    fn the_newest_is_kept_renumbered_or_made() {
        let check = |image: &str, expected: &str| {
            let known = revisions(&[("one", 1), ("two", 2)]);
            let owner = ObjectMeta::default();
            let found = match newest(("apps/v1", "StatefulSet"), &owner, &template(image), &known, None) {
                Newest::Kept(r) => format!("kept {}", r.revision),
                Newest::Renumbered(r, number) => format!("{} becomes {number}", r.revision),
                Newest::Made(r) => format!("made {}", r.revision),
            };
            assert_eq!(found, expected, "{image}");
        };
        check("two", "kept 2");
        check("one", "1 becomes 3");
        check("three", "made 3");
    }

    #[test]
    fn old_revisions_go_and_templates_come_back() {
        let known = revisions(&[("one", 1), ("two", 2), ("three", 3)]);
        let name = |at: usize| known.get(at).and_then(|r| r.metadata.name.clone()).unwrap_or_default();
        let gone = |used: &[String], limit: i32| {
            let used: BTreeSet<String> = used.iter().cloned().collect();
            surplus(&known, &used, Some(limit))
                .iter()
                .map(|r| r.revision)
                .collect::<Vec<_>>()
        };
        assert_eq!(gone(&[name(0)], 1), [2]);
        assert_eq!(gone(&[], 0), [1, 2, 3]);
        assert_eq!(gone(&[name(2)], 10), [] as [i64; 0]);
        let back = known.first().and_then(|r| template_of(r));
        assert_eq!(back, Some(template("one")));
    }
}
