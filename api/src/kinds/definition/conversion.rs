//! How objects are converted between versions of a definition.

use super::super::access::{flag, get, has, str_of};
use super::super::{admit, check};
use crate::field::{ErrorList, Path, forbidden, invalid, required};
use crate::names::dns1035_label;
use serde_json::{Value, json};

/// The versions of the review that a webhook must be able to answer one of.
const KNOWN: [&str; 2] = ["v1", "v1beta1"];

/// Checks `spec.conversion`; `recognized` asks for a version of the review that we speak.
pub fn check(errors: &mut ErrorList, spec: &Value, path: &Path, recognized: bool) {
    let conversion = get(spec, "conversion");
    if !conversion.is_object() {
        return;
    }
    let strategy = str_of(conversion, "strategy");
    if strategy != "None" && flag(spec, "preserveUnknownFields") {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.push(invalid(&path.child("strategy"), strategy, detail));
    }
    check::required_one_of(errors, &path.child("strategy"), strategy, &["None", "Webhook"]);
    let webhook = get(conversion, "webhook");
    let config = path.child("webhookClientConfig");
    let versions = path.child("conversionReviewVersions");
    let listed = check::strings(webhook, "conversionReviewVersions");
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if has(webhook, "clientConfig") {
            errors.push(forbidden(&config, detail));
        }
        if !listed.is_empty() {
            errors.push(forbidden(&versions, detail));
        }
        return;
    }
    if has(webhook, "clientConfig") {
        admit::client_config(errors, &config, get(webhook, "clientConfig"));
    } else {
        errors.push(required(&config, "required when strategy is set to Webhook"));
    }
    review_versions(errors, &versions, &listed, recognized);
}

fn review_versions(errors: &mut ErrorList, path: &Path, listed: &[&str], recognized: bool) {
    if listed.is_empty() {
        errors.push(required(path, ""));
        return;
    }
    let repeated = check::repeats(listed);
    for (i, (version, repeated)) in listed.iter().zip(repeated).enumerate() {
        if repeated {
            errors.push(invalid(&path.index(i), *version, "duplicate version"));
            continue;
        }
        check::each(errors, &path.index(i), version, dns1035_label(version));
    }
    if recognized && !listed.iter().any(|v| KNOWN.contains(v)) {
        let detail = format!("must include at least one of {}", KNOWN.join(", "));
        errors.push(invalid(path, json!(listed), detail));
    }
}

/// Whether a definition that is already there names a version of the review that we speak.
pub fn is_recognized(spec: &Value) -> bool {
    let listed = check::strings(get(get(spec, "conversion"), "webhook"), "conversionReviewVersions");
    listed.is_empty() || listed.iter().any(|v| KNOWN.contains(v))
}
