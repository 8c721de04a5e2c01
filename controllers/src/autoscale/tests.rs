use coxswain_api::schema::extremes;
use coxswain_client::k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::{Plan, plan};

fn scaler(status: Value) -> HorizontalPodAutoscaler {
    let value = json!({"metadata": {"name": "s", "namespace": "n", "generation": 2},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "minReplicas": 2, "maxReplicas": 5, "metrics": [{"type": "Resource", "resource":
                {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]},
        "status": status});
    serde_json::from_value(value).expect("an autoscaler")
}

fn planned(status: Value, size: Result<i32, &str>) -> Plan {
    plan(&scaler(status), size, Timestamp::from_second(1000).expect("a time"))
}

#[test]
fn sizes_and_conditions() {
    let check = |size: Result<i32, &str>, resize: Option<i32>, conditions: &[(&str, &str, &str)], notes: &[&str]| {
        let plan = planned(json!({}), size);
        let status = plan.status.expect("a status");
        let found = status.conditions.unwrap_or_default();
        let found: Vec<(&str, &str, &str)> = found
            .iter()
            .map(|c| {
                (
                    c.type_.as_str(),
                    c.status.as_str(),
                    c.reason.as_deref().unwrap_or_default(),
                )
            })
            .collect();
        let noted: Vec<&str> = plan.notes.iter().map(|n| n.reason.as_str()).collect();
        assert_eq!(
            (plan.resize, found.as_slice(), noted.as_slice()),
            (resize, conditions, notes),
            "{size:?}"
        );
    };
    let rescaled = [("AbleToScale", "True", "SucceededRescale")];
    check(Ok(1), Some(2), &rescaled, &["SuccessfulRescale"]);
    check(Ok(9), Some(5), &rescaled, &["SuccessfulRescale"]);
    let read = ("AbleToScale", "True", "SucceededGetScale");
    check(
        Ok(3),
        None,
        &[("ScalingActive", "False", "FailedGetResourceMetric"), read],
        &["FailedGetResourceMetric"],
    );
    check(Ok(0), None, &[("ScalingActive", "False", "ScalingDisabled"), read], &[]);
    check(
        Err("gone"),
        None,
        &[("AbleToScale", "False", "FailedGetScale")],
        &["FailedGetScale"],
    );
}

#[test]
fn nothing_is_said_or_done_twice() {
    for size in [Ok(3), Ok(0), Err("gone")] {
        let first = json!(planned(json!({}), size).status.expect("a status"));
        let second = planned(first, size);
        assert!(
            second.status.is_none() && second.notes.is_empty() && second.resize.is_none(),
            "{size:?}"
        );
    }
}

/// Whatever an autoscaler says, there is a plan.
#[test]
fn extremes_of_every_field_have_a_plan() {
    let base = serde_json::to_value(scaler(json!({}))).expect("JSON");
    for change in extremes::changes("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler", &base) {
        let Ok(scaler) = serde_json::from_value(change.object) else {
            continue;
        };
        for size in [i32::MIN, 0, 1, i32::MAX] {
            plan(&scaler, Ok(size), Timestamp::UNIX_EPOCH);
        }
    }
}
