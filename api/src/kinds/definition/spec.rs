//! `spec` of a definition. What all versions have in common is checked once, under the name it has inside of
//! Kubernetes (`spec.validation`), and not in the versions; paths in error texts say so.

use super::super::access::{flag, get, has, list, str_of};
use super::super::check;
use super::super::go;
use super::{conversion, schema, shown, structural, value};
use crate::field::{ErrorList, Path, duplicate, forbidden, invalid, required, too_many};
use crate::names::{dns1035_label, dns1123_subdomain};
use serde_json::Value;
use std::collections::BTreeSet;

/// The most fields that a version may offer for selection.
const SELECTABLE_MAX: usize = 8;

/// What is asked of a definition. Flaws that it has already may stay.
// Independent switches of Kubernetes' own options; a state machine would not be clearer.
#[allow(clippy::struct_excessive_bools)]
pub struct Demands {
    pub schemas: bool,
    pub structural: bool,
    pub pruned_defaults: bool,
    pub valid_types: bool,
    pub atomic_sets: bool,
    pub safe_map_keys: bool,
    pub recognized_review: bool,
}

impl Demands {
    /// Of a new definition: everything.
    pub fn of_new() -> Self {
        Self {
            schemas: true,
            structural: true,
            pruned_defaults: true,
            valid_types: true,
            atomic_sets: true,
            safe_map_keys: true,
            recognized_review: true,
        }
    }

    /// Of a definition whose `spec` was `old`.
    pub fn after(old: &Value) -> Self {
        let schemas: Vec<&Value> = list(old, "versions").iter().map(root_schema).collect();
        let none = |flawed: &dyn Fn(&Value) -> bool| {
            !schemas
                .iter()
                .any(|s| s.is_object() && schema::any(s, &mut |s| flawed(s)))
        };
        let root = Path::root();
        let structural = schemas
            .iter()
            .all(|s| !s.is_object() || structural::check(&root, s).is_empty());
        Self {
            schemas: schemas.iter().all(|s| s.is_object()),
            structural,
            pruned_defaults: schemas
                .iter()
                .all(|s| !s.is_object() || !value::has_unpruned_default(s)),
            valid_types: none(&|s| schema::has_invalid_type(s)),
            atomic_sets: none(&|s| !schema::non_atomic_set(&root, s).is_empty()),
            safe_map_keys: none(&|s| !schema::unsafe_keys(&root, s).is_empty()),
            recognized_review: conversion::is_recognized(old),
        }
    }
}

fn root_schema(version: &Value) -> &Value {
    get(get(version, "schema"), "openAPIV3Schema")
}

fn member<'a>(version: &'a Value, key: &str) -> &'a Value {
    match get(version, key) {
        Value::Array(items) if items.is_empty() => &Value::Null,
        found => found,
    }
}

/// Whether every version has the same `key`, so that it is checked once.
fn is_shared(versions: &[Value], key: &str) -> bool {
    versions.windows(2).all(|pair| match pair {
        [a, b] => member(a, key) == member(b, key),
        _ => true,
    })
}

