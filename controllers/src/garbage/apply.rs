//! Reads the live state of one object and its owners, and carries out the one step of its plan.

use coxswain_client::k8s_openapi::api::core::v1::ObjectReference;
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use coxswain_client::{ClientError, EventType, Failure, METADATA_ONLY, Next};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Collector;
use super::graph::{FOREGROUND, Node, ORPHAN};
use super::plan::{Dependent, OwnerState, Policy, Step, plan};
use crate::error::ControllerError;

const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");

#[derive(Deserialize)]
struct Live {
    #[serde(default)]
    metadata: ObjectMeta,
}

fn path(node: &Node) -> String {
    let namespace = &*node.object.key.namespace;
    let namespace = (!namespace.is_empty()).then_some(namespace);
    format!("{}/{}", node.resource.path(namespace), node.object.key.name)
}

/// Not found, conflict: somebody else was here, a new event follows.
fn harmless(result: Result<Value, ClientError>) -> Result<bool, ControllerError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) => match error.failure() {
            Failure::NotFound | Failure::Conflict => Ok(false),
            _ => Err(error.into()),
        },
    }
}

impl Collector {
    pub(super) async fn reconcile(&self, uid: &str) -> Result<Next, ControllerError> {
        let Some((node, dependents)) = self.look(uid) else {
            return Ok(Next::Done);
        };
        let Some(meta) = self.live(&path(&node)).await? else {
            return Ok(Next::Done);
        };
        if meta.uid.as_deref() != Some(uid) {
            return Ok(Next::Done);
        }
        let mut owners = Vec::new();
        for owner in meta.owner_references.iter().flatten() {
            let state = self.owner_state(&node, owner).await?;
            owners.push((owner.clone(), state));
        }
        match plan(&meta, &owners, &dependents) {
            Step::Nothing => Ok(Next::Done),
            Step::KeepOwners(kept) => self.patch_owners(&node, &meta, &kept).await,
            Step::Delete(policy) => self.delete(&node, &meta, policy).await,
            Step::FinishForeground => self.drop_finalizer(&node, &meta, FOREGROUND).await,
            Step::LookAt(uids) => {
                for uid in uids {
                    Box::pin(self.reconcile(&uid)).await?;
                }
                Ok(Next::Done)
            }
            Step::Orphan => {
                for dependent in &dependents {
                    self.set_free(&dependent.uid, uid).await?;
                }
                self.drop_finalizer(&node, &meta, ORPHAN).await
            }
        }
    }

    fn look(&self, uid: &str) -> Option<(Node, Vec<Dependent>)> {
        let graph = self.graph();
        let node = graph.get(uid)?.clone();
        let dependents = graph.dependents(uid).into_iter().map(|dependent| Dependent {
            uid: dependent.object.uid.to_string(),
            blocks: dependent
                .object
                .owners
                .iter()
                .any(|o| o.uid == uid && o.block_owner_deletion == Some(true)),
            deleting: dependent.object.deleting,
            waits: dependent.waits(),
        });
        let dependents = dependents.collect();
        Some((node, dependents))
    }

