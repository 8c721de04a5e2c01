//! Carries out a DaemonSet's plan.

use std::sync::Arc;

use coxswain_client::Next;
use coxswain_client::k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::kube::Api;

use super::DaemonSets;
use super::nodes::node_of;
use super::plan::Plan;
use crate::error::ControllerError;
use crate::fleet::{Fleet, Trouble, Words};
use crate::{adoption, history, writes};

impl DaemonSets {
    pub(super) async fn apply(&self, set: &Arc<DaemonSet>, plan: Plan) -> Result<Next, ControllerError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let client = &self.context.client;
        let pods: Api<Pod> = client.namespaced(namespace);
        let owner = ("apps/v1", "DaemonSet");
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
        for (pod, how) in &plan.ended {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let node = node_of(pod).unwrap_or_default();
            let verb = if how == "failed" { "kill" } else { "delete" };
            let message = format!("Found {how} daemon pod {namespace}/{name} on node {node}, will try to {verb} it");
            if how == "failed" {
                self.context.recorder.warning(&**set, "FailedDaemonPod", &message);
            } else {
                self.context.recorder.normal(&**set, "SucceededDaemonPod", &message);
            }
        }
        let fleet = Fleet {
            words: Words::Any,
            context: &self.context,
            pods: &self.pods,
            owner: &**set,
        };
        let trouble = fleet.apply(&plan.delete, &plan.create).await;
        Trouble::next(trouble, plan.requeue_after)
    }

    /// `false` when the set has changed since.
    async fn write_status(&self, set: &DaemonSet, status: &DaemonSetStatus) -> Result<bool, ControllerError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api = self.context.client.namespaced(namespace);
        writes::status(&api, &self.sets, &set.metadata, &set.status, status).await
    }
}
