//! CertificateSigningRequests.

use super::access::{self, at, child, each_mut, get, int_of, list, set, set_text_default, str_of, text};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, meta, tidy};
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required};
use crate::schema::choices::KEY_USAGES;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The rules of CertificateSigningRequests. Who asked is filled in by the API server.
pub struct SigningRequest;

impl Rules for SigningRequest {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        for condition in each_mut(child(obj, "status"), "conditions") {
            set_text_default(condition, "status", "True");
        }
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
    }

    fn on_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        access::copy(new, old, "spec");
        match sub {
            Some("status") => keep_conditions(new, old, |kind| kind == "Approved" || kind == "Denied"),
            Some("approval") => {
                let conditions = list(at(new, "/status"), "conditions").to_vec();
                access::copy(new, old, "status");
                set_conditions(new, conditions);
            }
            _ => access::copy(new, old, "status"),
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        if !is_request(str_of(spec, "request")) {
            let request = get(spec, "request").clone();
            let detail = "PEM block type must be CERTIFICATE REQUEST";
            errors.push(invalid(&path.child("request"), request, detail));
        }
        if strings(spec, "usages").is_empty() {
            errors.push(required(&path.child("usages"), ""));
        }
        let (usages, at_usages) = (strings(spec, "usages"), path.child("usages"));
        for (i, usage) in usages.iter().enumerate() {
            check::one_of(&mut errors, &at_usages.index(i), usage, KEY_USAGES);
        }
        let repeated = check::repeats(&usages);
        for (i, (usage, _)) in usages
            .iter()
            .zip(repeated)
            .enumerate()
            .filter(|(_, (_, repeated))| *repeated)
        {
            errors.push(duplicate(&at_usages.index(i), *usage));
        }
        let signer = str_of(spec, "signerName");
        if signer.is_empty() {
            errors.push(required(&path.child("signerName"), ""));
        } else {
            signer_name(&mut errors, &path.child("signerName"), signer);
        }
        if signer == "kubernetes.io/legacy-unknown" {
            let detail = "the legacy signerName is not allowed via this API version";
            errors.push(invalid(&path.child("signerName"), signer, detail));
        }
        if let Some(seconds) = int_of(spec, "expirationSeconds").filter(|s| *s < 600) {
            errors.push(invalid(
                &path.child("expirationSeconds"),
                seconds,
                "may not specify a duration less than 600 seconds (10 minutes)",
            ));
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        if sub.is_none() {
            return self.check(new);
        }
        let mut errors = ErrorList::new();
        let path = Path::new("status").child("conditions");
        let (after, before) = (at(new, "/status"), at(old, "/status"));
        conditions(&mut errors, &path, list(after, "conditions"));
        let (certificate, stored) = (str_of(after, "certificate"), str_of(before, "certificate"));
        let at_certificate = Path::new("status").child("certificate");
        if certificate != stored
            && let Some(detail) = wrong_certificate(certificate)
        {
            errors.push(invalid(&at_certificate, "<certificate data>", detail));
        }
        let count = |status: &Value, kind: &str| {
            let conditions = list(status, "conditions").iter();
            conditions.filter(|c| str_of(c, "type") == kind).count()
        };
        for kind in FINAL.iter().filter(|kind| count(after, kind) < count(before, kind)) {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errors.push(forbidden(&path, detail));
        }
        if certificate != stored && !stored.is_empty() {
            let detail = "updates may not modify existing certificate content";
            errors.push(forbidden(&at_certificate, detail));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            AGE,
            shown("SignerName", "string", "Signer that is asked."),
            shown("Requestor", "string", "User who asked."),
            shown(
                "RequestedDuration",
                "string",
                "How long the certificate should be valid.",
            ),
            shown("Condition", "string", "State of the request."),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let spec = at(obj, "/spec");
        let kinds: Vec<&str> = list(at(obj, "/status"), "conditions")
            .iter()
            .map(|c| str_of(c, "type"))
            .collect();
        let decided = ["Denied", "Approved"].into_iter().find(|k| kinds.contains(k));
        let mut condition = decided.unwrap_or("Pending").to_owned();
        if kinds.contains(&"Failed") {
            condition.push_str(",Failed");
        }
        if !text(obj, "/status/certificate").is_empty() {
            condition.push_str(",Issued");
        }
        let duration = int_of(spec, "expirationSeconds").map_or_else(|| "<none>".to_owned(), print::human);
        vec![
            json!(access::name(obj)),
            print::age(obj, now),
            json!(str_of(spec, "signerName")),
            json!(str_of(spec, "username")),
            json!(duration),
            json!(condition),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", text(obj, "/spec/signerName").to_owned())]
    }

    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::PathSegment
    }

    fn namespaced(&self) -> bool {
        false
    }

    /// Two subresources write parts of the status; `on_update` says which.
    fn status_rule(&self) -> StatusRule {
        StatusRule::Whole
    }
}

/// Conditions that stay once they are there, and that are always true.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

fn conditions(errors: &mut ErrorList, path: &Path, conditions: &[Value]) {
    let mut before = BTreeSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let (place, kind) = (path.index(i), str_of(condition, "type"));
        if kind.is_empty() {
            errors.push(required(&place.child("type"), ""));
        }
        let states: &[&str] = if FINAL.contains(&kind) {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        check::required_one_of(errors, &place.child("status"), str_of(condition, "status"), states);
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && before.contains(other) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(invalid(path, kind, detail));
        }
        if !before.insert(kind) {
            errors.push(duplicate(&place.child("type"), kind));
        }
    }
}

