//! Jobs and CronJobs.

use super::access::{
    self, at, child, each_mut, flag, get, has, int_of, list, same, set, set_default, set_text_default, str_of, text,
};
use super::check;
use super::cron;
use super::pod::{defaults, dump, validate, warnings};
use super::print::{self, AGE, NAME, shown, wide};
use super::{Column, Rules, StatusRule, go, tidy};
use crate::field::{ErrorList, Path, invalid, not_supported, required};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Labels that tie pods to their Job, with whether the value is the uid (or else the name).
const JOB_LABELS: &[(&str, bool)] = &[
    ("batch.kubernetes.io/controller-uid", true),
    ("batch.kubernetes.io/job-name", false),
    ("controller-uid", true),
    ("job-name", false),
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
        job_spec(&mut errors, &Path::new("spec"), spec);
        let path = Path::new("spec");
        if get(spec, "selector").is_null() {
            errors.push(required(&path.child("selector"), ""));
        } else {
            selector_matches(&mut errors, &path, spec);
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub == Some("status") {
            let counters = ["active", "succeeded", "failed", "terminating", "ready"];
            check::non_negative_fields(&mut errors, &Path::new("status"), at(new, "/status"), &counters);
            return errors;
        }
        let once = self.check(new);
        errors.extend(once.iter().cloned());
        errors.extend(once);
        spec_change(&mut errors, new, old);
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        warnings::template(&Path::new("spec").child("template"), at(obj, "/spec/template"))
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Status", "string", "State of the job."),
            shown("Completions", "string", "Pods that succeeded, and how many should."),
            shown("Duration", "string", "Time that the job took or has taken."),
            AGE,
            wide("Containers", "string", "Names of each container in the template."),
            wide(
                "Images",
                "string",
                "Images referenced by each container in the template.",
            ),
            wide("Selector", "string", "Label selector of the pods."),
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
    for (label, is_uid) in JOB_LABELS {
        set(labels, label, if *is_uid { uid.as_str() } else { name.as_str() });
    }
    let selector = child(spec, "selector");
    set(
        child(selector, "matchLabels"),
        "batch.kubernetes.io/controller-uid",
        uid,
    );
}

fn selector_matches(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let selector = get(spec, "selector");
    check::label_selector(errors, &path.child("selector"), selector);
    let labels = at(spec, "/template/metadata/labels");
    if !check::selects(selector, labels) {
        let at_labels = path.child("template").child("metadata").child("labels");
        errors.push(invalid(
            &at_labels,
            labels.clone(),
            "`selector` does not match template `labels`",
        ));
    }
}

/// The rules of a Job's spec, also inside a CronJob.
fn job_spec(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
    ];
    check::non_negative_fields(errors, path, spec, &numbers);
    let mode = str_of(spec, "completionMode");
    if has(spec, "completionMode") {
        check::one_of(errors, &path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
        if mode == "Indexed" && !has(spec, "completions") {
            errors.push(required(&path.child("completions"), "when completion mode is Indexed"));
        }
    }
    if mode != "Indexed" {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if has(spec, key) {
                errors.push(invalid(
                    &path.child(key),
                    get(spec, key).clone(),
                    "requires indexed completion mode",
                ));
            }
        }
    }
    pod_failure_policy(errors, &path.child("podFailurePolicy"), spec);
    if has(spec, "podReplacementPolicy") {
        let policy = str_of(spec, "podReplacementPolicy");
        let at = path.child("podReplacementPolicy");
        if has(spec, "podFailurePolicy") {
            check::one_of(errors, &at, policy, &["Failed"]);
        } else {
            check::one_of(errors, &at, policy, &["Failed", "TerminatingOrFailed"]);
        }
    }
    let at_template = path.child("template");
    validate::template(errors, &at_template, get(spec, "template"));
    let restart = text(spec, "/template/spec/restartPolicy");
    let at_restart = at_template.child("spec").child("restartPolicy");
    if restart != "OnFailure" && restart != "Never" {
        errors.push(required(&at_restart, "valid values: \"OnFailure\", \"Never\""));
    } else if has(spec, "podFailurePolicy") && restart != "Never" {
        errors.push(invalid(
            &at_restart,
            restart,
            "only \"Never\" is supported when podFailurePolicy is specified",
        ));
    }
}

fn pod_failure_policy(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let policy = get(spec, "podFailurePolicy");
    for (i, rule) in list(policy, "rules").iter().enumerate() {
        let path = path.child("rules").index(i);
        let action = str_of(rule, "action");
        check::required_one_of(
            errors,
            &path.child("action"),
            action,
            &["Count", "FailIndex", "FailJob", "Ignore"],
        );
        match (has(rule, "onExitCodes"), !list(rule, "onPodConditions").is_empty()) {
            (true, true) => errors.push(invalid(
                &path,
                rule.clone(),
                "specifying both OnExitCodes and OnPodConditions is not supported",
            )),
            (false, false) => errors.push(invalid(
                &path,
                rule.clone(),
                "specifying one of OnExitCodes and OnPodConditions is required",
            )),
            _ => {}
        }
        if has(rule, "onExitCodes") {
            let at = path.child("onExitCodes").child("operator");
            check::required_one_of(errors, &at, text(rule, "/onExitCodes/operator"), &["In", "NotIn"]);
        }
    }
}

