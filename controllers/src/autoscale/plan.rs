//! What an autoscaler does about its target, as long as nobody serves metrics.

use coxswain_client::k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricSpec,
};
use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;

/// Something to tell users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The size that the target gets before the status is written.
    pub resize: Option<i32>,
    pub notes: Vec<Note>,
    pub status: Option<HorizontalPodAutoscalerStatus>,
}

/// `size` is the target's `spec.replicas`, or why it cannot be read.
pub(super) fn plan(scaler: &HorizontalPodAutoscaler, size: Result<i32, &str>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let spec = &scaler.spec;
    let mut status = scaler.status.clone().unwrap_or_default();
    status.observed_generation = scaler.metadata.generation;
    match size {
        Err(why) => {
            let message = format!("the HPA controller was unable to get the target's current scale: {why}");
            if set(&mut status, "AbleToScale", "False", "FailedGetScale", &message, now) {
                note(&mut plan, true, "FailedGetScale", why);
            }
        }
        Ok(size) => steer(&mut plan, &mut status, spec, size, now),
    }
    if scaler.status.as_ref() != Some(&status) {
        plan.status = Some(status);
    }
    plan
}

fn steer(
    plan: &mut Plan,
    status: &mut HorizontalPodAutoscalerStatus,
    spec: &HorizontalPodAutoscalerSpec,
    size: i32,
    now: Timestamp,
) {
    let able = "the HPA controller was able to get the target's current scale";
    let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    status.current_replicas = Some(size);
    let (wanted, why) = if size == 0 && min != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        set(status, "ScalingActive", "False", "ScalingDisabled", message, now);
        (size, "")
    } else if size > max {
        (max, "Current number of replicas above Spec.MaxReplicas")
    } else if size < min {
        (min, "Current number of replicas below Spec.MinReplicas")
    } else {
        let (reason, message) = without_metrics(spec.metrics.as_deref().unwrap_or_default());
        if set(status, "ScalingActive", "False", reason, &message, now) {
            note(plan, true, reason, &message);
        }
        (size, "")
    };
    status.desired_replicas = wanted;
    if wanted == size {
        set(status, "AbleToScale", "True", "SucceededGetScale", able, now);
        return;
    }
    plan.resize = Some(wanted);
    note(
        plan,
        false,
        "SuccessfulRescale",
        &format!("New size: {wanted}; reason: {why}"),
    );
    let message = format!("the HPA controller was able to update the target scale to {wanted}");
    set(status, "AbleToScale", "True", "SucceededRescale", &message, now);
    status.last_scale_time = Some(Time(now));
}

fn note(plan: &mut Plan, warning: bool, reason: &str, message: &str) {
    plan.notes.push(Note {
        warning,
        reason: reason.to_string(),
        message: message.to_string(),
    });
}

/// Why the first metric cannot be had.
fn without_metrics(metrics: &[MetricSpec]) -> (&'static str, String) {
    let resource = |kind: &str, name: &str| {
        format!(
            "the HPA was unable to compute the replica count: failed to get {name} {kind}: unable to get metrics for \
             resource {name}: unable to fetch metrics from resource metrics API: the server could not find the \
             requested resource (get pods.metrics.k8s.io)"
        )
    };
    let kind = |utilization: Option<i32>| {
        if utilization.is_some() {
            "utilization"
        } else {
            "resource metric value"
        }
    };
    match metrics.first() {
        None => (
            "InvalidMetricSourceType",
            "the HPA was unable to compute the replica count: no metrics".to_string(),
        ),
        Some(MetricSpec {
            resource: Some(source), ..
        }) => (
            "FailedGetResourceMetric",
            resource(kind(source.target.average_utilization), &source.name),
        ),
        Some(MetricSpec {
            container_resource: Some(source),
            ..
        }) => (
            "FailedGetContainerResourceMetric",
            resource(kind(source.target.average_utilization), &source.name),
        ),
        Some(metric) => {
            let message = format!(
                "the HPA was unable to compute the replica count: unable to get {} metric: no custom metrics API \
                 registered",
                metric.type_.to_lowercase()
            );
            let reason = match metric.type_.as_str() {
                "Pods" => "FailedGetPodsMetric",
                "Object" => "FailedGetObjectMetric",
                _ => "FailedGetExternalMetric",
            };
            (reason, message)
        }
    }
}

/// Sets a condition; whether it says something new. Its time moves only when its status does.
fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let at = conditions.iter().position(|c| c.type_ == kind);
    let old = at.and_then(|at| conditions.get_mut(at));
    let mut new = HorizontalPodAutoscalerCondition {
        type_: kind.to_string(),
        status: value.to_string(),
        reason: Some(reason.to_string()),
        message: Some(message.to_string()),
        last_transition_time: Some(Time(now)),
    };
    let Some(old) = old else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time.clone_from(&old.last_transition_time);
    }
    let differs = *old != new;
    *old = new;
    differs
}