/// Checks everything in `spec`.
pub fn check(errors: &mut ErrorList, spec: &Value, demands: &Demands) {
    let path = Path::new("spec");
    group(errors, &path.child("group"), str_of(spec, "group"));
    let scopes = ["Cluster", "Namespaced"];
    check::required_one_of(errors, &path.child("scope"), str_of(spec, "scope"), &scopes);
    let (versions, at_versions) = (list(spec, "versions"), path.child("versions"));
    let shared = |key: &str| is_shared(versions, key);
    if demands.schemas && !(shared("schema") && versions.first().is_some_and(|v| root_schema(v).is_object())) {
        for (i, _) in versions.iter().enumerate().filter(|(_, v)| !root_schema(v).is_object()) {
            let place = at_versions.index(i).child("schema").child("openAPIV3Schema");
            errors.push(required(&place, ""));
        }
    }
    let keeps_unknown = flag(spec, "preserveUnknownFields");
    let has_default = |v: &Value| schema::any(root_schema(v), &mut |s| has(s, "default"));
    if keeps_unknown && versions.iter().any(has_default) {
        let detail = "must be false in order to use defaults in the schema";
        errors.push(invalid(&path.child("preserveUnknownFields"), true, detail));
    }
    for (i, version) in versions.iter().enumerate() {
        let place = at_versions.index(i);
        let name = str_of(version, "name");
        let wrong = dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(invalid(&place.child("name"), name, wrong.join(",")));
        }
        deprecation(errors, &place.child("deprecationWarning"), version);
        parts(errors, version, &place, &place.child("schema"), demands, |key| {
            !shared(key)
        });
    }
    let show = || shown::versions(versions, |key| !shared(key));
    let names: Vec<&str> = versions.iter().map(|v| str_of(v, "name")).collect();
    let repeated = check::repeats(&names);
    if repeated.contains(&true) {
        errors.push(go::invalid_shown(
            &at_versions,
            &show(),
            "must contain unique version names",
        ));
    }
    if versions.iter().filter(|v| flag(v, "storage")).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(go::invalid_shown(&at_versions, &show(), detail));
    }
    if let Some(first) = names.first().filter(|n| !n.is_empty()) {
        let wrong = dns1035_label(first);
        if !wrong.is_empty() {
            errors.push(invalid(&path.child("version"), *first, wrong.join(",")));
        }
    }
    let (names, at_names) = (get(spec, "names"), path.child("names"));
    for key in ["plural", "singular", "kind", "listKind"] {
        if str_of(names, key).is_empty() {
            errors.push(required(&at_names.child(key), ""));
        }
    }
    super::names(errors, &at_names, names);
    if let Some(first) = versions.first() {
        parts(errors, first, &path, &path.child("validation"), demands, shared);
    }
    conversion::check(errors, spec, &path.child("conversion"), demands.recognized_review);
}

fn group(errors: &mut ErrorList, path: &Path, group: &str) {
    if group.is_empty() {
        errors.push(required(path, ""));
        return;
    }
    let wrong = dns1123_subdomain(group);
    if !wrong.is_empty() {
        errors.push(invalid(path, group, wrong.join(",")));
    } else if !group.contains('.') {
        errors.push(invalid(path, group, "should be a domain with at least one dot"));
    }
}

