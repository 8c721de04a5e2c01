//! Creating and deleting the pods of one owner, with the events that say so.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::kube::api::{DeleteParams, Preconditions};
use coxswain_client::kube::{Api, Resource};
use coxswain_client::{Cache, Failure, Next, ObjectKey, revision_of};
use futures::future::join_all;

use crate::context::{CATCH_UP, Context};
use crate::error::{ControllerError, call};
use crate::{pods, writes};

/// The first failure among parallel writes, and the reason it gets in the owner's status.
pub(crate) struct Trouble {
    pub reason: &'static str,
    pub error: ControllerError,
}

impl Trouble {
    /// What the owner's worker does after its writes: a namespace that goes away is no failure.
    pub fn next(trouble: Option<Trouble>, requeue_after: Option<Duration>) -> Result<Next, ControllerError> {
        match trouble {
            Some(Trouble { error, .. }) if error.failure() == Failure::NamespaceTerminating => Ok(Next::Done),
            Some(Trouble { error, .. }) => Err(error),
            None => Ok(requeue_after.map_or(Next::Done, Next::After)),
        }
    }
}

/// How events speak of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// One of many that are alike.
    Any,
    /// A member of a StatefulSet, with a name of its own.
    Member,
}

/// What it takes to write the pods of `owner`.
pub(crate) struct Fleet<'a, K> {
    pub words: Words,
    pub context: &'a Context,
    pub pods: &'a Cache<Pod>,
    pub owner: &'a K,
}

impl<K> Fleet<'_, K>
where
    K: Resource<DynamicType = ()> + Debug,
{
    fn api(&self) -> Api<Pod> {
        let namespace = self.owner.meta().namespace.as_deref().unwrap_or_default();
        self.context.client.namespaced(namespace)
    }

    fn done(&self, verb: &str, past: &str, pod: &str) -> String {
        match self.words {
            Words::Any => format!("{past} pod: {pod}"),
            Words::Member => format!("{verb} Pod {pod} in StatefulSet {} successful", self.name()),
        }
    }

    fn failed(&self, verb: &str, doing: &str, pod: &str, error: &ControllerError) -> String {
        let why = error.message();
        match self.words {
            Words::Any => format!("Error {doing}: {why}"),
            Words::Member => format!("{verb} Pod {pod} in StatefulSet {} failed error: {why}", self.name()),
        }
    }

    fn name(&self) -> &str {
        self.owner.meta().name.as_deref().unwrap_or_default()
    }

    /// Deletes, then creates; a deletion that failed is the end.
    pub async fn apply(&self, surplus: &[Arc<Pod>], wanted: &[Pod]) -> Option<Trouble> {
        match self.delete(surplus).await {
            None => self.create(wanted).await,
            trouble => trouble,
        }
    }

    /// Creates pods in batches of 1, 2, 4, ... and stops at the first batch with a failure. Returns when the cache
    /// shows them.
    async fn create(&self, wanted: &[Pod]) -> Option<Trouble> {
        if wanted.is_empty() {
            return None;
        }
        let api = self.api();
        let params = writes::creation();
        let (mut rest, mut batch, mut newest) = (wanted, 1_usize, 0);
        let mut trouble = None;
        while !rest.is_empty() && trouble.is_none() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            let results = join_all(now.iter().map(|pod| api.create(&params, pod))).await;
            for (pod, result) in now.iter().zip(results) {
                match result.map_err(call("creating a pod")) {
                    Ok(created) => {
                        newest = newest.max(revision_of(&created.metadata));
                        let name = created.metadata.name.unwrap_or_default();
                        let message = self.done("create", "Created", &name);
                        self.context.recorder.normal(self.owner, "SuccessfulCreate", &message);
                    }
                    // A pod of a fixed name that is there already comes with its own event.
                    Err(error) if error.failure() == Failure::AlreadyExists => {}
                    Err(error) => trouble = trouble.or_else(|| Some((pod.metadata.name.clone(), error))),
                }
            }
            rest = later;
            batch = batch.saturating_mul(2);
        }
        self.pods.caught_up(newest, CATCH_UP).await;
        let (name, error) = trouble?;
        if error.failure() != Failure::NamespaceTerminating {
            let message = self.failed("create", "creating", &name.unwrap_or_default(), &error);
            self.context.recorder.warning(self.owner, "FailedCreate", &message);
        }
        Some(Trouble {
            reason: "FailedCreate",
            error,
        })
    }

    /// Deletes exactly these pods, all at once. Returns when the cache shows them going.
    async fn delete(&self, surplus: &[Arc<Pod>]) -> Option<Trouble> {
        if surplus.is_empty() {
            return None;
        }
        let api = self.api();
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
                    let message = self.done("delete", "Deleted", name);
                    self.context.recorder.normal(self.owner, "SuccessfulDelete", &message);
                }
                Err(error) if matches!(error.failure(), Failure::NotFound | Failure::Conflict) => {}
                Err(error) => {
                    let message = self.failed("delete", "deleting", name, &error);
                    self.context.recorder.warning(self.owner, "FailedDelete", &message);
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
}
