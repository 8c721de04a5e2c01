//! Objections to a change of the status of a Job. What the stored status already gets wrong is let through as long
//! as the members that a rule is about stay as they are.

use super::access::{flag, get, has, int_of, list, same, str_of};
use super::job_spec::{count_indexes, without_value};
use super::{check, go};
use crate::field::{ErrorList, Path, duplicate, invalid, required};
use serde_json::Value;

/// A condition of a Job that is true.
fn is(status: &Value, kind: &str) -> bool {
    list(status, "conditions")
        .iter()
        .any(|c| str_of(c, "type") == kind && str_of(c, "status") == "True")
}

fn is_finished(status: &Value) -> bool {
    is(status, "Complete") || is(status, "Failed")
}

/// Everything that is wrong with `new`, the Job whose status follows that of `old`.
pub fn check(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let (spec, status, before) = (get(new, "spec"), get(new, "status"), get(old, "status"));
    let counters = ["active", "succeeded", "failed", "ready", "terminating"];
    check::non_negative_fields(&mut errors, &path, status, &counters);
    uncounted(
        &mut errors,
        &path.child("uncountedTerminatedPods"),
        get(status, "uncountedTerminatedPods"),
    );
    let change = Change { status, before };
    ending(&mut errors, &path, &change);
    finished(&mut errors, &path, &change, spec);
    indexes(&mut errors, &path, &change, spec);
    let more_ready = int_of(status, "ready").unwrap_or(0) > int_of(status, "active").unwrap_or(0);
    if more_ready && (change.of("ready") || change.of("active")) {
        let ready = int_of(status, "ready").unwrap_or(0);
        errors.push(invalid(
            &path.child("ready"),
            ready,
            "cannot set more ready pods than active",
        ));
    }
    success(&mut errors, &path, status, spec);
    history(&mut errors, &path, &change, spec);
    errors
}

/// A status and the one before it.
struct Change<'a> {
    status: &'a Value,
    before: &'a Value,
}

impl Change<'_> {
    fn of(&self, key: &str) -> bool {
        !same(self.status.get(key), self.before.get(key))
    }

    fn of_condition(&self, kind: &str) -> bool {
        is(self.status, kind) != is(self.before, kind)
    }

    fn of_end(&self) -> bool {
        is_finished(self.status) != is_finished(self.before)
    }
}