fn spec_change(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new_spec, old_spec) = (at(new, "/spec"), at(old, "/spec"));
    let elastic =
        str_of(new_spec, "completionMode") == "Indexed" && new_spec.get("completions") == new_spec.get("parallelism");
    if !elastic {
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

/// A suspended Job that never started may still change where its pods go.
fn template_change(errors: &mut ErrorList, path: &Path, new_spec: &Value, old: &Value) {
    let stored = at(old, "/spec/template");
    let mut template = get(new_spec, "template").clone();
    if flag(at(old, "/spec"), "suspend") && !has(at(old, "/status"), "startTime") {
        for key in ["annotations", "labels"] {
            access::copy(child(&mut template, "metadata"), at(stored, "/metadata"), key);
        }
        let spec = child(&mut template, "spec");
        for key in ["nodeSelector", "tolerations", "schedulingGates"] {
            access::copy(spec, at(stored, "/spec"), key);
        }
        access::copy(child(spec, "affinity"), at(stored, "/spec/affinity"), "nodeAffinity");
        for key in ["containers", "initContainers"] {
            for (c, before) in each_mut(spec, key).zip(list(at(stored, "/spec"), key)) {
                access::copy(c, before, "resources");
            }
        }
    }
    if !same(Some(&template), Some(stored)) {
        errors.push(go::invalid_shown(
            path,
            &dump::template(get(new_spec, "template")).compact(),
            check::IMMUTABLE,
        ));
    }
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

/// The rules of CronJobs.
pub struct CronJob;

impl Rules for CronJob {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        set_text_default(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        let job = child(spec, "jobTemplate");
        child(job, "metadata");
        tidy::metadata(job);
        let template = child(child(job, "spec"), "template");
        defaults::template(template);
        tidy::metadata(template);
        tidy::drop_zero(child(obj, "status"), &["active"]);
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        let schedule = str_of(spec, "schedule");
        if schedule.is_empty() {
            errors.push(required(&path.child("schedule"), ""));
        } else {
            check_schedule(&mut errors, &path.child("schedule"), schedule);
        }
        check::non_negative_fields(&mut errors, &path, spec, &["startingDeadlineSeconds"]);
        if has(spec, "timeZone") {
            time_zone(&mut errors, &path.child("timeZone"), str_of(spec, "timeZone"));
        }
        let policies = ["Allow", "Forbid", "Replace"];
        check::required_one_of(
            &mut errors,
            &path.child("concurrencyPolicy"),
            str_of(spec, "concurrencyPolicy"),
            &policies,
        );
        job_template(&mut errors, &path.child("jobTemplate"), get(spec, "jobTemplate"));
        check::non_negative_fields(
            &mut errors,
            &path,
            spec,
            &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"],
        );
        let name = access::name(obj);
        if name.len() > CRON_NAME_BYTES_MAX {
            errors.push(invalid(
                &Path::new("metadata").child("name"),
                name,
                crate::names::max_characters(CRON_NAME_BYTES_MAX),
            ));
        }
        errors
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if text(obj, "/spec/schedule").contains("TZ") {
            out.push(format!("{} {}", Path::new("spec").child("schedule"), "TZ or CRON_TZ in schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"));
        }
        if old.is_none() {
            let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
            out.extend(warnings::template(&path, at(obj, "/spec/jobTemplate/spec/template")));
        }
        out
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Schedule", "string", "When jobs are made."),
            shown("Timezone", "string", "Time zone of the schedule."),
            shown("Suspend", "boolean", "Whether making jobs is suspended."),
            shown("Active", "integer", "Number of jobs that run."),
            shown("Last Schedule", "string", "Time since a job was made."),
            AGE,
            wide("Containers", "string", "Names of each container in the template."),
            wide(
                "Images",
                "string",
                "Images referenced by each container in the template.",
            ),
            wide("Selector", "string", "Label selector of the pods."),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (at(obj, "/spec"), at(obj, "/status"));
        let last = str_of(status, "lastScheduleTime");
        let (names, images) = print::containers(at(spec, "/jobTemplate/spec/template/spec"));
        vec![
            json!(access::name(obj)),
            json!(str_of(spec, "schedule")),
            print::text_or_none(spec, "/timeZone"),
            json!(if flag(spec, "suspend") { "True" } else { "False" }),
            json!(list(status, "active").len()),
            json!(if last.is_empty() {
                "<none>".to_owned()
            } else {
                print::since(last, now)
            }),
            print::age(obj, now),
            json!(names),
            json!(images),
            json!(print::selector(at(spec, "/jobTemplate/spec/selector"))),
        ]
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Jobs get eleven characters after the name.
const CRON_NAME_BYTES_MAX: usize = 52;

fn check_schedule(errors: &mut ErrorList, path: &Path, schedule: &str) {
    if schedule.contains("TZ") {
        errors.push(invalid(
            path,
            schedule,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ));
    } else if let Err(message) = cron::parse(schedule) {
        errors.push(invalid(path, schedule, message));
    }
}

fn time_zone(errors: &mut ErrorList, path: &Path, zone: &str) {
    if zone.is_empty() {
        errors.push(invalid(path, zone, "timeZone must be nil or non-empty string"));
    } else if zone.eq_ignore_ascii_case("local") {
        errors.push(invalid(
            path,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ));
    } else if !cron::is_time_zone(zone) {
        errors.push(invalid(path, zone, format!("unknown time zone {zone}")));
    }
}

fn job_template(errors: &mut ErrorList, path: &Path, template: &Value) {
    let spec = get(template, "spec");
    let path = path.child("spec");
    job_spec(errors, &path, spec);
    if !get(spec, "selector").is_null() {
        errors.push(invalid(
            &path.child("selector"),
            get(spec, "selector").clone(),
            "`selector` will be auto-generated",
        ));
    }
    if flag(spec, "manualSelector") {
        errors.push(not_supported(&path.child("manualSelector"), true, &["nil", "false"]));
    }
}
