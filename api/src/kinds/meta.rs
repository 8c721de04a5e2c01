//! Rules of `metadata`, the same for every kind: what the server owns, which names are possible, what never changes.

use super::access::{at, child, copy, flag, has, int, list, remove, set, str_of};
use super::check::{self, each};
use super::go;
use crate::field::{ErrorList, Path, forbidden, invalid, required};
use crate::names;
use serde_json::Value;

/// Which names a kind accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS subdomain (RFC 1123), the rule of most kinds.
    Subdomain,
    /// A DNS label (RFC 1123).
    Label,
    /// A DNS label that starts with a letter (RFC 1035).
    Label1035,
    /// Anything that is one URL path segment.
    PathSegment,
    /// An IP address in canonical form.
    Address,
}

impl NameRule {
    /// What is wrong with a name. For a prefix (`generateName`) one trailing dash is fine.
    pub fn objections(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = match name.strip_suffix('-') {
            Some(rest) if prefix && !rest.is_empty() => {
                masked = format!(
                    "{}a",
                    &rest[..rest.len() - rest.chars().next_back().map_or(0, char::len_utf8)]
                );
                masked.as_str()
            }
            _ => name,
        };
        match self {
            Self::Subdomain => names::dns1123_subdomain(name),
            Self::Label => names::dns1123_label(name),
            Self::Label1035 => names::dns1035_label(name),
            Self::PathSegment => path_segment(name, prefix),
            Self::Address => match name.parse::<std::net::IpAddr>() {
                Ok(address) if address.to_string() == name => Vec::new(),
                Ok(address) => vec![format!("must be in canonical form ({:?})", address.to_string())],
                Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
            },
        }
    }
}

fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    let mut out = Vec::new();
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    for illegal in ["/", "%"] {
        if name.contains(illegal) {
            out.push(format!("may not contain '{illegal}'"));
        }
    }
    out
}

/// Drops metadata that only the server sets.
pub fn prepare_create(obj: &mut Value) {
    let metadata = child(obj, "metadata");
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        remove(metadata, key);
    }
}

/// Carries over metadata that only the server sets. An absent uid means the stored one; another uid is refused
/// later.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let old = at(old, "/metadata");
    let metadata = child(new, "metadata");
    for key in ["generation", "creationTimestamp"] {
        copy(metadata, old, key);
    }
    // Nobody begins a deletion by a write: one that tries is refused later.
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if has(old, key) {
            copy(metadata, old, key);
        }
    }
    remove(metadata, "selfLink");
    for key in ["uid", "name", "namespace"] {
        if str_of(metadata, key).is_empty() {
            copy(metadata, old, key);
        }
    }
}

/// Gives `new` the metadata that people write, from `old`.
pub fn keep_metadata(new: &mut Value, old: &Value) {
    for key in [
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "deletionTimestamp",
    ] {
        copy(child(new, "metadata"), at(old, "/metadata"), key);
    }
}

/// Keeps `status` and the rest apart.
pub fn isolate_status(new: &mut Value, old: &Value, sub: Option<&str>) {
    if sub != Some("status") {
        copy(new, old, "status");
        return;
    }
    let status = new.get("status").cloned();
    let metadata = new.get("metadata").cloned();
    let (version, kind) = (new.get("apiVersion").cloned(), new.get("kind").cloned());
    *new = old.clone();
    for (key, value) in [("metadata", metadata), ("apiVersion", version), ("kind", kind)] {
        if let Some(value) = value {
            set(new, key, value);
        }
    }
    match status {
        Some(status) => set(new, "status", status),
        None => {
            remove(new, "status");
        }
    }
}

/// `metadata.generation`, 0 when missing.
pub fn generation(obj: &Value) -> i64 {
    int(obj, "/metadata/generation").unwrap_or(0)
}

/// Sets `metadata.generation`.
pub fn set_generation(obj: &mut Value, generation: i64) {
    set(child(obj, "metadata"), "generation", generation);
}

