//! CustomResourceDefinitions: what may be defined. Serving what was defined is not done here.

mod conversion;
mod formats;
mod schema;
mod shown;
mod spec;
mod structural;
pub(crate) mod value;

#[cfg(test)]
mod tests;

use super::access::{self, at, child, flag, list, set, set_default, set_text_default, str_of, text};
use super::{Rules, StatusRule, check, tidy};
use crate::field::{ErrorList, Path, invalid, required};
use crate::names::dns1035_label;
use serde_json::{Value, json};
use spec::Demands;
use std::collections::BTreeSet;

pub use value::check as check_value;

/// The annotation that says who approved a definition in a group of the Kubernetes community.
const APPROVED: &str = "api-approved.kubernetes.io";

/// The rules of CustomResourceDefinitions.
pub struct Definition;

impl Rules for Definition {
    fn fill(&self, obj: &mut Value) {
        tidy::metadata(obj);
        let spec = child(obj, "spec");
        let names = child(spec, "names");
        let kind = str_of(names, "kind").to_owned();
        set_text_default(names, "singular", &kind.to_lowercase());
        if !kind.is_empty() {
            set_text_default(names, "listKind", &format!("{kind}List"));
        }
        let conversion = child(spec, "conversion");
        set_text_default(conversion, "strategy", "None");
        if let Some(service) = access::child_if(conversion, "webhook")
            .and_then(|w| access::child_if(w, "clientConfig"))
            .and_then(|c| access::child_if(c, "service"))
        {
            set_default(service, "port", 443);
        }
    }

