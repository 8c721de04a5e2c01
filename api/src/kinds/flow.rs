//! Flow control: FlowSchemas and PriorityLevelConfigurations.

use super::access::{self, at, child, get, int_of, list, set, set_default, str_of, text};
use super::check;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, go, tidy};
use crate::field::{ErrorList, Path, invalid, required};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rules of FlowSchemas.
pub struct FlowSchema;

impl Rules for FlowSchema {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        if int_of(spec, "matchingPrecedence").unwrap_or(0) == 0 {
            set(spec, "matchingPrecedence", 1000);
        }
        child(obj, "status");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        let precedence = int_of(spec, "matchingPrecedence").unwrap_or(0);
        let at_precedence = path.child("matchingPrecedence");
        if precedence <= 0 {
            errors.push(invalid(&at_precedence, precedence, "must be a positive value"));
        }
        if precedence > 10_000 {
            errors.push(invalid(&at_precedence, precedence, "must not be greater than 10000"));
        }
        if precedence == 1 && access::name(obj) != "exempt" {
            errors.push(invalid(
                &at_precedence,
                precedence,
                "only the schema named 'exempt' may have matchingPrecedence 1",
            ));
        }
        let method = get(spec, "distinguisherMethod");
        let kind = str_of(method, "type");
        if method.is_object() && !["ByNamespace", "ByUser"].contains(&kind) {
            let shown = format!("{{\"Type\":{}}}", json!(kind));
            errors.push(go::not_supported_shown(
                &path.child("distinguisherMethod").child("type"),
                &shown,
                &["ByNamespace", "ByUser"],
            ));
        }
        let level = text(spec, "/priorityLevelConfiguration/name");
        let at_level = path.child("priorityLevelConfiguration").child("name");
        if level.is_empty() {
            errors.push(required(&at_level, "must reference a priority level"));
        } else {
            check::dns_subdomain(&mut errors, &at_level, level);
        }
        for (i, rule) in list(spec, "rules").iter().enumerate() {
            flow_rule(&mut errors, &path.child("rules").index(i), rule);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("PriorityLevel", "string", "Priority level of matching requests."),
            shown("MatchingPrecedence", "integer", "Order in which schemas are tried."),
            shown("DistinguisherMethod", "string", "How flows are told apart."),
            AGE,
            shown("MissingPL", "string", "Whether the priority level is missing."),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        let dangling = list(at(obj, "/status"), "conditions")
            .iter()
            .find(|c| str_of(c, "type") == "Dangling")
            .map(|c| str_of(c, "status"));
        vec![
            json!(access::name(obj)),
            json!(text(spec, "/priorityLevelConfiguration/name")),
            print::number(spec, "/matchingPrecedence"),
            print::text_or_none(spec, "/distinguisherMethod/type"),
            print::age(obj, now),
            json!(dangling.unwrap_or("?")),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn flow_rule(errors: &mut ErrorList, path: &Path, rule: &Value) {
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        errors.push(required(
            &path.child("subjects"),
            "subjects must contain at least one value",
        ));
    }
    for (i, subject) in subjects.iter().enumerate() {
        let at = path.child("subjects").index(i).child("kind");
        check::one_of(
            errors,
            &at,
            str_of(subject, "kind"),
            &["Group", "ServiceAccount", "User"],
        );
    }
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        errors.push(required(
            path,
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        ));
    }
    for (key, needed) in [
        ("resourceRules", &["verbs", "apiGroups", "resources"][..]),
        ("nonResourceRules", &["verbs", "nonResourceURLs"][..]),
    ] {
        for (i, r) in list(rule, key).iter().enumerate() {
            for part in needed.iter().filter(|p| list(r, p).is_empty()) {
                errors.push(required(&path.child(key).index(i).child(part), ""));
            }
        }
    }
}

/// The rules of PriorityLevelConfigurations.
pub struct PriorityLevel;

impl Rules for PriorityLevel {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        match str_of(spec, "type") {
            "Limited" => {
                let limited = child(spec, "limited");
                set_default(limited, "nominalConcurrencyShares", 30);
                set_default(limited, "lendablePercent", 0);
                let response = child(limited, "limitResponse");
                if str_of(response, "type") == "Queue" {
                    let queuing = child(response, "queuing");
                    for (key, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                        set_default(queuing, key, value);
                    }
                }
            }
            "Exempt" => {
                let exempt = child(spec, "exempt");
                set_default(exempt, "nominalConcurrencyShares", 0);
                set_default(exempt, "lendablePercent", 0);
            }
            _ => {}
        }
        child(obj, "status");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        let kind = str_of(spec, "type");
        check::one_of(&mut errors, &path.child("type"), kind, &["Exempt", "Limited"]);
        if kind == "Limited" {
            if !get(spec, "limited").is_object() {
                errors.push(required(
                    &path.child("limited"),
                    "must not be empty when type is Limited",
                ));
            }
            let at_response = path.child("limited").child("limitResponse").child("type");
            check::one_of(
                &mut errors,
                &at_response,
                text(spec, "/limited/limitResponse/type"),
                &["Queue", "Reject"],
            );
            let shares = access::int(spec, "/limited/nominalConcurrencyShares");
            check::non_negative(
                &mut errors,
                &path.child("limited").child("nominalConcurrencyShares"),
                shares,
            );
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Type", "string", "Whether the level is limited."),
            shown(
                "NominalConcurrencyShares",
                "integer",
                "Share of the server's concurrency.",
            ),
            shown("Queues", "integer", "Number of queues."),
            shown("HandSize", "integer", "Queues that one flow may use."),
            shown("QueueLengthLimit", "integer", "Longest queue."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        let cell = |pointer: &str| spec.pointer(pointer).cloned().unwrap_or_else(|| json!("<none>"));
        vec![
            json!(access::name(obj)),
            json!(str_of(spec, "type")),
            cell("/limited/nominalConcurrencyShares"),
            cell("/limited/limitResponse/queuing/queues"),
            cell("/limited/limitResponse/queuing/handSize"),
            cell("/limited/limitResponse/queuing/queueLengthLimit"),
            print::age(obj, now),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}
