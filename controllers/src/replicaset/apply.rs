//! Carries out a ReplicaSet's plan.

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::kube::Api;
use coxswain_client::kube::api::{DeleteParams, PostParams, Preconditions};
use coxswain_client::{Failure, Next, ObjectKey, merge_diff, revision_of};
use futures::future::join_all;
use jiff::Timestamp;
use serde_json::json;

use super::ReplicaSets;
use super::plan::{Plan, failed};
use crate::context::{CATCH_UP, MANAGER};
use crate::error::{ControllerError, call};
use crate::writes::{object_params, patch_status};
use crate::{adoption, pods};

/// The first failure among parallel writes, and the reason it gets in the status.
struct Trouble {
    reason: &'static str,
    error: ControllerError,
}

impl ReplicaSets {
    pub(super) async fn apply(&self, set: &Arc<ReplicaSet>, plan: Plan) -> Result<Next, ControllerError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = self.context.client.namespaced(namespace);
        let owner = ("apps/v1", "ReplicaSet");
        adoption::apply(&api, owner, &set.metadata, &plan.adopt, &plan.release).await?;
        let trouble = match (plan.create, plan.delete.is_empty()) {
            (0, true) => None,
            (0, false) => self.delete(&api, set, &plan.delete).await,
            (count, _) => self.create(&api, set, count).await,
        };
        let status = match &trouble {
            None => plan.status,
            Some(trouble) => {
                let base = plan.status.or_else(|| set.status.clone()).unwrap_or_default();
                let message = trouble.error.message();
                let status = failed(set, base, trouble.reason, &message, Timestamp::now());
                (set.status.as_ref() != Some(&status)).then_some(status)
            }
        };
        if let Some(status) = status {
            self.write_status(set, &status).await?;
        }
        match trouble {
            Some(Trouble { error, .. }) if error.failure() == Failure::NamespaceTerminating => Ok(Next::Done),
            Some(Trouble { error, .. }) => Err(error),
            None => Ok(plan.requeue_after.map_or(Next::Done, Next::After)),
        }
    }

    /// Creates pods in batches of 1, 2, 4, ... and stops at the first batch with a failure.
    async fn create(&self, api: &Api<Pod>, set: &ReplicaSet, count: usize) -> Option<Trouble> {
        let spec = set.spec.as_ref()?;
        let template = spec.template.clone().unwrap_or_default();
        let owner = pods::controller_reference("apps/v1", "ReplicaSet", &set.metadata);
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let pod = pods::from_template(&template, owner, namespace);
        let params = PostParams {
            field_manager: Some(MANAGER.to_string()),
            ..PostParams::default()
        };
        let (mut done, mut batch, mut newest) = (0, 1, 0);
        let mut trouble = None;
        while done < count && trouble.is_none() {
            let size = batch.min(count - done);
            let results = join_all((0..size).map(|_| api.create(&params, &pod))).await;
            for result in results {
                match result.map_err(call("creating a pod")) {
                    Ok(created) => {
                        newest = newest.max(revision_of(&created.metadata));
                        let name = created.metadata.name.unwrap_or_default();
                        let message = format!("Created pod: {name}");
                        self.context.recorder.normal(set, "SuccessfulCreate", &message);
                    }
                    Err(error) => trouble = trouble.or(Some(error)),
                }
            }
            done += size;
            batch *= 2;
        }
        self.pods.caught_up(newest, CATCH_UP).await;
        let error = trouble?;
        if error.failure() != Failure::NamespaceTerminating {
            let message = format!("Error creating: {}", error.message());
            self.context.recorder.warning(set, "FailedCreate", &message);
        }
        Some(Trouble {
            reason: "FailedCreate",
            error,
        })
    }

    async fn delete(&self, api: &Api<Pod>, set: &ReplicaSet, surplus: &[Arc<Pod>]) -> Option<Trouble> {
        let deletions = surplus.iter().map(|pod| async {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: pod.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            (name, api.delete(name, &params).await)
        });
        let mut trouble = None;
        for (name, result) in join_all(deletions).await {
            match result.map_err(call(format!("deleting pod {name}"))) {
                Ok(_) => {
                    let message = format!("Deleted pod: {name}");
                    self.context.recorder.normal(set, "SuccessfulDelete", &message);
                }
                Err(error) if error.failure() == Failure::NotFound => {}
                Err(error) => {
                    let message = format!("Error deleting: {}", error.message());
                    self.context.recorder.warning(set, "FailedDelete", &message);
                    trouble = Some(error);
                }
            }
        }
        if trouble.is_none() {
            let gone = |pod: &Arc<Pod>| {
                let current = self.pods.by_key(&ObjectKey::of(&pod.metadata));
                current.is_none_or(|now| now.metadata.uid != pod.metadata.uid || pods::is_terminating(&now))
            };
            self.pods.until(CATCH_UP, |_| surplus.iter().all(gone)).await;
        }
        trouble.map(|error| Trouble {
            reason: "FailedDelete",
            error,
        })
    }

    async fn write_status(&self, set: &ReplicaSet, status: &ReplicaSetStatus) -> Result<(), ControllerError> {
        let old = json!({"status": set.status});
        let Some(patch) = merge_diff(&old, &json!({"status": status})) else {
            return Ok(());
        };
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<ReplicaSet> = self.context.client.namespaced(namespace);
        if let Some(written) = patch_status(&api, &set.metadata, patch, &object_params()).await? {
            self.sets.caught_up(revision_of(&written.metadata), CATCH_UP).await;
        }
        Ok(())
    }
}
