//! How pods are run and spared: PodDisruptionBudget, PriorityClass, RuntimeClass.

use super::access::{self, at, child, flag, get, has, int_of, list, same, set, set_default, set_text_default, str_of};
use super::check::{self};
use super::go;
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, conditions, pod, resources, tidy};
use crate::field::{ErrorList, Path, forbidden};
use jiff::Timestamp;
use serde_json::{Value, json};

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
            let text = |key: &str| go::json_text(get(spec, key));
            let selector = get(spec, "selector");
            let shown = go::structure(&[
                ("MinAvailable", text("minAvailable")),
                (
                    "Selector",
                    if selector.is_object() {
                        go::label_selector(selector)
                    } else {
                        text("selector")
                    },
                ),
                ("MaxUnavailable", text("maxUnavailable")),
                ("UnhealthyPodEvictionPolicy", text("unhealthyPodEvictionPolicy")),
            ]);
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(go::invalid_shown(&path, &shown, detail));
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
        let (path, status) = (Path::new("status"), at(new, "/status"));
        conditions::check(&mut errors, &path, status);
        check::non_negative_fields(&mut errors, &path, status, &COUNTERS);
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
        resources::overhead(&mut errors, &Path::new("overhead"), at(obj, "/overhead/podFixed"));
        let scheduling = at(obj, "/scheduling");
        check::labels(
            &mut errors,
            &Path::new("scheduling").child("nodeSelector"),
            scheduling,
            "nodeSelector",
        );
        unique_tolerations(&mut errors, list(scheduling, "tolerations"));
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

/// Tolerations of a runtime class are added to those of pods, so none may be there twice.
fn unique_tolerations(errors: &mut ErrorList, tolerations: &[Value]) {
    let texts = |t: &Value| ["key", "operator", "value", "effect"].map(|key| str_of(t, key).to_owned());
    let repeated = check::repeats(tolerations.iter().map(|t| (texts(t), int_of(t, "tolerationSeconds"))));
    for (i, (toleration, repeated)) in tolerations.iter().zip(repeated).enumerate() {
        if repeated {
            let path = Path::new("scheduling").child("tolerations").index(i);
            let shown = pod::dump::core("Toleration", toleration).compact();
            errors.push(go::duplicate_shown(&path, &shown));
        }
    }
}
