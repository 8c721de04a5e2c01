//! FlowSchemas, ready to be compared. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use coxswain_api::kinds::access;
use serde_json::Value;

use crate::User;
use crate::authz::Attributes;

/// What makes two requests of one schema different flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distinguisher {
    None,
    User,
    Namespace,
}

/// One FlowSchema.
pub(super) struct Schema {
    pub name: String,
    pub uid: String,
    pub precedence: i64,
    pub level: String,
    pub distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    others: Vec<(Vec<String>, Vec<String>)>,
}

enum Subject {
    User(String),
    Group(String),
    /// Namespace and name.
    Account(String, String),
}

struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

fn among(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == "*" || item == text)
}

/// A number for texts, the same within one process.
pub(super) fn hash(texts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    hasher.finish()
}

impl Schema {
    /// Reads a FlowSchema.
    pub fn new(value: &Value) -> Self {
        let spec = access::get(value, "spec");
        Self {
            name: access::name(value).to_owned(),
            uid: access::text(value, "/metadata/uid").to_owned(),
            precedence: access::int_of(spec, "matchingPrecedence").unwrap_or(1000),
            level: access::text(spec, "/priorityLevelConfiguration/name").to_owned(),
            distinguisher: match access::text(spec, "/distinguisherMethod/type") {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: access::list(spec, "rules").iter().map(Rule::new).collect(),
        }
    }

    /// Whether a request belongs here.
    pub fn fits(&self, user: &User, attributes: &Attributes) -> bool {
        self.rules.iter().any(|rule| rule.fits(user, attributes))
    }
}

impl Rule {
    fn new(value: &Value) -> Self {
        let subjects = access::list(value, "subjects").iter().filter_map(|subject| {
            let text = |pointer: &str| access::text(subject, pointer).to_owned();
            match access::str_of(subject, "kind") {
                "User" => Some(Subject::User(text("/user/name"))),
                "Group" => Some(Subject::Group(text("/group/name"))),
                "ServiceAccount" => Some(Subject::Account(
                    text("/serviceAccount/namespace"),
                    text("/serviceAccount/name"),
                )),
                _ => None,
            }
        });
        let resources = access::list(value, "resourceRules").iter().map(|rule| Resources {
            verbs: access::texts(rule, "verbs"),
            groups: access::texts(rule, "apiGroups"),
            resources: access::texts(rule, "resources"),
            namespaces: access::texts(rule, "namespaces"),
            cluster: access::flag(rule, "clusterScope"),
        });
        let others = access::list(value, "nonResourceRules")
            .iter()
            .map(|rule| (access::texts(rule, "verbs"), access::texts(rule, "nonResourceURLs")));
        Self {
            subjects: subjects.collect(),
            resources: resources.collect(),
            others: others.collect(),
        }
    }

    fn fits(&self, user: &User, attributes: &Attributes) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(user)) {
            return false;
        }
        if attributes.is_resource {
            return self.resources.iter().any(|rule| rule.fits(attributes));
        }
        self.others.iter().any(|(verbs, urls)| {
            let url = |url: &String| {
                url == "*"
                    || *url == attributes.path
                    || url.strip_suffix("/*").is_some_and(|prefix| {
                        attributes
                            .path
                            .strip_prefix(prefix)
                            .is_some_and(|rest| rest.starts_with('/'))
                    })
            };
            among(verbs, &attributes.verb) && urls.iter().any(url)
        })
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.is_in(name),
            Subject::Account(namespace, name) => {
                let account = user
                    .name
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.split_once(':'));
                account.is_some_and(|(ns, n)| ns == namespace && (name == "*" || n == name))
            }
        }
    }
}

impl Resources {
    fn fits(&self, attributes: &Attributes) -> bool {
        let place = if attributes.namespace.is_empty() {
            self.cluster
        } else {
            among(&self.namespaces, &attributes.namespace)
        };
        let resource = if attributes.subresource.is_empty() {
            among(&self.resources, &attributes.resource)
        } else {
            self.resources.iter().any(|item| {
                item == "*"
                    || item
                        .strip_prefix(attributes.resource.as_str())
                        .and_then(|rest| rest.strip_prefix('/'))
                        == Some(attributes.subresource.as_str())
            })
        };
        place && resource && among(&self.verbs, &attributes.verb) && among(&self.groups, &attributes.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn default_schemas_classify() {
        let mut schemas: Vec<Schema> = crate::bootstrap::flow_schemas().iter().map(Schema::new).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let everybody = "system:authenticated";
        let cases = [
            (
                "admin",
                &["system:masters", everybody][..],
                "get",
                "",
                "pods",
                "default",
                "exempt",
            ),
            ("ann", &[everybody], "get", "", "", "", "probes"),
            ("ann", &[everybody], "get", "", "pods", "default", "global-default"),
            (
                "system:node:n",
                &["system:nodes", everybody],
                "update",
                "",
                "nodes/status",
                "",
                "system-node-high",
            ),
            (
                "system:node:n",
                &["system:nodes", everybody],
                "update",
                "coordination.k8s.io",
                "leases",
                "kube-node-lease",
                "system-node-high",
            ),
            (
                "system:node:n",
                &["system:nodes", everybody],
                "list",
                "",
                "pods",
                "",
                "system-nodes",
            ),
            (
                "system:kube-scheduler",
                &[everybody],
                "update",
                "coordination.k8s.io",
                "leases",
                "kube-system",
                "system-leader-election",
            ),
            (
                "system:kube-scheduler",
                &[everybody],
                "list",
                "",
                "pods",
                "",
                "kube-scheduler",
            ),
            (
                "system:serviceaccount:kube-system:x",
                &["system:serviceaccounts", everybody],
                "list",
                "",
                "pods",
                "",
                "kube-system-service-accounts",
            ),
            (
                "system:serviceaccount:a:x",
                &["system:serviceaccounts", everybody],
                "list",
                "",
                "pods",
                "a",
                "service-accounts",
            ),
        ];
        for (name, groups, verb, group, resource, namespace, want) in cases {
            let user = User {
                name: name.to_owned(),
                groups: groups.iter().map(|g| (*g).to_owned()).collect(),
                ..User::default()
            };
            let (plural, sub) = resource.split_once('/').unwrap_or((resource, ""));
            let attributes = Attributes {
                verb: verb.to_owned(),
                is_resource: !resource.is_empty(),
                group: group.to_owned(),
                resource: plural.to_owned(),
                subresource: sub.to_owned(),
                namespace: namespace.to_owned(),
                path: "/healthz".to_owned(),
                ..Attributes::default()
            };
            let found = schemas.iter().find(|schema| schema.fits(&user, &attributes));
            assert_eq!(found.map(|s| s.name.as_str()), Some(want), "{name} {verb} {resource}");
        }
        let urls = Schema::new(
            &json!({"spec": {"rules": [{"subjects": [{"kind": "Group", "group": {"name": "*"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/api/*"]}]}]}}),
        );
        for (path, want) in [("/api/v1", true), ("/apis", false), ("/api", false)] {
            let attributes = Attributes {
                verb: "get".to_owned(),
                path: path.to_owned(),
                ..Attributes::default()
            };
            assert_eq!(urls.fits(&User::default(), &attributes), want, "{path}");
        }
    }
}
