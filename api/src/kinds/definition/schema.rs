//! The parts of OpenAPI that a schema may use, and what the extensions ask of each other.

use super::super::access::{flag, get, has, list, str_of};
use super::super::check::{repeats, strings};
use super::spec::Demands;
use crate::field::{ErrorList, Path, forbidden, invalid, not_supported, required};
use serde_json::{Value, json};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];

/// What holds for the part of a schema that is looked at.
#[derive(Clone)]
struct Place<'a> {
    demands: &'a Demands,
    is_root: bool,
    /// Inside of the metadata of the resource, or of a resource in it.
    is_meta: bool,
    /// Why there may be no default.
    no_default: Option<&'static str>,
}

impl Place<'_> {
    fn inside(&self) -> Self {
        Self {
            is_root: false,
            ..self.clone()
        }
    }
}

/// Checks a schema and all schemas in it.
pub fn check(errors: &mut ErrorList, path: &Path, schema: &Value, demands: &Demands) {
    let place = Place {
        demands,
        is_root: true,
        is_meta: false,
        no_default: None,
    };
    walk(errors, path, schema, &place);
}

fn walk(errors: &mut ErrorList, path: &Path, schema: &Value, place: &Place<'_>) {
    if !schema.is_object() {
        return;
    }
    allowed(errors, path, schema, place);
    if flag(schema, "uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(forbidden(&path.child("uniqueItems"), detail));
    }
    let properties = get(schema, "properties").as_object();
    let more = get(schema, "additionalProperties");
    if !more.is_null() {
        if properties.is_some_and(|p| !p.is_empty()) && *more != json!(true) {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.push(forbidden(&path.child("additionalProperties"), detail));
        }
        let mut below = place.inside();
        if place.is_meta {
            below.no_default = Some("inside additionalProperties applying to object metadata");
        }
        walk(errors, &path.child("additionalProperties"), more, &below);
    }
    let is_resource = place.is_root || flag(schema, "x-kubernetes-embedded-resource");
    for (name, property) in properties.into_iter().flatten() {
        let mut below = place.inside();
        let top = match name.as_str() {
            "metadata" => Some("in top-level metadata"),
            "kind" => Some("in top-level kind"),
            "apiVersion" => Some("in top-level apiVersion"),
            _ => None,
        };
        if is_resource && top.is_some() {
            below.is_meta = true;
            if place.is_root {
                below.no_default = top;
            }
        }
        walk(errors, &path.child("properties").key(name), property, &below);
    }
    let below = place.inside();
    walk(errors, &path.child("not"), get(schema, "not"), &below);
    for key in ["allOf", "oneOf", "anyOf"] {
        for (i, part) in list(schema, key).iter().enumerate() {
            walk(errors, &path.child(key).index(i), part, &below);
        }
    }
    for (name, part) in get(schema, "definitions").as_object().into_iter().flatten() {
        walk(errors, &path.child("definitions").key(name), part, &below);
    }
    match get(schema, "items") {
        Value::Array(items) => {
            for (i, part) in items.iter().enumerate() {
                walk(errors, &path.child("items").index(i), part, &below);
            }
        }
        item => walk(errors, &path.child("items"), item, &below),
    }
    for (name, part) in get(schema, "dependencies").as_object().into_iter().flatten() {
        walk(errors, &path.child("dependencies").key(name), part, &below);
    }
    extensions(errors, path, schema, place.demands);
}

/// What no schema may use.
fn allowed(errors: &mut ErrorList, path: &Path, schema: &Value, place: &Place<'_>) {
    if place.demands.valid_types && has_invalid_type(schema) {
        errors.push(not_supported(&path.child("type"), str_of(schema, "type"), &TYPES));
    }
    let mut no = |key: &str, detail: &str| errors.push(forbidden(&path.child(key), detail));
    if let Some(why) = place.no_default.filter(|_| has(schema, "default")) {
        no("default", &format!("must not be set {why}"));
    }
    let unused = [
        ("id", "id"),
        ("additionalItems", "additionalItems"),
        ("patternProperties", "patternProperties"),
        ("definitions", "definitions"),
        ("dependencies", "dependencies"),
        ("$ref", "$ref"),
    ];
    for (key, name) in unused {
        let found = get(schema, key);
        if !found.is_null() && *found != json!("") && *found != json!({}) {
            no(key, &format!("{name} is not supported"));
        }
    }
    if str_of(schema, "type") == "null" {
        no("type", "type cannot be set to null, use nullable as an alternative");
    }
    if !list(schema, "items").is_empty() {
        no("items", "items must be a schema object and not an array");
    }
    if place.is_meta && flag(schema, "x-kubernetes-embedded-resource") {
        no(
            "x-kubernetes-embedded-resource",
            "must not be used inside of resource meta",
        );
    }
}