/// `example.com/name`: a domain with a dot, and a path of subdomains.
pub fn signer_name(errors: &mut ErrorList, path: &Path, signer: &str) {
    const FORM: &str = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
    const DOMAIN_BYTES_MAX: usize = 253;
    const NAME_BYTES_MAX: usize = DOMAIN_BYTES_MAX + 1 + 253 + 1 + 63;
    let Some((domain, rest)) = signer.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        errors.push(invalid(path, signer, FORM));
        return;
    };
    if domain.len() > DOMAIN_BYTES_MAX {
        errors.push(crate::field::too_long(path, DOMAIN_BYTES_MAX));
    }
    labels(errors, path, domain, crate::names::dns1123_label);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(invalid(path, domain, detail));
    }
    labels(errors, path, rest, crate::names::dns1123_subdomain);
    if signer.len() > NAME_BYTES_MAX {
        errors.push(crate::field::too_long(path, NAME_BYTES_MAX));
    }
}

/// Says what is wrong with the first wrong label of a name.
fn labels(errors: &mut ErrorList, path: &Path, name: &str, rule: fn(&str) -> Vec<String>) {
    let found = name.split('.').map(|label| (label, rule(label)));
    if let Some((label, messages)) = found.into_iter().find(|(_, messages)| !messages.is_empty()) {
        for message in messages {
            let detail = format!("validating label {}: {message}", crate::field::quote(label));
            errors.push(invalid(path, name, detail));
        }
    }
}

/// Whether the bytes hold the text form of a request for a certificate. What is inside is looked at by who signs it.
fn is_request(base64: &str) -> bool {
    let bytes = STANDARD.decode(base64).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let block = text.find("-----BEGIN ").and_then(|at| text.get(at + 11..));
    block.is_some_and(|rest| {
        rest.starts_with("CERTIFICATE REQUEST-----") && rest.contains("-----END CERTIFICATE REQUEST-----")
    })
}

/// Conditions that a write may not touch keep their stored state.
fn keep_conditions(new: &mut Value, old: &Value, kept: impl Fn(&str) -> bool) {
    let stored = list(at(old, "/status"), "conditions").to_vec();
    let mut conditions: Vec<Value> = stored.into_iter().filter(|c| kept(str_of(c, "type"))).collect();
    conditions.extend(
        list(at(new, "/status"), "conditions")
            .iter()
            .filter(|c| !kept(str_of(c, "type")))
            .cloned(),
    );
    set_conditions(new, conditions);
}

fn set_conditions(new: &mut Value, conditions: Vec<Value>) {
    if conditions.is_empty() {
        access::remove(child(new, "status"), "conditions");
    } else {
        set(child(new, "status"), "conditions", conditions);
    }
}

/// What is wrong with the text form of a chain of certificates.
fn wrong_certificate(base64: &str) -> Option<String> {
    let bytes = STANDARD.decode(base64).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut found = false;
    for block in text.split("-----BEGIN ").skip(1) {
        let (kind, rest) = block.split_once("-----")?;
        let Some((body, _)) = rest.split_once(&format!("-----END {kind}-----")) else {
            continue;
        };
        if kind != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {kind:?}"));
        }
        if body.contains(':') {
            return Some("no PEM block headers are permitted".to_owned());
        }
        found = true;
    }
    (!found && !base64.is_empty()).then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}
