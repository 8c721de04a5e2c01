//! CronJob: makes a Job whenever its schedule says so.
//!
//! Watches CronJobs and Jobs; waits for the next due time with a timer on the key. Writes Jobs (create, delete beyond
//! the history and when one replaces another) and the status.
//! Guarantees: a Job's name is made of its due time, so no time is served twice; of several missed times only the
//! last one is made up for.
//! Does not: start anything later than `startingDeadlineSeconds`.

mod plan;
mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::batch::v1::{CronJob, Job};
use coxswain_client::kube::Api;
use coxswain_client::kube::api::PropagationPolicy;
use coxswain_client::{Cache, Failure, Next, ObjectKey, Queue, revision_of};
use jiff::Timestamp;

use crate::context::{CATCH_UP, Context};
use crate::error::{ControllerError, call};
use crate::writes;
use crate::{pods, single};

struct CronJobs {
    context: Context,
    crons: Cache<CronJob>,
    jobs: Cache<Job>,
}

/// Runs until cancelled.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(CronJobs {
        crons: context.caches.of(),
        jobs: context.caches.of(),
        context: context.clone(),
    });
    controller.crons.synced().await;
    controller.jobs.synced().await;
    let queue = Queue::new();
    let by_cron = single::wake(&controller.crons, &queue, |change| vec![change.key.clone()]);
    let by_job = single::wake(&controller.jobs, &queue, |change| {
        let jobs = [&change.old, &change.new].into_iter().flatten();
        let owners = jobs.filter_map(|job| pods::controller_of(&job.metadata).filter(|o| o.kind == "CronJob"));
        owners
            .map(|owner| ObjectKey::new(&change.key.namespace, &owner.name))
            .collect()
    });
    let work = single::reconcile("cronjob", &context, &queue, &controller, |c, key| async move {
        c.reconcile(&key).await
    });
    tokio::join!(by_cron, by_job, work);
}

impl CronJobs {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, ControllerError> {
        let Some(cron) = self.crons.by_key(key) else {
            return Ok(Next::Done);
        };
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        let zone = cron.spec.time_zone.as_deref();
        let plan = plan::plan(plan::Observed {
            zone: schedule::zone(zone),
            jobs: self.jobs.controlled_by(uid),
            now: Timestamp::now(),
            cron: cron.clone(),
        });
        self.apply(&cron, plan).await
    }

    async fn apply(&self, cron: &CronJob, plan: plan::Plan) -> Result<Next, ControllerError> {
        let namespace = cron.metadata.namespace.as_deref().unwrap_or_default();
        let recorder = &self.context.recorder;
        for note in &plan.notes {
            if note.warning {
                recorder.warning(cron, note.reason, &note.message);
            } else {
                recorder.normal(cron, note.reason, &note.message);
            }
        }
        let jobs: Api<Job> = self.context.client.namespaced(namespace);
        for job in &plan.delete {
            writes::delete(&jobs, &job.metadata, Some(PropagationPolicy::Background)).await?;
            let name = job.metadata.name.as_deref().unwrap_or_default();
            recorder.normal(cron, "SuccessfulDelete", &format!("Deleted job {name}"));
        }
        if let Some(job) = &plan.create {
            self.create(&jobs, cron, job).await?;
        }
        if let Some(status) = &plan.status
            && !writes::status(
                &self.context.client.namespaced(namespace),
                &self.crons,
                &cron.metadata,
                &cron.status,
                status,
            )
            .await?
        {
            return Ok(Next::Again);
        }
        Ok(plan.requeue_after.map_or(Next::Done, Next::After))
    }

    async fn create(&self, api: &Api<Job>, cron: &CronJob, job: &Job) -> Result<(), ControllerError> {
        let params = writes::creation();
        let name = job.metadata.name.as_deref().unwrap_or_default();
        match api.create(&params, job).await.map_err(call(format!("creating {name}"))) {
            Ok(created) => {
                self.context
                    .recorder
                    .normal(cron, "SuccessfulCreate", &format!("Created job {name}"));
                self.jobs.caught_up(revision_of(&created.metadata), CATCH_UP).await;
                Ok(())
            }
            Err(error) => match error.failure() {
                Failure::AlreadyExists | Failure::NamespaceTerminating => Ok(()),
                _ => {
                    let message = format!("Error creating job: {}", error.message());
                    self.context.recorder.warning(cron, "FailedCreate", &message);
                    Err(error)
                }
            },
        }
    }
}