/// Whether a schema names a type that there is not.
pub fn has_invalid_type(schema: &Value) -> bool {
    let kind = str_of(schema, "type");
    !kind.is_empty() && !TYPES.contains(&kind)
}

fn extensions(errors: &mut ErrorList, path: &Path, schema: &Value, demands: &Demands) {
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if *get(schema, preserve) == json!(false) {
        errors.push(invalid(&path.child(preserve), false, "must be true or undefined"));
    }
    let wants = |errors: &mut ErrorList, key: &str, kind: &str| {
        let found = str_of(schema, "type");
        if has(schema, key) && found != kind {
            let (place, detail) = (path.child("type"), format!("must be {kind} if {key} is specified"));
            errors.push(if found.is_empty() {
                required(&place, detail)
            } else {
                invalid(&place, found, detail)
            });
        }
        !has(schema, key) || found == kind
    };
    let choice = |errors: &mut ErrorList, key: &str, choices: &[&str]| {
        let found = str_of(schema, key);
        if has(schema, key) && !choices.contains(&found) {
            errors.push(not_supported(&path.child(key), found, choices));
        }
    };
    wants(errors, "x-kubernetes-map-type", "object");
    choice(errors, "x-kubernetes-map-type", &["atomic", "granular"]);
    if wants(errors, "x-kubernetes-list-type", "array") && demands.atomic_sets {
        errors.extend(non_atomic_set(path, schema));
    }
    choice(errors, "x-kubernetes-list-type", &["atomic", "set", "map"]);
    list_map(errors, path, schema);
    rules(errors, path, schema);
    if demands.safe_map_keys {
        errors.extend(unsafe_keys(path, schema));
    }
}

/// Items of a set must be compared as a whole.
pub fn non_atomic_set(path: &Path, schema: &Value) -> ErrorList {
    let item = get(schema, "items");
    let key = match str_of(item, "type") {
        "array" => "x-kubernetes-list-type",
        "object" => "x-kubernetes-map-type",
        _ => return ErrorList::new(),
    };
    let is_atomic = match get(item, key).as_str() {
        None => key == "x-kubernetes-list-type",
        Some(found) => found == "atomic",
    };
    if str_of(schema, "x-kubernetes-list-type") != "set" || is_atomic {
        return ErrorList::new();
    }
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let shown = get(item, "x-kubernetes-list-type").clone();
    vec![invalid(&path.child("items").child(key), shown, detail)].into()
}

fn list_map(errors: &mut ErrorList, path: &Path, schema: &Value) {
    let (at_type, at_keys) = (
        path.child("x-kubernetes-list-type"),
        path.child("x-kubernetes-list-map-keys"),
    );
    let keys = strings(schema, "x-kubernetes-list-map-keys");
    let kind = get(schema, "x-kubernetes-list-type").as_str();
    if !keys.is_empty() {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match kind {
            None => errors.push(required(&at_type, detail)),
            Some("map") => {}
            Some(other) => errors.push(invalid(&at_type, other, detail)),
        }
    }
    if kind != Some("map") {
        return;
    }
    if keys.is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        errors.push(required(&at_keys, detail));
    }
    let (item, at_items) = (get(schema, "items"), path.child("items"));
    if item.is_null() {
        let detail = "must have a schema if x-kubernetes-list-type is map";
        errors.push(required(&at_items, detail));
    } else if item.is_object() && str_of(item, "type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(invalid(&at_items.child("type"), str_of(item, "type"), detail));
    }
    if str_of(item, "type") != "object" {
        return;
    }
    for (key, repeated) in keys.iter().zip(repeats(&keys)) {
        if errors.is_full() {
            return;
        }
        match get(item, "properties").get(key) {
            Some(property) if ["array", "object"].contains(&str_of(property, "type")) => {
                let place = at_items.child("properties").key(key).child("type");
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(invalid(&place, "object", detail));
            }
            Some(_) => {}
            None => {
                let detail = "entries must all be names of item properties";
                errors.push(invalid(&at_keys, json!(keys), detail));
            }
        }
        if repeated {
            errors.push(invalid(&at_keys, json!(keys), "must not contain duplicate entries"));
        }
    }
}

