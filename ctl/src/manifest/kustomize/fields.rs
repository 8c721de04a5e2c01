//! Changes that reach into objects of any kind: names and what refers to them, namespaces, labels, images.

use std::collections::BTreeMap;

use coxswain_api::registry::{Registry, split_api_version};
use serde_json::{Map, Value, json};

use crate::pods::text;

/// New names by kind and old name.
type Names = BTreeMap<(String, String), String>;

/// How far labels go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Reach {
    Object,
    /// Also the pod templates.
    Templates,
    /// Also the selectors.
    Selectors,
}

/// Lets references follow the objects that have new names.
pub(super) fn rename(object: &mut Value, names: &Names) {
    if !names.is_empty() {
        walk("", object, names);
    }
}

/// `key` is the field that holds `value`; items of a list have the key of the list.
fn walk(key: &str, value: &mut Value, names: &Names) {
    let fields = match value {
        Value::Array(items) => return items.iter_mut().for_each(|item| walk(key, item, names)),
        Value::Object(fields) => fields,
        _ => return,
    };
    // Objects that refer by a `name`, by the field that holds them.
    let kind = match key {
        "configMapKeyRef" | "configMapRef" | "configMap" => Some("ConfigMap".to_owned()),
        "secretKeyRef" | "secretRef" | "secret" | "imagePullSecrets" | "secrets" => Some("Secret".to_owned()),
        "service" => Some("Service".to_owned()),
        "scaleTargetRef" | "roleRef" | "subjects" | "targetRef" => {
            fields.get("kind").and_then(Value::as_str).map(str::to_owned)
        }
        _ => None,
    };
    if let Some(kind) = kind {
        follow(fields, "name", &kind, names);
    }
    // Fields that are themselves a name.
    for (field, kind) in [
        ("secretName", "Secret"),
        ("serviceAccountName", "ServiceAccount"),
        ("serviceAccount", "ServiceAccount"),
        ("claimName", "PersistentVolumeClaim"),
        ("serviceName", "Service"),
        ("storageClassName", "StorageClass"),
        ("priorityClassName", "PriorityClass"),
        ("ingressClassName", "IngressClass"),
        ("volumeName", "PersistentVolume"),
    ] {
        follow(fields, field, kind, names);
    }
    for (key, below) in fields {
        walk(key, below, names);
    }
}

fn follow(fields: &mut Map<String, Value>, field: &str, kind: &str, names: &Names) {
    let old = fields.get(field).and_then(Value::as_str).map(str::to_owned);
    if let Some(new) = old.and_then(|old| names.get(&(kind.to_owned(), old))) {
        fields.insert(field.to_owned(), new.clone().into());
    }
}

/// Puts an object into a namespace, if its kind lives in one, and the service accounts that it names.
pub(super) fn set_namespace(object: &mut Value, namespace: &str, accounts: &[String]) {
    let (group, version) = split_api_version(text(object, "/apiVersion"));
    let kind = text(object, "/kind").to_owned();
    if kind == "Namespace" {
        object["metadata"]["name"] = namespace.into();
        return;
    }
    let cluster_wide = Registry::builtin()
        .by_kind(group, version, &kind)
        .is_some_and(|known| !known.namespaced);
    if !cluster_wide {
        object["metadata"]["namespace"] = namespace.into();
    }
    for subject in object
        .get_mut("subjects")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let name = text(subject, "/name");
        if subject["kind"] == "ServiceAccount" && (name == "default" || accounts.iter().any(|account| account == name))
        {
            subject["namespace"] = namespace.into();
        }
    }
}

/// Adds labels to the object and, as far as `reach` goes, to its pod template and selector.
pub(super) fn label(object: &mut Value, labels: &Map<String, Value>, reach: Reach) {
    merge(object, &["metadata", "labels"], labels);
    let kind = text(object, "/kind").to_owned();
    let workload = matches!(
        kind.as_str(),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController"
    );
    if reach >= Reach::Templates {
        if workload {
            merge(object, &["spec", "template", "metadata", "labels"], labels);
        }
        if kind == "CronJob" {
            merge(object, &["spec", "jobTemplate", "metadata", "labels"], labels);
            merge(
                object,
                &["spec", "jobTemplate", "spec", "template", "metadata", "labels"],
                labels,
            );
        }
    }
    if reach == Reach::Selectors {
        match kind.as_str() {
            "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => {
                merge(object, &["spec", "selector", "matchLabels"], labels);
            }
            "PodDisruptionBudget" if object["spec"]["selector"].is_object() => {
                merge(object, &["spec", "selector", "matchLabels"], labels);
            }
            "NetworkPolicy" if object["spec"]["podSelector"]["matchLabels"].is_object() => {
                merge(object, &["spec", "podSelector", "matchLabels"], labels);
            }
            "ReplicationController" => merge(object, &["spec", "selector"], labels),
            "Service" if object["spec"]["selector"].is_object() => merge(object, &["spec", "selector"], labels),
            _ => {}
        }
    }
}

/// Adds annotations to the object and its pod template.
pub(super) fn annotate(object: &mut Value, annotations: &Map<String, Value>) {
    merge(object, &["metadata", "annotations"], annotations);
    if object["spec"]["template"]["spec"]["containers"].is_array() {
        merge(object, &["spec", "template", "metadata", "annotations"], annotations);
    }
}

fn merge(object: &mut Value, path: &[&str], pairs: &Map<String, Value>) {
    let mut place = object;
    for key in path {
        if !place[*key].is_object() {
            place[*key] = json!({});
        }
        place = &mut place[*key];
    }
    if let Some(map) = place.as_object_mut() {
        map.extend(pairs.clone());
    }
}

/// Replaces name, tag or digest of the images that a row means, wherever containers are.
pub(super) fn set_image(value: &mut Value, row: &Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| set_image(item, row)),
        Value::Object(fields) => {
            for (key, below) in fields {
                if matches!(key.as_str(), "containers" | "initContainers" | "ephemeralContainers") {
                    for container in below.as_array_mut().into_iter().flatten() {
                        let image = container["image"].as_str().and_then(|image| replaced(image, row));
                        if let Some(image) = image {
                            container["image"] = image.into();
                        }
                    }
                } else {
                    set_image(below, row);
                }
            }
        }
        _ => {}
    }
}

fn replaced(image: &str, row: &Value) -> Option<String> {
    let (rest, digest) = image
        .split_once('@')
        .map_or((image, None), |(rest, digest)| (rest, Some(digest)));
    // A colon before the last slash belongs to a registry's port.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
        None => (rest, None),
    };
    if row["name"] != *name {
        return None;
    }
    let name = row["newName"].as_str().unwrap_or(name);
    let new_tag = match &row["newTag"] {
        Value::String(tag) => Some(tag.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    Some(match (row["digest"].as_str(), new_tag) {
        (Some(new), _) => format!("{name}@{new}"),
        (None, Some(tag)) => format!("{name}:{tag}"),
        (None, None) => match (digest, tag) {
            (Some(digest), _) => format!("{name}@{digest}"),
            (None, Some(tag)) => format!("{name}:{tag}"),
            (None, None) => name.to_owned(),
        },
    })
}
