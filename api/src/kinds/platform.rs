//! Kinds about the API itself: aggregated services, reviews, component statuses.

use super::access::{self, at, child, get, int_of, list, set, set_default, str_of};
use super::check;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, go, meta, tidy};
use crate::field::{ErrorList, Path, invalid, required};
use jiff::Timestamp;
use serde_json::{Value, json};

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
        if !at(obj, "/spec/service").is_object() {
            let condition = json!({
                "type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": at(obj, "/metadata/creationTimestamp"),
            });
            set(child(obj, "status"), "conditions", vec![condition]);
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        let (group, version) = (str_of(spec, "group"), str_of(spec, "version"));
        let wanted = format!("{version}.{group}");
        if access::name(obj) != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.push(invalid(&Path::new("metadata").child("name"), access::name(obj), detail));
        }
        if !group.is_empty() {
            check::dns_subdomain(&mut errors, &path.child("group"), group);
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
        let (service, at_service) = (get(spec, "service"), path.child("service"));
        let verified = !str_of(spec, "caBundle").is_empty();
        let unverified = access::flag(spec, "insecureSkipTLSVerify");
        let at_unverified = path.child("insecureSkipTLSVerify");
        if !service.is_object() {
            if verified {
                let detail = "local APIServices may not have a caBundle";
                errors.push(invalid(&path.child("caBundle"), get(spec, "caBundle").clone(), detail));
            }
            if unverified {
                let detail = "local APIServices may not have insecureSkipTLSVerify";
                errors.push(invalid(&at_unverified, true, detail));
            }
            return errors;
        }
        for key in ["namespace", "name"] {
            if str_of(service, key).is_empty() {
                errors.push(required(&at_service.child(key), ""));
            }
        }
        if let Some(port) = int_of(service, "port").filter(|p| !(1..=65535).contains(p)) {
            let detail = format!("port is not valid: {}", check::PORT_RANGE);
            errors.push(invalid(&at_service.child("port"), port, detail));
        }
        if unverified && verified {
            let detail = "may not be true if caBundle is present";
            errors.push(invalid(&at_unverified, true, detail));
        }
        errors
    }

    fn check_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub == Some("status") {
            for (i, condition) in list(at(new, "/status"), "conditions").iter().enumerate() {
                let path = Path::new("status").child("conditions").index(i).child("status");
                let states = ["True", "False", "Unknown"];
                check::one_of(&mut errors, &path, str_of(condition, "status"), &states);
            }
            return errors;
        }
        errors.extend(self.check(new));
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn status_keeps_metadata(&self) -> bool {
        true
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
