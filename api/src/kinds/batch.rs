//! Jobs.

use super::access::{
    self, at, child, each_mut, flag, get, has, int_of, list, same, set, set_default, set_text_default, str_of, text,
};
use super::check;
use super::job_spec;
use super::pod::{defaults, dump, warnings};
use super::print::{self, AGE, CONTAINERS, IMAGES, NAME, SELECTOR, shown};
use super::{Column, Rules, StatusRule, go, job_status, meta, tidy};
use crate::field::{ErrorList, Path, invalid, required};
use crate::names;
use jiff::Timestamp;
use serde_json::{Value, json};

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Labels of a Job's pods, and whether they hold its uid or its name. In the order in which they are looked at.
const JOB_LABELS: &[(&str, bool)] = &[
    ("controller-uid", true),
    ("job-name", false),
    (CONTROLLER_UID, true),
    ("batch.kubernetes.io/job-name", false),
];

/// The rules of Jobs.
pub struct Job;

impl Rules for Job {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        if !has(spec, "completions") && !has(spec, "parallelism") {
            set(spec, "completions", 1);
        }
        set_default(spec, "parallelism", 1);
        let limit = if has(spec, "backoffLimitPerIndex") {
            i64::from(i32::MAX)
        } else {
            6
        };
        set_default(spec, "backoffLimit", limit);
        set_default(spec, "completionMode", "NonIndexed");
        set_default(spec, "suspend", false);
        set_default(spec, "manualSelector", false);
        let policy = if has(spec, "podFailurePolicy") {
            "Failed"
        } else {
            "TerminatingOrFailed"
        };
        set_default(spec, "podReplacementPolicy", policy);
        if let Some(policy) = access::child_if(spec, "podFailurePolicy") {
            for rule in each_mut(policy, "rules") {
                each_mut(rule, "onPodConditions").for_each(|c| set_text_default(c, "status", "True"));
            }
        }
        defaults::template(child(spec, "template"));
        tidy::metadata(child(spec, "template"));
        label_like_template(obj);
        child(obj, "status");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
        generate_selector(obj);
        label_like_template(obj);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let spec = at(obj, "/spec");
        generated_as_expected(&mut errors, obj);
        job_spec::check(&mut errors, &Path::new("spec"), spec);
        let path = Path::new("spec");
        if get(spec, "selector").is_null() {
            errors.push(required(&path.child("selector"), ""));
        }
        selector_matches(&mut errors, &path, spec);
        last_host_name(&mut errors, obj);
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        if sub == Some("status") {
            return job_status::check(new, old);
        }
        let mut errors = ErrorList::new();
        let once = self.check(new);
        errors.extend(once.iter().cloned());
        errors.extend(once);
        spec_change(&mut errors, new, old);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| meta::generation(old) == meta::generation(obj)) {
            return Vec::new();
        }
        let mut out = warnings::name_of_pods(obj, old);
        let many = |key: &str, max: i64| int_of(at(obj, "/spec"), key).is_some_and(|n| n > max);
        if text(obj, "/spec/completionMode") == "Indexed" && many("completions", 100_000) && many("parallelism", 10_000)
        {
            out.push("spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned());
        }
        out.extend(warnings::template(
            &Path::new("spec").child("template"),
            at(obj, "/spec/template"),
        ));
        out
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Status", "string", "State of the job."),
            shown("Completions", "string", "Pods that succeeded, and how many should."),
            shown("Duration", "string", "Time that the job took or has taken."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (at(obj, "/spec"), at(obj, "/status"));
        let done = int_of(status, "succeeded").unwrap_or(0);
        let completions = match (int_of(spec, "completions"), int_of(spec, "parallelism").unwrap_or(0)) {
            (Some(wanted), _) => format!("{done}/{wanted}"),
            (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
            (None, _) => format!("{done}/1"),
        };
        let (names, images) = print::containers(at(spec, "/template/spec"));
        vec![
            json!(access::name(obj)),
            json!(job_state(obj)),
            json!(completions),
            json!(duration(status, now)),
            print::age(obj, now),
            json!(names),
            json!(images),
            json!(print::selector(get(spec, "selector"))),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.successful"]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![(
            "status.successful",
            int_of(at(obj, "/status"), "succeeded").unwrap_or(0).to_string(),
        )]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// A Job without labels of its own has those of its template.
fn label_like_template(obj: &mut Value) {
    let labels = at(obj, "/spec/template/metadata/labels").clone();
    let metadata = child(obj, "metadata");
    if access::is_empty(get(metadata, "labels")) && !access::is_empty(&labels) {
        set(metadata, "labels", labels);
    }
}

/// A Job selects its pods by its own uid unless it says otherwise. Without a uid nothing can be generated.
fn generate_selector(obj: &mut Value) {
    let uid = text(obj, "/metadata/uid").to_owned();
    let name = access::name(obj).to_owned();
    if flag(at(obj, "/spec"), "manualSelector") || uid.is_empty() {
        return;
    }
    let spec = child(obj, "spec");
    let labels = child(child(child(spec, "template"), "metadata"), "labels");
    // What is there already and differs is refused later.
    for (label, is_uid) in JOB_LABELS {
        set_default(labels, label, if *is_uid { uid.as_str() } else { name.as_str() });
    }
    set_default(child(child(spec, "selector"), "matchLabels"), CONTROLLER_UID, uid);
}

/// A selector and labels that nobody chose by hand are those that [`generate_selector`] makes.
fn generated_as_expected(errors: &mut ErrorList, obj: &Value) {
    let (spec, uid, name) = (at(obj, "/spec"), text(obj, "/metadata/uid"), access::name(obj));
    let selector = get(spec, "selector");
    if flag(spec, "manualSelector") || selector.is_null() || uid.is_empty() {
        return;
    }
    let labels = at(spec, "/template/metadata/labels");
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    let mut expected = json!({});
    for (label, is_uid) in JOB_LABELS {
        let value = if *is_uid { uid } else { name };
        let detail = format!("must be '{value}'");
        match labels.get(*label).and_then(Value::as_str) {
            None => errors.push(required(&path.key(label), detail)),
            Some(found) if found != value => errors.push(invalid(&path.key(label), labels.clone(), detail)),
            Some(_) => {}
        }
        set(&mut expected, label, value);
    }
    if !check::selects(selector, &expected) {
        let path = Path::new("spec").child("selector");
        let shown = go::label_selector(selector);
        errors.push(go::invalid_shown(&path, &shown, "`selector` not auto-generated"));
    }
}

/// Pods of a Job with indexes are hosts by its name and their index.
fn last_host_name(errors: &mut ErrorList, obj: &Value) {
    let (spec, name) = (at(obj, "/spec"), access::name(obj));
    let Some(last) = int_of(spec, "completions").filter(|n| *n > 0).map(|n| n - 1) else {
        return;
    };
    let host = format!("{name}-{last}");
    if str_of(spec, "completionMode") == "Indexed" && !names::dns1123_label(&host).is_empty() {
        let detail = format!("will not able to create pod with invalid DNS label: {host}");
        errors.push(invalid(&Path::new("metadata").child("name"), name, detail));
    }
}

fn selector_matches(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let selector = get(spec, "selector");
    check::label_selector(errors, &path.child("selector"), selector);
    let labels = at(spec, "/template/metadata/labels");
    // Without a selector nothing is selected.
    if selector.is_null() || !check::selects(selector, labels) {
        let at_labels = path.child("template").child("metadata").child("labels");
        errors.push(invalid(
            &at_labels,
            labels.clone(),
            "`selector` does not match template `labels`",
        ));
    }
}

fn spec_change(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new_spec, old_spec) = (at(new, "/spec"), at(old, "/spec"));
    let completions = |spec: &Value| spec.get("completions").cloned();
    if str_of(new_spec, "completionMode") == "Indexed" {
        let changed = completions(new_spec) != completions(old_spec) && has(new_spec, "completions");
        if changed && completions(new_spec) != new_spec.get("parallelism").cloned() {
            errors.push(invalid(
                &path.child("completions"),
                get(new_spec, "completions").clone(),
                "can only be modified in tandem with spec.parallelism",
            ));
        }
    } else {
        check::immutable(
            errors,
            &path.child("completions"),
            new_spec.get("completions"),
            old_spec.get("completions"),
        );
    }
    check::immutable_selector(
        errors,
        &path.child("selector"),
        get(new_spec, "selector"),
        get(old_spec, "selector"),
    );
    template_change(errors, &path.child("template"), new_spec, old);
    for key in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        check::immutable(errors, &path.child(key), new_spec.get(key), old_spec.get(key));
    }
}

