//! Flow control: FlowSchemas and PriorityLevelConfigurations.
//!
//! The objects called [`MANDATORY`] have a specification that nobody may change: without them requests have no place.

use super::access::{self, at, child, get, int_of, list, set, set_default, str_of, text};
use super::check;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, go, meta, tidy};
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, not_supported, required};
use jiff::Timestamp;
use serde_json::{Value, json};

mod mandatory;

/// Names of the schemas and levels that there must always be.
pub const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Most queues of a level.
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of a flow's hash that may be used up by dealing a hand of queues.
const HASH_BITS: i64 = 60;

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
        mandatory::schema(&mut errors, &path, access::name(obj), spec);
        conditions(&mut errors, obj);
        errors
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("PriorityLevel", "string", "Priority level of matching requests."),
            shown("MatchingPrecedence", "string", "Order in which schemas are tried."),
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

    /// In the order in which requests are matched.
    fn order_rows(&self, objects: &mut [Value]) {
        objects.sort_by_key(|o| int_of(at(o, "/spec"), "matchingPrecedence"));
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
    for (i, item) in subjects.iter().enumerate() {
        subject(errors, &path.child("subjects").index(i), item);
    }
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        errors.push(required(
            path,
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        ));
    }
    for (i, item) in list(rule, "resourceRules").iter().enumerate() {
        let at = path.child("resourceRules").index(i);
        verbs(errors, &at, item);
        for (key, missing, other) in [
            (
                "apiGroups",
                "resource rules must supply at least one api group",
                "api groups",
            ),
            (
                "resources",
                "resource rules must supply at least one resource",
                "resources",
            ),
        ] {
            if list(item, key).is_empty() {
                errors.push(required(&at.child(key), missing));
            }
            only_wildcard(errors, &at.child(key), item, key, other);
        }
        let names = check::strings(item, "namespaces");
        let at = at.child("namespaces");
        if names.is_empty() && !access::flag(item, "clusterScope") {
            let missing = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.push(required(&at, missing));
        } else if !only_wildcard(errors, &at, item, "namespaces", "namespaces") {
            for (n, name) in names.iter().enumerate() {
                for wrong in meta::NameRule::Label.objections(name, false) {
                    let detail = format!("each member of this list must be '*' or a DNS-1123 label; {wrong}");
                    errors.push(invalid(&at.index(n), *name, detail));
                }
            }
        }
    }
    for (i, item) in list(rule, "nonResourceRules").iter().enumerate() {
        let at = path.child("nonResourceRules").index(i);
        verbs(errors, &at, item);
        let urls = check::strings(item, "nonResourceURLs");
        let at = at.child("nonResourceURLs");
        if urls.is_empty() {
            errors.push(required(&at, "nonResourceURLs must contain at least one value"));
        } else if !only_wildcard(errors, &at, item, "nonResourceURLs", "non-resource URLs") {
            for (n, url) in urls.iter().enumerate() {
                if let Some(wrong) = url_objection(url) {
                    errors.push(invalid(&at.index(n), *url, wrong));
                }
            }
        }
    }
}

/// Exactly the member that belongs to a subject's kind is there, and filled in.
fn subject(errors: &mut ErrorList, path: &Path, subject: &Value) {
    const MEMBERS: [(&str, &str); 3] = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    let kind = str_of(subject, "kind");
    let Some((_, own)) = MEMBERS.iter().find(|(name, _)| *name == kind) else {
        errors.push(not_supported(
            &path.child("kind"),
            kind,
            &["Group", "ServiceAccount", "User"],
        ));
        return;
    };
    let (value, at) = (get(subject, own), path.child(own));
    if value.is_object() {
        let name = str_of(value, "name");
        if name.is_empty() {
            errors.push(required(&at.child("name"), ""));
        } else if kind == "ServiceAccount" && name != "*" {
            check::dns_subdomain(errors, &at.child("name"), name);
        }
        let namespace = str_of(value, "namespace");
        if kind == "ServiceAccount" && namespace.is_empty() {
            errors.push(required(
                &at.child("namespace"),
                "must specify namespace for service account",
            ));
        } else if kind == "ServiceAccount" {
            check::dns_label(errors, &at.child("namespace"), namespace);
        }
    } else {
        errors.push(required(
            &at,
            format!("{own} is required when subject kind is '{kind}'"),
        ));
    }
    for (name, member) in MEMBERS
        .iter()
        .filter(|(name, member)| *name != kind && get(subject, member).is_object())
    {
        let detail = format!("{member} is forbidden when subject kind is not '{name}'");
        errors.push(forbidden(&path.child(member), detail));
    }
}

fn verbs(errors: &mut ErrorList, path: &Path, rule: &Value) {
    const VERBS: [&str; 9] = [
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "proxy",
        "update",
        "watch",
    ];
    let (verbs, at) = (check::strings(rule, "verbs"), path.child("verbs"));
    if verbs.is_empty() {
        errors.push(required(&at, "verbs must contain at least one value"));
    } else if !only_wildcard(errors, &at, rule, "verbs", "verbs") && !verbs.iter().all(|verb| VERBS.contains(verb)) {
        errors.push(not_supported(&at, json!(verbs), &VERBS));
    }
}

/// Whether the list has a `*`, which must then be all it has.
fn only_wildcard(errors: &mut ErrorList, path: &Path, rule: &Value, key: &str, others: &str) -> bool {
    let items = check::strings(rule, key);
    let found = items.contains(&"*");
    if found && items.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {others}");
        errors.push(invalid(path, json!(items), detail));
    }
    found
}

