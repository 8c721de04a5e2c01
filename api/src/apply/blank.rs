//! Values that a typed API server would have where ours has nothing: the blank object that a create is
//! compared with, and what null means at each place.

use serde_json::{Map, Value};

use crate::schema::{Node, Shape};

/// Structs nest at most this deep in a blank object.
const DEPTH_MAX: usize = 12;

/// The object before its creation: structs that are always printed and required fields, all zero.
pub(super) fn blank(node: Node<'_>) -> Value {
    blank_at(node, 0)
}

fn blank_at(node: Node<'_>, depth: usize) -> Value {
    let mut object = Map::new();
    let fields = node.type_row().map(|row| &row.fields[..]).unwrap_or_default();
    for field in fields
        .iter()
        .filter(|field| (field.required || field.always) && depth < DEPTH_MAX)
    {
        let value = match field.shape {
            Shape::Object(_) => {
                let below = Node::Builtin {
                    shape: field.shape,
                    field: Some(field),
                };
                blank_at(below, depth + 1)
            }
            Shape::Array(_)
            | Shape::Map(_)
            | Shape::Any
            | Shape::FieldsV1
            | Shape::Time
            | Shape::MicroTime
            | Shape::Bytes => Value::Null,
            shape => zero(shape),
        };
        object.insert(field.name.to_owned(), value);
    }
    Value::Object(object)
}

/// Nulls become what typed decoding makes of them: absent fields, zero values in maps of plain values.
/// Custom resources keep nulls where the schema says `nullable`.
pub(super) fn settle(node: Option<Node<'_>>, value: &mut Value) {
    let Some(node) = node else { return };
    match value {
        Value::Object(map) => {
            let element = match node.shape() {
                Some(Shape::Map(element)) => Some(*element),
                _ => None,
            };
            let mut doomed = Vec::new();
            for (key, below) in map.iter_mut() {
                if !below.is_null() {
                    settle(node.field(key), below);
                    continue;
                }
                match (element, node.field(key)) {
                    (Some(shape), _) if !matches!(shape, Shape::Any | Shape::FieldsV1) => *below = zero(shape),
                    (None, Some(Node::Builtin { .. })) => doomed.push(key.clone()),
                    (None, Some(Node::Structural { schema, .. }))
                        if schema.get("nullable") != Some(&Value::Bool(true)) =>
                    {
                        doomed.push(key.clone());
                    }
                    _ => {}
                }
            }
            for key in doomed {
                map.remove(&key);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| settle(node.element(), item)),
        _ => {}
    }
}

/// What a typed field has when it is not set.
pub(super) fn zero(shape: Shape) -> Value {
    match shape {
        Shape::String { .. } | Shape::Bytes => "".into(),
        Shape::Quantity => "0".into(),
        Shape::Integer { .. } | Shape::Number | Shape::IntOrString => 0.into(),
        Shape::Boolean => false.into(),
        Shape::Object(_) | Shape::Map(_) => Value::Object(Map::new()),
        Shape::Array(_) => Value::Array(Vec::new()),
        Shape::Time | Shape::MicroTime | Shape::Any | Shape::FieldsV1 => Value::Null,
    }
}
