//! Carries out a StatefulSet's plan.

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use coxswain_client::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use coxswain_client::kube::Api;
use coxswain_client::{Failure, Next, revision_of};

use super::StatefulSets;
use super::plan::Plan;
use crate::context::CATCH_UP;
use crate::error::{ControllerError, call};
use crate::fleet::{Fleet, Trouble, Words};
use crate::writes;
use crate::{adoption, history};

impl StatefulSets {
    pub(super) async fn apply(&self, set: &Arc<StatefulSet>, plan: Plan) -> Result<Next, ControllerError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let client = &self.context.client;
        let owner = ("apps/v1", "StatefulSet");
        let pods: Api<Pod> = client.namespaced(namespace);
        adoption::apply(&pods, owner, &set.metadata, &plan.adopt, &plan.release).await?;
        if let Some(newest) = &plan.newest {
            let api: Api<ControllerRevision> = client.namespaced(namespace);
            if !history::apply(&api, &self.revisions, newest, &plan.forget).await? {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
                self.write_status(set, &status).await?;
                return Ok(Next::Again);
            }
        }
        if let Some(status) = &plan.status
            && !self.write_status(set, status).await?
        {
            return Ok(Next::Again);
        }
        let claims: Api<PersistentVolumeClaim> = client.namespaced(namespace);
        for claim in &plan.claims {
            self.make_claim(&claims, set, claim).await?;
        }
        for claim in &plan.drop_claims {
            writes::delete(&claims, &claim.metadata, None).await?;
        }
        let fleet = Fleet {
            words: Words::Member,
            context: &self.context,
            pods: &self.pods,
            owner: &**set,
        };
        let trouble = fleet.apply(&plan.delete, &plan.create).await;
        Trouble::next(trouble, plan.requeue_after)
    }

    async fn make_claim(
        &self,
        api: &Api<PersistentVolumeClaim>,
        set: &StatefulSet,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), ControllerError> {
        let params = writes::creation();
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let owner = set.metadata.name.as_deref().unwrap_or_default();
        match api
            .create(&params, claim)
            .await
            .map_err(call(format!("creating claim {name}")))
        {
            Ok(created) => {
                let message = format!("create Claim {name} in StatefulSet {owner} success");
                self.context.recorder.normal(set, "SuccessfulCreate", &message);
                self.claims.caught_up(revision_of(&created.metadata), CATCH_UP).await;
                Ok(())
            }
            Err(error) if error.failure() == Failure::AlreadyExists => Ok(()),
            Err(error) => {
                let message = format!(
                    "create Claim {name} in StatefulSet {owner} failed error: {}",
                    error.message()
                );
                self.context.recorder.warning(set, "FailedCreate", &message);
                Err(error)
            }
        }
    }

    /// `false` when the set has changed since.
    async fn write_status(&self, set: &StatefulSet, status: &StatefulSetStatus) -> Result<bool, ControllerError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api = self.context.client.namespaced(namespace);
        writes::status(&api, &self.sets, &set.metadata, &set.status, status).await
    }
}
