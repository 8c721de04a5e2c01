//! Turns a pod's priority class into its number, and keeps that number while the pod exists.

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use serde_json::Value;

use super::{Operation, Write};

const CLASSES: &str = "priorityclasses.scheduling.k8s.io";

/// Fills `priority`, `priorityClassName` and `preemptionPolicy` of a new pod.
///
/// # Errors
/// 403 when the class does not exist or the pod states another number.
pub(super) fn resolve(write: &Write<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let name = access::name(pod).to_owned();
    let spec = access::child(pod, "spec");
    let class_name = access::str_of(spec, "priorityClassName").to_owned();
    let class = if class_name.is_empty() {
        default_class(write)
    } else {
        let Some(stored) = write.snapshot.find(CLASSES, "", &class_name) else {
            return Err(write
                .call
                .forbidden(&name, format!("no PriorityClass with name {class_name} was found")));
        };
        Some((*stored.value()).clone())
    };
    let value = class
        .as_ref()
        .and_then(|class| access::int_of(class, "value"))
        .unwrap_or(0);
    let policy = class
        .as_ref()
        .map(|class| access::str_of(class, "preemptionPolicy"))
        .filter(|policy| !policy.is_empty());
    let policy = policy.unwrap_or("PreemptLowerPriority");
    if let Some(given) = access::int_of(spec, "priority").filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed \
             {value} from the given PriorityClass name"
        );
        return Err(write.call.forbidden(&name, why));
    }
    let given_policy = access::str_of(spec, "preemptionPolicy");
    if !given_policy.is_empty() && given_policy != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given_policy}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        );
        return Err(write.call.forbidden(&name, why));
    }
    if let Some(class) = &class {
        access::set_text_default(spec, "priorityClassName", access::name(class));
    }
    access::set(spec, "priority", value);
    access::set(spec, "preemptionPolicy", policy);
    Ok(())
}

/// Gives an update that leaves them out what the pod was created with.
pub(super) fn keep(write: &Write<'_>, pod: &mut Value) {
    let Some(old) = write.old else { return };
    let spec = access::child(pod, "spec");
    for field in ["priority", "preemptionPolicy"] {
        if !access::has(spec, field) {
            access::copy(spec, access::get(old, "spec"), field);
        }
    }
}

/// The class for pods that name none; of several the one with the lowest value.
fn default_class(write: &Write<'_>) -> Option<Value> {
    // Every pod asks, hardly a class says so: those that do not need not be decoded.
    const MARK: &[u8] = b"\"globalDefault\":true";
    write
        .snapshot
        .list(CLASSES, None, None)
        .filter(|stored| stored.bytes.windows(MARK.len()).any(|window| window == MARK))
        .map(|stored| stored.value())
        .filter(|class| access::flag(class, "globalDefault"))
        .min_by_key(|class| access::int_of(class, "value").unwrap_or(0))
        .map(|class| (*class).clone())
}

/// Only one class may be the default.
pub(super) fn check_class(write: &Write<'_>, class: &Value) -> Result<(), ApiError> {
    if write.operation == Operation::Delete || !access::flag(class, "globalDefault") {
        return Ok(());
    }
    if let Some(other) = default_class(write).filter(|other| access::name(other) != access::name(class)) {
        let why = format!(
            "PriorityClass {} is already marked as default. Only one default can exist",
            access::name(&other)
        );
        return Err(write.call.forbidden(access::name(class), why));
    }
    Ok(())
}
