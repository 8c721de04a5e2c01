//! The Swagger 2 document in the protobuf form that older kubectl asks for.
//!
//! The messages are those of gnostic's `openapi.v2`, written by field number: a table row per field says how a
//! JSON member travels. Members that no reader of these documents uses (examples, security) have no row and are
//! left out; members that begin with `x-` travel as vendor extensions, their value as YAML text.

use serde_json::{Map, Value};

/// How one JSON member is written.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Flag,
    Texts,
    /// Repeated `Any`, for enumerations.
    Anys,
    One(Shape),
    Many(Shape),
    /// A repeated `{1: name, 2: message}` in a message of its own, at this field number.
    Named(u32, Shape),
}

/// The messages.
#[derive(Clone, Copy)]
enum Shape {
    Document,
    Info,
    PathItem,
    Operation,
    Parameter,
    Schema,
    /// A schema or a flag.
    AdditionalProperties,
    /// One schema in a list of schemas.
    Items,
    /// One or more type names.
    TypeItem,
}

type Row = (&'static str, u32, Kind);

const DOCUMENT: &[Row] = &[
    ("swagger", 1, Kind::Text),
    ("info", 2, Kind::One(Shape::Info)),
    ("paths", 8, Kind::Named(2, Shape::PathItem)),
    ("definitions", 9, Kind::Named(1, Shape::Schema)),
];
const INFO: &[Row] = &[("title", 1, Kind::Text), ("version", 2, Kind::Text)];
const PATH_ITEM: &[Row] = &[
    ("get", 2, Kind::One(Shape::Operation)),
    ("put", 3, Kind::One(Shape::Operation)),
    ("post", 4, Kind::One(Shape::Operation)),
    ("delete", 5, Kind::One(Shape::Operation)),
    ("options", 6, Kind::One(Shape::Operation)),
    ("head", 7, Kind::One(Shape::Operation)),
    ("patch", 8, Kind::One(Shape::Operation)),
    ("parameters", 9, Kind::Many(Shape::Parameter)),
];
const OPERATION: &[Row] = &[
    ("tags", 1, Kind::Texts),
    ("description", 3, Kind::Text),
    ("operationId", 5, Kind::Text),
    ("produces", 6, Kind::Texts),
    ("consumes", 7, Kind::Texts),
    ("parameters", 8, Kind::Many(Shape::Parameter)),
    ("schemes", 10, Kind::Texts),
];
const SCHEMA: &[Row] = &[
    ("$ref", 1, Kind::Text),
    ("format", 2, Kind::Text),
    ("title", 3, Kind::Text),
    ("description", 4, Kind::Text),
    ("required", 19, Kind::Texts),
    ("enum", 20, Kind::Anys),
    ("additionalProperties", 21, Kind::One(Shape::AdditionalProperties)),
    ("type", 22, Kind::One(Shape::TypeItem)),
    ("items", 23, Kind::One(Shape::Items)),
    ("properties", 25, Kind::Named(1, Shape::Schema)),
];
const EXTENSION_OF_DOCUMENT: u32 = 16;
const EXTENSION_OF_PATH: u32 = 10;
const EXTENSION_OF_OPERATION: u32 = 13;
const EXTENSION_OF_SCHEMA: u32 = 31;

/// The document, as [`super::v2`] made it, in protobuf.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(Shape::Document, document, &mut out);
    out
}

fn message(shape: Shape, value: &Value, out: &mut Vec<u8>) {
    let (rows, extensions) = match shape {
        Shape::Document => (DOCUMENT, Some(EXTENSION_OF_DOCUMENT)),
        Shape::Info => (INFO, None),
        Shape::PathItem => (PATH_ITEM, Some(EXTENSION_OF_PATH)),
        Shape::Operation => (OPERATION, Some(EXTENSION_OF_OPERATION)),
        Shape::Schema => (SCHEMA, Some(EXTENSION_OF_SCHEMA)),
        Shape::Parameter => return parameter(value, out),
        Shape::AdditionalProperties => {
            return match value {
                Value::Bool(flag) => number(2, u64::from(*flag), out),
                schema => nested(1, out, |inner| message(Shape::Schema, schema, inner)),
            };
        }
        Shape::Items => return nested(1, out, |inner| message(Shape::Schema, value, inner)),
        Shape::TypeItem => return texts(1, value, out),
    };
    let Some(members) = value.as_object() else { return };
    for (name, field, kind) in rows {
        if let Some(member) = members.get(*name) {
            write(*field, *kind, member, out);
        }
    }
    if let Some(field) = extensions {
        vendor_extensions(field, members, out);
    }
}

