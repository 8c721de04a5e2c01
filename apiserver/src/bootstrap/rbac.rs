//! The default roles and bindings, from a compact table.

use serde_json::{Value, json};

/// See the head of the file for its form.
const TABLE: &str = include_str!("rbac.txt");

/// Every object with the path of its collection, in the order of the table.
pub(super) fn objects() -> Vec<(String, Value)> {
    let mut out: Vec<(String, Value)> = Vec::new();
    for line in TABLE.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] | ["#", ..] => {}
            ["role", name, rest @ ..] => out.push(role(name, rest)),
            ["bind", name, rest @ ..] => out.push(binding(name, rest)),
            detail => {
                if let Some((_, object)) = out.last_mut() {
                    add(object, detail);
                }
            }
        }
    }
    out
}

fn collection(namespace: Option<&str>, plural: &str) -> String {
    match namespace {
        Some(namespace) => format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{plural}"),
        None => format!("/apis/rbac.authorization.k8s.io/v1/cluster{plural}"),
    }
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

fn role(name: &str, rest: &[&str]) -> (String, Value) {
    let mut object = json!({"metadata": metadata(name), "rules": []});
    let mut namespace = None;
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        if *word == "in" {
            namespace = words.next().copied();
        } else if let Some((label, value)) = word.trim_start_matches('+').split_once('=') {
            object["metadata"]["labels"][label] = json!(value);
        }
    }
    (collection(namespace, "roles"), object)
}

fn binding(name: &str, rest: &[&str]) -> (String, Value) {
    let (namespace, target) = match rest {
        ["in", namespace, target] => (Some(*namespace), *target),
        [target, ..] => (None, *target),
        [] => (None, ""),
    };
    let (kind, role) = target.split_once('/').unwrap_or(("ClusterRole", target));
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
    (
        collection(namespace, "rolebindings"),
        json!({"metadata": metadata(name), "roleRef": reference}),
    )
}

fn split(text: &str) -> Vec<&str> {
    text.split(',')
        .map(|item| if item == "core" { "" } else { item })
        .collect()
}

fn add(object: &mut Value, words: &[&str]) {
    let subject = |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let (field, item) = match words {
        ["aggregate", label] => {
            let (label, value) = label.split_once('=').unwrap_or((label, "true"));
            if object.get("aggregationRule").is_none() {
                object["aggregationRule"] = json!({"clusterRoleSelectors": []});
            }
            if let Some(list) = object["aggregationRule"]["clusterRoleSelectors"].as_array_mut() {
                list.push(json!({"matchLabels": {label: value}}));
            }
            return;
        }
        ["group", name] => ("subjects", subject("Group", name)),
        ["user", name] => ("subjects", subject("User", name)),
        ["account", account] => {
            let (namespace, name) = account.split_once('/').unwrap_or(("kube-system", account));
            (
                "subjects",
                json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}),
            )
        }
        [verbs, "url", paths] => ("rules", json!({"verbs": split(verbs), "nonResourceURLs": split(paths)})),
        [verbs, groups, resources] => (
            "rules",
            json!({"verbs": split(verbs), "apiGroups": split(groups), "resources": split(resources)}),
        ),
        [verbs, groups, resources, names] => (
            "rules",
            json!({
                "verbs": split(verbs), "apiGroups": split(groups), "resources": split(resources), "resourceNames": split(names),
            }),
        ),
        _ => return,
    };
    if object.get(field).is_none() {
        object[field] = json!([]);
    }
    if let Some(list) = object[field].as_array_mut() {
        list.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete() {
        let objects = objects();
        let count = |part: &str| objects.iter().filter(|(path, _)| path.ends_with(part)).count();
        assert_eq!(count("/clusterroles"), 70);
        assert_eq!(count("/clusterrolebindings"), 51);
        assert_eq!(count("/roles"), 7);
        assert_eq!(count("/rolebindings"), 7);
        let find = |name: &str| {
            objects
                .iter()
                .find(|(_, o)| o["metadata"]["name"] == name)
                .map(|(_, o)| o.clone())
        };
        let basic = find("system:basic-user").expect("a default role");
        assert_eq!(
            basic["rules"][0]["resources"],
            json!(["selfsubjectaccessreviews", "selfsubjectrulesreviews"])
        );
        let admin = find("cluster-admin").expect("a default role");
        assert_eq!(admin["rules"][1], json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
}
