//! CronJobs.

use super::access::{self, at, child, flag, get, has, list, set, set_default, set_text_default, str_of, text};
use super::check;
use super::go;
use super::pod::{defaults, warnings};
use super::print::{self, AGE, CONTAINERS, IMAGES, NAME, SELECTOR, shown};
use super::{Column, Rules, StatusRule, cron, job_spec, tidy};
use crate::field::{ErrorList, Path, invalid, not_supported, required};
use jiff::Timestamp;
use serde_json::{Value, json};

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
        let mut errors = check_spec(at(obj, "/spec"), None);
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

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        check_spec(at(new, "/spec"), Some(at(old, "/spec")))
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = Vec::new();
        if text(obj, "/spec/schedule").contains("TZ") {
            out.push(format!("{} {}", Path::new("spec").child("schedule"), "TZ or CRON_TZ in schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"));
        }
        if old.is_none() {
            out.extend(warnings::name_of_pods(obj, None));
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
            CONTAINERS,
            IMAGES,
            SELECTOR,
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

/// The rules of a spec. What an older server took stays possible.
fn check_spec(spec: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    match str_of(spec, "schedule") {
        "" => errors.push(required(&path.child("schedule"), "")),
        schedule => check_schedule(&mut errors, &path.child("schedule"), schedule, spec, old),
    }
    check::non_negative_fields(&mut errors, &path, spec, &["startingDeadlineSeconds"]);
    if has(spec, "timeZone") && old.is_none_or(|old| old.get("timeZone") != spec.get("timeZone")) {
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
    let limits = ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    check::non_negative_fields(&mut errors, &path, spec, &limits);
    errors
}

fn check_schedule(errors: &mut ErrorList, path: &Path, schedule: &str, spec: &Value, old: Option<&Value>) {
    if let Err(message) = cron::parse(schedule) {
        errors.push(invalid(path, schedule, message));
    }
    if !schedule.contains("TZ") {
        return;
    }
    if !old.is_some_and(|old| str_of(old, "schedule").contains("TZ")) {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(invalid(path, schedule, detail));
    } else if has(spec, "timeZone") {
        let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.push(invalid(path, schedule, detail));
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
    job_spec::check(errors, &path, spec);
    if !get(spec, "selector").is_null() {
        errors.push(go::invalid_shown(
            &path.child("selector"),
            &go::label_selector(get(spec, "selector")),
            "`selector` will be auto-generated",
        ));
    }
    if flag(spec, "manualSelector") {
        errors.push(not_supported(&path.child("manualSelector"), true, &["nil", "false"]));
    }
}
