//! The default roles and bindings, from a compact table.

use coxswain_api::kinds::access;
use serde_json::{Value, json};

use crate::authz::missing;

/// See the head of the file for its form.
const TABLE: &str = include_str!("rbac.txt");

/// What a cluster has beside them: nodes join with tokens, renew their certificates and are proxies.
const ADDONS: &str = include_str!("rbac_addons.txt");

/// Every object with the path of its collection, in the order of the table.
pub(super) fn objects() -> Vec<(String, Value)> {
    read(TABLE)
}

/// The objects of a cluster that is not bare. They are ours, not Kubernetes'.
pub(super) fn addons() -> Vec<(String, Value)> {
    let mut objects = read(ADDONS);
    for (_, object) in &mut objects {
        let name = object["metadata"]["name"].clone();
        object["metadata"] = json!({"name": name});
    }
    objects
}

/// A default role or binding with what it lacks put back; `None` when it lacks nothing, or when its annotation
/// says that it is to stay as it is. What people added stays.
pub(super) fn reconciled(current: &Value, wanted: &Value) -> Option<Value> {
    const AUTOUPDATE: &str = "/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate";
    if access::text(current, AUTOUPDATE) != "true" {
        return None;
    }
    let mut repaired = current.clone();
    let held = access::list(current, "rules");
    let lacking = access::list(wanted, "rules")
        .iter()
        .filter(|rule| !missing(held, std::slice::from_ref(rule)).is_empty());
    let mut rules = held.to_vec();
    rules.extend(lacking.cloned());
    if access::has(wanted, "aggregationRule") {
        // Its rules are the aggregating controller's.
        if current.get("aggregationRule") != wanted.get("aggregationRule") {
            access::copy(&mut repaired, wanted, "aggregationRule");
        }
    } else if rules.len() > held.len() {
        access::set(&mut repaired, "rules", rules);
    }
    let same = |a: &Value, b: &Value| {
        ["kind", "namespace", "name"]
            .iter()
            .all(|field| access::str_of(a, field) == access::str_of(b, field))
    };
    let mut subjects = access::list(current, "subjects").to_vec();
    for subject in access::list(wanted, "subjects") {
        if !subjects.iter().any(|other| same(other, subject)) {
            subjects.push(subject.clone());
        }
    }
    if subjects.len() > access::list(current, "subjects").len() {
        access::set(&mut repaired, "subjects", subjects);
    }
    (repaired != *current).then_some(repaired)
}

fn read(table: &str) -> Vec<(String, Value)> {
    let mut out: Vec<(String, Value)> = Vec::new();
    for line in table.lines() {
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
    fn defaults_get_back_what_they_lack() {
        let rule = |verbs: &[&str]| json!({"verbs": verbs, "apiGroups": [""], "resources": ["pods"]});
        let object = |auto: &str, field: &str, items: Value| json!({"metadata": {"name": "x", "annotations": {"rbac.authorization.kubernetes.io/autoupdate": auto}}, field: items});
        let ann = json!({"kind": "User", "name": "ann"});
        let bob = json!({"kind": "User", "name": "bob"});
        let wanted = object("true", "rules", json!([rule(&["get", "list"])]));
        let bound = object("true", "subjects", json!([ann]));
        let cases = [
            (
                "all there",
                object("true", "rules", json!([rule(&["*"])])),
                &wanted,
                None,
            ),
            ("to stay as it is", object("false", "rules", json!([])), &wanted, None),
            (
                "a rule lacks",
                object("true", "rules", json!([rule(&["watch"])])),
                &wanted,
                Some(object(
                    "true",
                    "rules",
                    json!([rule(&["watch"]), rule(&["get", "list"])]),
                )),
            ),
            (
                "a subject lacks",
                object("true", "subjects", json!([bob])),
                &bound,
                Some(object("true", "subjects", json!([bob, ann]))),
            ),
        ];
        for (name, current, wanted, want) in cases {
            assert_eq!(reconciled(&current, wanted), want, "{name}");
        }
    }

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
        let addons = addons();
        assert!(addons.iter().all(|(_, o)| {
            o["metadata"]["name"]
                .as_str()
                .is_some_and(|n| n.starts_with("coxswain:"))
        }));
        let basic = find("system:basic-user").expect("a default role");
        assert_eq!(
            basic["rules"][0]["resources"],
            json!(["selfsubjectaccessreviews", "selfsubjectrulesreviews"])
        );
        let admin = find("cluster-admin").expect("a default role");
        assert_eq!(admin["rules"][1], json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
}
