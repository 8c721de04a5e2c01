//! Job: runs pods until enough have succeeded, or too many have failed.
//!
//! Watches Jobs and pods. Writes pods (create, delete, owner references, the tracking finalizer), the status, and
//! deletes Jobs whose time to live is over.
//! Guarantees: every pod that ends is counted once, even when this process stops in between (`count.rs`); a final
//! condition is written only when no pod runs any more.
//! Does not: delete finished pods (they go with the Job), or touch a Job that names another controller.

mod apply;
mod count;
mod ending;
mod indexes;
mod plan;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::batch::v1::Job;
use coxswain_client::k8s_openapi::api::core::v1::Pod;
use coxswain_client::{Cache, Change, Next, ObjectKey, Queue};
use jiff::Timestamp;

use crate::context::Context;
use crate::error::ControllerError;
use crate::{adoption, labels, pods, single};

const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const CONTROLLER: &str = "kubernetes.io/job-controller";

struct Jobs {
    context: Context,
    jobs: Cache<Job>,
    pods: Cache<Pod>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Jobs {
        jobs: context.caches.of(),
        pods: context.caches.of(),
        context: context.clone(),
    });
    controller.jobs.synced().await;
    controller.pods.synced().await;
    let queue = Queue::new();
    let by_job = single::wake(&controller.jobs, &queue, |change| vec![change.key.clone()]);
    let by_pod = single::wake(&controller.pods, &queue, |change| controller.jobs_of(change));
    let work = single::reconcile("job", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(by_job, by_pod, work);
}

impl Jobs {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(job) = self.jobs.by_key(key) else {
            self.let_go(key, None).await?;
            return Ok(Next::Done);
        };
        if job.status.as_ref().is_none_or(|status| status.start_time.is_none()) {
            // A Job of the same name may have been here before.
            self.let_go(key, Some(&job)).await?;
        }
        let manager = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
        if manager.is_some_and(|name| name != CONTROLLER) {
            return Ok(Next::Done);
        }
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let mut pods = self.pods.controlled_by(uid);
        let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
        let orphans = self
            .pods
            .without_controller(&key.namespace, |l| labels::selected(selector, l));
        pods.extend(orphans);
        let plan = plan::plan(plan::Observed {
            job: job.clone(),
            pods,
            now: Timestamp::now(),
        });
        self.apply(&job, plan).await
    }

    /// Pods of a Job that is gone need not be counted.
    async fn let_go(&self, key: &ObjectKey, successor: Option<&Job>) -> Result<(), ControllerError> {
        let keeps = |pod: &Pod| {
            successor.is_some_and(|job| match pods::controller_of(&pod.metadata) {
                Some(owner) => Some(&owner.uid) == job.metadata.uid.as_ref(),
                None => {
                    let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
                    selector.is_some_and(|s| labels::matches(s, pod.metadata.labels.as_ref()))
                }
            })
        };
        let left = self.pods.select(Some(&key.namespace), |pod| {
            count::is_tracked(pod) && job_named_by(pod).as_deref() == Some(&*key.name) && !keeps(pod)
        });
        self.untrack(&key.namespace, &left).await
    }

    fn jobs_of(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        adoption::owners_of(change, &self.jobs, job_named_by, |job, pod| {
            let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
            selector.is_some_and(|s| labels::matches(s, pod.metadata.labels.as_ref()))
        })
    }
}

/// The Job that controls the pod, or that its label names when it has lost its owner.
fn job_named_by(pod: &Pod) -> Option<String> {
    match pods::controller_of(&pod.metadata) {
        Some(owner) if owner.kind == "Job" && owner.api_version.starts_with("batch/") => Some(owner.name.clone()),
        Some(_) => None,
        None if count::is_tracked(pod) => pod.metadata.labels.as_ref()?.get(NAME_LABEL).cloned(),
        None => None,
    }
}