fn write(field: u32, kind: Kind, value: &Value, out: &mut Vec<u8>) {
    match kind {
        Kind::Text => text(field, value.as_str().unwrap_or_default(), out),
        Kind::Flag => number(field, u64::from(value == &Value::Bool(true)), out),
        Kind::Texts => texts(field, value, out),
        Kind::Anys => {
            for item in value.as_array().into_iter().flatten() {
                nested(field, out, |inner| text(2, &item.to_string(), inner));
            }
        }
        Kind::One(shape) => nested(field, out, |inner| message(shape, value, inner)),
        Kind::Many(shape) => {
            for item in value.as_array().into_iter().flatten() {
                nested(field, out, |inner| message(shape, item, inner));
            }
        }
        Kind::Named(entry, shape) => nested(field, out, |inner| {
            for (name, item) in value.as_object().into_iter().flatten() {
                nested(entry, inner, |pair| {
                    text(1, name, pair);
                    nested(2, pair, |last| message(shape, item, last));
                });
            }
        }),
    }
}

/// `ParametersItem { 1: Parameter { 1: body, 2: other { 1 header, 3 query, 4 path } } }`.
fn parameter(value: &Value, out: &mut Vec<u8>) {
    const BODY: &[Row] = &[
        ("description", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("required", 4, Kind::Flag),
        ("schema", 5, Kind::One(Shape::Schema)),
    ];
    const QUERY: &[Row] = &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 6, Kind::Text),
        ("uniqueItems", 19, Kind::Flag),
    ];
    // Path and header parameters have no "allowEmptyValue": what follows it is one lower.
    const PATH: &[Row] = &[
        ("required", 1, Kind::Flag),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 5, Kind::Text),
    ];
    let rows = |rows: &[Row], inner: &mut Vec<u8>| {
        for (name, field, kind) in rows {
            match value.get(*name) {
                // A body's schema is a message with the schema as its first field.
                Some(schema) if *name == "schema" => {
                    nested(*field, inner, |s| {
                        nested(1, s, |last| message(Shape::Schema, schema, last))
                    });
                }
                Some(member) => write(*field, *kind, member, inner),
                None => {}
            }
        }
    };
    nested(1, out, |inner| match value["in"].as_str() {
        Some("body") => nested(1, inner, |body| rows(BODY, body)),
        Some("query") => nested(2, inner, |other| nested(3, other, |query| rows(QUERY, query))),
        Some("header") => nested(2, inner, |other| nested(1, other, |header| rows(PATH, header))),
        _ => nested(2, inner, |other| nested(4, other, |path| rows(PATH, path))),
    });
}

fn vendor_extensions(field: u32, members: &Map<String, Value>, out: &mut Vec<u8>) {
    for (name, value) in members.iter().filter(|(name, _)| name.starts_with("x-")) {
        nested(field, out, |pair| {
            text(1, name, pair);
            // JSON is YAML.
            nested(2, pair, |any| text(2, &value.to_string(), any));
        });
    }
}

fn texts(field: u32, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(one) => text(field, one, out),
        Value::Array(many) => many
            .iter()
            .filter_map(Value::as_str)
            .for_each(|one| text(field, one, out)),
        _ => {}
    }
}

fn text(field: u32, value: &str, out: &mut Vec<u8>) {
    varint(u64::from(field) << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value.as_bytes());
}

fn number(field: u32, value: u64, out: &mut Vec<u8>) {
    varint(u64::from(field) << 3, out);
    varint(value, out);
}

fn nested(field: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    varint(u64::from(field) << 3 | 2, out);
    varint(inner.len() as u64, out);
    out.append(&mut inner);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_by_their_field_numbers() {
        let document = json!({"swagger": "2.0", "definitions": {"a": {"type": "string", "x-k": [1]}}});
        let mut want = vec![0x0a, 3];
        want.extend(b"2.0");
        // Definitions(9) { NamedSchema(1) { name(1) "a", Schema(2) { TypeItem(22) { "string" }, NamedAny(31) { "x-k", Any { yaml(2) } } } } }
        let schema = [
            &[0xb2, 0x01, 8, 0x0a, 6][..],
            b"string",
            &[0xfa, 0x01, 12, 0x0a, 3],
            b"x-k",
            &[0x12, 5, 0x12, 3],
            b"[1]",
        ]
        .concat();
        let entry = [&[0x0a, 1, b'a', 0x12, schema.len() as u8][..], &schema].concat();
        let definitions = [&[0x0a, entry.len() as u8][..], &entry].concat();
        want.extend([0x4a, definitions.len() as u8]);
        want.extend(definitions);
        assert_eq!(v2_protobuf(&document), want);
    }
}