fn deprecation(errors: &mut ErrorList, path: &Path, version: &Value) {
    let Some(text) = get(version, "deprecationWarning").as_str() else {
        return;
    };
    let mut wrong = |detail: String| errors.push(invalid(path, text, detail));
    if !flag(version, "deprecated") {
        wrong("can only be set for deprecated versions".to_owned());
        return;
    }
    if text.len() > 256 {
        wrong("must be <= 256 characters long".to_owned());
    }
    if text.is_empty() {
        wrong("must not be an empty string".to_owned());
    }
    if let Some((i, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

/// The parts of a version that versions may have in common; `is_here` says which are checked in this place.
fn parts(
    errors: &mut ErrorList,
    version: &Value,
    path: &Path,
    schema_path: &Path,
    demands: &Demands,
    is_here: impl Fn(&str) -> bool,
) {
    let subresources = get(version, "subresources");
    let root = root_schema(version);
    if is_here("schema") && root.is_object() {
        validation(errors, schema_path, root, has(subresources, "status"), demands);
    }
    if is_here("subresources") && has(subresources, "scale") {
        scale(errors, &path.child("subresources"), get(subresources, "scale"));
    }
    if is_here("additionalPrinterColumns") {
        let columns = list(version, "additionalPrinterColumns");
        for (i, column) in columns.iter().enumerate() {
            printer_column(errors, &path.child("additionalPrinterColumns").index(i), column);
        }
    }
    if is_here("selectableFields") {
        let fields = list(version, "selectableFields");
        selectable(errors, &path.child("selectableFields"), fields, root);
    }
}

/// The members of the root that may be used beside a status that is written on its own.
const BESIDE_STATUS: [&str; 22] = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];

fn validation(errors: &mut ErrorList, path: &Path, root: &Value, has_status: bool, demands: &Demands) {
    let place = path.child("openAPIV3Schema");
    if has_status {
        for name in shown::members_set(root) {
            if name == "Type" && str_of(root, "type") != "object" {
                let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
                errors.push(invalid(&place.child("type"), str_of(root, "type"), detail));
                break;
            }
            if !BESIDE_STATUS.contains(&name) {
                let allowed = BESIDE_STATUS.join(" ");
                let detail = format!(
                    "only [{allowed}] fields are allowed at the root of the schema if the status subresource is enabled"
                );
                errors.push(go::invalid_shown(&place, &shown::schema(root), &detail));
                break;
            }
        }
    }
    if flag(root, "nullable") {
        errors.push(forbidden(
            &place.child("nullable"),
            "nullable cannot be true at the root",
        ));
    }
    schema::check(errors, &place, root, demands);
    if demands.structural {
        let found = structural::check(&place, root);
        if found.is_empty() {
            value::defaults(errors, &place, root, demands.pruned_defaults);
        }
        errors.extend(found);
    }
}

fn simple_path(errors: &mut ErrorList, path: &Path, text: &str) -> bool {
    let is_simple = text.starts_with('.');
    if !is_simple {
        let detail = "must be a simple json path starting with .";
        errors.push(invalid(path, text, detail));
    }
    is_simple
}

fn scale(errors: &mut ErrorList, path: &Path, scale: &Value) {
    let members: [(&str, bool, &[&str], &str); 3] = [
        (
            "specReplicasPath",
            true,
            &[".spec."],
            "should be a json path under .spec",
        ),
        (
            "statusReplicasPath",
            true,
            &[".status."],
            "should be a json path under .status",
        ),
        (
            "labelSelectorPath",
            false,
            &[".spec.", ".status."],
            "should be a json path under either .spec or .status",
        ),
    ];
    for (key, is_required, prefixes, detail) in members {
        let (place, text) = (path.child("scale").child(key), str_of(scale, key));
        if text.is_empty() {
            if is_required {
                errors.push(required(&place, ""));
            }
        } else if simple_path(errors, &place, text) && !prefixes.iter().any(|p| text.starts_with(p)) {
            errors.push(invalid(&place, text, detail));
        }
    }
}

fn printer_column(errors: &mut ErrorList, path: &Path, column: &Value) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = [
        "byte",
        "date",
        "date-time",
        "double",
        "float",
        "int32",
        "int64",
        "password",
    ];
    if str_of(column, "name").is_empty() {
        errors.push(required(&path.child("name"), ""));
    }
    let (kind, format) = (str_of(column, "type"), str_of(column, "format"));
    let detail = format!("must be one of {}", TYPES.join(","));
    if kind.is_empty() {
        errors.push(required(&path.child("type"), detail));
    } else if !TYPES.contains(&kind) {
        errors.push(invalid(&path.child("type"), kind, detail));
    }
    if !format.is_empty() && !FORMATS.contains(&format) {
        let detail = format!("must be one of {}", FORMATS.join(","));
        errors.push(invalid(&path.child("format"), format, detail));
    }
    let (place, text) = (path.child("JSONPath"), str_of(column, "jsonPath"));
    if text.is_empty() {
        errors.push(required(&place, ""));
    } else {
        simple_path(errors, &place, text);
    }
}

fn selectable(errors: &mut ErrorList, path: &Path, fields: &[Value], root: &Value) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, field) in fields.iter().enumerate() {
        let (place, text) = (path.index(i).child("jsonPath"), str_of(field, "jsonPath"));
        if text.is_empty() {
            errors.push(required(&place, ""));
            continue;
        }
        let found = match schema::follow(root, text) {
            Ok(found) => found,
            Err(why) => {
                errors.push(invalid(&place, text, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if text.starts_with(".metadata") {
            errors.push(invalid(&place, text, "must not point to fields in metadata"));
        }
        if !["string", "boolean", "integer"].contains(&str_of(found, "type")) {
            let detail = "must point to a field of type boolean, integer, string. Enum string fields and strings with formats are allowed.";
            errors.push(invalid(&place, text, detail));
        }
        if !seen.insert(text) {
            errors.push(duplicate(&place, text));
        }
    }
    if seen.len() > SELECTABLE_MAX {
        errors.push(too_many(path, seen.len(), SELECTABLE_MAX));
    }
}