    async fn live(&self, path: &str) -> Result<Option<ObjectMeta>, ControllerError> {
        let headers = [("accept", METADATA_ONLY)];
        let request = self
            .context
            .client
            .request::<Live>(http::Method::GET, path, &headers, None);
        match request.await {
            Ok(live) => Ok(Some(live.metadata)),
            Err(error) if error.failure() == Failure::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn owner_state(&self, node: &Node, owner: &OwnerReference) -> Result<OwnerState, ControllerError> {
        let namespace = &*node.object.key.namespace;
        let known = self.graph().get(&owner.uid).cloned();
        if let Some(known) = &known {
            if !known.waits() && known.is_meant(owner, namespace) {
                return Ok(OwnerState::Solid);
            }
            if !known.is_in_reach(namespace) {
                self.report_out_of_reach(node, owner);
            }
        }
        let (group, _) = owner.api_version.split_once('/').unwrap_or(("", ""));
        let followed = self.inventory.all();
        let resource = followed
            .iter()
            .find(|f| f.info.group == group && f.info.kind == owner.kind);
        let Some(resource) = resource else {
            return Ok(OwnerState::Unknown);
        };
        if resource.info.namespaced && namespace.is_empty() {
            return Ok(OwnerState::Unknown);
        }
        let namespace = resource.info.namespaced.then_some(namespace);
        let path = format!("{}/{}", resource.info.path(namespace), owner.name);
        let live = self.live(&path).await?;
        let live = live.filter(|meta| meta.uid.as_deref() == Some(&owner.uid));
        Ok(match live {
            None => OwnerState::Gone,
            Some(meta) => {
                let finalizers = meta.finalizers.unwrap_or_default();
                let foreground = finalizers.iter().any(|f| f == FOREGROUND);
                if meta.deletion_timestamp.is_some() && foreground {
                    OwnerState::Waiting
                } else {
                    OwnerState::Solid
                }
            }
        })
    }

    /// The owner is in another namespace: for this object it is not there.
    fn report_out_of_reach(&self, node: &Node, owner: &OwnerReference) {
        let (key, resource) = (&node.object.key, &node.resource);
        let OwnerReference {
            api_version,
            kind,
            name,
            uid,
            ..
        } = owner;
        let place = &key.namespace;
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {place}, name: {name}, uid: {uid}] does not exist in namespace \"{place}\""
        );
        let text = |text: &str| (!text.is_empty()).then(|| text.to_string());
        let about = ObjectReference {
            api_version: text(&resource.api_version()),
            kind: text(&resource.kind),
            namespace: text(place),
            name: text(&key.name),
            uid: text(&node.object.uid),
            ..ObjectReference::default()
        };
        let recorder = self.context.recorder.named("garbage-collector-controller");
        recorder.record(about, EventType::Warning, "OwnerRefInvalidNamespace", &message);
    }

    async fn patch_owners(
        &self,
        node: &Node,
        meta: &ObjectMeta,
        kept: &[OwnerReference],
    ) -> Result<Next, ControllerError> {
        let kept = if kept.is_empty() { Value::Null } else { json!(kept) };
        self.patch_metadata(node, meta, json!({"ownerReferences": kept})).await
    }

    async fn drop_finalizer(&self, node: &Node, meta: &ObjectMeta, finalizer: &str) -> Result<Next, ControllerError> {
        let finalizers = meta.finalizers.clone().unwrap_or_default();
        let kept: Vec<String> = finalizers.into_iter().filter(|f| f != finalizer).collect();
        self.patch_metadata(node, meta, json!({"finalizers": kept})).await
    }

    async fn patch_metadata(&self, node: &Node, meta: &ObjectMeta, mut change: Value) -> Result<Next, ControllerError> {
        if let Some(change) = change.as_object_mut() {
            change.insert("uid".to_string(), json!(meta.uid));
            change.insert("resourceVersion".to_string(), json!(meta.resource_version));
        }
        let body = json!({"metadata": change});
        let headers = [MERGE, ("accept", METADATA_ONLY)];
        let path = path(node);
        let request = self
            .context
            .client
            .request(http::Method::PATCH, &path, &headers, Some(&body));
        Ok(match harmless(request.await)? {
            true => Next::Done,
            false => Next::Again,
        })
    }

    async fn delete(&self, node: &Node, meta: &ObjectMeta, policy: Policy) -> Result<Next, ControllerError> {
        let body = json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy.as_str(),
            "preconditions": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        });
        let path = path(node);
        let request = self
            .context
            .client
            .request(http::Method::DELETE, &path, &[], Some(&body));
        Ok(match harmless(request.await)? {
            true => Next::Done,
            false => Next::Again,
        })
    }

    /// Takes one owner out of a dependent's references.
    async fn set_free(&self, dependent: &str, owner: &str) -> Result<(), ControllerError> {
        let Some((node, _)) = self.look(dependent) else {
            return Ok(());
        };
        // Twice, in case it changes in between; a third conflict makes the whole step come back.
        for _ in 0..3 {
            let live = self.live(&path(&node)).await?;
            let Some(meta) = live.filter(|m| m.uid.as_deref() == Some(dependent)) else {
                return Ok(());
            };
            let owners = meta.owner_references.clone().unwrap_or_default();
            let kept: Vec<OwnerReference> = owners.iter().filter(|o| o.uid != owner).cloned().collect();
            if kept.len() == owners.len() {
                return Ok(());
            }
            if self.patch_owners(&node, &meta, &kept).await? == Next::Done {
                return Ok(());
            }
        }
        Err(ControllerError::Config(format!("{} keeps changing", node.object.key)))
    }
}
