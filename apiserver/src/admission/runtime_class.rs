//! What a runtime class adds to its pods: overhead, node labels and tolerations.

use coxswain_api::ApiError;
use coxswain_api::kinds::access::{self, at, same};
use serde_json::Value;

use super::Write;

const CLASSES: &str = "runtimeclasses.node.k8s.io";

/// Fills in a new pod what its runtime class says.
///
/// # Errors
/// 403 when the class does not exist, or says something else than the pod.
pub(super) fn fill(write: &Write<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let class_name = access::text(pod, "/spec/runtimeClassName").to_owned();
    let found = write.snapshot.find(CLASSES, "", &class_name);
    let class = match found.filter(|_| !class_name.is_empty()) {
        Some(stored) => (*stored.value()).clone(),
        None if class_name.is_empty() => Value::Null,
        None => {
            let why = format!("pod rejected: RuntimeClass {class_name:?} not found");
            return Err(write.call.forbidden(access::name(pod), why));
        }
    };
    merge(pod, &class).map_err(|why| write.call.forbidden(access::name(pod), why))
}

/// Merges a class into a pod; `null` is no class.
fn merge(pod: &mut Value, class: &Value) -> Result<(), String> {
    let spec = access::child(pod, "spec");
    let (own, fixed) = (access::get(spec, "overhead").clone(), at(class, "/overhead/podFixed"));
    match (access::is_empty(&own), access::is_empty(fixed)) {
        (true, true) => {}
        (true, false) => access::set(spec, "overhead", fixed.clone()),
        (false, true) => {
            return Err(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned(),
            );
        }
        (false, false) if same(Some(&own), Some(fixed)) => {}
        (false, false) => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
        }
    }
    for (key, value) in access::entries(access::get(class, "scheduling"), "nodeSelector") {
        let value = value.as_str().unwrap_or("");
        let selector = access::child(spec, "nodeSelector");
        match selector.get(key).and_then(Value::as_str) {
            Some(own) if own != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                ));
            }
            _ => access::set(selector, key, value),
        }
    }
    let added = access::list_at(class, "/scheduling/tolerations");
    let mut all = access::list(spec, "tolerations").to_vec();
    for toleration in added {
        if !all.iter().any(|own| same(Some(own), Some(toleration))) {
            all.push(toleration.clone());
        }
    }
    if !added.is_empty() {
        access::set(spec, "tolerations", all);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges() {
        let class = json!({"overhead": {"podFixed": {"cpu": "1"}}, "scheduling": {
            "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}, {"key": "own"}]}});
        let own = json!({"spec": {"tolerations": [{"key": "own"}], "nodeSelector": {"c": "d"}}});
        let merged = json!({"spec": {"overhead": {"cpu": "1"}, "nodeSelector": {"a": "b", "c": "d"},
            "tolerations": [{"key": "own"}, {"key": "k"}]}});
        let cases = [
            (own, &class, Ok(merged)),
            (
                json!({"spec": {"overhead": {"cpu": "2"}}}),
                &class,
                Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
            ),
            (
                json!({"spec": {"overhead": {"cpu": "2"}}}),
                &Value::Null,
                Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
            ),
            (
                json!({"spec": {"nodeSelector": {"a": "x"}}}),
                &class,
                Err("conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = x"),
            ),
        ];
        for (mut pod, class, expected) in cases {
            match (merge(&mut pod, class), expected) {
                (Ok(()), Ok(merged)) => assert_eq!(pod, merged),
                (result, Err(why)) => assert_eq!(result, Err(why.to_owned())),
                (Err(why), Ok(_)) => panic!("{why}"),
            }
        }
    }
}
