//! Structural schemas: every field has its type outside of `allOf`, `anyOf`, `oneOf` and `not`, so that objects can be
//! pruned and filled without looking at their values.

use super::super::access::{flag, get, has, list, str_of};
use super::formats;
use crate::field::{ErrorList, Path, forbidden, invalid, required};
use serde_json::{Value, json};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Everything that keeps a schema from being structural, in the order of the texts.
pub fn check(path: &Path, schema: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    walk(&mut errors, path, schema, Level::Root);
    complete(&mut errors, schema, schema, path, path);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn walk(errors: &mut ErrorList, path: &Path, schema: &Value, level: Level) {
    if !schema.is_object() {
        return;
    }
    let kind = str_of(schema, "type");
    if kind == "array" && !has(schema, "items") {
        errors.push(required(&path.child("items"), "must be specified"));
    }
    walk(errors, &path.child("items"), get(schema, "items"), Level::Item);
    let properties = get(schema, "properties").as_object();
    for (name, property) in properties.into_iter().flatten() {
        walk(errors, &path.child("properties").key(name), property, Level::Field);
    }
    let more = get(schema, "additionalProperties");
    let at_more = path.child("additionalProperties");
    if !more.is_null() && level == Level::Root {
        errors.push(forbidden(&at_more, "must not be used at the root"));
    }
    walk(errors, &at_more, more, Level::Field);
    let (preserves, embeds, mixed) = (
        flag(schema, PRESERVE),
        flag(schema, EMBEDDED),
        flag(schema, INT_OR_STRING),
    );
    let detail = "must be false if x-kubernetes-int-or-string is true";
    for (key, is_set) in [(PRESERVE, preserves), (EMBEDDED, embeds)] {
        if mixed && is_set {
            errors.push(invalid(&path.child(key), true, detail));
        }
    }
    let of_both = is_int_or_string(get(schema, "anyOf"));
    let of_both_first = list(schema, "allOf")
        .first()
        .is_some_and(|first| is_int_or_string(get(first, "anyOf")));
    values(errors, path, schema, of_both, of_both_first);
    let at_type = path.child("type");
    if embeds && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if kind.is_empty() {
            required(&at_type, detail)
        } else {
            invalid(&at_type, kind, detail)
        });
    } else if kind.is_empty() && !mixed && !preserves {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(required(&at_type, detail));
    }
    if embeds && !more.is_null() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(forbidden(&at_more, detail));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(invalid(&at_type, kind, "must be object at the root"));
    }
    resource(errors, path, schema, level);
    if embeds && !preserves && properties.is_none_or(serde_json::Map::is_empty) {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(required(&path.child("properties"), detail));
    }
}

/// The fields that every resource has.
fn resource(errors: &mut ErrorList, path: &Path, schema: &Value, level: Level) {
    let is_resource = level == Level::Root || flag(schema, EMBEDDED);
    let properties = get(schema, "properties");
    let place = |name: &str| path.child("properties").key(name);
    let wants = |errors: &mut ErrorList, name: &str, kind: &str| {
        let found = properties.get(name).map(|p| str_of(p, "type"));
        if let Some(found) = found.filter(|f| is_resource && *f != kind) {
            let detail = format!("must be {kind}");
            errors.push(invalid(&place(name).child("type"), found, detail));
        }
    };
    wants(errors, "kind", "string");
    wants(errors, "apiVersion", "string");
    wants(errors, "metadata", "object");
    let Some(metadata) = properties.get("metadata").filter(|_| level == Level::Root) else {
        return;
    };
    let is_name = |name: &String| ["name", "generateName"].contains(&name.as_str());
    let allowed = metadata.as_object().into_iter().flatten().all(|(key, value)| {
        let is_zero = matches!(value, Value::Null | Value::Bool(false));
        match key.as_str() {
            "type" | "default" => true,
            "properties" => value.as_object().is_none_or(|p| p.keys().all(is_name)),
            _ => is_zero || *value == json!("") || *value == json!([]) || *value == json!({}),
        }
    });
    if !allowed {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(forbidden(&place("metadata"), detail));
    }
}

