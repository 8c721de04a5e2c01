//! Carries out a ReplicaSet's plan.

use std::sync::Arc;

use coxswain_client::Next;
use coxswain_client::k8s_openapi::api::apps::v1::ReplicaSet;
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::kube::Api;
use jiff::Timestamp;

use super::plan::{Plan, failed};
use super::{ReplicaSets, Replicated};
use crate::error::ControllerError;
use crate::fleet::{Fleet, Trouble, Words};
use crate::{adoption, pods, writes};

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
        let wanted = vec![new_pod::<K>(set); plan.create];
        let trouble = fleet.apply(&plan.delete, &wanted).await;
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
            let api = self.context.client.namespaced(namespace);
            writes::status(&api, &self.sets, &set.metadata, &set.status, &status).await?;
        }
        Trouble::next(trouble, plan.requeue_after)
    }
}

fn new_pod<K: Replicated>(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    let owner = pods::controller_reference(K::API_VERSION, K::KIND, &set.metadata);
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    pods::from_template(&template, owner, namespace)
}