/// Items of a set or map must be there and have their keys.
pub fn unsafe_keys(path: &Path, schema: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (item, at_items) = (get(schema, "items"), path.child("items"));
    let kind = str_of(schema, "x-kubernetes-list-type");
    if !item.is_object() || !["set", "map"].contains(&kind) {
        return errors;
    }
    if flag(item, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errors.push(forbidden(&at_items.child("nullable"), detail));
    }
    if kind == "set" {
        return errors;
    }
    let asked = strings(item, "required");
    for key in strings(schema, "x-kubernetes-list-map-keys") {
        let Some(property) = get(item, "properties").get(key) else {
            continue;
        };
        let place = at_items.child("properties").key(key);
        if !asked.contains(&key) && !has(property, "default") {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(required(&place.child("default"), detail));
        }
        if flag(property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(forbidden(&place.child("nullable"), detail));
        }
    }
    errors
}

/// The rules in a schema, without their expressions.
fn rules(errors: &mut ErrorList, path: &Path, schema: &Value) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (i, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let place = path.child("x-kubernetes-validations").index(i);
        let (text, message) = (str_of(rule, "rule").trim(), str_of(rule, "message"));
        let said = message.trim();
        let at_message = place.child("message");
        if text.is_empty() {
            errors.push(required(&place.child("rule"), "rule is not specified"));
        } else if !message.is_empty() && said.is_empty() {
            errors.push(invalid(&at_message, message, "message must be non-empty if specified"));
        } else if breaks(said) {
            errors.push(invalid(&at_message, message, "message must not contain line breaks"));
        } else if breaks(text) && said.is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.push(required(&at_message, detail));
        }
        let expression = str_of(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.push(required(&place.child("messageExpression"), detail));
        }
        if let Some(reason) = get(rule, "reason").as_str().filter(|r| !REASONS.contains(r)) {
            errors.push(not_supported(&place.child("reason"), reason, &REASONS));
        }
        let field = str_of(rule, "fieldPath");
        if field.is_empty() {
            continue;
        }
        let at_field = place.child("fieldPath");
        if field.trim().is_empty() {
            errors.push(invalid(&at_field, field, "fieldPath must be non-empty if specified"));
        }
        if breaks(field) {
            errors.push(invalid(&at_field, field, "fieldPath must not contain line breaks"));
        }
        if let Err(why) = follow(schema, field) {
            let detail = format!("fieldPath must be a valid path: {why}");
            errors.push(invalid(&at_field, field, detail));
        }
    }
}

/// The schema of the field that a path of names (`.spec.size`, `.labels['a']`) leads to.
///
/// # Errors
/// When the path is not of that form, or there is no such field.
pub fn follow<'a>(schema: &'a Value, path: &str) -> Result<&'a Value, &'static str> {
    const NOWHERE: &str = "does not refer to a valid field";
    let (mut at, mut rest) = (schema, path);
    while !rest.is_empty() {
        let name = if let Some(tail) = rest.strip_prefix("['") {
            let (name, tail) = tail.split_once("']").ok_or("unterminated string")?;
            rest = tail;
            name
        } else {
            let tail = rest.strip_prefix('.').ok_or("expected [ or .")?;
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            let (name, tail) = tail.split_at(end);
            rest = tail;
            name
        };
        at = match get(at, "properties").get(name) {
            Some(found) => found,
            None => Some(get(at, "additionalProperties"))
                .filter(|more| more.is_object())
                .ok_or(NOWHERE)?,
        };
    }
    Ok(at)
}

/// Whether something holds for a schema or any schema in it.
pub fn any(schema: &Value, holds: &mut dyn FnMut(&Value) -> bool) -> bool {
    if !schema.is_object() {
        return false;
    }
    if holds(schema) {
        return true;
    }
    for key in ["properties", "patternProperties", "definitions", "dependencies"] {
        let parts = get(schema, key).as_object().into_iter().flatten();
        for (_, part) in parts {
            if any(part, holds) {
                return true;
            }
        }
    }
    for key in [
        "items",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "additionalProperties",
        "additionalItems",
    ] {
        let found = get(schema, key);
        let parts = found.as_array().map_or(std::slice::from_ref(found), Vec::as_slice);
        for part in parts {
            if any(part, holds) {
                return true;
            }
        }
    }
    false
}