/// Objections to the metadata of a new object.
pub fn validate(obj: &Value, names: NameRule, namespaced: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    let metadata = at(obj, "/metadata");
    let generate = str_of(metadata, "generateName");
    if !generate.is_empty() {
        each(
            &mut errors,
            &path.child("generateName"),
            generate,
            names.objections(generate, true),
        );
    }
    let name = str_of(metadata, "name");
    if name.is_empty() {
        errors.push(required(&path.child("name"), "name or generateName is required"));
    } else {
        each(&mut errors, &path.child("name"), name, names.objections(name, false));
        if errors.is_empty() {
            each(
                &mut errors,
                &path.child("name"),
                name,
                NameRule::PathSegment.objections(name, false),
            );
        }
    }
    validate_namespace(
        &mut errors,
        &path.child("namespace"),
        str_of(metadata, "namespace"),
        namespaced,
    );
    check::non_negative(&mut errors, &path.child("generation"), int(metadata, "/generation"));
    validate_common(&mut errors, &path, metadata);
    errors
}

fn validate_namespace(errors: &mut ErrorList, path: &Path, namespace: &str, namespaced: bool) {
    if namespaced {
        if namespace.is_empty() {
            errors.push(required(path, ""));
        } else {
            check::dns_label(errors, path, namespace);
        }
    } else if !namespace.is_empty() {
        errors.push(forbidden(path, "not allowed on this type"));
    }
}

/// Labels, annotations, owner references and finalizers.
fn validate_common(errors: &mut ErrorList, path: &Path, metadata: &Value) {
    check::labels(errors, &path.child("labels"), metadata, "labels");
    check::annotations(errors, &path.child("annotations"), metadata);
    validate_owners(
        errors,
        &path.child("ownerReferences"),
        list(metadata, "ownerReferences"),
    );
    validate_finalizers(errors, &path.child("finalizers"), metadata);
}

const OWNER_FIELDS: &[&str] = &["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];

fn validate_owners(errors: &mut ErrorList, path: &Path, owners: &[Value]) {
    let mut controller: Option<&Value> = None;
    for owner in owners {
        let (version, kind) = (str_of(owner, "apiVersion"), str_of(owner, "kind"));
        if version.is_empty() {
            errors.push(invalid(&path.child("apiVersion"), version, "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if str_of(owner, key).is_empty() {
                errors.push(invalid(&path.child(key), "", "must not be empty"));
            }
        }
        if version == "v1" && kind == "Event" {
            errors.push(go::invalid_shown(
                path,
                &go::ordered(owner, OWNER_FIELDS),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if !flag(owner, "controller") {
            continue;
        }
        match controller {
            None => controller = Some(owner),
            Some(first) => {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                    str_of(first, "kind"),
                    str_of(first, "name"),
                    kind,
                    str_of(owner, "name")
                );
                errors.push(go::invalid_shown(
                    path,
                    &go::ordered_list(owners, OWNER_FIELDS),
                    &detail,
                ));
            }
        }
    }
}

fn validate_finalizers(errors: &mut ErrorList, path: &Path, metadata: &Value) {
    let finalizers = check::strings(metadata, "finalizers");
    for finalizer in &finalizers {
        each(errors, path, finalizer, names::qualified_name(finalizer));
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        errors.push(invalid(
            path,
            metadata.get("finalizers").cloned().unwrap_or_default(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
    for (i, finalizer) in finalizers.iter().enumerate() {
        finalizer_name(errors, &path.index(i), finalizer);
    }
}

/// A finalizer without a domain has to be one of the standard ones.
pub fn finalizer_name(errors: &mut ErrorList, path: &Path, finalizer: &str) {
    if !finalizer.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&finalizer) {
        errors.push(invalid(
            path,
            finalizer,
            "name is neither a standard finalizer name nor is it fully qualified",
        ));
    }
}

/// Objections to a change of metadata.
pub fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    let (new, old) = (at(new, "/metadata"), at(old, "/metadata"));
    if has(old, "deletionTimestamp") {
        no_new_finalizers(&mut errors, &path.child("finalizers"), new, old);
    }
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        check::immutable(&mut errors, &path.child(key), new.get(key), old.get(key));
    }
    validate_common(&mut errors, &path, new);
    errors
}

fn no_new_finalizers(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let before = check::strings(old, "finalizers");
    let mut extra: Vec<&str> = check::strings(new, "finalizers")
        .into_iter()
        .filter(|f| !before.contains(f))
        .collect();
    extra.sort_unstable();
    if !extra.is_empty() {
        let shown: Vec<String> = extra.iter().map(|f| crate::field::quote(f)).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            shown.join(", ")
        );
        errors.push(forbidden(path, detail));
    }
}
