//! Roles, bindings and service accounts.

use serde_json::Value;

use super::parts::{annotations, head, labels};
use super::writer::Writer;
use crate::pods::{list, text};

/// A Role or ClusterRole.
pub fn role(out: &mut Writer, object: &Value) {
    start(out, object);
    out.line(0, "PolicyRule:");
    out.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    out.line(1, "---------\t-----------------\t--------------\t-----");
    for row in policy_rows(list(object, "/rules")) {
        out.line(1, &row.join("\t"));
    }
}

fn start(out: &mut Writer, object: &Value) {
    out.pair(0, "Name", text(object, "/metadata/name"));
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
}

/// What is allowed on one resource, one of its names or one path.
#[derive(PartialEq)]
struct Rule<'a> {
    verbs: Vec<&'a str>,
    group: &'a str,
    resource: &'a str,
    name: Option<&'a str>,
    path: Option<&'a str>,
}

/// Resources, paths, names and verbs of some rules: one row for each resource, what is said of it in several
/// rules together.
#[must_use]
pub fn policy_rows(rules: &[Value]) -> Vec<Vec<String>> {
    let mut all: Vec<Rule<'_>> = Vec::new();
    for rule in rules {
        let words = |key: &str| list(rule, key).iter().filter_map(Value::as_str).collect::<Vec<_>>();
        let verbs = words("/verbs");
        let names: Vec<Option<&str>> = match words("/resourceNames") {
            names if names.is_empty() => vec![None],
            names => names.into_iter().map(Some).collect(),
        };
        for group in words("/apiGroups") {
            for resource in words("/resources") {
                for name in &names {
                    let known = all.iter_mut().find(|known| {
                        (known.group, known.resource, known.name, known.path) == (group, resource, *name, None)
                    });
                    match known {
                        Some(known) => known.verbs.extend(&verbs),
                        None => all.push(Rule {
                            verbs: verbs.clone(),
                            group,
                            resource,
                            name: *name,
                            path: None,
                        }),
                    }
                }
            }
        }
        for path in words("/nonResourceURLs") {
            for verb in &verbs {
                all.push(Rule {
                    verbs: vec![verb],
                    group: "",
                    resource: "",
                    name: None,
                    path: Some(path),
                });
            }
        }
    }
    all.sort_by_key(|rule| {
        let listed = |word: Option<&str>| format!("{}]", word.unwrap_or_default());
        (
            rule.verbs.join(" ") + "]",
            format!("{}]", rule.group),
            format!("{}]", rule.resource),
            listed(rule.name),
            listed(rule.path),
        )
    });
    all.into_iter()
        .map(|rule| {
            let resource = match (rule.group, rule.resource.split_once('/')) {
                ("", _) => rule.resource.to_owned(),
                (group, Some((resource, sub))) => format!("{resource}.{group}/{sub}"),
                (group, None) => format!("{}.{group}", rule.resource),
            };
            vec![
                resource,
                format!("[{}]", rule.path.unwrap_or_default()),
                format!("[{}]", rule.name.unwrap_or_default()),
                format!("[{}]", rule.verbs.join(" ")),
            ]
        })
        .collect()
}

/// A RoleBinding or ClusterRoleBinding.
pub fn binding(out: &mut Writer, object: &Value) {
    start(out, object);
    out.line(0, "Role:");
    out.pair(1, "Kind", text(object, "/roleRef/kind"));
    out.pair(1, "Name", text(object, "/roleRef/name"));
    out.line(0, "Subjects:");
    out.line(1, "Kind\tName\tNamespace");
    out.line(1, "----\t----\t---------");
    for subject in list(object, "/subjects") {
        out.line(
            1,
            &format!(
                "{}\t{}\t{}",
                text(subject, "/kind"),
                text(subject, "/name"),
                text(subject, "/namespace")
            ),
        );
    }
}

/// A ServiceAccount with the secrets that hold its tokens.
pub fn service_account(out: &mut Writer, object: &Value, tokens: &[Value]) {
    head(out, object);
    labels(out, 0, "Labels", object.pointer("/metadata/labels"));
    annotations(out, 0, object.pointer("/metadata/annotations"));
    let names = |pointer: &str| {
        list(object, pointer)
            .iter()
            .map(|one| text(one, "/name").to_owned())
            .collect()
    };
    let tokens: Vec<String> = tokens
        .iter()
        .filter(|secret| {
            let annotations = &secret["metadata"]["annotations"];
            annotations["kubernetes.io/service-account.name"] == object["metadata"]["name"]
        })
        .map(|secret| text(secret, "/metadata/name").to_owned())
        .collect();
    for (name, items) in [
        ("Image pull secrets", names("/imagePullSecrets")),
        ("Mountable secrets", names("/secrets")),
        ("Tokens", tokens),
    ] {
        super::parts::lines(out, 0, name, &items);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_gathered_by_resource() {
        let rules = [
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}),
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}),
            json!({"apiGroups": ["apps"], "resources": ["deployments", "deployments/scale"], "verbs": ["*"], "resourceNames": ["web"]}),
            json!({"nonResourceURLs": ["/healthz"], "verbs": ["get"]}),
        ];
        let rows: Vec<String> = policy_rows(&rules).iter().map(|row| row.join(" | ")).collect();
        assert_eq!(
            rows,
            [
                "deployments.apps/scale | [] | [web] | [*]",
                "deployments.apps | [] | [web] | [*]",
                "pods | [] | [] | [get list]",
                " | [/healthz] | [] | [get]",
            ]
        );
    }
}