    fn on_create(&self, obj: &mut Value) {
        // Only the first storage version counts; a second one is an objection of `check`.
        let stored: Vec<Value> = stored_by(obj).take(1).map(|name| json!(name)).collect();
        set(
            obj,
            "status",
            json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}),
        );
    }

    fn on_update(&self, new: &mut Value, _old: &Value, sub: Option<&str>) {
        if sub.is_some() {
            return;
        }
        let mut stored = list(at(new, "/status"), "storedVersions").to_vec();
        if let Some(version) = stored_by(new).next()
            && !stored.iter().any(|s| *s == version)
        {
            stored.push(json!(version));
        }
        set(child(new, "status"), "storedVersions", stored);
    }

    fn check(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (group, plural) = (text(obj, "/spec/group"), text(obj, "/spec/names/plural"));
        if access::name(obj) != format!("{plural}.{group}") {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.push(invalid(&Path::new("metadata").child("name"), access::name(obj), detail));
        }
        spec::check(&mut errors, at(obj, "/spec"), &Demands::of_new());
        status(&mut errors, obj);
        stored_versions(&mut errors, obj);
        approval(&mut errors, obj, None);
        if flag(at(obj, "/spec"), "preserveUnknownFields") {
            errors.push(keeps_unknown());
        }
        errors
    }

    fn check_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errors = ErrorList::new();
        if sub.is_some() {
            status(&mut errors, new);
            return errors;
        }
        let (path, was) = (Path::new("spec"), at(old, "/spec"));
        spec::check(&mut errors, at(new, "/spec"), &Demands::after(was));
        let fixed: &[&str] = if is_established(old) {
            &["scope", "names/kind", "group", "names/plural"]
        } else {
            &["group", "names/plural"]
        };
        for member in fixed {
            let place = member.split('/').fold(path.clone(), |p, step| p.child(step));
            let pointer = format!("/spec/{member}");
            check::immutable(&mut errors, &place, new.pointer(&pointer), old.pointer(&pointer));
        }
        status(&mut errors, new);
        stored_versions(&mut errors, new);
        approval(&mut errors, new, Some(old));
        if flag(at(new, "/spec"), "preserveUnknownFields") && !flag(was, "preserveUnknownFields") {
            errors.push(keeps_unknown());
        }
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }

    fn namespaced(&self) -> bool {
        false
    }

    fn status_rule(&self) -> StatusRule {
        StatusRule::Separate
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// The versions that are marked as stored.
fn stored_by(obj: &Value) -> impl Iterator<Item = String> {
    list(at(obj, "/spec"), "versions")
        .iter()
        .filter(|v| flag(v, "storage"))
        .map(|v| str_of(v, "name").to_owned())
}

/// Whether names and schema were accepted once: from then on objects may exist.
fn is_established(obj: &Value) -> bool {
    list(at(obj, "/status"), "conditions")
        .iter()
        .any(|c| str_of(c, "type") == "Established" && str_of(c, "status") == "True")
}

fn keeps_unknown() -> crate::field::FieldError {
    let detail =
        "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
    invalid(&Path::new("spec").child("preserveUnknownFields"), true, detail)
}

fn status(errors: &mut ErrorList, obj: &Value) {
    let path = Path::new("status").child("acceptedNames");
    names(errors, &path, at(obj, "/status/acceptedNames"));
}

/// The names of a resource, as far as they are there.
fn names(errors: &mut ErrorList, path: &Path, names: &Value) {
    let mut label = |path: Path, shown: &str, checked: &str, prefix: &str| {
        let found = dns1035_label(checked);
        if !found.is_empty() {
            errors.push(invalid(&path, shown, format!("{prefix}{}", found.join(","))));
        }
    };
    for key in ["plural", "singular"] {
        let name = str_of(names, key);
        if !name.is_empty() {
            label(path.child(key), name, name, "");
        }
    }
    for key in ["kind", "listKind"] {
        let name = str_of(names, key);
        if !name.is_empty() {
            let prefix = "may have mixed case, but should otherwise match: ";
            label(path.child(key), name, &name.to_lowercase(), prefix);
        }
    }
    for (i, name) in check::strings(names, "shortNames").iter().enumerate() {
        label(path.child("shortNames").index(i), name, name, "");
    }
    let list_kind = str_of(names, "listKind");
    let same = !list_kind.is_empty() && list_kind == str_of(names, "kind");
    let categories = check::strings(names, "categories");
    if same {
        let detail = "kind and listKind may not be the same";
        errors.push(invalid(&path.child("listKind"), list_kind, detail));
    }
    for (i, name) in categories.iter().enumerate() {
        let found = dns1035_label(name);
        if !found.is_empty() {
            errors.push(invalid(&path.child("categories").index(i), *name, found.join(",")));
        }
    }
}

/// Versions that objects were ever stored in must stay defined.
fn stored_versions(errors: &mut ErrorList, obj: &Value) {
    let path = Path::new("status").child("storedVersions");
    let stored = check::strings(at(obj, "/status"), "storedVersions");
    let shown = at(obj, "/status/storedVersions");
    if stored.is_empty() {
        errors.push(invalid(&path, Value::Null, "must have at least one stored version"));
        return;
    }
    let versions = list(at(obj, "/spec"), "versions");
    let known: BTreeSet<&str> = stored.iter().copied().collect();
    for version in versions.iter().filter(|v| flag(v, "storage")) {
        let name = str_of(version, "name");
        if errors.is_full() {
            return;
        }
        if !known.contains(name) {
            let detail = format!("must have the storage version {name}");
            errors.push(invalid(&path, shown.clone(), detail));
        }
    }
    let served = check::by_name(versions);
    for (i, name) in stored.iter().enumerate() {
        if !served.contains_key(name) {
            errors.push(invalid(&path.index(i), *name, "must appear in spec.versions"));
        }
    }
}

/// What the approval annotation of a definition says.
#[derive(PartialEq)]
enum Approval {
    Missing,
    Given,
    Invalid,
}

impl Approval {
    fn of(obj: &Value) -> Self {
        let said = str_of(at(obj, "/metadata/annotations"), APPROVED);
        let is_url = said
            .split_once("://")
            .is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/'));
        match said {
            "" => Self::Missing,
            _ if is_url || said.starts_with("unapproved") => Self::Given,
            _ => Self::Invalid,
        }
    }
}

/// Groups of the Kubernetes community take only definitions that were approved.
fn approval(errors: &mut ErrorList, new: &Value, old: Option<&Value>) {
    let group = text(new, "/spec/group");
    let is_protected = ["k8s.io", "kubernetes.io"].iter().any(|g| {
        group
            .strip_suffix(g)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    let state = Approval::of(new);
    if !is_protected || old.is_some_and(|o| Approval::of(o) == state) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(APPROVED);
    let asked = format!("protected groups must have approval annotation \"{APPROVED}\"");
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state {
        Approval::Given => {}
        Approval::Missing => errors.push(required(&path, format!("{asked}, {see}"))),
        Approval::Invalid => errors.push(invalid(
            &path,
            str_of(at(new, "/metadata/annotations"), APPROVED),
            format!("{asked} with either a URL or a reason starting with \"unapproved\", {see}"),
        )),
    }
}