/// `anyOf` in the one form that may name types.
fn is_int_or_string(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

/// The parts that look at values; the exceptions are those of numbers that may be text.
fn values(errors: &mut ErrorList, path: &Path, schema: &Value, skip_any: bool, skip_any_of_first: bool) {
    let part = |errors: &mut ErrorList, key: &str, i: usize, part: &Value, skip: bool| {
        nested(errors, &path.child(key).index(i), part, skip);
    };
    if !skip_any {
        for (i, one) in list(schema, "anyOf").iter().enumerate() {
            part(errors, "anyOf", i, one, false);
        }
    }
    for (i, one) in list(schema, "allOf").iter().enumerate() {
        part(errors, "allOf", i, one, skip_any_of_first && i == 0);
    }
    for (i, one) in list(schema, "oneOf").iter().enumerate() {
        part(errors, "oneOf", i, one, false);
    }
    nested(errors, &path.child("not"), get(schema, "not"), false);
    let pattern = str_of(schema, "pattern");
    if let Some(why) = formats::pattern_error(pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(invalid(&path.child("pattern"), pattern, detail));
    }
}

/// A part under `allOf` and the like.
fn nested(errors: &mut ErrorList, path: &Path, schema: &Value, skip_any: bool) {
    if !schema.is_object() {
        return;
    }
    values(errors, path, schema, skip_any, false);
    nested(errors, &path.child("items"), get(schema, "items"), false);
    for (name, property) in get(schema, "properties").as_object().into_iter().flatten() {
        nested(errors, &path.child("properties").key(name), property, false);
    }
    for (key, state) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        (PRESERVE, "false"),
        (EMBEDDED, "false"),
        (INT_OR_STRING, "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        let found = get(schema, key);
        let is_zero = match state {
            "undefined" => found.is_null(),
            _ => matches!(found, Value::Null | Value::Bool(false)) || *found == json!("") || *found == json!([]),
        };
        if !is_zero {
            let detail = format!("must be {state} to be structural");
            errors.push(forbidden(&path.child(key), detail));
        }
    }
    if get(schema, "properties").get("metadata").is_some() {
        let detail = "must not be specified in a nested context";
        errors.push(forbidden(&path.child("properties").key("metadata"), detail));
    }
}

/// Fields that `allOf` and the like speak about must be declared outside of them.
fn complete(errors: &mut ErrorList, part: &Value, schema: &Value, at_schema: &Path, at_part: &Path) {
    let mut parts = vec![(get(part, "not"), at_part.child("not"))];
    for key in ["allOf", "anyOf", "oneOf"] {
        let members = list(part, key).iter().enumerate();
        parts.extend(members.map(|(i, one)| (one, at_part.child(key).index(i))));
    }
    for (one, place) in parts {
        complete_part(errors, one, schema, at_schema, &place);
    }
}

fn complete_part(errors: &mut ErrorList, part: &Value, schema: &Value, at_schema: &Path, at_part: &Path) {
    if !part.is_object() {
        return;
    }
    if !schema.is_object() {
        errors.push(required(at_schema, format!("because it is defined in {at_part}")));
        return;
    }
    complete(errors, part, schema, at_schema, at_part);
    let items = |path: &Path| path.child("items");
    complete_part(
        errors,
        get(part, "items"),
        get(schema, "items"),
        &items(at_schema),
        &items(at_part),
    );
    let properties = get(part, "properties").as_object().into_iter().flatten();
    for (name, property) in properties {
        let place = |path: &Path| path.child("properties").key(name);
        let declared = get(get(schema, "properties"), name);
        complete_part(errors, property, declared, &place(at_schema), &place(at_part));
    }
}
