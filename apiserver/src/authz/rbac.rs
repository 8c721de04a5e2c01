//! RBAC: roles and bindings in the store, compiled when they have changed.
//!
//! A decision always sees what was acknowledged before it: the compiled form remembers which state
//! of the four resources it was built from. Bindings are found by the names of their subjects, so
//! that a decision costs what the user's own bindings cost.

use std::collections::{BTreeSet, HashMap};
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

/// One policy rule, ready to be compared.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    urls: Vec<String>,
    /// As it was written.
    value: Value,
}

struct Compiled {
    built_from: [u64; 4],
    roles: HashMap<(String, String), Arc<[Rule]>>,
    bindings: Vec<Binding>,
    /// Binding and subject by user name (service accounts too) and by group, in the order of the bindings.
    of_user: HashMap<String, Vec<(usize, usize)>>,
    of_group: HashMap<String, Vec<(usize, usize)>>,
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

/// What a walk over somebody's rules meets.
enum Met<'a> {
    Rule(&'a Rule, &'a Binding, &'a Subject),
    /// The binding's role does not exist.
    NoRole(&'a Binding),
}

impl Rbac {
    fn compiled(&self, snapshot: &Snapshot) -> Arc<Compiled> {
        let built_from = [ROLES, BINDINGS, CLUSTER_ROLES, CLUSTER_BINDINGS].map(|resource| snapshot.changed(resource));
        if let Some(current) = self.0.load_full().filter(|current| current.built_from == built_from) {
            return current;
        }
        let fresh = Arc::new(Compiled::build(snapshot, built_from));
        self.0.store(Some(fresh.clone()));
        fresh
    }

    /// Every rule that applies to a user in a namespace, cluster-wide ones included.
    pub fn rules_for(&self, user: &User, namespace: &str, snapshot: &Snapshot) -> Vec<Value> {
        let compiled = self.compiled(snapshot);
        let mut out = Vec::new();
        compiled.visit(user, namespace, &mut |met| {
            if let Met::Rule(rule, ..) = met {
                out.push(rule.value.clone());
            }
            false
        });
        out
    }
}

impl Compiled {
    fn build(snapshot: &Snapshot, built_from: [u64; 4]) -> Self {
        let mut roles = HashMap::new();
        for resource in [ROLES, CLUSTER_ROLES] {
            for stored in snapshot.list(resource, None, None) {
                let key = (stored.key.namespace.to_string(), stored.key.name.to_string());
                let rules = access::list(&stored.value(), "rules").iter().map(Rule::new).collect();
                roles.insert(key, rules);
            }
        }
        let mut out = Self {
            built_from,
            roles,
            bindings: Vec::new(),
            of_user: HashMap::new(),
            of_group: HashMap::new(),
        };
        for resource in [CLUSTER_BINDINGS, BINDINGS] {
            for stored in snapshot.list(resource, None, None) {
                out.bind(&stored.key.namespace, &stored.key.name, &stored.value());
            }
        }
        out
    }

    fn bind(&mut self, namespace: &str, name: &str, value: &Value) {
        let mut subjects = Vec::new();
        for (at, subject) in access::list(value, "subjects").iter().enumerate() {
            let text = |field: &str| access::str_of(subject, field).to_owned();
            let subject = Subject {
                kind: text("kind"),
                namespace: text("namespace"),
                name: text("name"),
            };
            let place = (self.bindings.len(), at);
            match subject.kind.as_str() {
                "User" => self.of_user.entry(subject.name.clone()).or_default().push(place),
                "Group" => self.of_group.entry(subject.name.clone()).or_default().push(place),
                "ServiceAccount" => {
                    let homes = [subject.namespace.as_str(), namespace];
                    // Without a namespace it is nobody.
                    if let Some(home) = homes.iter().find(|home| !home.is_empty()) {
                        let user = format!("system:serviceaccount:{home}:{}", subject.name);
                        self.of_user.entry(user).or_default().push(place);
                    }
                }
                _ => {}
            }
            subjects.push(subject);
        }
        self.bindings.push(Binding {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            role_kind: access::text(value, "/roleRef/kind").to_owned(),
            role_name: access::text(value, "/roleRef/name").to_owned(),
            subjects,
        });
    }

    /// Shows `see` every applying rule until it returns true.
    fn visit(&self, user: &User, namespace: &str, see: &mut dyn FnMut(Met<'_>) -> bool) {
        // A question about somebody may name a group a hundred thousand times.
        let groups: BTreeSet<&String> = user.groups.iter().collect();
        let groups = groups.into_iter().filter_map(|group| self.of_group.get(group));
        let mut places: Vec<(usize, usize)> = self
            .of_user
            .get(&user.name)
            .into_iter()
            .chain(groups)
            .flatten()
            .copied()
            .filter(|(binding, _)| {
                let binding = self.bindings.get(*binding);
                binding.is_some_and(|binding| binding.namespace.is_empty() || binding.namespace == namespace)
            })
            .collect();
        places.sort_unstable();
        places.dedup_by_key(|(binding, _)| *binding);
        for (binding, subject) in places {
            let Some(binding) = self.bindings.get(binding) else {
                continue;
            };
            let Some(subject) = binding.subjects.get(subject) else {
                continue;
            };
            let role_namespace = if binding.role_kind == "Role" {
                binding.namespace.clone()
            } else {
                String::new()
            };
            let Some(rules) = self.roles.get(&(role_namespace, binding.role_name.clone())) else {
                see(Met::NoRole(binding));
                continue;
            };
            if rules.iter().any(|rule| see(Met::Rule(rule, binding, subject))) {
                return;
            }
        }
    }
}

impl Subject {
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
        let mut missing: Vec<String> = Vec::new();
        compiled.visit(user, &attributes.namespace, &mut |met| {
            let (rule, binding, subject) = match met {
                Met::Rule(rule, binding, subject) => (rule, binding, subject),
                Met::NoRole(binding) => {
                    missing.push(format!(
                        "{}.rbac.authorization.k8s.io {:?} not found",
                        binding.role_kind.to_ascii_lowercase(),
                        binding.role_name
                    ));
                    return false;
                }
            };
            if !rule.allows(attributes) {
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
        missing.dedup();
        match (allowed, missing.as_slice()) {
            (Some(reason), _) => Decision::Allow(reason),
            (None, []) => Decision::NoOpinion(String::new()),
            (None, [only]) => Decision::NoOpinion(format!("RBAC: {only}")),
            (None, several) => Decision::NoOpinion(format!("RBAC: [{}]", several.join(", "))),
        }
    }
}

impl Rule {
    /// Reads a policy rule.
    pub fn new(value: &Value) -> Self {
        let items = |field: &str| access::texts(value, field);
        Self {
            verbs: items("verbs"),
            groups: items("apiGroups"),
            resources: items("resources"),
            names: items("resourceNames"),
            urls: items("nonResourceURLs"),
            value: value.clone(),
        }
    }

    /// Whether the rule allows a request.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        let has = |items: &[String], wanted: &str| items.iter().any(|item| item == "*" || item == wanted);
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self.urls.iter().any(|pattern| {
                pattern == "*"
                    || *pattern == attributes.path
                    || (pattern.ends_with('*') && attributes.path.starts_with(pattern.trim_end_matches('*')))
            });
        }
        has(&self.groups, &attributes.group)
            && self
                .resources
                .iter()
                .any(|item| names_resource(item, &attributes.resource, &attributes.subresource))
            && (self.names.is_empty() || self.names.contains(&attributes.name))
    }
}

/// Whether an entry of a rule's `resources` (`*`, `pods`, `pods/log`, `*/scale`) means a resource.
fn names_resource(item: &str, resource: &str, subresource: &str) -> bool {
    if item == "*" {
        return true;
    }
    if subresource.is_empty() {
        return item == resource;
    }
    item.split_once('/')
        .is_some_and(|(parent, sub)| sub == subresource && (parent == "*" || parent == resource))
}
