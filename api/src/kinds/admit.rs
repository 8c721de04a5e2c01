//! Admission configuration: webhooks, admission policies and their bindings.

use super::access::{self, at, child, each_mut, get, has, int_of, list, same, set_default, set_text_default, str_of};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, tidy};
use crate::field::{ErrorList, Path, duplicate, invalid, not_supported, required};
use crate::names;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The rules of ValidatingWebhookConfigurations and MutatingWebhookConfigurations.
pub struct Webhooks {
    /// Whether the webhooks may change objects.
    pub mutating: bool,
}

impl Rules for Webhooks {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        for hook in each_mut(obj, "webhooks") {
            set_text_default(hook, "failurePolicy", "Fail");
            set_text_default(hook, "matchPolicy", "Equivalent");
            child(hook, "namespaceSelector");
            child(hook, "objectSelector");
            set_default(hook, "timeoutSeconds", 10);
            if self.mutating {
                set_text_default(hook, "reinvocationPolicy", "Never");
            }
            each_mut(hook, "rules").for_each(|r| set_text_default(r, "scope", "*"));
            if let Some(service) = access::child_if(hook, "clientConfig").and_then(|c| access::child_if(c, "service")) {
                set_default(service, "port", 443);
            }
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut seen = BTreeSet::new();
        for (i, hook) in list(obj, "webhooks").iter().enumerate() {
            let path = Path::new("webhooks").index(i);
            webhook(&mut errors, &path, hook, self.mutating);
            let name = str_of(hook, "name");
            if !name.is_empty() && !seen.insert(name) {
                errors.push(duplicate(&path.child("name"), name));
            }
        }
        errors
    }

