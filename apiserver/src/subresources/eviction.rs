//! `eviction`: a delete of a pod that respects disruption budgets.

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use coxswain_api::registry::Gvk;
use coxswain_api::selector::LabelSelector;
use coxswain_store::{Outcome, Precondition, Snapshot, Stored, Txn};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::admission::node_restriction::check_eviction;
use crate::answer::{self, Reply, now_text};
use crate::body;
use crate::call::{Call, draft};
use crate::options::{DeleteOptions, WriteOptions};
use crate::subresources::binding::set_condition;
use crate::verbs::delete::{check_preconditions, delete_object};

const BUDGETS: &str = "poddisruptionbudgets.policy";
const ATTEMPTS_MAX: usize = 16;
/// Pods remembered in `disruptedPods` of one budget.
const DISRUPTED_MAX: usize = 2000;

/// Runs the eviction.
pub(super) async fn evict(call: &Call) -> Result<Reply, ApiError> {
    let options = WriteOptions::from_call(call, "CreateOptions")?;
    let read = |version| body::decode_builtin(call, &Gvk::new("policy", version, "Eviction"), options.validation);
    let eviction = read("v1").or_else(|why| read("v1beta1").map_err(|_| why))?;
    let given = access::name(&eviction);
    if given != call.path.name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let mut delete = DeleteOptions::from_value(access::get(&eviction, "deleteOptions"))?;
    delete.dry_run = delete.dry_run || options.dry_run;
    let name = call.path.name.as_str();
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = call.snapshot();
        let live = snapshot.get(&call.key(name)).ok_or_else(|| call.not_found(name))?;
        let pod = live.value();
        check_eviction(call, &pod)?;
        let budgets = budgets_of(&snapshot, &call.path.namespace, &pod);
        if exempt(&pod) || budgets.is_empty() {
            return remove(call, &delete).await;
        }
        if budgets.len() > 1 {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(ApiError::new(500, "", why));
        }
        let Some(budget) = budgets.first() else { continue };
        let charged = charge(&budget.value(), &pod, name)?;
        if delete.dry_run {
            return remove(call, &delete).await;
        }
        let Some(charged) = charged else {
            return remove(call, &delete).await;
        };
        let row = call
            .registry
            .resource("policy", "v1", "poddisruptionbudgets")
            .ok_or_else(ApiError::unknown_resource)?;
        let txn = Txn::put(draft(row, &charged), Precondition::Revision(budget.revision));
        if let Outcome::Committed { .. } = call.server.propose(txn).await? {
            return remove(call, &delete).await;
        }
    }
    Err(ApiError::too_many_requests(
        "the disruption budget is changing too fast, try again",
        1,
    ))
}

/// Says of the pod why it goes, and deletes it.
async fn remove(call: &Call, options: &DeleteOptions) -> Result<Reply, ApiError> {
    let name = call.path.name.as_str();
    let mut options = options.clone();
    for attempt in 1.. {
        if options.dry_run {
            break;
        }
        let snapshot = call.snapshot();
        let live = snapshot.get(&call.key(name)).ok_or_else(|| call.not_found(name))?;
        check_preconditions(call, name, live, &options)?;
        let mut pod = (*live.value()).clone();
        set_condition(
            access::child(&mut pod, "status"),
            json!({
                "type": "DisruptionTarget", "status": "True", "lastProbeTime": null, "lastTransitionTime": now_text(),
                "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            }),
        );
        let txn = Txn::put(draft(&call.row, &pod), Precondition::Revision(live.revision));
        match call.server.propose(txn).await? {
            Outcome::Committed { objects, .. } => {
                if let (Some(version), Some(pod)) = (&mut options.version, objects.first()) {
                    *version = pod.revision.to_string();
                }
                break;
            }
            Outcome::Rejected { .. } if attempt < ATTEMPTS_MAX => {}
            Outcome::Rejected { .. } => return Err(ApiError::conflict("", "pods", name, "the pod keeps changing")),
        }
    }
    delete_object(call, name, &options).await?;
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(answer::plain(call, 201, &done))
}

/// Pods whose going disrupts nobody.
fn exempt(pod: &Value) -> bool {
    matches!(access::text(pod, "/status/phase"), "Pending" | "Succeeded" | "Failed")
        || access::has(access::get(pod, "metadata"), "deletionTimestamp")
}

fn budgets_of(snapshot: &Snapshot, namespace: &str, pod: &Value) -> Vec<Arc<Stored>> {
    let labels = access::get(access::get(pod, "metadata"), "labels");
    let chooses = |stored: &&Arc<Stored>| {
        let budget = stored.value();
        LabelSelector::from_value(access::at(&budget, "/spec/selector")).is_ok_and(|selector| selector.matches(labels))
    };
    snapshot
        .list(BUDGETS, Some(namespace), None)
        .filter(chooses)
        .cloned()
        .collect()
}

fn ready(pod: &Value) -> bool {
    access::list_at(pod, "/status/conditions")
        .iter()
        .any(|condition| access::str_of(condition, "type") == "Ready" && access::str_of(condition, "status") == "True")
}

/// The budget with this disruption entered, `None` when the pod does not count against it.
fn charge(budget: &Value, pod: &Value, name: &str) -> Result<Option<Value>, ApiError> {
    let status = access::get(budget, "status");
    let number = |field: &str| access::int_of(status, field).unwrap_or(0);
    if !ready(pod) {
        let always = access::text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
        let healthy = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
        if always || healthy {
            return Ok(None);
        }
    }
    let refuse = |message: String, retry_s: u32| {
        let mut error = ApiError::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            retry_s,
        );
        let mut details = error.details.take().unwrap_or_else(|| json!({}));
        access::set(
            &mut details,
            "causes",
            json!([{"reason": "DisruptionBudget", "message": message}]),
        );
        error.details = Some(details);
        Err(error)
    };
    let budget_name = access::name(budget);
    if number("observedGeneration") < access::int(budget, "/metadata/generation").unwrap_or(0) {
        return refuse(
            format!("The disruption budget {budget_name} is still being processed by the server."),
            10,
        );
    }
    if access::entries(status, "disruptedPods").count() > DISRUPTED_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        let what = format!("poddisruptionbudget.policy {budget_name:?} is forbidden: {why}");
        let mut error = ApiError::new(403, "Forbidden", what);
        error.details = Some(json!({"group": "policy", "kind": "poddisruptionbudget", "name": budget_name}));
        return Err(error);
    }
    if number("disruptionsAllowed") <= 0 {
        let message = format!(
            "The disruption budget {budget_name} needs {} healthy pods and has {} currently",
            number("desiredHealthy"),
            number("currentHealthy")
        );
        return refuse(message, 0);
    }
    let allowed = number("disruptionsAllowed").saturating_sub(1);
    let mut budget = budget.clone();
    let status = access::child(&mut budget, "status");
    access::set(status, "disruptionsAllowed", allowed);
    if allowed == 0 {
        let generation = number("observedGeneration");
        set_condition(
            status,
            json!({
                "type": "DisruptionAllowed", "status": "False", "observedGeneration": generation,
                "lastTransitionTime": now_text(), "reason": "InsufficientPods", "message": "",
            }),
        );
    }
    access::set(access::child(status, "disruptedPods"), name, now_text());
    Ok(Some(budget))
}