/// Pods that ended and are not counted yet: each once.
fn uncounted(errors: &mut ErrorList, path: &Path, pods: &Value) {
    let mut seen = std::collections::BTreeSet::new();
    for key in ["succeeded", "failed"] {
        for (i, uid) in check::strings(pods, key).into_iter().enumerate() {
            let at = path.child(key).index(i);
            if uid.is_empty() {
                errors.push(invalid(&at, uid, "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(duplicate(&at, uid));
            }
        }
    }
}

/// Conditions and times that say how a Job ended.
fn ending(errors: &mut ErrorList, path: &Path, change: &Change<'_>) {
    let status = change.status;
    let (complete, failed, target) = (
        is(status, "Complete"),
        is(status, "Failed"),
        is(status, "FailureTarget"),
    );
    let at_conditions = path.child("conditions");
    let at_completion = path.child("completionTime");
    let [completes, fails, aims] = ["Complete", "Failed", "FailureTarget"].map(|kind| change.of_condition(kind));
    if (completes || fails) && complete && failed {
        errors.push(without_value(
            &at_conditions,
            "cannot set Complete=True and Failed=true conditions",
        ));
    }
    if (completes || aims) && complete && target {
        let detail = "cannot set Complete=True and FailureTarget=true conditions";
        errors.push(without_value(&at_conditions, detail));
    }
    let completion = str_of(status, "completionTime");
    if completes || change.of("completionTime") {
        if !completion.is_empty() && !complete {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.push(invalid(&at_completion, completion, detail));
        }
        if completion.is_empty() && complete {
            errors.push(required(&at_completion, "completionTime is required for Complete jobs"));
        }
    }
    let start = str_of(status, "startTime");
    let early = !start.is_empty() && !completion.is_empty() && completion < start;
    if early && (change.of("startTime") || change.of("completionTime")) {
        errors.push(invalid(
            &at_completion,
            completion,
            "must be equal to or after `startTime`",
        ));
    }
    if (fails || aims) && failed && !target {
        let detail = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.push(without_value(&at_conditions, detail));
    }
    if (completes || change.of_condition("SuccessCriteriaMet")) && complete && !is(status, "SuccessCriteriaMet") {
        let detail = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.push(without_value(&at_conditions, detail));
    }
}

/// What a Job that ended may not have.
fn finished(errors: &mut ErrorList, path: &Path, change: &Change<'_>, spec: &Value) {
    let status = change.status;
    if !is_finished(status) {
        return;
    }
    let count = |key: &str| int_of(status, key).filter(|n| *n > 0);
    if let Some(active) = count("active").filter(|_| change.of_end() || change.of("active")) {
        errors.push(invalid(
            &path.child("active"),
            active,
            "active>0 is invalid for finished job",
        ));
    }
    let never_begins = flag(spec, "suspend") && int_of(spec, "completions") == Some(0);
    if !has(status, "startTime") && (change.of_end() || change.of("startTime")) && !never_begins {
        errors.push(required(
            &path.child("startTime"),
            "startTime is required for finished job",
        ));
    }
    let pods = get(status, "uncountedTerminatedPods");
    let some = !list(pods, "succeeded").is_empty() || !list(pods, "failed").is_empty();
    if some && (change.of_end() || change.of("uncountedTerminatedPods")) {
        let shown = go::structure(&[
            ("Succeeded", go::json_text(get(pods, "succeeded"))),
            ("Failed", go::json_text(get(pods, "failed"))),
        ]);
        let at = path.child("uncountedTerminatedPods");
        errors.push(go::invalid_shown(&at, &shown, "must be empty for finished job"));
    }
    if let Some(terminating) = count("terminating").filter(|_| change.of_end() || change.of("terminating")) {
        let detail = "terminating>0 is invalid for finished job";
        errors.push(invalid(&path.child("terminating"), terminating, detail));
    }
}

/// Indexes that completed or failed, of a Job that has them.
fn indexes(errors: &mut ErrorList, path: &Path, change: &Change<'_>, spec: &Value) {
    let (status, completions) = (change.status, int_of(spec, "completions"));
    let (done, failed) = (str_of(status, "completedIndexes"), str_of(status, "failedIndexes"));
    let (at_done, at_failed) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let per_index = has(spec, "backoffLimitPerIndex");
    let has_failed = has(status, "failedIndexes");
    for (key, text, at, looked_at) in [
        ("completedIndexes", done, &at_done, true),
        ("failedIndexes", failed, &at_failed, per_index && has_failed),
    ] {
        let wrong = completions.and_then(|n| count_indexes(text, n).err());
        if let Some(why) = wrong.filter(|_| looked_at && change.of(key)) {
            errors.push(invalid(at, text, format!("error parsing {key}: {why}")));
        }
    }
    if change.of("completedIndexes") && !done.is_empty() && str_of(spec, "completionMode") != "Indexed" {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(invalid(&at_done, done, detail));
    }
    if change.of("failedIndexes") && has_failed && !per_index {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(invalid(&at_failed, failed, detail));
    }
    if (change.of("failedIndexes") || change.of("completedIndexes"))
        && let Some(at) = completions.and_then(|n| overlap(done, failed, n))
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {at}");
        errors.push(invalid(&at_failed, failed, detail));
    }
}

/// The first index that both texts name. Parts that cannot be read name nothing.
fn overlap(done: &str, failed: &str, completions: i64) -> Option<i64> {
    let spans = |text: &str| -> Vec<(i64, i64)> {
        text.split(',')
            .filter(|part| !part.is_empty() && count_indexes(part, completions).is_ok())
            .filter_map(|part| {
                let (low, high) = part.split_once('-').unwrap_or((part, part));
                Some((low.parse().ok()?, high.parse().ok()?))
            })
            .collect()
    };
    let (done, failed) = (spans(done), spans(failed));
    let (mut i, mut j) = (0, 0);
    while let (Some(&(a, b)), Some(&(c, d))) = (done.get(i), failed.get(j)) {
        if a <= d && c <= b {
            return Some(a.max(c));
        }
        if a <= c { i += 1 } else { j += 1 }
    }
    None
}

/// When a Job may be said to have succeeded.
fn success(errors: &mut ErrorList, path: &Path, status: &Value, spec: &Value) {
    let met = is(status, "SuccessCriteriaMet");
    let details = [
        (
            met && is(status, "Failed"),
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            met && is(status, "FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            has(spec, "successPolicy") && !met && is(status, "Complete"),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ];
    for (_, detail) in details.into_iter().filter(|(wrong, _)| *wrong) {
        errors.push(without_value(&path.child("conditions"), detail));
    }
}

/// What does not go back.
fn history(errors: &mut ErrorList, path: &Path, change: &Change<'_>, spec: &Value) {
    let (status, before) = (change.status, change.before);
    let at_conditions = path.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(before, kind) && !is(status, kind) {
            let detail = format!("cannot disable the terminal {kind}=True condition");
            errors.push(without_value(&at_conditions, &detail));
        }
    }
    let scaled_down = str_of(spec, "completionMode") == "Indexed" && spec.get("completions") == spec.get("parallelism");
    for (key, may_fall) in [("failed", false), ("succeeded", scaled_down)] {
        let count = |status| int_of(status, key).unwrap_or(0);
        if !may_fall && count(status) < count(before) {
            let detail = format!("cannot decrease the {key} counter");
            errors.push(invalid(&path.child(key), count(status), detail));
        }
    }
    if has(status, "completionTime") && has(before, "completionTime") && change.of("completionTime") {
        let time = str_of(status, "completionTime");
        errors.push(invalid(&path.child("completionTime"), time, check::IMMUTABLE));
    }
    if has(before, "startTime") && change.of("startTime") && !flag(spec, "suspend") {
        let detail = "field is immutable for unsuspended job once set";
        errors.push(invalid(
            &path.child("startTime"),
            get(status, "startTime").clone(),
            detail,
        ));
    }
    let met = |status| is(status, "SuccessCriteriaMet");
    if met(before) && !met(status) {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        errors.push(without_value(&at_conditions, detail));
    }
    if is(before, "Complete") && !met(before) && met(status) {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(without_value(&at_conditions, detail));
    }
}
