//! Limits on what a namespace may ask for: ResourceQuota and LimitRange.

use super::access::{self, at, child, each_mut, entries, get, list, set, set_default, str_of, text};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, resources, tidy};
use crate::Quantity;
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

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
        }
        for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
            if pair.iter().all(|p| scopes.contains(p)) {
                errors.push(invalid(&at_scopes, shown.clone(), "conflicting scopes"));
            }
        }
        for e in list(at(spec, "/scopeSelector"), "matchExpressions") {
            scope_expression(&mut errors, &path.child("scopeSelector").child("matchExpressions"), e);
        }
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

fn scope_expression(errors: &mut ErrorList, path: &Path, e: &Value) {
    let (scope, operator, values) = (str_of(e, "scopeName"), str_of(e, "operator"), list(e, "values"));
    if !SCOPES.contains(&scope) {
        errors.push(invalid(&path.child("scopeName"), scope, "unsupported scope"));
    } else if !["PriorityClass", "VolumeAttributesClass"].contains(&scope) && operator != "Exists" {
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
            if !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) && !kind.contains('/') {
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

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            Column {
                name: "Created At",
                kind: "date",
                format: "",
                description: "Time at which the object was created.",
                priority: 0,
            },
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, _now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(text(obj, "/metadata/creationTimestamp")),
        ]
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
    const PARTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for part in PARTS {
        for (name, _) in entries(item, part) {
            resources::limit_name(errors, &path.child(part).key(name), kind, name);
            names.insert(name);
        }
    }
    if kind == "Pod" {
        for part in ["default", "defaultRequest"] {
            if !access::is_empty(get(item, part)) {
                errors.push(forbidden(
                    &path.child(part),
                    format!("may not be specified when `type` is '{kind}'"),
                ));
            }
        }
    }
    if kind == "PersistentVolumeClaim" && !names.contains("storage") {
        errors.push(required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    for name in names {
        let value = |part: &str| Quantity::parse(str_of(get(item, part), name)).ok();
        let text_of = |part: &str| str_of(get(item, part), name).to_owned();
        let order = [
            ("min", "max", "max"),
            ("defaultRequest", "max", "max"),
            ("default", "max", "max"),
            ("defaultRequest", "default", "default"),
        ];
        for (low, high, noun) in order {
            if let (Some(a), Some(b)) = (value(low), value(high))
                && a > b
            {
                let detail = format!(
                    "{} value {} is greater than {noun} value {}",
                    word(low),
                    text_of(low),
                    text_of(high)
                );
                errors.push(invalid(&path.child(low).key(name), text_of(low), detail));
            }
        }
        for part in ["defaultRequest", "default"] {
            if let (Some(low), Some(x)) = (value("min"), value(part))
                && low > x
            {
                let detail = format!(
                    "min value {} is greater than {} value {}",
                    text_of("min"),
                    word(part),
                    text_of(part)
                );
                errors.push(invalid(&path.child(part).key(name), text_of(part), detail));
            }
        }
        if value("maxLimitRequestRatio").is_some_and(|r| r < Quantity::from_int(1)) {
            let detail = format!("ratio {} is less than 1", text_of("maxLimitRequestRatio"));
            errors.push(invalid(
                &path.child("maxLimitRequestRatio").key(name),
                text_of("maxLimitRequestRatio"),
                detail,
            ));
        }
    }
}

fn word(part: &str) -> &str {
    if part == "defaultRequest" {
        "default request"
    } else {
        part
    }
}
