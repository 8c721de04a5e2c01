//! Objections to probes and lifecycle hooks.

use crate::field::{ErrorList, Path, forbidden, invalid, required};
use crate::kinds::access::{get, int_of, list, str_of};
use crate::kinds::check;
use crate::names;
use serde_json::Value;

/// A probe. Liveness and startup succeed at the first success.
pub fn probe(errors: &mut ErrorList, path: &Path, probe: &Value, success_must_be_one: bool, grace_s: Option<i64>) {
    handler(errors, path, probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace_s);
    let numbers = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    check::non_negative_fields(errors, path, probe, &numbers);
    let grace = int_of(probe, "terminationGracePeriodSeconds");
    if let Some(seconds) = grace.filter(|s| *s <= 0) {
        errors.push(invalid(
            &path.child("terminationGracePeriodSeconds"),
            seconds,
            "must be greater than 0",
        ));
    }
    if success_must_be_one {
        if let Some(n) = int_of(probe, "successThreshold").filter(|n| *n != 1) {
            errors.push(invalid(&path.child("successThreshold"), n, "must be 1"));
        }
    } else if let Some(seconds) = grace {
        errors.push(invalid(
            &path.child("terminationGracePeriodSeconds"),
            seconds,
            "must not be set for readinessProbes",
        ));
    }
}

/// `postStart` and `preStop`.
pub fn lifecycle(errors: &mut ErrorList, path: &Path, lifecycle: &Value, grace_s: Option<i64>) {
    for hook in ["postStart", "preStop"] {
        let value = get(lifecycle, hook);
        if value.is_object() {
            handler(
                errors,
                &path.child(hook),
                value,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                grace_s,
            );
        }
    }
}

/// Exactly one of the allowed kinds of handler.
fn handler(errors: &mut ErrorList, path: &Path, owner: &Value, kinds: &[&str], grace_s: Option<i64>) {
    let mut found = false;
    for kind in kinds {
        let value = get(owner, kind);
        if !value.is_object() {
            continue;
        }
        let at = path.child(kind);
        if found {
            errors.push(forbidden(&at, "may not specify more than 1 handler type"));
            continue;
        }
        found = true;
        match *kind {
            "exec" if list(value, "command").is_empty() => errors.push(required(&at.child("command"), "")),
            "exec" => {}
            "httpGet" => http_get(errors, &at, value),
            "sleep" => sleep(errors, &at, value, grace_s),
            _ => check::port_or_name(errors, &at.child("port"), get(value, "port")),
        }
    }
    if !found {
        errors.push(required(path, "must specify a handler type"));
    }
}

fn http_get(errors: &mut ErrorList, path: &Path, get_action: &Value) {
    if str_of(get_action, "path").is_empty() {
        errors.push(required(&path.child("path"), ""));
    }
    check::port_or_name(errors, &path.child("port"), get(get_action, "port"));
    check::one_of(
        errors,
        &path.child("scheme"),
        str_of(get_action, "scheme"),
        &["HTTP", "HTTPS"],
    );
    for header in list(get_action, "httpHeaders") {
        let name = str_of(header, "name");
        check::each(errors, &path.child("httpHeaders"), name, names::http_header_name(name));
    }
}

fn sleep(errors: &mut ErrorList, path: &Path, action: &Value, grace_s: Option<i64>) {
    let seconds = int_of(action, "seconds").unwrap_or(0);
    if let Some(grace) = grace_s.filter(|g| seconds < 0 || seconds > *g) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(invalid(path, seconds, detail));
    }
}