    fn desired_differs(&self, new: &Value, old: &Value) -> bool {
        !same(new.get("webhooks"), old.get("webhooks"))
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("Webhooks", "integer", "Number of webhooks."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(list(obj, "webhooks").len()),
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

fn webhook(errors: &mut ErrorList, path: &Path, hook: &Value, mutating: bool) {
    fully_qualified(errors, &path.child("name"), str_of(hook, "name"));
    label_selectors(errors, path, hook);
    review_versions(errors, &path.child("admissionReviewVersions"), hook);
    for (i, rule) in list(hook, "rules").iter().enumerate() {
        rule_with_operations(errors, &path.child("rules").index(i), rule);
    }
    check::one_of_if(
        errors,
        &path.child("failurePolicy"),
        str_of(hook, "failurePolicy"),
        &["Fail", "Ignore"],
    );
    check::one_of_if(
        errors,
        &path.child("matchPolicy"),
        str_of(hook, "matchPolicy"),
        &["Equivalent", "Exact"],
    );
    if mutating {
        check::one_of_if(
            errors,
            &path.child("reinvocationPolicy"),
            str_of(hook, "reinvocationPolicy"),
            &["IfNeeded", "Never"],
        );
    }
    let effects = ["None", "NoneOnDryRun"];
    match str_of(hook, "sideEffects") {
        "" => errors.push(required(
            &path.child("sideEffects"),
            "must specify one of None, NoneOnDryRun",
        )),
        value => check::one_of(errors, &path.child("sideEffects"), value, &effects),
    }
    if let Some(seconds) = int_of(hook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        errors.push(invalid(
            &path.child("timeoutSeconds"),
            seconds,
            "the timeout value must be between 1 and 30 seconds",
        ));
    }
    client_config(errors, &path.child("clientConfig"), get(hook, "clientConfig"));
    match_conditions(errors, &path.child("matchConditions"), hook);
}

fn fully_qualified(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.push(required(path, ""));
        return;
    }
    let messages = names::dns1123_subdomain(name);
    if !messages.is_empty() {
        check::each(errors, path, name, messages);
    } else if name.split('.').count() < 3 {
        errors.push(invalid(
            path,
            name,
            "should be a domain with at least three segments separated by dots",
        ));
    }
}

fn review_versions(errors: &mut ErrorList, path: &Path, hook: &Value) {
    let versions = strings(hook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.push(required(path, "must specify one of v1, v1beta1"));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, version) in versions.iter().enumerate() {
        if !seen.insert(*version) {
            errors.push(invalid(&path.index(i), *version, "duplicate version"));
        }
        check::each(errors, &path.index(i), version, names::dns1035_label(version));
    }
    if !versions.iter().any(|v| ["v1", "v1beta1"].contains(v)) {
        errors.push(invalid(
            path,
            get(hook, "admissionReviewVersions").clone(),
            "must include at least one of v1, v1beta1",
        ));
    }
}

fn label_selectors(errors: &mut ErrorList, path: &Path, owner: &Value) {
    for key in ["namespaceSelector", "objectSelector"] {
        if get(owner, key).is_object() {
            check::label_selector(errors, &path.child(key), get(owner, key));
        }
    }
}

fn match_conditions(errors: &mut ErrorList, path: &Path, owner: &Value) {
    const COUNT_MAX: usize = 64;
    let conditions = list(owner, "matchConditions");
    if conditions.len() > COUNT_MAX {
        errors.push(crate::field::too_many(path, conditions.len(), COUNT_MAX));
    }
    let mut seen = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let name = str_of(condition, "name");
        if name.is_empty() {
            errors.push(required(&path.child("name"), ""));
        } else {
            check::qualified(errors, &path.child("name"), name);
            if !seen.insert(name) {
                errors.push(duplicate(&path.child("name"), name));
            }
        }
        if str_of(condition, "expression").trim().is_empty() {
            errors.push(required(&path.child("expression"), ""));
        }
    }
}

fn rule_with_operations(errors: &mut ErrorList, path: &Path, rule: &Value) {
    const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let operations = strings(rule, "operations");
    let at_operations = path.child("operations");
    if operations.is_empty() {
        errors.push(required(&at_operations, ""));
    }
    if operations.len() > 1 && operations.contains(&"*") {
        errors.push(invalid(
            &at_operations,
            get(rule, "operations").clone(),
            "if '*' is present, must not specify other operations",
        ));
    }
    for (i, operation) in operations.iter().enumerate() {
        check::one_of(errors, &at_operations.index(i), operation, OPERATIONS);
    }
    for (key, noun) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let values = strings(rule, key);
        if values.is_empty() {
            errors.push(required(&path.child(key), ""));
        }
        if values.len() > 1 && values.contains(&"*") {
            errors.push(invalid(
                &path.child(key),
                get(rule, key).clone(),
                format!("if '*' is present, must not specify other {noun}"),
            ));
        }
        if key == "apiVersions" {
            for (i, _) in values.iter().enumerate().filter(|(_, v)| v.is_empty()) {
                errors.push(required(&path.child(key).index(i), ""));
            }
        }
    }
    let resources = strings(rule, "resources");
    if resources.is_empty() {
        errors.push(required(&path.child("resources"), ""));
    }
    for (i, _) in resources.iter().enumerate().filter(|(_, r)| r.is_empty()) {
        errors.push(required(&path.child("resources").index(i), ""));
    }
    if resources.len() > 1 && resources.contains(&"*/*") {
        errors.push(invalid(
            &path.child("resources"),
            get(rule, "resources").clone(),
            "if '*/*' is present, must not specify other resources",
        ));
    }
    check::one_of_if(
        errors,
        &path.child("scope"),
        str_of(rule, "scope"),
        &["*", "Cluster", "Namespaced"],
    );
}

