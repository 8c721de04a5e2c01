//! Admission policies and their bindings.

use super::{label_selectors, match_conditions, rule_with_operations};
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, not_supported, required};
use crate::kinds::access::{self, at, child, each_mut, get, has, list, set_text_default, str_of};
use crate::kinds::check::{self, strings};
use crate::kinds::go;
use crate::kinds::print::{self, AGE, NAME, shown};
use crate::kinds::{Column, Rules, StatusRule, conditions, tidy};
use crate::names;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The rules of ValidatingAdmissionPolicies and MutatingAdmissionPolicies.
pub struct AdmissionPolicy {
    /// Whether the policy changes objects.
    pub mutating: bool,
}

fn default_match(matching: &mut Value) {
    child(matching, "namespaceSelector");
    child(matching, "objectSelector");
    set_text_default(matching, "matchPolicy", "Equivalent");
    for key in ["resourceRules", "excludeResourceRules"] {
        each_mut(matching, key).for_each(|r| set_text_default(r, "scope", "*"));
    }
}

impl Rules for AdmissionPolicy {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        set_text_default(spec, "failurePolicy", "Fail");
        if let Some(matching) = access::child_if(spec, "matchConstraints") {
            default_match(matching);
        }
        if self.mutating {
            return;
        }
        child(obj, "status");
    }

    fn on_create(&self, obj: &mut Value) {
        if !self.mutating {
            access::set(obj, "status", json!({}));
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        check::one_of_if(
            &mut errors,
            &path.child("failurePolicy"),
            str_of(spec, "failurePolicy"),
            &["Fail", "Ignore"],
        );
        let kind = get(spec, "paramKind");
        if kind.is_object() {
            parameter_kind(&mut errors, &path.child("paramKind"), kind);
        }
        let matching = get(spec, "matchConstraints");
        if matching.is_object() {
            let path = path.child("matchConstraints");
            match_resources(&mut errors, &path, matching);
            if list(matching, "resourceRules").is_empty() {
                errors.push(required(&path.child("resourceRules"), ""));
            }
        } else {
            errors.push(required(&path.child("matchConstraints"), ""));
        }
        match_conditions(&mut errors, &path.child("matchConditions"), spec);
        for (i, variable) in list(spec, "variables").iter().enumerate() {
            let path = path.child("variables").index(i);
            let name = str_of(variable, "name");
            if name.trim().is_empty() {
                errors.push(required(&path.child("name"), "name is not specified"));
            } else if !is_identifier(name) {
                errors.push(invalid(&path.child("name"), name, "name is not a valid CEL identifier"));
            }
            if str_of(variable, "expression").trim().is_empty() {
                errors.push(required(&path.child("expression"), "expression is not specified"));
            }
        }
        if self.mutating {
            mutations(&mut errors, &path, spec);
        } else {
            validations(&mut errors, &path, spec, access::name(obj));
        }
        errors
    }

    fn check_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> ErrorList {
        if sub != Some("status") {
            return self.check(new);
        }
        let mut errors = ErrorList::new();
        let (path, status) = (Path::new("status"), at(new, "/status"));
        let at_warnings = path.child("typeChecking").child("expressionWarnings");
        for (i, warning) in list(at(status, "/typeChecking"), "expressionWarnings")
            .iter()
            .enumerate()
        {
            for key in ["warning", "fieldRef"] {
                if str_of(warning, key).is_empty() {
                    errors.push(required(&at_warnings.index(i).child(key), ""));
                }
            }
        }
        conditions::check(&mut errors, &path, status);
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        static VALIDATING: &[Column] = &[
            NAME,
            shown("Validations", "integer", "Number of expressions."),
            shown("ParamKind", "string", "Kind of the parameters."),
            AGE,
        ];
        static MUTATING: &[Column] = &[
            NAME,
            shown("Mutations", "integer", "Number of expressions."),
            shown("ParamKind", "string", "Kind of the parameters."),
            AGE,
        ];
        if self.mutating { MUTATING } else { VALIDATING }
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        let kind = get(spec, "paramKind");
        let shown = if kind.is_object() {
            format!("{}/{}", str_of(kind, "apiVersion"), str_of(kind, "kind"))
        } else {
            "<unset>".to_owned()
        };
        let key = if self.mutating { "mutations" } else { "validations" };
        vec![
            json!(access::name(obj)),
            json!(list(spec, key).len()),
            json!(shown),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_rule(&self) -> StatusRule {
        if self.mutating {
            StatusRule::Whole
        } else {
            StatusRule::Separate
        }
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Whether an expression could use the text as a name.
fn is_identifier(text: &str) -> bool {
    const RESERVED: &[&str] = &[
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !RESERVED.contains(&text)
}

/// The kind of the parameters of a policy.
fn parameter_kind(errors: &mut ErrorList, path: &Path, parameters: &Value) {
    let (api_version, kind) = (str_of(parameters, "apiVersion"), str_of(parameters, "kind"));
    let at = path.child("apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if api_version.is_empty() {
        errors.push(required(&at, ""));
    } else if version.contains('/') {
        errors.push(invalid(
            &at,
            api_version,
            format!("unexpected GroupVersion string: {api_version}"),
        ));
    } else {
        if !group.is_empty() {
            joined(errors, &at, group, "", names::dns1123_subdomain(group));
        }
        if version.is_empty() {
            errors.push(invalid(&at, api_version, "version must be specified"));
        } else {
            joined(errors, &at, version, "", names::dns1035_label(version));
        }
    }
    let at = path.child("kind");
    if kind.is_empty() {
        errors.push(required(&at, ""));
    } else {
        let before = "may have mixed case, but should otherwise match: ";
        joined(errors, &at, kind, before, names::dns1035_label(&kind.to_lowercase()));
    }
}

/// All that is wrong with a name, as one objection.
fn joined(errors: &mut ErrorList, path: &Path, value: &str, before: &str, messages: Vec<String>) {
    if !messages.is_empty() {
        errors.push(invalid(path, value, format!("{before}{}", messages.join(","))));
    }
}

fn match_resources(errors: &mut ErrorList, path: &Path, matching: &Value) {
    check::one_of_if(
        errors,
        &path.child("matchPolicy"),
        str_of(matching, "matchPolicy"),
        &["Equivalent", "Exact"],
    );
    label_selectors(errors, path, matching);
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in list(matching, key).iter().enumerate() {
            let place = path.child(key).index(i);
            resource_names(errors, &place.child("resourceNames"), &strings(rule, "resourceNames"));
            rule_with_operations(errors, &place, rule);
        }
    }
}

fn resource_names(errors: &mut ErrorList, path: &Path, all: &[&str]) {
    let repeated = check::repeats(all);
    for (i, (name, repeated)) in all.iter().zip(repeated).enumerate() {
        check::each(errors, &path.index(i), name, names::path_segment(name));
        if repeated {
            errors.push(duplicate(&path.index(i), *name));
        }
    }
}

fn validations(errors: &mut ErrorList, path: &Path, spec: &Value, policy: &str) {
    const ANNOTATIONS_MAX: usize = 20;
    const EXPRESSION_MAX: usize = 5 * 1024;
    const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
    let (all, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
    if all.is_empty() && annotations.is_empty() {
        for key in ["validations", "auditAnnotations"] {
            errors.push(required(
                &path.child(key),
                "validations or auditAnnotations must contain at least one item",
            ));
        }
        return;
    }
    for (i, validation) in all.iter().enumerate() {
        let path = path.child("validations").index(i);
        if str_of(validation, "expression").trim().is_empty() {
            errors.push(required(&path.child("expression"), "expression is not specified"));
        }
        let expression = str_of(validation, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "must be non-empty if specified";
            errors.push(invalid(&path.child("messageExpression"), expression, detail));
        }
        let (message, at_message) = (str_of(validation, "message"), path.child("message"));
        if !message.is_empty() && message.trim().is_empty() {
            errors.push(invalid(&at_message, message, "message must be non-empty if specified"));
        } else if message.trim().contains(['\n', '\r']) {
            errors.push(invalid(&at_message, message, "message must not contain line breaks"));
        }
        if has(validation, "reason") {
            let reason = str_of(validation, "reason");
            check::one_of(errors, &path.child("reason"), reason, REASONS);
        }
    }
    if annotations.len() > ANNOTATIONS_MAX {
        let (key, fields) = (
            "auditAnnotations",
            [("Key", "key"), ("ValueExpression", "valueExpression")],
        );
        let shown = |a: &Value| go::structure(&fields.map(|(name, key)| (name, go::json_text(get(a, key)))));
        let shown: Vec<String> = annotations.iter().map(shown).collect();
        let detail = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(go::invalid_shown(
            &path.child(key),
            &format!("[{}]", shown.join(",")),
            &detail,
        ));
    }
    let mut seen = BTreeSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let path = path.child("auditAnnotations").index(i);
        let key = str_of(annotation, "key");
        check::qualified(errors, &path.child("key"), &format!("{policy}/{key}"));
        let (expression, at_expression) = (
            str_of(annotation, "valueExpression").trim(),
            path.child("valueExpression"),
        );
        if expression.is_empty() {
            errors.push(required(&at_expression, "valueExpression is not specified"));
        } else if expression.len() > EXPRESSION_MAX {
            let detail = format!("must not exceed {EXPRESSION_MAX} bytes in length");
            errors.push(required(&at_expression, detail));
        }
        if !seen.insert(key) {
            errors.push(duplicate(&path.child("key"), key));
        }
    }
}

fn mutations(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let all = list(spec, "mutations");
    if all.is_empty() {
        errors.push(required(
            &path.child("mutations"),
            "mutations must contain at least one item",
        ));
    }
    for (i, mutation) in all.iter().enumerate() {
        let path = path.child("mutations").index(i);
        let member = match str_of(mutation, "patchType") {
            "ApplyConfiguration" => "applyConfiguration",
            "JSONPatch" => "jsonPatch",
            "" => {
                errors.push(required(&path.child("patchType"), ""));
                continue;
            }
            other => {
                errors.push(not_supported(
                    &path.child("patchType"),
                    other,
                    &["ApplyConfiguration", "JSONPatch"],
                ));
                continue;
            }
        };
        if str_of(get(mutation, member), "expression").trim().is_empty() {
            errors.push(required(
                &path.child(member).child("expression"),
                "expression is not specified",
            ));
        }
    }
    let policies = ["IfNeeded", "Never"];
    check::required_one_of(
        errors,
        &path.child("reinvocationPolicy"),
        str_of(spec, "reinvocationPolicy"),
        &policies,
    );
}

/// The rules of the bindings of both kinds of policies.
pub struct PolicyBinding {
    /// Whether it binds a MutatingAdmissionPolicy.
    pub mutating: bool,
}

impl Rules for PolicyBinding {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        if let Some(matching) = access::child_if(child(obj, "spec"), "matchResources") {
            default_match(matching);
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        let policy = str_of(spec, "policyName");
        if policy.is_empty() {
            errors.push(required(&path.child("policyName"), ""));
        } else {
            check::dns_subdomain(&mut errors, &path.child("policyName"), policy);
        }
        let reference = get(spec, "paramRef");
        if reference.is_object() {
            parameter_reference(&mut errors, &path.child("paramRef"), reference);
        }
        if get(spec, "matchResources").is_object() {
            match_resources(&mut errors, &path.child("matchResources"), get(spec, "matchResources"));
        }
        if !self.mutating {
            validation_actions(&mut errors, &path.child("validationActions"), spec);
        }
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("PolicyName", "string", "Policy that is bound."),
            shown("ParamRef", "string", "Parameters."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        let reference = get(spec, "paramRef");
        let shown = match (str_of(reference, "namespace"), str_of(reference, "name")) {
            (_, "") if has(reference, "selector") => go::struct_selector(get(reference, "selector")),
            (_, "") => "<unset>".to_owned(),
            ("", name) => format!("*/{name}"),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        vec![
            json!(access::name(obj)),
            json!(str_of(spec, "policyName")),
            json!(shown),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn parameter_reference(errors: &mut ErrorList, path: &Path, reference: &Value) {
    const ONE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (str_of(reference, "name"), get(reference, "selector"));
    let (named, selected) = (!name.is_empty(), selector.is_object());
    if named {
        let path = path.child("name");
        check::each(errors, &path, name, names::path_segment(name));
        if selected {
            errors.push(forbidden(&path, ONE));
        }
    }
    if selected {
        let path = path.child("selector");
        check::label_selector(errors, &path, selector);
        if named {
            errors.push(forbidden(&path, ONE));
        }
    }
    if !named && !selected {
        errors.push(required(path, "one of name or selector must be specified"));
    }
    let (key, actions) = ("parameterNotFoundAction", ["Deny", "Allow"]);
    check::required_one_of(errors, &path.child(key), str_of(reference, key), &actions);
}

fn validation_actions(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let actions = strings(spec, "validationActions");
    if actions.is_empty() {
        errors.push(required(path, "at least one validation action is required"));
    }
    let mut seen = BTreeSet::new();
    for (i, action) in actions.iter().enumerate() {
        let at = path.index(i);
        check::one_of(errors, &at, action, &["Audit", "Deny", "Warn"]);
        if !seen.insert(*action) {
            errors.push(duplicate(&at, *action));
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(invalid(path, get(spec, "validationActions").clone(), detail));
    }
}
