//! Objections to the spec of a Job, also inside a CronJob.

use super::access::{get, has, int_of, list, str_of, text};
use super::pod::validate;
use super::{check, go};
use crate::field::{ErrorKind, ErrorList, FieldError, Path, duplicate, invalid, not_supported, required, too_many};
use serde_json::Value;
use std::collections::BTreeSet;

/// Most pods at a time, and most failures, of a Job with indexes.
const INDEXED_MAX: i64 = 100_000;
/// Above so many completions the limits are closer.
const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const PARALLELISM_HIGH_MAX: i64 = 10_000;
const FAILED_INDEXES_HIGH_MAX: i64 = 10_000;
const RULES_MAX: usize = 20;
const CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const SUCCESS_INDEXES_BYTES_MAX: usize = 64 * 1024;
const MANAGER_BYTES_MAX: usize = 63;

/// The rules of a Job's spec.
pub fn check(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    check::non_negative_fields(errors, path, spec, &numbers);
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        errors.push(required(
            &path.child("backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        ));
    }
    managed_by(errors, &path.child("managedBy"), spec);
    let mode = str_of(spec, "completionMode");
    if has(spec, "completionMode") {
        check::one_of(errors, &path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" {
        indexed(errors, path, spec);
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
    success_policy(errors, &path.child("successPolicy"), spec);
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
    let at_restart = at_template.child("spec").child("restartPolicy");
    match text(spec, "/template/spec/restartPolicy") {
        "" | "Always" => errors.push(required(&at_restart, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" => {
            if has(spec, "podFailurePolicy") {
                let detail = "only \"Never\" is supported when podFailurePolicy is specified";
                errors.push(invalid(&at_restart, "OnFailure", detail));
            }
        }
        other => errors.push(not_supported(&at_restart, other, &["OnFailure", "Never"])),
    }
}

fn managed_by(errors: &mut ErrorList, path: &Path, spec: &Value) {
    if !has(spec, "managedBy") {
        return;
    }
    let manager = str_of(spec, "managedBy");
    check::domain_prefixed_path(errors, path, manager);
    if manager.len() > MANAGER_BYTES_MAX {
        errors.push(crate::field::too_long(path, MANAGER_BYTES_MAX));
    }
}

/// Limits of Jobs whose pods have indexes.
fn indexed(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let number = |key: &str| int_of(spec, key);
    let (completions, parallelism, failed) = (number("completions"), number("parallelism"), number("maxFailedIndexes"));
    let at_failed = path.child("maxFailedIndexes");
    if completions.is_none() {
        errors.push(required(&path.child("completions"), "when completion mode is Indexed"));
    }
    if let Some(n) = parallelism.filter(|n| *n > INDEXED_MAX) {
        let detail = format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed");
        errors.push(invalid(&path.child("parallelism"), n, detail));
    }
    if let (Some(all), Some(n)) = (completions, failed)
        && n > all
    {
        errors.push(invalid(&at_failed, n, "must be less than or equal to completions"));
    }
    if let Some(n) = failed.filter(|n| *n > INDEXED_MAX) {
        errors.push(invalid(
            &at_failed,
            n,
            format!("must be less than or equal to {INDEXED_MAX}"),
        ));
    }
    if completions.is_none_or(|n| n <= COMPLETIONS_SOFT_MAX) || !has(spec, "backoffLimitPerIndex") {
        return;
    }
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_MAX}");
        errors.push(required(&at_failed, detail));
    }
    for (key, value, max) in [
        ("parallelism", parallelism, PARALLELISM_HIGH_MAX),
        ("maxFailedIndexes", failed, FAILED_INDEXES_HIGH_MAX),
    ] {
        if let Some(n) = value.filter(|n| *n > max) {
            let detail = format!(
                "must be less than or equal to {max} when completions are above {COMPLETIONS_SOFT_MAX} and used with backoff limit per index"
            );
            errors.push(invalid(&path.child(key), n, detail));
        }
    }
}

/// `valid values: ["A" "B"]`
fn valid_values(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|v| crate::field::quote(v)).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn one_of(errors: &mut ErrorList, path: &Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.push(required(path, valid_values(supported)));
    } else {
        check::one_of(errors, path, value, supported);
    }
}

/// An objection that does not show the value.
pub fn without_value(path: &Path, detail: &str) -> FieldError {
    FieldError {
        kind: ErrorKind::Invalid,
        field: path.to_string(),
        bad_value: None,
        detail: detail.to_owned(),
    }
}

fn pod_failure_policy(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let rules = list(get(spec, "podFailurePolicy"), "rules");
    let path = path.child("rules");
    if rules.len() > RULES_MAX {
        errors.push(too_many(&path, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        match str_of(rule, "action") {
            "FailIndex" => {
                if !has(spec, "backoffLimitPerIndex") {
                    let detail = "requires the backoffLimitPerIndex to be set";
                    errors.push(invalid(&path.child("action"), "FailIndex", detail));
                }
            }
            action => one_of(
                errors,
                &path.child("action"),
                action,
                &["Count", "FailIndex", "FailJob", "Ignore"],
            ),
        }
        let (codes, conditions) = (get(rule, "onExitCodes"), list(rule, "onPodConditions"));
        if codes.is_object() {
            exit_codes(errors, &path.child("onExitCodes"), codes, spec);
        }
        let at = path.child("onPodConditions");
        if conditions.len() > CONDITIONS_MAX {
            errors.push(too_many(&at, conditions.len(), CONDITIONS_MAX));
        }
        for (j, condition) in conditions.iter().enumerate() {
            let at = at.index(j);
            check::qualified(errors, &at.child("type"), str_of(condition, "type"));
            let status = str_of(condition, "status");
            one_of(errors, &at.child("status"), status, &["False", "True", "Unknown"]);
        }
        match (codes.is_object(), conditions.is_empty()) {
            (true, false) => errors.push(without_value(
                &path,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            )),
            (false, true) => errors.push(without_value(
                &path,
                "specifying one of OnExitCodes and OnPodConditions is required",
            )),
            _ => {}
        }
    }
}

fn exit_codes(errors: &mut ErrorList, path: &Path, codes: &Value, spec: &Value) {
    let operator = str_of(codes, "operator");
    one_of(errors, &path.child("operator"), operator, &["In", "NotIn"]);
    let named = |name: &str| {
        let pod = get(get(spec, "template"), "spec");
        ["containers", "initContainers"]
            .iter()
            .any(|key| list(pod, key).iter().any(|c| str_of(c, "name") == name))
    };
    let container = str_of(codes, "containerName");
    if has(codes, "containerName") && !named(container) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(invalid(&path.child("containerName"), container, detail));
    }
    let at = path.child("values");
    let values: Vec<i64> = list(codes, "values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.push(invalid(
            &at,
            get(codes, "values").clone(),
            "at least one value is required",
        ));
    } else if values.len() > CODES_MAX {
        errors.push(too_many(&at, values.len(), CODES_MAX));
    }
    let mut seen = BTreeSet::new();
    for (i, code) in values.iter().enumerate() {
        if operator == "In" && *code == 0 {
            errors.push(invalid(&at.index(i), 0, "must not be 0 for the In operator"));
        }
        if !seen.insert(*code) {
            errors.push(duplicate(&at.index(i), *code));
        }
    }
    if !values.is_sorted() {
        errors.push(invalid(&at, get(codes, "values").clone(), "must be ordered"));
    }
}

fn success_policy(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let policy = get(spec, "successPolicy");
    if !policy.is_object() {
        return;
    }
    if str_of(spec, "completionMode") != "Indexed" {
        let rules: Vec<String> = list(policy, "rules").iter().map(success_rule_text).collect();
        let shown = format!("{{\"Rules\":[{}]}}", rules.join(","));
        errors.push(go::invalid_shown(path, &shown, "requires indexed completion mode"));
        return;
    }
    let (rules, path) = (list(policy, "rules"), path.child("rules"));
    if rules.is_empty() {
        errors.push(required(
            &path,
            "at least one rules must be specified when the successPolicy is specified",
        ));
    }
    if rules.len() > RULES_MAX {
        errors.push(too_many(&path, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        success_rule(errors, &path.index(i), rule, int_of(spec, "completions").unwrap_or(0));
    }
}

/// A rule as its struct prints.
fn success_rule_text(rule: &Value) -> String {
    go::structure(&[
        ("SucceededIndexes", go::json_text(get(rule, "succeededIndexes"))),
        ("SucceededCount", go::json_text(get(rule, "succeededCount"))),
    ])
}

fn success_rule(errors: &mut ErrorList, path: &Path, rule: &Value, completions: i64) {
    let (indexes, count) = (has(rule, "succeededIndexes"), int_of(rule, "succeededCount"));
    let at_count = path.child("succeededCount");
    if !indexes && count.is_none() {
        errors.push(required(
            path,
            "at least one of succeededCount or succeededIndexes must be specified",
        ));
    }
    let mut total = None;
    if indexes {
        let text = str_of(rule, "succeededIndexes");
        let at = path.child("succeededIndexes");
        if text.len() > SUCCESS_INDEXES_BYTES_MAX {
            errors.push(crate::field::too_long(&at, SUCCESS_INDEXES_BYTES_MAX));
        }
        match count_indexes(text, completions) {
            Ok(n) => total = Some(n),
            Err(why) => {
                let detail = format!("error parsing succeededIndexes: {why}");
                errors.push(invalid(&at, text, detail));
            }
        }
    }
    if let Some(count) = count {
        check::non_negative(errors, &at_count, Some(count));
        if count > completions {
            let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(invalid(&at_count, count, detail));
        }
        if let Some(total) = total.filter(|total| count > *total) {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.push(invalid(&at_count, count, detail));
        }
    }
}

/// How many indexes `1,3-5` names. They have to grow and to be below `completions`.
pub fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, None);
    if text.is_empty() {
        return Ok(0);
    }
    for part in text.split(',') {
        let ends: Vec<&str> = part.split('-').collect();
        if ends.len() > 2 {
            return Err(format!(
                "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
                crate::field::quote(part)
            ));
        }
        let mut numbers = Vec::new();
        for end in &ends {
            let number: i64 = end.parse().map_err(|_| {
                format!(
                    "cannot convert string to integer for index: {}",
                    crate::field::quote(end)
                )
            })?;
            if number >= completions {
                return Err(format!("too large index: {}", crate::field::quote(end)));
            }
            numbers.push(number);
        }
        let (low, high) = (numbers[0], *numbers.last().unwrap_or(&numbers[0]));
        if last.is_some_and(|last| low <= last) {
            return Err(format!(
                "non-increasing order, previous: {}, current: {low}",
                last.unwrap_or(0)
            ));
        }
        if numbers.len() == 2 && high <= low {
            return Err(format!("non-increasing order, previous: {low}, current: {high}"));
        }
        total += high - low + 1;
        last = Some(high);
    }
    Ok(total)
}
