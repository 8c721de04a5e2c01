//! Nobody grants rights they do not hold, unless they may `escalate` or `bind`.

use std::collections::BTreeMap;

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use serde_json::{Value, json};

use super::{Operation, Write};
use crate::authz::{Attributes, covers};

/// Checks a role or a binding that is being written.
pub(super) fn check(write: &Write<'_>, object: &Value) -> Result<(), ApiError> {
    let call = write.call;
    if write.operation == Operation::Delete || call.user.groups.iter().any(|group| group == "system:masters") {
        return Ok(());
    }
    let binding = matches!(&*call.row.plural, "rolebindings" | "clusterrolebindings");
    let (verb, granted) = if binding {
        ("bind", rules_of_reference(write, object))
    } else {
        ("escalate", Some(access::list(object, "rules").to_vec()))
    };
    let unchanged = |field: &str| write.old.is_some_and(|old| old.get(field) == object.get(field));
    if (binding && unchanged("subjects") && unchanged("roleRef")) || (!binding && unchanged("rules")) {
        return Ok(());
    }
    let mut attributes = Attributes {
        verb: verb.to_owned(),
        is_resource: true,
        group: "rbac.authorization.k8s.io".to_owned(),
        resource: call.row.plural.to_string(),
        namespace: call.namespace().to_owned(),
        name: access::name(object).to_owned(),
        ..Attributes::default()
    };
    if binding {
        let cluster = access::text(object, "/roleRef/kind") == "ClusterRole";
        attributes.resource = if cluster {
            "clusterroles".to_owned()
        } else {
            "roles".to_owned()
        };
        attributes.name = access::text(object, "/roleRef/name").to_owned();
    }
    let decision = call.server.authz.decide(&call.user, &attributes, write.snapshot);
    if decision.is_allowed() {
        return Ok(());
    }
    let Some(granted) = granted else {
        return Err(ApiError::not_found(
            "rbac.authorization.k8s.io",
            &attributes.resource,
            &attributes.name,
        ));
    };
    let held = call
        .server
        .authz
        .rbac
        .rules_for(&call.user, call.namespace(), write.snapshot);
    let missing = missing(&held, &granted);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = call.user.groups.iter().map(|group| format!("{group:?}")).collect();
    let why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        call.user.name,
        groups.join(" "),
        missing.join("\n")
    );
    Err(call.forbidden(access::name(object), why))
}

fn rules_of_reference(write: &Write<'_>, object: &Value) -> Option<Vec<Value>> {
    let name = access::text(object, "/roleRef/name");
    let stored = if access::text(object, "/roleRef/kind") == "ClusterRole" {
        write.snapshot.find("clusterroles.rbac.authorization.k8s.io", "", name)
    } else {
        write
            .snapshot
            .find("roles.rbac.authorization.k8s.io", write.call.namespace(), name)
    };
    stored.map(|stored| access::list(&stored.value(), "rules").to_vec())
}

/// The smallest rules that are not covered, written as Kubernetes prints them, verbs of one
/// resource together.
fn missing(held: &[Value], granted: &[Value]) -> Vec<String> {
    let mut lacking: BTreeMap<(String, String, String), Vec<String>> = BTreeMap::new();
    let items = |rule: &Value, field: &str| -> Vec<String> {
        access::list(rule, field)
            .iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    for rule in granted {
        let names = items(rule, "resourceNames");
        let names = if names.is_empty() { vec![String::new()] } else { names };
        for verb in items(rule, "verbs") {
            for group in items(rule, "apiGroups") {
                for resource in items(rule, "resources") {
                    for name in &names {
                        let mut one = json!({"verbs": [verb], "apiGroups": [group], "resources": [resource]});
                        if !name.is_empty() {
                            access::set(&mut one, "resourceNames", json!([name]));
                        }
                        if !covers(held, &one) {
                            let verbs = lacking
                                .entry((group.clone(), resource.clone(), name.clone()))
                                .or_default();
                            if !verbs.contains(&verb) {
                                verbs.push(verb.clone());
                            }
                        }
                    }
                }
            }
            for url in items(rule, "nonResourceURLs") {
                if !covers(held, &json!({"verbs": [verb], "nonResourceURLs": [url]})) {
                    lacking
                        .entry((String::from("\0url"), url, String::new()))
                        .or_default()
                        .push(verb.clone());
                }
            }
        }
    }
    lacking
        .into_iter()
        .map(|((group, resource, name), verbs)| {
            let verbs: Vec<String> = verbs.iter().map(|verb| format!("{verb:?}")).collect();
            let verbs = verbs.join(" ");
            if group == "\0url" {
                return format!("{{NonResourceURLs:[{resource:?}], Verbs:[{verbs}]}}");
            }
            let names = if name.is_empty() {
                String::new()
            } else {
                format!(", ResourceNames:[{name:?}]")
            };
            let verbs = verbs.replace(' ', ", ");
            format!("{{APIGroups:[{group:?}], Resources:[{resource:?}]{names}, Verbs:[{verbs}]}}")
        })
        .collect()
}