/// Where a webhook is reached.
pub fn client_config(errors: &mut ErrorList, path: &Path, config: &Value) {
    let (url, service) = (str_of(config, "url"), get(config, "service"));
    if has(config, "url") == service.is_object() {
        errors.push(required(path, "exactly one of url or service is required"));
    } else if has(config, "url") {
        webhook_url(errors, &path.child("url"), url);
    } else {
        let at_service = path.child("service");
        for key in ["name", "namespace"] {
            if str_of(service, key).is_empty() {
                errors.push(required(&at_service.child(key), format!("service {key} is required")));
            }
        }
        let place = str_of(service, "path");
        if !place.is_empty() && !place.starts_with('/') {
            errors.push(invalid(&at_service.child("path"), place, "must start with a '/'"));
        }
        if let Some(port) = int_of(service, "port").filter(|p| !(1..=65535).contains(p)) {
            errors.push(invalid(
                &at_service.child("port"),
                port,
                "port is not valid: must be between 1 and 65535, inclusive",
            ));
        }
    }
}

fn webhook_url(errors: &mut ErrorList, path: &Path, url: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Some((scheme, rest)) = url.split_once("://") else {
        errors.push(invalid(
            path,
            "",
            format!("'https' is the only allowed URL scheme{FORM}"),
        ));
        return;
    };
    if scheme != "https" {
        errors.push(invalid(
            path,
            scheme,
            format!("'https' is the only allowed URL scheme{FORM}"),
        ));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    if host.is_empty() {
        errors.push(invalid(path, "", format!("host must be specified{FORM}")));
    }
    if let Some((user, _)) = host.split_once('@') {
        errors.push(invalid(path, user, "user information is not permitted in the URL"));
    }
    for (mark, noun) in [('#', "fragments are"), ('?', "query parameters are")] {
        if let Some((_, tail)) = rest.split_once(mark) {
            errors.push(invalid(path, tail, format!("{noun} not permitted in the URL")));
        }
    }
}

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
            for key in ["apiVersion", "kind"] {
                if str_of(kind, key).is_empty() {
                    errors.push(required(&path.child("paramKind").child(key), ""));
                }
            }
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
        if self.mutating {
            mutations(&mut errors, &path, spec);
        } else {
            validations(&mut errors, &path, spec);
        }
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
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

fn match_resources(errors: &mut ErrorList, path: &Path, matching: &Value) {
    label_selectors(errors, path, matching);
    for key in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in list(matching, key).iter().enumerate() {
            rule_with_operations(errors, &path.child(key).index(i), rule);
        }
    }
    check::one_of_if(
        errors,
        &path.child("matchPolicy"),
        str_of(matching, "matchPolicy"),
        &["Equivalent", "Exact"],
    );
}

fn validations(errors: &mut ErrorList, path: &Path, spec: &Value) {
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
        let message = str_of(validation, "message");
        if message.contains('\n') {
            errors.push(invalid(&path.child("message"), message, "must not contain line breaks"));
        }
        if has(validation, "reason")
            && !(REASONS.contains(&str_of(validation, "reason")) || str_of(validation, "reason") == "Unauthorized")
        {
            errors.push(not_supported(
                &path.child("reason"),
                str_of(validation, "reason"),
                REASONS,
            ));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let path = path.child("auditAnnotations").index(i);
        let key = str_of(annotation, "key");
        check::qualified(errors, &path.child("key"), key);
        if str_of(annotation, "valueExpression").trim().is_empty() {
            errors.push(required(
                &path.child("valueExpression"),
                "valueExpression is not specified",
            ));
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
            _ if !reference.is_object() => "<unset>".to_owned(),
            ("", "") => "*".to_owned(),
            ("", name) => name.to_owned(),
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
    match (
        str_of(reference, "name").is_empty(),
        get(reference, "selector").is_object(),
    ) {
        (true, false) => errors.push(required(path, "one of name or selector must be specified")),
        (false, true) => errors.push(crate::field::forbidden(
            &path.child("name"),
            "name and selector are mutually exclusive",
        )),
        _ => {}
    }
    let action = str_of(reference, "parameterNotFoundAction");
    check::required_one_of(
        errors,
        &path.child("parameterNotFoundAction"),
        action,
        &["Allow", "Deny"],
    );
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
