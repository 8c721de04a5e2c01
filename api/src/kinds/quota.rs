//! Limits on what a namespace may ask for: ResourceQuota and LimitRange.

use super::access::{self, at, child, each_mut, entries, get, list, set, set_default, str_of};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, resources, tidy};
use crate::Quantity;
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use crate::schema::choices::SCOPES;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The rules of ResourceQuotas.
pub struct ResourceQuota;

impl Rules for ResourceQuota {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        tidy::drop_zero(child(obj, "spec"), &["hard", "scopes"]);
        child(obj, "status");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        hard(&mut errors, &path.child("hard"), spec, "hard");
        let scopes = strings(spec, "scopes");
        let shown = get(spec, "scopes").clone();
        let at_scopes = path.child("scopes");
        for scope in &scopes {
            if !SCOPES.contains(scope) {
                errors.push(invalid(&at_scopes, shown.clone(), "unsupported scope"));
            }
            for _ in unfit(scope, spec) {
                errors.push(invalid(&at_scopes, shown.clone(), UNFIT));
            }
        }
        conflicting(&mut errors, &at_scopes, &shown, &scopes);
        let at_selector = path.child("scopeSelector").child("matchExpressions");
        let expressions = list(at(spec, "/scopeSelector"), "matchExpressions");
        for e in expressions {
            scope_expression(&mut errors, &at_selector, e, spec);
        }
        let selected: Vec<&str> = expressions.iter().map(|e| str_of(e, "scopeName")).collect();
        conflicting(&mut errors, &at_selector, &shown, &selected);
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub == Some("status") {
            for key in ["hard", "used"] {
                hard(&mut errors, &Path::new("status").child(key), at(new, "/status"), key);
            }
            return errors;
        }
        errors.extend(self.check(new));
        let set_of = |v: &Value| {
            strings(at(v, "/spec"), "scopes")
                .iter()
                .map(|s| (*s).to_owned())
                .collect::<BTreeSet<_>>()
        };
        if set_of(new) != set_of(old) {
            let path = Path::new("spec").child("scopes");
            errors.push(invalid(&path, at(new, "/spec/scopes").clone(), check::IMMUTABLE));
        }
        errors
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let hard = at(obj, "/spec/hard");
        let mut out = Vec::new();
        for name in ["cpu", "memory"] {
            let (request, limit) = (
                str_of(hard, &format!("requests.{name}")),
                str_of(hard, &format!("limits.{name}")),
            );
            if let (Ok(r), Ok(l)) = (Quantity::parse(request), Quantity::parse(limit))
                && r > l
            {
                out.push(format!(
                    "ResourceQuota requests.{name} ({request}) should be less than limits.{name} ({limit})"
                ));
            }
        }
        out
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Request", "string", "Used and allowed requests."),
            shown("Limit", "string", "Used and allowed limits."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let status = at(obj, "/status");
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, allowed) in entries(status, "hard") {
            let used = str_of(get(status, "used"), name);
            let shown = format!(
                "{name}: {}/{}",
                if used.is_empty() { "0" } else { used },
                allowed.as_str().unwrap_or("")
            );
            if name.starts_with("limits.") {
                limits.push(shown)
            } else {
                requests.push(shown)
            }
        }
        vec![
            json!(access::name(obj)),
            json!(requests.join(", ")),
            json!(limits.join(", ")),
            print::age(obj, now),
        ]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}

fn hard(errors: &mut ErrorList, path: &Path, owner: &Value, key: &str) {
    for (name, quantity) in entries(owner, key) {
        let at = path.key(name);
        resources::quota_name(errors, &at, name);
        resources::quantity_value(errors, &at, name, quantity);
    }
}

const UNFIT: &str = "unsupported scope applied to resource";

/// Resources of the quota that a scope says nothing about.
fn unfit<'a>(scope: &str, spec: &'a Value) -> Vec<&'a String> {
    entries(spec, "hard")
        .map(|(name, _)| name)
        .filter(|name| resources::is_quota_resource(name) && !resources::scope_fits(scope, name))
        .collect()
}

fn conflicting(errors: &mut ErrorList, path: &Path, shown: &Value, scopes: &[&str]) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|p| scopes.contains(p)) {
            errors.push(invalid(path, shown.clone(), "conflicting scopes"));
        }
    }
}

/// A selector as its struct prints.
fn selector_text(selector: &Value) -> String {
    let parts: Vec<String> = list(selector, "matchExpressions")
        .iter()
        .map(|e| {
            let values = get(e, "values");
            format!(
                "{{\"ScopeName\":{},\"Operator\":{},\"Values\":{values}}}",
                json!(str_of(e, "scopeName")),
                json!(str_of(e, "operator"))
            )
        })
        .collect();
    format!("{{\"MatchExpressions\":[{}]}}", parts.join(","))
}

fn scope_expression(errors: &mut ErrorList, path: &Path, e: &Value, spec: &Value) {
    let (scope, operator, values) = (str_of(e, "scopeName"), str_of(e, "operator"), list(e, "values"));
    if !SCOPES.contains(&scope) {
        errors.push(invalid(&path.child("scopeName"), scope, "unsupported scope"));
    }
    for _ in unfit(scope, spec) {
        let shown = selector_text(get(spec, "scopeSelector"));
        errors.push(super::go::invalid_shown(path, &shown, UNFIT));
    }
    let only_exists = SCOPES.contains(&scope) && !["PriorityClass", "VolumeAttributesClass"].contains(&scope);
    if only_exists && operator != "Exists" {
        let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.push(invalid(&path.child("operator"), operator, detail));
    }
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(required(
                &path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ));
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.push(invalid(&path.child("values"), get(e, "values").clone(), detail));
        }
        "Exists" | "DoesNotExist" => {}
        _ => errors.push(invalid(
            &path.child("operator"),
            operator,
            "not a valid selector operator",
        )),
    }
}

