//! Carries out a ReplicaSet's plan.

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::kube::Api;
use coxswain_client::{Failure, Next, merge_diff, revision_of};
use jiff::Timestamp;
use serde_json::json;

use super::plan::{Plan, failed};
use super::{ReplicaSets, Replicated};
use crate::context::CATCH_UP;
use crate::error::ControllerError;
use crate::fleet::{Fleet, Trouble, Words};
use crate::writes::{object_params, patch_status};
use crate::{adoption, pods};

impl<K: Replicated> ReplicaSets<K> {
    pub(super) async fn apply(
        &self,
        object: &Arc<K>,
        set: &Arc<ReplicaSet>,
        plan: Plan,
    ) -> Result<Next, ControllerError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = self.context.client.namespaced(namespace);
        let owner = (K::API_VERSION, K::KIND);
        adoption::apply(&api, owner, &set.metadata, &plan.adopt, &plan.release).await?;
        let fleet = Fleet {
            words: Words::Any,
            context: &self.context,
            pods: &self.pods,
            owner: &**object,
        };
        let trouble = match (plan.create, plan.delete.is_empty()) {
            (0, true) => None,
            (0, false) => fleet.delete(&plan.delete).await,
            (count, _) => fleet.create(&vec![new_pod::<K>(set); count]).await,
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

    async fn write_status(&self, set: &ReplicaSet, status: &ReplicaSetStatus) -> Result<(), ControllerError> {
        let old = json!({"status": set.status});
        let Some(patch) = merge_diff(&old, &json!({"status": status})) else {
            return Ok(());
        };
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<K> = self.context.client.namespaced(namespace);
        if let Some(written) = patch_status(&api, &set.metadata, patch, &object_params()).await? {
            self.sets.caught_up(revision_of(written.meta()), CATCH_UP).await;
        }
        Ok(())
    }
}

fn new_pod<K: Replicated>(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    let owner = pods::controller_reference(K::API_VERSION, K::KIND, &set.metadata);
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    pods::from_template(&template, owner, namespace)
}
