//! RBAC: roles and bindings in the store, compiled when they have changed.
//!
//! The compiled form is rebuilt when the number of role objects or their newest revision differs
//! from what it was built from, so a decision always sees what was acknowledged before it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use serde_json::Value;

use super::{Attributes, Authorizer, Decision};
use crate::User;

const ROLES: &str = "roles.rbac.authorization.k8s.io";
const BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const CLUSTER_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// The RBAC authoriser.
#[derive(Default)]
pub(crate) struct Rbac(ArcSwapOption<Compiled>);

struct Compiled {
    built_from: [(usize, u64); 4],
    roles: HashMap<(String, String), Vec<Value>>,
    bindings: Vec<Binding>,
}

struct Binding {
    /// Empty for cluster role bindings.
    namespace: String,
    name: String,
    role_kind: String,
    role_name: String,
    subjects: Vec<Subject>,
}

struct Subject {
    kind: String,
    namespace: String,
    name: String,
}

impl Rbac {
    fn compiled(&self, snapshot: &Snapshot) -> Arc<Compiled> {
        let built_from = [ROLES, BINDINGS, CLUSTER_ROLES, CLUSTER_BINDINGS].map(|resource| {
            snapshot
                .list(resource, None, None)
                .fold((0, 0), |(count, newest), stored| {
                    (count + 1, stored.revision.max(newest))
                })
        });
        if let Some(current) = self.0.load_full().filter(|current| current.built_from == built_from) {
            return current;
        }
        let fresh = Arc::new(Compiled::build(snapshot, built_from));
        self.0.store(Some(fresh.clone()));
        fresh
    }

    /// Every rule that applies to a user in a namespace (cluster-wide ones included), and the
    /// description of the binding it comes from.
    pub fn rules_for(&self, user: &User, namespace: &str, snapshot: &Snapshot) -> Vec<Value> {
        let compiled = self.compiled(snapshot);
        let mut out = Vec::new();
        compiled.visit(user, namespace, &mut |rule, _, _| {
            out.push(rule.clone());
            false
        });
        out
    }
}

impl Compiled {
    fn build(snapshot: &Snapshot, built_from: [(usize, u64); 4]) -> Self {
        let mut roles = HashMap::new();
        for resource in [ROLES, CLUSTER_ROLES] {
            for stored in snapshot.list(resource, None, None) {
                let value = stored.value();
                let key = (stored.key.namespace.to_string(), stored.key.name.to_string());
                roles.insert(key, access::list(&value, "rules").to_vec());
            }
        }
        let mut bindings = Vec::new();
        for resource in [CLUSTER_BINDINGS, BINDINGS] {
            for stored in snapshot.list(resource, None, None) {
                let value = stored.value();
                let subjects = access::list(&value, "subjects")
                    .iter()
                    .map(|subject| Subject {
                        kind: access::str_of(subject, "kind").to_owned(),
                        namespace: access::str_of(subject, "namespace").to_owned(),
                        name: access::str_of(subject, "name").to_owned(),
                    })
                    .collect();
                bindings.push(Binding {
                    namespace: stored.key.namespace.to_string(),
                    name: stored.key.name.to_string(),
                    role_kind: access::text(&value, "/roleRef/kind").to_owned(),
                    role_name: access::text(&value, "/roleRef/name").to_owned(),
                    subjects,
                });
            }
        }
        Self {
            built_from,
            roles,
            bindings,
        }
    }

    /// Shows `see` every applying rule until it returns true.
    fn visit(&self, user: &User, namespace: &str, see: &mut dyn FnMut(&Value, &Binding, &Subject) -> bool) {
        for binding in &self.bindings {
            if !binding.namespace.is_empty() && binding.namespace != namespace {
                continue;
            }
            let Some(subject) = binding
                .subjects
                .iter()
                .find(|subject| subject.is(user, &binding.namespace))
            else {
                continue;
            };
            let role_namespace = if binding.role_kind == "Role" {
                binding.namespace.clone()
            } else {
                String::new()
            };
            let rules = self.roles.get(&(role_namespace, binding.role_name.clone()));
            if rules.into_iter().flatten().any(|rule| see(rule, binding, subject)) {
                return;
            }
        }
    }
}

