//! Kinds about the API itself: flow control, aggregated services, custom resource definitions, device resources,
//! access reviews.

use super::access::{
    self, at, child, each_mut, get, has, int_of, list, set, set_default, set_text_default, str_of, text,
};
use super::check;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, go, meta, tidy};
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

/// The rules of APIServices.
pub struct ApiService;

impl Rules for ApiService {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        if let Some(service) = access::child_if(child(obj, "spec"), "service") {
            set_default(service, "port", 443);
        }
        child(obj, "status");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        let (group, version) = (str_of(spec, "group"), str_of(spec, "version"));
        let wanted = format!("{version}.{group}");
        if access::name(obj) != wanted.trim_end_matches('.') && access::name(obj) != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.push(invalid(&Path::new("metadata").child("name"), access::name(obj), detail));
        }
        check::each(
            &mut errors,
            &path.child("version"),
            version,
            crate::names::dns1035_label(version),
        );
        for (key, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let value = int_of(spec, key).unwrap_or(0);
            if !(1..=max).contains(&value) {
                errors.push(invalid(
                    &path.child(key),
                    value,
                    format!("must be positive and less than {max}"),
                ));
            }
        }
        let service = get(spec, "service");
        if service.is_object() {
            for key in ["namespace", "name"] {
                if str_of(service, key).is_empty() {
                    errors.push(required(&path.child("service").child(key), ""));
                }
            }
        }
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown(
                "Service",
                "string",
                "The reference to the service that hosts this API endpoint.",
            ),
            shown("Available", "string", "Whether this service is available."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let service = at(obj, "/spec/service");
        let shown = if service.is_object() {
            format!("{}/{}", str_of(service, "namespace"), str_of(service, "name"))
        } else {
            "Local".to_owned()
        };
        let condition = list(at(obj, "/status"), "conditions")
            .iter()
            .find(|c| str_of(c, "type") == "Available");
        let available = match condition.map(|c| (str_of(c, "status"), str_of(c, "reason"))) {
            Some(("True", _)) => "True".to_owned(),
            Some((status, reason)) => format!("{status} ({reason})"),
            None => "Unknown".to_owned(),
        };
        vec![
            json!(access::name(obj)),
            json!(shown),
            json!(available),
            print::age(obj, now),
        ]
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

/// The rules of CustomResourceDefinitions, without those of their schemas.
pub struct Definition;

impl Rules for Definition {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        let names = child(spec, "names");
        let kind = str_of(names, "kind").to_owned();
        set_text_default(names, "singular", &kind.to_lowercase());
        if !kind.is_empty() {
            set_text_default(names, "listKind", &format!("{kind}List"));
        }
        let conversion = child(spec, "conversion");
        set_text_default(conversion, "strategy", "None");
        if let Some(service) = access::child_if(conversion, "webhook")
            .and_then(|w| access::child_if(w, "clientConfig"))
            .and_then(|c| access::child_if(c, "service"))
        {
            set_default(service, "port", 443);
        }
    }

    fn on_create(&self, obj: &mut Value) {
        let stored: Vec<Value> = list(at(obj, "/spec"), "versions")
            .iter()
            .filter(|v| access::flag(v, "storage"))
            .map(|v| json!(str_of(v, "name")))
            .collect();
        set(
            obj,
            "status",
            json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}),
        );
    }

    fn on_update(&self, new: &mut Value, _old: &Value, sub: Option<&str>) {
        if sub.is_some() {
            return;
        }
        let storage: Vec<String> = list(at(new, "/spec"), "versions")
            .iter()
            .filter(|v| access::flag(v, "storage"))
            .map(|v| str_of(v, "name").to_owned())
            .collect();
        let mut stored = at(new, "/status/storedVersions")
            .as_array()
            .cloned()
            .unwrap_or_default();
        for version in storage {
            if !stored.iter().any(|s| *s == version) {
                stored.push(json!(version));
            }
        }
        set(child(new, "status"), "storedVersions", stored);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        let (group, plural) = (str_of(spec, "group"), text(spec, "/names/plural"));
        let wanted = format!("{plural}.{group}");
        if access::name(obj) != wanted {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.push(invalid(&Path::new("metadata").child("name"), access::name(obj), detail));
        }
        if group.is_empty() {
            errors.push(required(&path.child("group"), ""));
        } else {
            check::dns_subdomain(&mut errors, &path.child("group"), group);
            if !group.contains('.') {
                errors.push(invalid(
                    &path.child("group"),
                    group,
                    "should be a domain with at least one dot",
                ));
            }
        }
        check::required_one_of(
            &mut errors,
            &path.child("scope"),
            str_of(spec, "scope"),
            &["Cluster", "Namespaced"],
        );
        definition_names(&mut errors, &path.child("names"), get(spec, "names"));
        let versions = list(spec, "versions");
        if versions.iter().filter(|v| access::flag(v, "storage")).count() != 1 {
            let shown = get(spec, "versions").clone();
            errors.push(invalid(
                &path.child("versions"),
                shown,
                "must have exactly one version marked as storage version",
            ));
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
                description: "Time at which the definition was created.",
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

    fn allows_unconditional_update(&self) -> bool {
        false
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

fn definition_names(errors: &mut ErrorList, path: &Path, names: &Value) {
    for key in ["plural", "singular", "kind", "listKind"] {
        let value = str_of(names, key);
        if value.is_empty() {
            errors.push(required(&path.child(key), ""));
            continue;
        }
        check::each(
            errors,
            &path.child(key),
            value,
            crate::names::dns1035_label(&value.to_lowercase()),
        );
    }
    let (kind, list_kind) = (str_of(names, "kind"), str_of(names, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        errors.push(invalid(
            &path.child("listKind"),
            list_kind,
            "kind and listKind may not be the same",
        ));
    }
}

/// The rules of ResourceClaims.
pub struct ResourceClaim;

fn default_requests(spec: &mut Value) {
    for request in each_mut(child(spec, "devices"), "requests") {
        if let Some(exactly) = access::child_if(request, "exactly") {
            default_request(exactly);
        }
        each_mut(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    set_text_default(request, "allocationMode", "ExactCount");
    if str_of(request, "allocationMode") == "ExactCount" {
        set_default(request, "count", 1);
    }
    each_mut(request, "tolerations").for_each(|t| set_text_default(t, "operator", "Equal"));
}

fn check_requests(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let mut seen = std::collections::BTreeSet::new();
    for (i, request) in list(at(spec, "/devices"), "requests").iter().enumerate() {
        let path = path.child("devices").child("requests").index(i);
        let name = str_of(request, "name");
        if name.is_empty() {
            errors.push(required(&path.child("name"), ""));
        } else {
            check::dns_label(errors, &path.child("name"), name);
            if !seen.insert(name) {
                errors.push(crate::field::duplicate(&path.child("name"), name));
            }
        }
        let exactly = get(request, "exactly");
        match (exactly.is_object(), list(request, "firstAvailable").is_empty()) {
            (false, true) => errors.push(required(
                &path,
                "exactly one of `exactly` or `firstAvailable` is required",
            )),
            (true, false) => errors.push(invalid(
                &path,
                Value::Null,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            )),
            (true, true) => exact_request(errors, &path.child("exactly"), exactly),
            (false, false) => {
                for (j, sub) in list(request, "firstAvailable").iter().enumerate() {
                    exact_request(errors, &path.child("firstAvailable").index(j), sub);
                }
            }
        }
    }
}

fn exact_request(errors: &mut ErrorList, path: &Path, request: &Value) {
    let class = str_of(request, "deviceClassName");
    if class.is_empty() {
        errors.push(required(&path.child("deviceClassName"), ""));
    } else {
        check::dns_subdomain(errors, &path.child("deviceClassName"), class);
    }
    let mode = str_of(request, "allocationMode");
    check::one_of(errors, &path.child("allocationMode"), mode, &["All", "ExactCount"]);
    let count = int_of(request, "count");
    match (mode, count) {
        ("ExactCount", Some(n)) if n <= 0 => errors.push(invalid(&path.child("count"), n, "must be greater than zero")),
        ("All", Some(n)) if n != 0 => errors.push(invalid(
            &path.child("count"),
            n,
            "must not be specified when allocationMode is 'All'",
        )),
        _ => {}
    }
}

impl Rules for ResourceClaim {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        default_requests(child(obj, "spec"));
        child(obj, "status");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_requests(&mut errors, &Path::new("spec"), at(obj, "/spec"));
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub.is_none() {
            check::immutable(&mut errors, &Path::new("spec"), new.get("spec"), old.get("spec"));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("State", "string", "A summary of the current state."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let status = at(obj, "/status");
        let mut states = Vec::new();
        if has(at(obj, "/metadata"), "deletionTimestamp") {
            states.push("deleted");
        }
        if !get(status, "allocation").is_object() {
            if !has(at(obj, "/metadata"), "deletionTimestamp") {
                states.push("pending");
            }
        } else {
            states.push("allocated");
            if !list(status, "reservedFor").is_empty() {
                states.push("reserved");
            }
        }
        vec![json!(access::name(obj)), json!(states.join(",")), print::age(obj, now)]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}

/// The rules of ResourceClaimTemplates.
pub struct ResourceClaimTemplate;

impl Rules for ResourceClaimTemplate {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        default_requests(child(child(obj, "spec"), "spec"));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_requests(&mut errors, &Path::new("spec").child("spec"), at(obj, "/spec/spec"));
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        check::immutable(&mut errors, &Path::new("spec"), new.get("spec"), old.get("spec"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![json!(access::name(obj)), print::age(obj, now)]
    }
}

/// The rules of cluster-wide kinds that print name and age: DeviceClasses and ResourceSlices.
pub struct Device {
    /// Whether it is a ResourceSlice, which belongs to a node and a driver.
    pub slice: bool,
}

impl Rules for Device {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        child(obj, "spec");
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if self.slice {
            super::claim::driver_name(
                &mut errors,
                &Path::new("spec").child("driver"),
                text(obj, "/spec/driver"),
            );
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static CLASS: &[Column] = &[NAME, AGE];
        static SLICE: &[Column] = &[
            NAME,
            shown("Node", "string", "Node of the devices."),
            shown("Driver", "string", "Driver of the devices."),
            shown("Pool", "string", "Pool that the slice is part of."),
            AGE,
        ];
        if self.slice { SLICE } else { CLASS }
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![json!(access::name(obj))];
        if self.slice {
            let node = text(obj, "/spec/nodeName");
            cells.push(json!(if node.is_empty() { "<unset>" } else { node }));
            cells.push(json!(text(obj, "/spec/driver")));
            cells.push(json!(text(obj, "/spec/pool/name")));
        }
        cells.push(print::age(obj, now));
        cells
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        if self.slice {
            &["spec.nodeName", "spec.driver"]
        } else {
            &[]
        }
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        if !self.slice {
            return Vec::new();
        }
        vec![
            ("spec.nodeName", text(obj, "/spec/nodeName").to_owned()),
            ("spec.driver", text(obj, "/spec/driver").to_owned()),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// The rules of access reviews: questions that are answered and not stored, and have no names.
pub struct AccessReview {
    /// Whether the question names a user.
    pub of_somebody: bool,
}

impl Rules for AccessReview {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        let (resource, other) = (get(spec, "resourceAttributes"), get(spec, "nonResourceAttributes"));
        if resource.is_object() && other.is_object() {
            let shown = format!(
                "{{\"Path\":{},\"Verb\":{}}}",
                json!(str_of(other, "path")),
                json!(str_of(other, "verb"))
            );
            let detail = "cannot be specified in combination with resourceAttributes";
            errors.push(go::invalid_shown(&path.child("nonResourceAttributes"), &shown, detail));
        }
        if !resource.is_object() && !other.is_object() {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(invalid(&path.child("resourceAttributes"), Value::Null, detail));
        }
        if self.of_somebody && str_of(spec, "user").is_empty() && list(spec, "groups").is_empty() {
            errors.push(invalid(
                &path.child("user"),
                "",
                "at least one of user or group must be specified",
            ));
        }
        errors
    }

    fn namespaced(&self) -> bool {
        false
    }
}

/// The rules of reviews that only ask who somebody is or what they may do: nothing to object to.
pub struct Review;

impl Rules for Review {
    fn validate(&self, _obj: &Value) -> ErrorList {
        ErrorList::new()
    }

    fn namespaced(&self) -> bool {
        false
    }
}

/// The rules of ComponentStatuses, which only warn.
pub struct ComponentStatus;

impl Rules for ComponentStatus {
    fn warnings(&self, _obj: &Value, _old: Option<&Value>) -> Vec<String> {
        vec!["v1 ComponentStatus is deprecated in v1.19+".to_owned()]
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Status", "string", "Status of the component conditions."),
            shown("Message", "string", "Message of the component conditions."),
            shown("Error", "string", "Error of the component conditions."),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, _now: Timestamp) -> Vec<Value> {
        let condition = list(obj, "conditions")
            .iter()
            .find(|c| str_of(c, "type") == "Healthy")
            .unwrap_or(&access::NOTHING);
        let status = match str_of(condition, "status") {
            "True" => "Healthy",
            "False" => "Unhealthy",
            _ => "Unknown",
        };
        vec![
            json!(access::name(obj)),
            json!(status),
            json!(str_of(condition, "message")),
            json!(str_of(condition, "error")),
        ]
    }

    fn namespaced(&self) -> bool {
        false
    }
}
