//! Roles, bindings and their cluster-wide forms.

use super::access::{self, at, child, each_mut, get, list, same, set_text_default, str_of};
use super::print::{self, AGE, NAME, shown, wide};
use super::{Column, Rules, go, meta, tidy};
use crate::field::{ErrorList, Path, invalid, not_supported, required};
use jiff::Timestamp;
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The rules of Roles and ClusterRoles.
pub struct Role {
    /// Whether it is a Role and not a ClusterRole.
    pub namespaced: bool,
}

impl Rules for Role {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, rule) in list(obj, "rules").iter().enumerate() {
            policy_rule(&mut errors, &Path::new("rules").index(i), rule, self.namespaced);
        }
        for (i, selector) in list(at(obj, "/aggregationRule"), "clusterRoleSelectors")
            .iter()
            .enumerate()
        {
            let path = Path::new("aggregationRule").child("clusterRoleSelectors").index(i);
            let before = errors.len();
            super::check::label_selector(&mut errors, &path, selector);
            if errors.len() > before {
                errors.push(invalid(&path, Value::Null, "invalid label selector."));
            }
        }
        if get(obj, "aggregationRule").is_object()
            && list(at(obj, "/aggregationRule"), "clusterRoleSelectors").is_empty()
        {
            let path = Path::new("aggregationRule").child("clusterRoleSelectors");
            errors.push(required(
                &path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        errors
    }

    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::PathSegment
    }

    fn namespaced(&self) -> bool {
        self.namespaced
    }
}

fn policy_rule(errors: &mut ErrorList, path: &Path, rule: &Value, namespaced: bool) {
    if list(rule, "verbs").is_empty() {
        errors.push(required(&path.child("verbs"), "verbs must contain at least one value"));
    }
    let urls = list(rule, "nonResourceURLs");
    if !urls.is_empty() {
        let at = path.child("nonResourceURLs");
        let shown = get(rule, "nonResourceURLs").clone();
        if namespaced {
            errors.push(invalid(
                &at,
                shown.clone(),
                "namespaced rules cannot apply to non-resource URLs",
            ));
        }
        if ["apiGroups", "resources", "resourceNames"]
            .iter()
            .any(|k| !list(rule, k).is_empty())
        {
            errors.push(invalid(
                &at,
                shown,
                "rules cannot apply to both regular resources and non-resource URLs",
            ));
        }
        return;
    }
    if list(rule, "apiGroups").is_empty() {
        errors.push(required(
            &path.child("apiGroups"),
            "resource rules must supply at least one api group",
        ));
    }
    if list(rule, "resources").is_empty() {
        errors.push(required(
            &path.child("resources"),
            "resource rules must supply at least one resource",
        ));
    }
}

/// The rules of RoleBindings and ClusterRoleBindings.
pub struct RoleBinding {
    /// Whether it is a RoleBinding and not a ClusterRoleBinding.
    pub namespaced: bool,
}

impl Rules for RoleBinding {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        set_text_default(child(obj, "roleRef"), "apiGroup", GROUP);
        for subject in each_mut(obj, "subjects") {
            if ["User", "Group"].contains(&str_of(subject, "kind")) {
                set_text_default(subject, "apiGroup", GROUP);
            }
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, reference) = (Path::new("roleRef"), at(obj, "/roleRef"));
        let group = str_of(reference, "apiGroup");
        if group != GROUP {
            errors.push(not_supported(&path.child("apiGroup"), group, &[GROUP]));
        }
        let kinds: &[&str] = if self.namespaced {
            &["Role", "ClusterRole"]
        } else {
            &["ClusterRole"]
        };
        let kind = str_of(reference, "kind");
        if !kinds.contains(&kind) {
            errors.push(not_supported(&path.child("kind"), kind, kinds));
        }
        let name = str_of(reference, "name");
        if name.is_empty() {
            errors.push(required(&path.child("name"), ""));
        } else {
            super::check::each(&mut errors, &path.child("name"), name, crate::names::path_segment(name));
        }
        for (i, subject) in list(obj, "subjects").iter().enumerate() {
            check_subject(&mut errors, &Path::new("subjects").index(i), subject, self.namespaced);
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = self.check(new);
        let reference = get(new, "roleRef");
        if !same(Some(reference), old.get("roleRef")) {
            let part = |key: &str| json!(str_of(reference, key)).to_string();
            let shown = format!(
                "{{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}",
                part("apiGroup"),
                part("kind"),
                part("name")
            );
            errors.push(go::invalid_shown(
                &Path::new("roleRef"),
                &shown,
                "cannot change roleRef",
            ));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Role", "string", "Role that is bound."),
            AGE,
            wide("Users", "string", "Users that the role is bound to."),
            wide("Groups", "string", "Groups that the role is bound to."),
            wide(
                "ServiceAccounts",
                "string",
                "Service accounts that the role is bound to.",
            ),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let reference = at(obj, "/roleRef");
        let of = |kind: &str| {
            let names: Vec<String> = list(obj, "subjects")
                .iter()
                .filter(|s| str_of(s, "kind") == kind)
                .map(|s| {
                    if kind == "ServiceAccount" {
                        format!("{}/{}", str_of(s, "namespace"), str_of(s, "name"))
                    } else {
                        str_of(s, "name").to_owned()
                    }
                })
                .collect();
            json!(names.join(", "))
        };
        vec![
            json!(access::name(obj)),
            json!(format!("{}/{}", str_of(reference, "kind"), str_of(reference, "name"))),
            print::age(obj, now),
            of("User"),
            of("Group"),
            of("ServiceAccount"),
        ]
    }

    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::PathSegment
    }

    fn namespaced(&self) -> bool {
        self.namespaced
    }
}

fn check_subject(errors: &mut ErrorList, path: &Path, subject: &Value, namespaced: bool) {
    let (kind, name, group) = (
        str_of(subject, "kind"),
        str_of(subject, "name"),
        str_of(subject, "apiGroup"),
    );
    if name.is_empty() {
        errors.push(required(&path.child("name"), ""));
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                super::check::dns_subdomain(errors, &path.child("name"), name);
            }
            if !group.is_empty() {
                errors.push(not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && str_of(subject, "namespace").is_empty() {
                errors.push(required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        _ => errors.push(not_supported(
            &path.child("kind"),
            kind,
            &["ServiceAccount", "User", "Group"],
        )),
    }
}
