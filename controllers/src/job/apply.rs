//! Carries out a Job's plan.

use std::sync::Arc;

use coxswain_client::k8s_openapi::api::batch::v1::Job;
use coxswain_client::k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodTemplateSpec};
use coxswain_client::kube::Api;
use coxswain_client::kube::api::PropagationPolicy;
use coxswain_client::{Next, revision_of};
use futures::future::join_all;
use serde_json::json;

use super::Jobs;
use super::count::{FAILURES, FINALIZER, INDEX};
use super::plan::{Plan, Wanted};
use crate::context::CATCH_UP;
use crate::error::ControllerError;
use crate::fleet::{Fleet, Trouble, Words};
use crate::writes;
use crate::{adoption, pods};

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

impl Jobs {
    pub(super) async fn apply(&self, job: &Arc<Job>, plan: Plan) -> Result<Next, ControllerError> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Job> = self.context.client.namespaced(namespace);
        let pods: Api<Pod> = self.context.client.namespaced(namespace);
        let owner = ("batch/v1", "Job");
        adoption::apply(&pods, owner, &job.metadata, &plan.adopt, &plan.release).await?;
        if let Some(status) = &plan.status
            && !writes::status(&api, &self.jobs, &job.metadata, &job.status, status).await?
        {
            return Ok(Next::Again);
        }
        for note in &plan.notes {
            let (recorder, reason, message) = (&self.context.recorder, &note.reason, &note.message);
            if note.warning {
                recorder.warning(&**job, reason, message);
            } else {
                recorder.normal(&**job, reason, message);
            }
        }
        self.untrack(namespace, &plan.untrack).await?;
        if plan.remove {
            let account = self.context.account("ttl-after-finished-controller");
            let api: Api<Job> = account.namespaced(namespace);
            writes::delete(&api, &job.metadata, Some(PropagationPolicy::Foreground)).await?;
            return Ok(Next::Done);
        }
        let fleet = Fleet {
            words: Words::Any,
            context: &self.context,
            pods: &self.pods,
            owner: &**job,
        };
        let wanted: Vec<Pod> = plan.create.iter().map(|wanted| new_pod(job, wanted)).collect();
        let trouble = fleet.apply(&plan.delete, &wanted).await;
        Trouble::next(trouble, plan.requeue_after)
    }

    /// Takes the finalizer off pods; returns when the cache shows it.
    pub(super) async fn untrack(&self, namespace: &str, tracked: &[Arc<Pod>]) -> Result<(), ControllerError> {
        let api: Api<Pod> = self.context.client.namespaced(namespace);
        let patches = tracked.iter().map(|pod| {
            let kept: Vec<&String> = pod
                .metadata
                .finalizers
                .iter()
                .flatten()
                .filter(|f| *f != FINALIZER)
                .collect();
            writes::patch(&api, &pod.metadata, json!({"metadata": {"finalizers": kept}}))
        });
        let mut newest = 0;
        for written in join_all(patches).await {
            if let Some(pod) = written? {
                newest = newest.max(revision_of(&pod.metadata));
            }
        }
        self.pods.caught_up(newest, CATCH_UP).await;
        Ok(())
    }
}

/// A pod of the Job; one of an Indexed Job knows its index.
pub(super) fn new_pod(job: &Job, wanted: &Wanted) -> Pod {
    let mut template: PodTemplateSpec = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let meta = template.metadata.get_or_insert_default();
    meta.finalizers.get_or_insert_default().push(FINALIZER.to_string());
    let name = job.metadata.name.as_deref().unwrap_or_default();
    if let Some(index) = wanted.index {
        let text = index.to_string();
        let annotations = meta.annotations.get_or_insert_default();
        annotations.insert(INDEX.to_string(), text.clone());
        if let Some(failures) = wanted.failures {
            annotations.insert(FAILURES.to_string(), failures.to_string());
        }
        meta.labels.get_or_insert_default().insert(INDEX.to_string(), text);
        let spec = template.spec.get_or_insert_default();
        spec.hostname.get_or_insert_with(|| format!("{name}-{index}"));
        let init = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(init) {
            let env = container.env.get_or_insert_default();
            if !env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
                env.push(index_variable());
            }
        }
    }
    let owner = pods::controller_reference("batch/v1", "Job", &job.metadata);
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let mut pod = pods::from_template(&template, owner, namespace);
    if let Some(index) = wanted.index {
        pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    }
    pod
}

fn index_variable() -> EnvVar {
    EnvVar {
        name: INDEX_VARIABLE.to_string(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}