/// The rules of LimitRanges.
pub struct LimitRange;

impl Rules for LimitRange {
    fn compares_metadata_again(&self) -> bool {
        false
    }

    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        for item in each_mut(child(obj, "spec"), "limits") {
            if str_of(item, "type") == "Container" {
                inherit(item, "default", "max");
                inherit(item, "defaultRequest", "default");
                inherit(item, "defaultRequest", "min");
            }
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut seen = BTreeSet::new();
        for (i, item) in list(at(obj, "/spec"), "limits").iter().enumerate() {
            let path = Path::new("spec").child("limits").index(i);
            let kind = str_of(item, "type");
            let before = errors.len();
            check::qualified(&mut errors, &path.child("type"), kind);
            let known = ["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) || kind.contains('/');
            if errors.len() == before && !known {
                errors.push(invalid(
                    &path.child("type"),
                    kind,
                    "must be a standard limit type or fully qualified",
                ));
            }
            if !seen.insert(kind) {
                errors.push(duplicate(&path.child("type"), kind));
            }
            limit_item(&mut errors, &path, item, kind);
        }
        errors
    }
}

fn inherit(item: &mut Value, to: &str, from: &str) {
    let Some(source) = item
        .get(from)
        .and_then(Value::as_object)
        .filter(|m| !m.is_empty())
        .cloned()
    else {
        return;
    };
    let target = child(item, to);
    for (name, value) in source {
        set_default(target, &name, value);
    }
}

fn limit_item(errors: &mut ErrorList, path: &Path, item: &Value, kind: &str) {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for part in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let of_container = part.starts_with("default");
        if kind == "Pod" && of_container {
            if !access::is_empty(get(item, part)) {
                errors.push(forbidden(
                    &path.child(part),
                    "may not be specified when `type` is 'Pod'",
                ));
            }
            continue;
        }
        if part == "maxLimitRequestRatio" && kind == "PersistentVolumeClaim" {
            let sized = ["min", "max"].iter().any(|p| get(item, p).get("storage").is_some());
            if !sized {
                errors.push(required(
                    &path.child("limits"),
                    "either minimum or maximum storage value is required, but neither was provided",
                ));
            }
        }
        for (name, _) in entries(item, part) {
            resources::limit_name(errors, &path.child(part).key(name), kind, name);
            names.insert(name);
        }
    }
    for name in names {
        one_limit(errors, path, item, name);
    }
}

/// What is wrong with the bounds of one resource. The words of a part, and which of both values an objection is
/// about, are Kubernetes'.
fn one_limit(errors: &mut ErrorList, path: &Path, item: &Value, name: &str) {
    /// Smaller and larger part, the words for both, where the objection stands, and whose value it shows.
    const ORDER: [[&str; 6]; 6] = [
        ["min", "max", "min", "max", "min", "min"],
        [
            "min",
            "defaultRequest",
            "min",
            "default request",
            "defaultRequest",
            "defaultRequest",
        ],
        [
            "defaultRequest",
            "max",
            "default request",
            "max",
            "defaultRequest",
            "defaultRequest",
        ],
        [
            "defaultRequest",
            "default",
            "default request",
            "default limit",
            "defaultRequest",
            "defaultRequest",
        ],
        ["min", "default", "min", "default", "default", "min"],
        ["default", "max", "default", "max", "default", "max"],
    ];
    let value = |part: &str| Quantity::parse(str_of(get(item, part), name)).ok();
    let shown = |part: &str| value(part).map_or_else(String::new, |q| q.canonical());
    for [low, high, low_word, high_word, place, bad] in ORDER {
        if let (Some(a), Some(b)) = (value(low), value(high))
            && a > b
        {
            let detail = format!(
                "{low_word} value {} is greater than {high_word} value {}",
                shown(low),
                shown(high)
            );
            errors.push(invalid(&path.child(place).key(name), shown(bad), detail));
        }
    }
    if let Some(ratio) = value("maxLimitRequestRatio") {
        let at = path.child("maxLimitRequestRatio").key(name);
        let text = ratio.canonical();
        if ratio < Quantity::from_int(1) {
            errors.push(invalid(&at, text.as_str(), format!("ratio {text} is less than 1")));
        }
        if let (Some(min), Some(max)) = (value("min"), value("max")) {
            let most = max.as_f64() / min.as_f64();
            if ratio.as_f64() > most {
                let detail = format!("ratio {text} is greater than max/min = {most:.6}");
                errors.push(invalid(&at, text.as_str(), detail));
            }
        }
    }
    let (default, request) = (value("default"), value("defaultRequest"));
    if !resources::overcommit_allowed(name) && default.is_some() && request.is_some() && default != request {
        let detail = format!(
            "default value {} must equal to defaultRequest value {} in {name}",
            shown("default"),
            shown("defaultRequest")
        );
        errors.push(invalid(
            &path.child("defaultRequest").key(name),
            shown("defaultRequest"),
            detail,
        ));
    }
}
