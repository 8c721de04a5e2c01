//! Small kinds of the core group: Namespace, ServiceAccount, ConfigMap, Secret, and coordination's Lease.

use super::access::{
    self, at, child, copy, entries, flag, get, has, int_of, remove, same, set, set_text_default, str_of, text,
};
use super::check::{self, strings};
use super::print::{self, AGE, NAME, shown};
use super::{Column, Rules, StatusRule, meta, tidy};
use crate::field::{ErrorList, Path, forbidden, invalid, required, too_long};
use crate::names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rules of Namespaces.
pub struct Namespace;

impl Rules for Namespace {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let name = access::name(obj).to_owned();
        if !name.is_empty() {
            set(
                child(child(obj, "metadata"), "labels"),
                "kubernetes.io/metadata.name",
                name,
            );
        }
        tidy::drop_zero(child(obj, "spec"), &["finalizers"]);
        set_text_default(child(obj, "status"), "phase", "Active");
    }

    fn on_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"phase": "Active"}));
        let spec = child(obj, "spec");
        let mut finalizers = get(spec, "finalizers").as_array().cloned().unwrap_or_default();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push(json!("kubernetes"));
        }
        set(spec, "finalizers", finalizers);
    }

    fn on_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub != Some("finalize") {
            copy(child(new, "spec"), at(old, "/spec"), "finalizers");
        }
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("finalizers");
        for finalizer in strings(at(obj, "/spec"), "finalizers") {
            check::each(&mut errors, &path, finalizer, names::qualified_name(finalizer));
            meta::finalizer_name(&mut errors, &path, finalizer);
        }
        errors
    }

    fn check_update(&self, new: &Value, _old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        match sub {
            Some("finalize") => {
                for (i, finalizer) in strings(at(new, "/spec"), "finalizers").iter().enumerate() {
                    let path = Path::new("spec").child("finalizers").index(i);
                    check::each(&mut errors, &path, finalizer, names::qualified_name(finalizer));
                    meta::finalizer_name(&mut errors, &path, finalizer);
                }
            }
            Some("status") => {
                let deleting = has(at(new, "/metadata"), "deletionTimestamp");
                let phase = text(new, "/status/phase");
                let path = Path::new("status").child("Phase");
                if !deleting && phase != "Active" {
                    errors.push(invalid(
                        &path,
                        phase,
                        "may only be 'Active' if `deletionTimestamp` is empty",
                    ));
                } else if deleting && phase != "Terminating" {
                    errors.push(invalid(
                        &path,
                        phase,
                        "may only be 'Terminating' if `deletionTimestamp` is not empty",
                    ));
                }
            }
            _ => {}
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("Status", "string", "The status of the namespace."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(text(obj, "/status/phase")),
            print::age(obj, now),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.phase", "name"]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("status.phase", text(obj, "/status/phase").to_owned()),
            ("name", access::name(obj).to_owned()),
        ]
    }

    fn name_rule(&self) -> meta::NameRule {
        meta::NameRule::Label
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }
}

/// The rules of ServiceAccounts.
pub struct ServiceAccount;

impl Rules for ServiceAccount {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        tidy::drop_zero(obj, &["secrets", "imagePullSecrets"]);
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![json!(access::name(obj)), print::age(obj, now)]
    }
}

/// Most bytes that the values of one ConfigMap or Secret may have together.
const VALUES_BYTES_MAX: usize = 1024 * 1024;

fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// Objections to changes of an object that declared itself immutable.
fn declared_immutable(errors: &mut ErrorList, new: &Value, old: &Value, members: &[&str]) {
    const FROZEN: &str = "field is immutable when `immutable` is set";
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        errors.push(forbidden(&Path::new("immutable"), FROZEN));
    }
    for member in members {
        if !same(new.get(*member), old.get(*member)) {
            errors.push(forbidden(&Path::new(member), FROZEN));
        }
    }
}

/// The rules of ConfigMaps.
pub struct ConfigMap;

