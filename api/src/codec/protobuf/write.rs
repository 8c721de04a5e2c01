//! From a [`Value`] to the wire, as Go's generated code writes it: fields by rising number, plain values also when
//! they are zero, maps by their sorted keys. Values that do not fit the schema (nothing stored is like that) are
//! left out.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::table::{self, Form, Slot, SlotKind};
use super::wire::{bytes, nested, number, varint};
use crate::schema::{Shape, TypeRef};

/// Appends the message of an object of a type.
pub(super) fn object(value: &Value, reference: TypeRef, out: &mut Vec<u8>) {
    static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    let map = value.as_object().unwrap_or(&NOTHING);
    fields(map, &table::message(reference).slots, out);
}

fn fields(map: &Map<String, Value>, slots: &[Slot], out: &mut Vec<u8>) {
    for slot in slots {
        match &slot.kind {
            SlotKind::Embedded(inner) => nested(slot.number, out, |out| fields(map, inner, out)),
            SlotKind::Field { field, form, plain } => match map.get(field.name) {
                Some(value) if !value.is_null() => formed(slot.number, value, *form, out),
                _ if *plain => single(slot.number, &Value::Null, field.shape, out),
                _ => {}
            },
        }
    }
}

fn formed(field: u32, value: &Value, form: Form, out: &mut Vec<u8>) {
    match (form, value) {
        (Form::Shape(shape), _) => whole(field, value, shape, out),
        (Form::SchemaOrList(schema), Value::Array(items)) => nested(field, out, |out| {
            for item in items {
                nested(2, out, |out| object(item, schema, out));
            }
        }),
        (Form::SchemaOrList(schema), _) => nested(field, out, |out| nested(1, out, |out| object(value, schema, out))),
        (Form::SchemaOrFlag(_), Value::Bool(flag)) => nested(field, out, |out| number(1, u64::from(*flag), out)),
        (Form::SchemaOrFlag(schema), _) => nested(field, out, |out| {
            number(1, 1, out);
            nested(2, out, |out| object(value, schema, out));
        }),
        (Form::SchemasOrNames(schema), _) => {
            for (key, value) in value.as_object().into_iter().flatten() {
                nested(field, out, |out| {
                    bytes(1, key.as_bytes(), out);
                    nested(2, out, |out| match value {
                        Value::Array(names) => {
                            for name in names.iter().filter_map(Value::as_str) {
                                bytes(2, name.as_bytes(), out);
                            }
                        }
                        schema_value => nested(1, out, |out| object(schema_value, schema, out)),
                    });
                });
            }
        }
    }
}

/// Appends a field with all its values: one for each item of a list and each entry of a map.
fn whole(field: u32, value: &Value, shape: Shape, out: &mut Vec<u8>) {
    match shape {
        Shape::Array(element) => {
            for item in value.as_array().into_iter().flatten() {
                single(field, item, *element, out);
            }
        }
        Shape::Map(element) => {
            for (key, item) in value.as_object().into_iter().flatten() {
                nested(field, out, |out| {
                    bytes(1, key.as_bytes(), out);
                    match element {
                        Shape::Array(element) => nested(2, out, |out| {
                            for item in item.as_array().into_iter().flatten() {
                                single(1, item, **element, out);
                            }
                        }),
                        _ => single(2, item, *element, out),
                    }
                });
            }
        }
        _ => single(field, value, shape, out),
    }
}

/// Appends one value; null stands for zero.
fn single(field: u32, value: &Value, shape: Shape, out: &mut Vec<u8>) {
    match shape {
        Shape::String { .. } => bytes(field, text(value).as_bytes(), out),
        Shape::Bytes => {
            if let Ok(decoded) = STANDARD.decode(text(value)) {
                bytes(field, &decoded, out);
            }
        }
        Shape::Integer { .. } => number(field, value.as_i64().unwrap_or(0) as u64, out),
        Shape::Boolean => number(field, u64::from(value.as_bool().unwrap_or(false)), out),
        Shape::Number => {
            varint(u64::from(field) << 3 | 1, out);
            out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        Shape::Quantity => nested(field, out, |out| {
            let written = value.as_str().unwrap_or("0");
            bytes(1, written.as_bytes(), out);
        }),
        Shape::IntOrString => nested(field, out, |out| {
            number(1, u64::from(value.is_string()), out);
            number(2, value.as_i64().unwrap_or(0) as u64, out);
            bytes(3, text(value).as_bytes(), out);
        }),
        Shape::Time | Shape::MicroTime => nested(field, out, |out| {
            if let Ok(at) = text(value).parse::<Timestamp>() {
                let nanos = match shape {
                    // Seconds are all that JSON clients ever see.
                    Shape::Time => 0,
                    _ => at.subsec_nanosecond() / 1000 * 1000,
                };
                number(1, at.as_second() as u64, out);
                number(2, i64::from(nanos) as u64, out);
            }
        }),
        Shape::Any | Shape::FieldsV1 => nested(field, out, |out| {
            if !value.is_null() {
                bytes(1, value.to_string().as_bytes(), out);
            }
        }),
        Shape::Object(reference) => nested(field, out, |out| object(value, reference, out)),
        // A list in a list or a map in a map: no type has one.
        Shape::Array(_) | Shape::Map(_) => {}
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
