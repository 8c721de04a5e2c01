//! The conditions that many kinds have in their status, where Kubernetes looks at them.

use super::access::{has, int_of, list, str_of};
use super::check;
use crate::field::{ErrorList, Path, duplicate, invalid, required, too_long};
use serde_json::Value;

const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;

/// Checks `conditions` of `owner`: one of each type, each with a status, a time and a reason.
pub fn check(errors: &mut ErrorList, path: &Path, owner: &Value) {
    let conditions = list(owner, "conditions");
    let repeated = check::repeats(conditions.iter().map(|condition| str_of(condition, "type")));
    for (i, (condition, repeated)) in conditions.iter().zip(repeated).enumerate() {
        let path = path.child("conditions").index(i);
        let kind = str_of(condition, "type");
        if repeated {
            errors.push(duplicate(&path.child("type"), kind));
        }
        check::qualified(errors, &path.child("type"), kind);
        let status = str_of(condition, "status");
        check::one_of(errors, &path.child("status"), status, &["False", "True", "Unknown"]);
        if let Some(n) = int_of(condition, "observedGeneration").filter(|n| *n < 0) {
            let detail = "must be greater than or equal to zero";
            errors.push(invalid(&path.child("observedGeneration"), n, detail));
        }
        if !has(condition, "lastTransitionTime") {
            errors.push(required(&path.child("lastTransitionTime"), "must be set"));
        }
        reason(errors, &path.child("reason"), str_of(condition, "reason"));
        if str_of(condition, "message").len() > MESSAGE_MAX {
            errors.push(too_long(&path.child("message"), MESSAGE_MAX));
        }
    }
}

fn reason(errors: &mut ErrorList, path: &Path, reason: &str) {
    const SHAPE: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
    if reason.is_empty() {
        errors.push(required(path, "must be set"));
        return;
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let well_formed = reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(is_word)
        && reason.chars().all(|c| is_word(c) || [',', ':'].contains(&c));
    if !well_formed {
        errors.push(invalid(path, reason, SHAPE));
    }
    if reason.len() > REASON_MAX {
        errors.push(too_long(path, REASON_MAX));
    }
}