impl Subject {
    fn is(&self, user: &User, binding_namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.groups.contains(&self.name),
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() {
                    binding_namespace
                } else {
                    &self.namespace
                };
                user.name
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.split_once(':'))
                    == Some((namespace, self.name.as_str()))
            }
            _ => false,
        }
    }

    fn describe(&self) -> String {
        match self.kind.as_str() {
            "ServiceAccount" => format!("ServiceAccount \"{}/{}\"", self.name, self.namespace),
            kind => format!("{kind} {:?}", self.name),
        }
    }
}

impl Authorizer for Rbac {
    fn decide(&self, user: &User, attributes: &Attributes, snapshot: &Snapshot) -> Decision {
        let compiled = self.compiled(snapshot);
        let mut allowed = None;
        compiled.visit(user, &attributes.namespace, &mut |rule, binding, subject| {
            if !allows(rule, attributes) {
                return false;
            }
            let (kind, name) = if binding.namespace.is_empty() {
                ("ClusterRoleBinding", format!("{:?}", binding.name))
            } else {
                ("RoleBinding", format!("\"{}/{}\"", binding.name, binding.namespace))
            };
            allowed = Some(format!(
                "RBAC: allowed by {kind} {name} of {} {:?} to {}",
                binding.role_kind,
                binding.role_name,
                subject.describe()
            ));
            true
        });
        allowed.map_or(Decision::NoOpinion, Decision::Allow)
    }
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    access::list(rule, field)
        .iter()
        .any(|item| item.as_str().is_some_and(|item| item == "*" || item == wanted))
}

/// Whether one policy rule allows a request.
fn allows(rule: &Value, attributes: &Attributes) -> bool {
    if !has(rule, "verbs", &attributes.verb) {
        return false;
    }
    if !attributes.is_resource {
        return access::list(rule, "nonResourceURLs")
            .iter()
            .filter_map(Value::as_str)
            .any(|pattern| {
                pattern == "*"
                    || pattern == attributes.path
                    || pattern
                        .strip_suffix('*')
                        .is_some_and(|prefix| attributes.path.starts_with(prefix))
            });
    }
    let full = if attributes.subresource.is_empty() {
        attributes.resource.clone()
    } else {
        format!("{}/{}", attributes.resource, attributes.subresource)
    };
    let any_parent = format!("*/{}", attributes.subresource);
    let resource = access::list(rule, "resources")
        .iter()
        .filter_map(Value::as_str)
        .any(|item| item == "*" || item == full || (!attributes.subresource.is_empty() && item == any_parent));
    let names = access::list(rule, "resourceNames");
    let named = names.is_empty() || names.iter().any(|name| name.as_str() == Some(attributes.name.as_str()));
    has(rule, "apiGroups", &attributes.group) && resource && named
}

/// Whether the rules in `held` allow everything that `wanted` allows.
pub(crate) fn covers(held: &[Value], wanted: &Value) -> bool {
    let items = |field: &str| -> Vec<String> {
        access::list(wanted, field)
            .iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let verbs = items("verbs");
    let urls = items("nonResourceURLs");
    let urls_covered = verbs.iter().all(|verb| {
        urls.iter().all(|url| {
            let attributes = Attributes {
                verb: verb.clone(),
                path: url.clone(),
                ..Attributes::default()
            };
            held.iter().any(|rule| allows(rule, &attributes))
        })
    });
    let names = items("resourceNames");
    let names = if names.is_empty() { vec![String::new()] } else { names };
    let groups = items("apiGroups");
    let resources = items("resources");
    urls_covered
        && verbs.iter().all(|verb| {
            groups.iter().all(|group| {
                resources.iter().all(|resource| {
                    names.iter().all(|name| {
                        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                        let attributes = Attributes {
                            verb: verb.clone(),
                            is_resource: true,
                            group: group.clone(),
                            resource: resource.to_owned(),
                            subresource: subresource.to_owned(),
                            name: name.clone(),
                            ..Attributes::default()
                        };
                        held.iter().any(|rule| allows(rule, &attributes))
                    })
                })
            })
        })
}