/// A suspended Job without pods may still change where its pods go and what they may use.
fn template_change(errors: &mut ErrorList, path: &Path, new_spec: &Value, old: &Value) {
    let (stored, template) = (at(old, "/spec/template"), get(new_spec, "template"));
    if !may_change_template(old) {
        if !same(Some(template), Some(stored)) {
            let shown = dump::template(template).compact();
            errors.push(go::invalid_shown(path, &shown, check::IMMUTABLE));
        }
        return;
    }
    let (sent, stored) = (get(template, "spec"), get(stored, "spec"));
    let mut spec = sent.clone();
    for key in ["nodeSelector", "tolerations", "schedulingGates"] {
        access::copy(&mut spec, stored, key);
    }
    access::copy(child(&mut spec, "affinity"), get(stored, "affinity"), "nodeAffinity");
    for key in ["containers", "initContainers"] {
        if list(&spec, key).len() != list(stored, key).len() {
            continue;
        }
        for (c, before) in each_mut(&mut spec, key).zip(list(stored, key)) {
            if str_of(c, "name") == str_of(before, "name") {
                access::copy(c, before, "resources");
            }
        }
    }
    if !same(Some(&spec), Some(stored)) {
        let shown = dump::pod_spec(sent).compact();
        errors.push(go::invalid_shown(&path.child("spec"), &shown, check::IMMUTABLE));
    }
}

/// Whether a Job is suspended and has no pods, now or by its own word.
fn may_change_template(job: &Value) -> bool {
    let status = at(job, "/status");
    let marked = || {
        let mut all = list(status, "conditions").iter();
        all.any(|c| str_of(c, "type") == "Suspended" && str_of(c, "status") == "True")
    };
    flag(at(job, "/spec"), "suspend")
        && int_of(status, "active").unwrap_or(0) == 0
        && (!has(status, "startTime") || marked())
}

fn job_state(obj: &Value) -> &'static str {
    let condition = |kind: &str| {
        list(at(obj, "/status"), "conditions")
            .iter()
            .any(|c| str_of(c, "type") == kind && str_of(c, "status") == "True")
    };
    if condition("Complete") {
        "Complete"
    } else if condition("Failed") {
        "Failed"
    } else if has(at(obj, "/metadata"), "deletionTimestamp") {
        "Terminating"
    } else if condition("Suspended") {
        "Suspended"
    } else if condition("FailureTarget") {
        "FailureTarget"
    } else if condition("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn duration(status: &Value, now: Timestamp) -> String {
    let start = crate::time::parse(str_of(status, "startTime"));
    let end = crate::time::parse(str_of(status, "completionTime"));
    match (start, end) {
        (None, _) => String::new(),
        (Some(start), end) => print::human(end.unwrap_or(now).as_second() - start.as_second()),
    }
}
