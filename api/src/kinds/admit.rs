//! Admission webhooks, and what their rules share with those of admission policies.

pub mod policy;

use super::access::{self, child, each_mut, get, has, int_of, list, same, set_default, set_text_default, str_of};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, tidy};
use crate::field::{ErrorList, Path, duplicate, invalid, required};
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
            review_versions(&mut errors, &path.child("admissionReviewVersions"), hook);
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
    label_selectors(errors, path, hook);
    if mutating {
        check::one_of_if(
            errors,
            &path.child("reinvocationPolicy"),
            str_of(hook, "reinvocationPolicy"),
            &["IfNeeded", "Never"],
        );
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
        errors.push(invalid(path, name, messages.join(",")));
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
            continue;
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
        if str_of(condition, "expression").trim().is_empty() {
            errors.push(required(&path.child("expression"), ""));
        }
        if name.is_empty() {
            errors.push(required(&path.child("name"), ""));
        } else {
            check::qualified(errors, &path.child("name"), name);
            if !seen.insert(name) {
                errors.push(duplicate(&path.child("name"), name));
            }
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
    resources(errors, &path.child("resources"), &strings(rule, "resources"));
    check::one_of_if(
        errors,
        &path.child("scope"),
        str_of(rule, "scope"),
        &["*", "Cluster", "Namespaced"],
    );
}

/// Resources with and without subresources, none of which may already be meant by one before it.
fn resources(errors: &mut ErrorList, path: &Path, resources: &[&str]) {
    if resources.is_empty() {
        errors.push(required(path, ""));
    }
    let mut whole = false;
    for (i, resource) in resources.iter().enumerate() {
        let (place, before) = (path.index(i), resources.get(..i).unwrap_or_default());
        if resource.is_empty() {
            errors.push(required(&place, ""));
        }
        let Some((name, sub)) = resource.split_once('/') else {
            // What is said last counts.
            whole = if resource.is_empty() { whole } else { *resource != "*" };
            continue;
        };
        for wider in [format!("{name}/*"), format!("*/{sub}")] {
            if before.contains(&wider.as_str()) {
                let detail = format!("if '{wider}' is present, must not specify {resource}");
                errors.push(invalid(&place, *resource, detail));
            }
        }
    }
    if resources.len() > 1 && resources.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(invalid(path, json!(resources), detail));
    }
    if whole && resources.contains(&"*") {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(invalid(path, json!(resources), detail));
    }
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
        if let Some(port) = int_of(service, "port").filter(|p| !(1..=65535).contains(p)) {
            errors.push(invalid(
                &at_service.child("port"),
                port,
                "port is not valid: must be between 1 and 65535, inclusive",
            ));
        }
        service_path(errors, &at_service.child("path"), str_of(service, "path"));
    }
}

/// A path at a service: names between slashes.
fn service_path(errors: &mut ErrorList, path: &Path, given: &str) {
    if given.is_empty() || given == "/" {
        return;
    }
    if !given.starts_with('/') {
        errors.push(invalid(path, given, "must start with a '/'"));
    }
    // Whatever the first character is, it is taken for the slash.
    let mut rest = given.chars();
    rest.next();
    let rest = rest.as_str();
    for (i, name) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if name.is_empty() {
            errors.push(invalid(path, given, format!("segment[{i}] may not be empty")));
            continue;
        }
        for objection in names::dns1123_subdomain(name) {
            errors.push(invalid(path, given, format!("segment[{i}]: {objection}")));
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
