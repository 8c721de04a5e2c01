//! Limits on what runs: PodDisruptionBudget, ResourceQuota, LimitRange, PriorityClass, RuntimeClass.

use super::access::{
    self, at, child, each_mut, entries, flag, get, has, int_of, list, same, set, set_default, set_text_default, str_of,
    text,
};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, meta, pod, resources, tidy};
use crate::Quantity;
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The rules of PodDisruptionBudgets.
pub struct DisruptionBudget;

const COUNTERS: [&str; 4] = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

impl Rules for DisruptionBudget {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let status = child(obj, "status");
        COUNTERS.iter().for_each(|key| set_default(status, key, 0));
    }

    fn on_create(&self, obj: &mut Value) {
        set(
            obj,
            "status",
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
        );
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
            errors.push(invalid(
                &path,
                spec.clone(),
                "minAvailable and maxUnavailable cannot be both set",
            ));
        }
        for key in ["minAvailable", "maxUnavailable"] {
            check::int_or_percent(&mut errors, &path.child(key), get(spec, key));
            check::not_above_100_percent(&mut errors, &path.child(key), get(spec, key));
        }
        check::label_selector(&mut errors, &path.child("selector"), get(spec, "selector"));
        if has(spec, "unhealthyPodEvictionPolicy") {
            let at = path.child("unhealthyPodEvictionPolicy");
            check::one_of(
                &mut errors,
                &at,
                str_of(spec, "unhealthyPodEvictionPolicy"),
                &["AlwaysAllow", "IfHealthyBudget"],
            );
        }
        errors
    }

    fn check_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> ErrorList {
        if sub != Some("status") {
            return self.check(new);
        }
        let mut errors = ErrorList::new();
        check::non_negative_fields(&mut errors, &Path::new("status"), at(new, "/status"), &COUNTERS);
        errors
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let selector = at(obj, "/spec/selector");
        if selector.is_object() && check::selector_is_empty(selector) && str_of(obj, "apiVersion") == "policy/v1beta1" {
            return vec!["an empty spec.selector matches nothing".to_owned()];
        }
        Vec::new()
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Min Available", "string", "Pods that must stay."),
            shown("Max Unavailable", "string", "Pods that may be away."),
            shown("Allowed Disruptions", "integer", "Evictions that are possible now."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let cell = |key: &str| match at(obj, "/spec").get(key) {
            Some(Value::String(s)) => s.clone(),
            Some(Value::Number(n)) => n.to_string(),
            _ => "N/A".to_owned(),
        };
        vec![
            json!(access::name(obj)),
            json!(cell("minAvailable")),
            json!(cell("maxUnavailable")),
            print::number(obj, "/status/disruptionsAllowed"),
            print::age(obj, now),
        ]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

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

/// The rules of PriorityClasses.
pub struct PriorityClass;

/// The highest value that users may give.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

impl Rules for PriorityClass {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        tidy::drop_zero(obj, &["globalDefault", "description"]);
        set_text_default(obj, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (name, value) = (access::name(obj), int_of(obj, "value").unwrap_or(0));
        let system = [
            ("system-cluster-critical", 2_000_000_000),
            ("system-node-critical", 2_000_001_000),
        ];
        if name.starts_with("system-") && !system.iter().any(|(n, v)| *n == name && *v == value) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: ";
            errors.push(forbidden(
                &Path::new("metadata").child("name"),
                format!("{detail}{name} is not a known system priority class"),
            ));
        } else if !name.starts_with("system-") && value > USER_PRIORITY_MAX {
            errors.push(forbidden(
                &Path::new("value"),
                format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"),
            ));
        }
        let policies = ["PreemptLowerPriority", "Never"];
        check::one_of_if(
            &mut errors,
            &Path::new("preemptionPolicy"),
            str_of(obj, "preemptionPolicy"),
            &policies,
        );
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if int_of(new, "value") != int_of(old, "value") {
            errors.push(forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        if !same(new.get("preemptionPolicy"), old.get("preemptionPolicy")) {
            check::immutable(
                &mut errors,
                &Path::new("preemptionPolicy"),
                new.get("preemptionPolicy"),
                old.get("preemptionPolicy"),
            );
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Value", "integer", "Priority of the class."),
            shown("Global-Default", "boolean", "Whether pods without a class get it."),
            AGE,
            shown(
                "PreemptionPolicy",
                "string",
                "Whether pods of the class push others away.",
            ),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            print::number(obj, "/value"),
            json!(flag(obj, "globalDefault")),
            print::age(obj, now),
            json!(str_of(obj, "preemptionPolicy")),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn desired_differs(&self, _new: &Value, _old: &Value) -> bool {
        false
    }
}

/// The rules of RuntimeClasses.
pub struct RuntimeClass;

impl Rules for RuntimeClass {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::dns_label(&mut errors, &Path::new("handler"), str_of(obj, "handler"));
        for (name, quantity) in entries(at(obj, "/overhead"), "podFixed") {
            let path = Path::new("overhead").child("podFixed").key(name);
            resources::container_name(&mut errors, &path, name);
            resources::quantity_value(&mut errors, &path, name, quantity);
        }
        let scheduling = at(obj, "/scheduling");
        check::labels(
            &mut errors,
            &Path::new("scheduling").child("nodeSelector"),
            scheduling,
            "nodeSelector",
        );
        pod::validate::tolerations(
            &mut errors,
            &Path::new("scheduling").child("tolerations"),
            list(scheduling, "tolerations"),
        );
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        check::immutable(
            &mut errors,
            &Path::new("handler"),
            new.get("handler"),
            old.get("handler"),
        );
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Handler", "string", "Name that the container runtime knows."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(str_of(obj, "handler")),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }
}

/// The rules of CertificateSigningRequests. Who asked is filled in by the API server.
pub struct SigningRequest;

impl Rules for SigningRequest {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        for condition in each_mut(child(obj, "status"), "conditions") {
            set_text_default(condition, "status", "True");
        }
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn on_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        access::copy(new, old, "spec");
        if sub == Some("status") {
            keep_conditions(new, old, |kind| kind == "Approved" || kind == "Denied");
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        const USAGES: &[&str] = &[
            "any",
            "cert sign",
            "client auth",
            "code signing",
            "content commitment",
            "crl sign",
            "data encipherment",
            "decipher only",
            "digital signature",
            "email protection",
            "encipher only",
            "ipsec end system",
            "ipsec tunnel",
            "ipsec user",
            "key agreement",
            "key encipherment",
            "microsoft sgc",
            "netscape sgc",
            "ocsp signing",
            "s/mime",
            "server auth",
            "signing",
            "timestamping",
        ];
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        if strings(spec, "usages").is_empty() {
            errors.push(required(&path.child("usages"), ""));
        }
        let mut seen = BTreeSet::new();
        for (i, usage) in strings(spec, "usages").iter().enumerate() {
            let at = path.child("usages").index(i);
            check::one_of(&mut errors, &at, usage, USAGES);
            if !seen.insert(*usage) {
                errors.push(duplicate(&at, *usage));
            }
        }
        let signer = str_of(spec, "signerName");
        if signer.is_empty() {
            errors.push(required(&path.child("signerName"), ""));
        } else if !signer.contains('/') {
            errors.push(invalid(
                &path.child("signerName"),
                signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ));
        }
        if let Some(seconds) = int_of(spec, "expirationSeconds").filter(|s| *s < 600) {
            errors.push(invalid(
                &path.child("expirationSeconds"),
                seconds,
                "may not specify a duration less than 600 seconds (10 minutes)",
            ));
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        if sub.is_none() {
            return self.check(new);
        }
        let mut errors = ErrorList::new();
        let path = Path::new("status").child("conditions");
        let kinds = |v: &Value| {
            list(at(v, "/status"), "conditions")
                .iter()
                .map(|c| str_of(c, "type").to_owned())
                .collect::<Vec<_>>()
        };
        let (after, before) = (kinds(new), kinds(old));
        for kind in ["Approved", "Denied", "Failed"] {
            let removed = before.iter().any(|k| k == kind) && !after.iter().any(|k| k == kind);
            if removed {
                errors.push(forbidden(
                    &path,
                    format!("updates may not remove a condition of type {kind:?}"),
                ));
            }
        }
        if let Some(second) = after.iter().filter(|k| *k == "Approved" || *k == "Denied").nth(1)
            && after.iter().any(|k| k == "Approved")
            && after.iter().any(|k| k == "Denied")
        {
            errors.push(invalid(
                &path,
                second.as_str(),
                "Approved and Denied conditions are mutually exclusive",
            ));
        }
        certificate(&mut errors, new, old);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            AGE,
            shown("SignerName", "string", "Signer that is asked."),
            shown("Requestor", "string", "User who asked."),
            shown(
                "RequestedDuration",
                "string",
                "How long the certificate should be valid.",
            ),
            shown("Condition", "string", "State of the request."),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        let kinds: Vec<&str> = list(at(obj, "/status"), "conditions")
            .iter()
            .map(|c| str_of(c, "type"))
            .collect();
        let mut condition = match kinds.iter().find(|k| **k == "Denied" || **k == "Approved") {
            Some(kind) => (*kind).to_owned(),
            None => "Pending".to_owned(),
        };
        if kinds.contains(&"Failed") {
            condition.push_str(",Failed");
        }
        if !text(obj, "/status/certificate").is_empty() {
            condition.push_str(",Issued");
        }
        let duration = int_of(spec, "expirationSeconds").map_or_else(|| "<none>".to_owned(), print::human);
        vec![
            json!(access::name(obj)),
            print::age(obj, now),
            json!(str_of(spec, "signerName")),
            json!(str_of(spec, "username")),
            json!(duration),
            json!(condition),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", text(obj, "/spec/signerName").to_owned())]
    }

    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::PathSegment
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}

/// Conditions that a write may not touch keep their stored state.
fn keep_conditions(new: &mut Value, old: &Value, kept: impl Fn(&str) -> bool) {
    let stored = list(at(old, "/status"), "conditions").to_vec();
    let mut conditions: Vec<Value> = stored.into_iter().filter(|c| kept(str_of(c, "type"))).collect();
    conditions.extend(
        list(at(new, "/status"), "conditions")
            .iter()
            .filter(|c| !kept(str_of(c, "type")))
            .cloned(),
    );
    if conditions.is_empty() {
        access::remove(child(new, "status"), "conditions");
    } else {
        set(child(new, "status"), "conditions", conditions);
    }
}

fn certificate(errors: &mut ErrorList, new: &Value, old: &Value) {
    use base64::Engine;
    let (after, before) = (text(new, "/status/certificate"), text(old, "/status/certificate"));
    if after == before {
        return;
    }
    let path = Path::new("status").child("certificate");
    if !before.is_empty() {
        errors.push(forbidden(&path, "updates may not modify a set certificate"));
        return;
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(after)
        .unwrap_or_default();
    if !String::from_utf8_lossy(&decoded).contains("-----BEGIN CERTIFICATE-----") {
        errors.push(invalid(
            &path,
            "<certificate data>",
            "must contain at least one CERTIFICATE PEM block",
        ));
    }
}