/// What is wrong with a path of a rule about other requests.
fn url_objection(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn conditions(errors: &mut ErrorList, obj: &Value) {
    let path = Path::new("status").child("conditions");
    let conditions = list(at(obj, "/status"), "conditions");
    let repeated = check::repeats(conditions.iter().map(|condition| str_of(condition, "type")));
    for (i, (condition, repeated)) in conditions.iter().zip(repeated).enumerate() {
        let (kind, at) = (str_of(condition, "type"), path.index(i).child("type"));
        if repeated {
            errors.push(duplicate(&at, kind));
        }
        if kind.is_empty() {
            errors.push(required(&at, "must not be empty"));
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
        let (kind, name) = (str_of(spec, "type"), access::name(obj));
        let at_type = path.child("type");
        if (name == "exempt") != (kind == "Exempt") {
            let detail = "type must be 'Exempt' if and only if name is 'exempt'";
            errors.push(invalid(&at_type, kind, detail));
        }
        let (limited, exempt) = (get(spec, "limited"), get(spec, "exempt"));
        match kind {
            "Exempt" => {
                if limited.is_object() {
                    let detail = "must be nil if the type is not Limited";
                    errors.push(forbidden(&path.child("limited"), detail));
                }
                nominal(&mut errors, &path.child("exempt"), exempt);
                percents(&mut errors, &path.child("exempt"), exempt);
            }
            "Limited" => {
                if exempt.is_object() {
                    errors.push(forbidden(&path.child("exempt"), "must be nil if the type is Limited"));
                }
                if limited.is_object() {
                    let at_limited = path.child("limited");
                    nominal(&mut errors, &at_limited, limited);
                    let response = get(limited, "limitResponse");
                    limit_response(&mut errors, &at_limited.child("limitResponse"), response);
                    percents(&mut errors, &at_limited, limited);
                } else {
                    let detail = "must not be empty when type is Limited";
                    errors.push(required(&path.child("limited"), detail));
                }
            }
            _ => errors.push(not_supported(&at_type, kind, &["Exempt", "Limited"])),
        }
        mandatory::level(&mut errors, &path, name, spec);
        conditions(&mut errors, obj);
        errors
    }

    fn status_keeps_metadata(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Type", "string", "Whether the level is limited."),
            shown(
                "NominalConcurrencyShares",
                "string",
                "Share of the server's concurrency.",
            ),
            shown("Queues", "string", "Number of queues."),
            shown("HandSize", "string", "Queues that one flow may use."),
            shown("QueueLengthLimit", "string", "Longest queue."),
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

/// What a level has of the server's seats.
fn nominal(errors: &mut ErrorList, path: &Path, own: &Value) {
    let field = "nominalConcurrencyShares";
    if let Some(number) = int_of(own, field).filter(|number| *number < 0) {
        errors.push(invalid(&path.child(field), number, "must be a non-negative integer"));
    }
}

/// What a level lends and borrows.
fn percents(errors: &mut ErrorList, path: &Path, own: &Value) {
    if let Some(percent) = int_of(own, "lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        let at = path.child("lendablePercent");
        errors.push(invalid(&at, percent, "must be between 0 and 100, inclusive"));
    }
    if let Some(percent) = int_of(own, "borrowingLimitPercent").filter(|percent| *percent < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.push(invalid(&path.child("borrowingLimitPercent"), percent, detail));
    }
}

fn limit_response(errors: &mut ErrorList, path: &Path, response: &Value) {
    let (queuing, at) = (get(response, "queuing"), path.child("queuing"));
    match str_of(response, "type") {
        "Reject" if queuing.is_object() => errors.push(forbidden(
            &at,
            "must be nil if limited.limitResponse.type is not Limited",
        )),
        "Reject" => {}
        "Queue" if queuing.is_object() => queues(errors, &at, queuing),
        "Queue" => errors.push(required(
            &at,
            "must not be empty if limited.limitResponse.type is Limited",
        )),
        other => errors.push(not_supported(&path.child("type"), other, &["Queue", "Reject"])),
    }
}

fn queues(errors: &mut ErrorList, path: &Path, queuing: &Value) {
    let number = |field: &str| int_of(queuing, field).unwrap_or(0);
    let (queues, hand, length) = (number("queues"), number("handSize"), number("queueLengthLimit"));
    if length <= 0 {
        errors.push(invalid(&path.child("queueLengthLimit"), length, "must be positive"));
    }
    let at_queues = path.child("queues");
    if queues <= 0 {
        errors.push(invalid(&at_queues, queues, "must be positive"));
    } else if queues > QUEUES_MAX {
        errors.push(invalid(
            &at_queues,
            queues,
            format!("must not be greater than {QUEUES_MAX}"),
        ));
    }
    let at_hand = path.child("handSize");
    // Each card of a hand takes as many bits of the hash as there are bits in the number of queues.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "small positive numbers"
    )]
    let bits = ((queues.max(1) as f64).log2() * hand as f64).ceil() as i64;
    if hand <= 0 {
        errors.push(invalid(&at_hand, hand, "must be positive"));
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.push(invalid(&at_hand, hand, detail));
    } else if bits > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.push(invalid(&at_hand, hand, detail));
    }
}

#[cfg(test)]
mod tests;
