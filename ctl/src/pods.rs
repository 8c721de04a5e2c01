//! From what the user names (a pod, a workload, a Service) to pods and their containers.

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

use crate::context::{Ctx, with_query};
use crate::resources::Resources;

/// Which container is taken when none is named.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The text at a JSON pointer, or nothing.
#[must_use]
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a JSON pointer, or nothing.
#[must_use]
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A label selector as a query string, from `matchLabels` and `matchExpressions` or from a plain map.
#[must_use]
pub fn selector_text(selector: &Value) -> String {
    let plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let labels = if plain {
        Some(selector)
    } else {
        selector.get("matchLabels")
    };
    let mut terms: Vec<String> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in list(selector, "/matchExpressions") {
        let key = text(expression, "/key");
        let values: Vec<&str> = list(expression, "/values").iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        terms.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

/// The pods with these labels, the best first: ready, then running, then the oldest.
///
/// # Errors
/// The server's answer.
pub async fn with_labels(ctx: &Ctx, selector: &str) -> Result<Vec<Value>> {
    let path = with_query(
        &format!("/api/v1/namespaces/{}/pods", ctx.namespace),
        &[("labelSelector", Some(selector))],
    );
    let mut found = ctx.get(&path).await?["items"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default();
    for pod in &mut found {
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
    }
    found.sort_by_key(|pod| {
        let created = text(pod, "/metadata/creationTimestamp").to_owned();
        (
            pod.pointer("/metadata/deletionTimestamp").is_some(),
            !is_ready(pod),
            text(pod, "/status/phase") != "Running",
            created,
        )
    });
    Ok(found)
}

/// Whether the pod's Ready condition is true.
#[must_use]
pub fn is_ready(pod: &Value) -> bool {
    list(pod, "/status/conditions")
        .iter()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The object that a word names: `NAME` is a pod, `TYPE/NAME` anything.
///
/// # Errors
/// The server's answer.
pub async fn named(ctx: &Ctx, word: &str) -> Result<Value> {
    let Some((kind, name)) = word.split_once('/') else {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}",
            ctx.namespace,
            crate::context::encode(word)
        );
        return ctx.get(&path).await;
    };
    if matches!(kind, "pod" | "pods" | "po") {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}",
            ctx.namespace,
            crate::context::encode(name)
        );
        return ctx.get(&path).await;
    }
    let resources = Resources::discover(ctx).await?;
    let resource = resources.find(kind)?;
    ctx.get(&resource.object(&ctx.namespace, name)).await
}

/// The pods behind an object: itself, or those that its selector finds.
///
/// # Errors
/// When the object selects no pods by its nature, or the server's answer.
pub async fn behind(ctx: &Ctx, object: &Value) -> Result<Vec<Value>> {
    if object["kind"] == "Pod" {
        return Ok(vec![object.clone()]);
    }
    let (kind, name) = (text(object, "/kind").to_lowercase(), text(object, "/metadata/name"));
    let selector = match object.pointer("/spec/selector") {
        Some(selector) if selector.as_object().is_some_and(|map| !map.is_empty()) => selector_text(selector),
        _ if object["kind"] == "CronJob" => bail!("cannot get the logs from {kind}/{name}: name one of its jobs"),
        _ => bail!("invalid service '{name}': {kind} is defined without a selector"),
    };
    with_labels(ctx, &selector).await
}

/// One pod behind a word, preferring one that is ready.
///
/// # Errors
/// When there is none, or the server's answer.
pub async fn one(ctx: &Ctx, word: &str) -> Result<Value> {
    let object = named(ctx, word).await?;
    let pods = behind(ctx, &object).await?;
    let found = pods
        .into_iter()
        .find(|pod| pod.pointer("/metadata/deletionTimestamp").is_none() || object["kind"] == "Pod");
    found.ok_or_else(|| anyhow!("timed out waiting for the condition: {word} has no pods"))
}

/// The names of a pod's containers, init containers last.
#[must_use]
pub fn containers(pod: &Value) -> Vec<&str> {
    ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"]
        .iter()
        .flat_map(|lists| list(pod, lists).iter().map(|c| text(c, "/name")))
        .collect()
}

/// The container to use, and whether the user should hear which of several it is.
///
/// # Errors
/// When the named container does not exist.
pub fn container<'a>(pod: &'a Value, asked: Option<&'a str>) -> Result<(&'a str, bool)> {
    let all = containers(pod);
    let name = text(pod, "/metadata/name");
    if let Some(asked) = asked {
        if !all.contains(&asked) {
            bail!("container {asked} is not valid for pod {name}");
        }
        return Ok((asked, false));
    }
    let annotated = pod
        .pointer("/metadata/annotations")
        .and_then(|a| a[DEFAULT_CONTAINER].as_str())
        .filter(|n| all.contains(n));
    if let Some(annotated) = annotated {
        return Ok((annotated, false));
    }
    let first = all
        .first()
        .copied()
        .ok_or_else(|| anyhow!("pod {name} has no containers"))?;
    Ok((first, all.len() > 1))
}

/// The sentence about a container that was chosen for the user.
#[must_use]
pub fn defaulted(pod: &Value, chosen: &str) -> String {
    let init: Vec<&str> = list(pod, "/spec/initContainers")
        .iter()
        .map(|c| text(c, "/name"))
        .collect();
    let all: Vec<String> = containers(pod)
        .into_iter()
        .map(|name| {
            if init.contains(&name) {
                format!("{name} (init)")
            } else {
                name.to_owned()
            }
        })
        .collect();
    format!("Defaulted container \"{chosen}\" out of: {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_become_text() {
        let cases = [
            (json!({"a": "b", "c": "d"}), "a=b,c=d"),
            (
                json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "t", "operator": "In", "values": ["x", "y"]}, {"key": "z", "operator": "Exists"}]}),
                "a=b,t in (x,y),z",
            ),
            (
                json!({"matchExpressions": [{"key": "z", "operator": "DoesNotExist"}]}),
                "!z",
            ),
        ];
        for (selector, expected) in cases {
            assert_eq!(selector_text(&selector), expected);
        }
    }

    #[test]
    fn the_container_to_use() {
        let pod = |annotation: &str| {
            json!({"metadata": {"name": "p", "annotations": {DEFAULT_CONTAINER: annotation}},
                "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}})
        };
        let plain = pod("");
        assert_eq!(container(&plain, None).expect("one"), ("a", true));
        assert_eq!(container(&pod("b"), None).expect("one"), ("b", false));
        assert_eq!(container(&plain, Some("i")).expect("one"), ("i", false));
        assert_eq!(
            container(&plain, Some("z")).expect_err("none").to_string(),
            "container z is not valid for pod p"
        );
        assert_eq!(
            defaulted(&plain, "a"),
            "Defaulted container \"a\" out of: a, b, i (init)"
        );
    }
}