impl Rules for ConfigMap {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        tidy::drop_zero(obj, &["data", "binaryData"]);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut bytes = 0;
        let binary = get(obj, "binaryData");
        for (key, value) in entries(obj, "data") {
            let path = Path::new("data").key(key);
            check::each(&mut errors, &path, key, names::config_map_key(key));
            if binary.get(key).is_some() {
                errors.push(invalid(&path, key.as_str(), "duplicate of key present in binaryData"));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
        for (key, value) in entries(obj, "binaryData") {
            check::each(
                &mut errors,
                &Path::new("binaryData").key(key),
                key,
                names::config_map_key(key),
            );
            bytes += value.as_str().map_or(0, decoded_length);
        }
        if bytes > VALUES_BYTES_MAX {
            errors.push(too_long(&Path::root().key(""), VALUES_BYTES_MAX));
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        declared_immutable(&mut errors, new, old, &["data", "binaryData"]);
        errors.extend(self.check(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("Data", "string", "Number of keys."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let keys = entries(obj, "data").count() + entries(obj, "binaryData").count();
        vec![json!(access::name(obj)), json!(keys), print::age(obj, now)]
    }
}

/// The rules of Secrets.
pub struct Secret;

/// Members that secrets of a type must have.
const SECRET_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

impl Rules for Secret {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        if let Some(Value::Object(plain)) = remove(obj, "stringData") {
            for (key, value) in plain {
                let encoded = STANDARD.encode(value.as_str().unwrap_or(""));
                set(child(obj, "data"), &key, encoded);
            }
        }
        tidy::drop_zero(obj, &["data"]);
        set_text_default(obj, "type", "Opaque");
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("data");
        let mut bytes = 0;
        for (key, value) in entries(obj, "data") {
            check::each(&mut errors, &path.key(key), key, names::config_map_key(key));
            bytes += value.as_str().map_or(0, decoded_length);
        }
        if bytes > VALUES_BYTES_MAX {
            errors.push(too_long(&path, VALUES_BYTES_MAX));
        }
        let (kind, data) = (str_of(obj, "type"), get(obj, "data"));
        match kind {
            "kubernetes.io/service-account-token" => {
                const ACCOUNT: &str = "kubernetes.io/service-account.name";
                if str_of(at(obj, "/metadata/annotations"), ACCOUNT).is_empty() {
                    errors.push(required(&Path::new("metadata").child("annotations").key(ACCOUNT), ""));
                }
            }
            "kubernetes.io/basic-auth" => {
                if !has(data, "username") && !has(data, "password") {
                    errors.push(required(&path.key("username"), ""));
                    errors.push(required(&path.key("password"), ""));
                }
            }
            _ => required_keys(&mut errors, &path, kind, data),
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        check::immutable(&mut errors, &Path::new("type"), new.get("type"), old.get("type"));
        declared_immutable(&mut errors, new, old, &["data"]);
        errors.extend(self.check(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[
            NAME,
            shown("Type", "string", "What the secret is for."),
            shown("Data", "string", "Number of keys."),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(str_of(obj, "type")),
            json!(entries(obj, "data").count()),
            print::age(obj, now),
        ]
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["type"]
    }

    fn selectable(&self, obj: &Value) -> Vec<(&'static str, String)> {
        vec![("type", str_of(obj, "type").to_owned())]
    }
}

fn required_keys(errors: &mut ErrorList, path: &Path, kind: &str, data: &Value) {
    let keys = SECRET_KEYS
        .iter()
        .find(|(k, _)| *k == kind)
        .map_or(&[] as &[&str], |(_, keys)| keys);
    for key in keys {
        let value = str_of(data, key);
        if !has(data, key) || (value.is_empty() && kind.ends_with("ssh-auth")) {
            errors.push(required(&path.key(key), ""));
        } else if kind.contains("docker")
            && let Some(why) = not_an_object(&STANDARD.decode(value).unwrap_or_default())
        {
            errors.push(invalid(&path.key(key), "<secret contents redacted>", why));
        }
    }
}

/// Why bytes are not a JSON object, as Go's decoder says it.
fn not_an_object(bytes: &[u8]) -> Option<String> {
    let kind = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(Value::Array(_)) => "array",
        Ok(Value::String(_)) => "string",
        Ok(Value::Number(_)) => "number",
        Ok(Value::Bool(_)) => "bool",
        Err(error) if error.is_eof() => return Some("unexpected end of JSON input".to_owned()),
        Err(error) => {
            let line = bytes
                .split(|b| *b == b'\n')
                .nth(error.line().saturating_sub(1))
                .unwrap_or_default();
            let found = line
                .get(error.column().saturating_sub(1))
                .copied()
                .map_or('\u{fffd}', char::from);
            return Some(format!("invalid character '{found}' looking for beginning of value"));
        }
    };
    Some(format!(
        "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
    ))
}

/// The rules of Leases.
pub struct Lease;

impl Rules for Lease {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        child(obj, "spec");
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, spec) = (Path::new("spec"), at(obj, "/spec"));
        if let Some(seconds) = int_of(spec, "leaseDurationSeconds").filter(|s| *s <= 0) {
            errors.push(invalid(
                &path.child("leaseDurationSeconds"),
                seconds,
                "must be greater than 0",
            ));
        }
        check::non_negative(
            &mut errors,
            &path.child("leaseTransitions"),
            int_of(spec, "leaseTransitions"),
        );
        let strategy = str_of(spec, "strategy");
        if !strategy.is_empty() {
            check::one_of(
                &mut errors,
                &path.child("strategy"),
                strategy,
                &["OldestEmulationVersion"],
            );
        }
        if has(spec, "preferredHolder") && !str_of(spec, "preferredHolder").is_empty() && strategy.is_empty() {
            errors.push(forbidden(
                &path.child("preferredHolder"),
                "may only be specified if `strategy` is defined",
            ));
        }
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        static COLUMNS: &[Column] = &[NAME, shown("Holder", "string", "Who holds the lease."), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        vec![
            json!(access::name(obj)),
            json!(text(obj, "/spec/holderIdentity")),
            print::age(obj, now),
        ]
    }
}

/// The rules of Bindings: a pod and its node.
pub struct Binding;

impl Rules for Binding {
    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (path, target) = (Path::new("target"), at(obj, "/target"));
        let kind = str_of(target, "kind");
        if !kind.is_empty() && kind != "Node" {
            errors.push(crate::field::not_supported(
                &path.child("kind"),
                kind,
                &["Node", "<empty>"],
            ));
        }
        if str_of(target, "name").is_empty() {
            errors.push(required(&path.child("name"), ""));
        }
        errors
    }
}
