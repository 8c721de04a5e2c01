//! Nobody grants rights they do not hold, unless they may `escalate` or `bind`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use serde_json::{Value, json};

use super::{Operation, Write};
use crate::authz::{Attributes, covers};

/// Most rights that are granted times rules that are held.
const COMPARISONS_MAX: usize = 2_000_000;

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
    if write.old.is_some_and(|old| only_for_collectors(object, old)) {
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
    let refuse = |missing: BTreeSet<String>, before: &str| {
        let why = format!(
            "{before}user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            call.user.name,
            Spaced(&call.user.groups),
            missing.into_iter().collect::<Vec<_>>().join("\n")
        );
        Err(call.forbidden(access::name(object), why))
    };
    let comparisons = granted.iter().map(combinations).fold(0, usize::saturating_add);
    let comparisons = comparisons.saturating_mul(held.len().max(1));
    if comparisons > COMPARISONS_MAX {
        let why = format!(
            "its rules give too many combinations of verbs, groups, resources and names to compare with those that user \
             {:?} holds ({comparisons} comparisons, at most {COMPARISONS_MAX}); grant them in several roles",
            call.user.name
        );
        return Err(call.forbidden(access::name(object), why));
    }
    let lacking = missing(&held, &granted);
    if !lacking.is_empty() {
        return refuse(lacking, "");
    }
    // What a role gathers by an aggregation rule is not known now, and may be anything.
    if !binding && (aggregates(object) || write.old.is_some_and(aggregates)) {
        let everything = [
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
        ];
        let lacking = missing(&held, &everything);
        if !lacking.is_empty() {
            return refuse(
                lacking,
                "must have cluster-admin privileges to use the aggregationRule: ",
            );
        }
    }
    Ok(())
}

/// How many single rights a rule gives.
fn combinations(rule: &Value) -> usize {
    let [verbs, groups, resources, names, urls] =
        ["verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"]
            .map(|key| access::list(rule, key).len());
    let of_resources = groups.saturating_mul(resources).saturating_mul(names.max(1));
    verbs.saturating_mul(of_resources.saturating_add(urls))
}

fn aggregates(role: &Value) -> bool {
    !access::list_at(role, "/aggregationRule/clusterRoleSelectors").is_empty()
}

/// Whether a change is only of what collectors of garbage change.
fn only_for_collectors(new: &Value, old: &Value) -> bool {
    let mut new = new.clone();
    for key in ["ownerReferences", "finalizers", "managedFields"] {
        access::copy(access::child(&mut new, "metadata"), access::get(old, "metadata"), key);
    }
    access::same(Some(&new), Some(old))
}

/// A list as Go prints it: quoted, with spaces between.
struct Spaced<'a>(&'a [String]);

impl fmt::Debug for Spaced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.0.iter().map(|text| format!("{text:?}")).collect();
        write!(f, "[{}]", quoted.join(" "))
    }
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

/// The smallest rules that are not covered, written as Kubernetes prints them, verbs of one resource together, in
/// the order of their texts.
fn missing(held: &[Value], granted: &[Value]) -> BTreeSet<String> {
    let mut lacking: BTreeMap<(String, String, String), Vec<String>> = BTreeMap::new();
    let mut texts = BTreeSet::new();
    for rule in granted {
        let verbs = access::texts(rule, "verbs");
        let mut names = access::texts(rule, "resourceNames");
        if names.is_empty() {
            names.push(String::new());
        }
        for (group, resource) in product(&access::texts(rule, "apiGroups"), &access::texts(rule, "resources")) {
            for (verb, name) in product(&verbs, &names) {
                let mut one = json!({"verbs": [verb], "apiGroups": [group], "resources": [resource]});
                if !name.is_empty() {
                    access::set(&mut one, "resourceNames", json!([name]));
                }
                if !covers(held, &one) {
                    let key = (group.clone(), resource.clone(), name.clone());
                    lacking.entry(key).or_default().push(verb.clone());
                }
            }
        }
        for (url, verb) in product(&access::texts(rule, "nonResourceURLs"), &verbs) {
            if !covers(held, &json!({"verbs": [verb], "nonResourceURLs": [url]})) {
                texts.insert(format!("{{NonResourceURLs:[{url:?}], Verbs:[{verb:?}]}}"));
            }
        }
    }
    texts.extend(lacking.iter().map(|((group, resource, name), verbs)| {
        let names = if name.is_empty() {
            String::new()
        } else {
            format!(", ResourceNames:[{name:?}]")
        };
        let verbs = Spaced(verbs);
        format!("{{APIGroups:[{group:?}], Resources:[{resource:?}]{names}, Verbs:{verbs:?}}}")
    }));
    texts
}

fn product<'a>(left: &'a [String], right: &'a [String]) -> impl Iterator<Item = (&'a String, &'a String)> {
    left.iter().flat_map(|l| right.iter().map(move |r| (l, r)))
}
