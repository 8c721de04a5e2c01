//! Nobody grants rights they do not hold, unless they may `escalate` or `bind`.

use std::collections::BTreeSet;

use coxswain_api::ApiError;
use coxswain_api::kinds::access;
use serde_json::{Value, json};

use super::{Operation, Write};
use crate::authz::{Attributes, Spaced, missing};

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
        // Of the path: a right on a name is no right to create it.
        name: call.path.name.clone(),
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
            &call.row.plural,
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
