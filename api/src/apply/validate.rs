//! Whether an applied configuration fits its schema: unknown fields, wrong types, duplicate items.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::schema::{ListKind, Node, NodeKind, Shape};

use super::set::Element;
use super::walk::item_element;

/// At most this many problems are reported.
const PROBLEMS_MAX: usize = 10;

/// Every problem as `path: sentence`, at most ten.
pub(super) fn validate(node: Node<'_>, value: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    validate_at(node, value, &mut String::new(), &mut problems);
    problems
}

/// `path` is the place of the value, and as it was afterwards: a copy for every field would cost what the keys above it
/// are long.
fn validate_at(node: Node<'_>, value: &Value, path: &mut String, problems: &mut Vec<String>) {
    if value.is_null() || problems.len() >= PROBLEMS_MAX {
        return;
    }
    match node.kind() {
        NodeKind::Untyped => {}
        NodeKind::Object | NodeKind::Map => {
            let Some(map) = value.as_object() else {
                problems.push(format!("{path}: expected map, got {value}"));
                return;
            };
            for (key, below) in map {
                if problems.len() >= PROBLEMS_MAX {
                    return;
                }
                let length = path.len();
                // Writing to a String cannot fail.
                let _ = write!(path, "{}", Element::field(key));
                match node.field(key) {
                    Some(field) => validate_at(field, below, path, problems),
                    None => problems.push(format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        NodeKind::List => {
            let Some(items) = value.as_array() else {
                problems.push(format!("{path}: expected list, got {value}"));
                return;
            };
            validate_items(node, items, path, problems);
        }
        NodeKind::Scalar => {
            if let Some(expected) = misfit(node, value) {
                problems.push(format!("{path}: expected {expected}, got {value}"));
            }
        }
    }
    problems.truncate(PROBLEMS_MAX);
}

fn validate_items(node: Node<'_>, items: &[Value], path: &mut String, problems: &mut Vec<String>) {
    let kind = node.list();
    let mut seen = BTreeSet::new();
    for (position, item) in items.iter().enumerate() {
        if problems.len() >= PROBLEMS_MAX {
            return;
        }
        let mut place = format!("[{position}]");
        if kind != ListKind::Atomic {
            match item_element(node, &kind, item) {
                Err(why) => {
                    problems.push(format!("{path}: element {position}: {why}"));
                    continue;
                }
                Ok(element) => {
                    place = element.to_string();
                    if !seen.insert(element) {
                        problems.push(format!("{path}: duplicate entries for key {place}"));
                        continue;
                    }
                }
            }
        }
        if let Some(element) = node.element() {
            let length = path.len();
            path.push_str(&place);
            validate_at(element, item, path, problems);
            path.truncate(length);
        }
    }
}

/// What was expected instead of this scalar.
fn misfit(node: Node<'_>, value: &Value) -> Option<&'static str> {
    if value.is_array() || value.is_object() {
        return Some("scalar");
    }
    let expected = match node.shape() {
        Some(Shape::String { .. } | Shape::Bytes) => "string",
        Some(Shape::Integer { .. } | Shape::Number) => "numeric (int or float)",
        Some(Shape::Boolean) => "boolean",
        Some(_) => return None,
        None => match &node {
            Node::Structural { schema, .. } => match schema.get("type").and_then(Value::as_str) {
                Some("string") => "string",
                Some("integer" | "number") => "numeric (int or float)",
                Some("boolean") => "boolean",
                _ => return None,
            },
            _ => return None,
        },
    };
    let fits = match expected {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        _ => value.is_number(),
    };
    (!fits).then_some(expected)
}
