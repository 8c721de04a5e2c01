//! Carries out a Deployment's plan.

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use coxswain_client::kube::Api;
use coxswain_client::kube::api::PropagationPolicy;
use coxswain_client::{Failure, Next, ObjectKey, merge_diff, revision_of};
use jiff::Timestamp;
use serde_json::json;

use super::Deployments;
use super::plan::{Plan, SetChange};
use super::revision::{REVISION, same_template};
use super::status::creation_failed;
use crate::context::CATCH_UP;
use crate::error::{ControllerError, call};
use crate::writes::{self, patch_status};
use crate::{adoption, pods};

impl Deployments {
    pub(super) async fn apply(&self, deployment: &Arc<Deployment>, plan: Plan) -> Result<Next, ControllerError> {
        if plan.selects_all {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.context.recorder.warning(&**deployment, "SelectingAll", message);
            return Ok(Next::Done);
        }
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<ReplicaSet> = self.context.client.namespaced(namespace);
        let owner = ("apps/v1", "Deployment");
        adoption::apply(&api, owner, &deployment.metadata, &plan.adopt, &plan.release).await?;
        let mut newest = 0;
        if let Some(set) = &plan.create {
            match self.create(&api, deployment, set).await? {
                Some(revision) => newest = revision,
                None => return Ok(Next::Again),
            }
        }
        for change in &plan.change {
            match writes::patch(&api, &change.set.metadata, body(change)).await? {
                Some(written) => newest = newest.max(revision_of(&written.metadata)),
                None => return Ok(Next::Again),
            }
        }
        for (name, from, to) in &plan.scaled {
            let direction = if to > from { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
            self.context
                .recorder
                .normal(&**deployment, "ScalingReplicaSet", &message);
        }
        for set in &plan.delete {
            writes::delete(&api, &set.metadata, Some(PropagationPolicy::Background)).await?;
        }
        self.sets.caught_up(newest, CATCH_UP).await;
        let gone = |set: &Arc<ReplicaSet>| {
            let current = self.sets.by_key(&ObjectKey::of(&set.metadata));
            current.is_none_or(|now| now.metadata.deletion_timestamp.is_some())
        };
        self.sets.until(CATCH_UP, |_| plan.delete.iter().all(gone)).await;
        self.write_status(deployment, plan.status.as_ref(), plan.revision.as_deref())
            .await?;
        Ok(plan.requeue_after.map_or(Next::Done, Next::After))
    }

    /// Creates the new set. `None` when its name is taken by another template: the collision has
    /// been counted, the next plan uses another hash.
    async fn create(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        set: &ReplicaSet,
    ) -> Result<Option<u64>, ControllerError> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let params = writes::creation();
        let error = match api.create(&params, set).await.map_err(call(format!("creating {name}"))) {
            Ok(created) => return Ok(Some(revision_of(&created.metadata))),
            Err(error) => error,
        };
        match error.failure() {
            Failure::AlreadyExists => self.collision(api, deployment, set).await,
            Failure::NamespaceTerminating => Err(error),
            _ => {
                let message = error.message();
                let status = creation_failed(deployment, name, &message, Timestamp::now());
                self.write_status(deployment, status.as_ref(), None).await?;
                Err(error)
            }
        }
    }

    async fn collision(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        set: &ReplicaSet,
    ) -> Result<Option<u64>, ControllerError> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let existing = api.get(name).await.map_err(call(format!("reading {name}")))?;
        let uid = deployment.metadata.uid.as_deref();
        let ours = pods::controller_of(&existing.metadata).is_some_and(|o| Some(o.uid.as_str()) == uid);
        let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|s| s.template.clone());
        let equal = match (template(&existing), template(set)) {
            (Some(a), Some(b)) => same_template(&a, &b),
            _ => false,
        };
        if ours && equal {
            return Ok(Some(revision_of(&existing.metadata)));
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        self.write_status(deployment, Some(&status), None).await?;
        Ok(None)
    }

    /// Writes status and revision in one request; the revision alone does not count as a change
    /// of the specification there.
    async fn write_status(
        &self,
        deployment: &Deployment,
        status: Option<&DeploymentStatus>,
        revision: Option<&str>,
    ) -> Result<(), ControllerError> {
        let old = json!({"status": deployment.status});
        let new = json!({"status": status.or(deployment.status.as_ref())});
        let mut patch = merge_diff(&old, &new).unwrap_or_else(|| json!({}));
        if let (Some(revision), Some(patch)) = (revision, patch.as_object_mut()) {
            let metadata = json!({"annotations": {REVISION: revision}});
            patch.insert("metadata".to_string(), metadata);
        }
        if patch.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(());
        }
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Deployment> = self.context.client.namespaced(namespace);
        let written = patch_status(&api, &deployment.metadata, patch).await?;
        if let Some(written) = written {
            self.deployments
                .caught_up(revision_of(&written.metadata), CATCH_UP)
                .await;
        }
        Ok(())
    }
}

fn body(change: &SetChange) -> serde_json::Value {
    json!({
        "metadata": {"annotations": change.annotations},
        "spec": {"replicas": change.replicas, "minReadySeconds": change.min_ready_s},
    })
}
