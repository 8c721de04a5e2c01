//! Removing a set of paths from an object.

use serde_json::{Map, Value};

use crate::schema::{ListKind, Node};

use super::set::{Element, Set};
use super::walk::{Form, form, item_element};

/// `value` without the members of `set`. An object or list that loses everything becomes null.
pub(super) fn remove(node: Option<Node<'_>>, value: &Value, set: &Set) -> Value {
    match (form(node, [Some(value), None]), node) {
        (Form::Map, Some(node)) => match value.as_object() {
            Some(map) => remove_from_map(node, map, set),
            None => Value::Null,
        },
        (Form::List(kind), Some(node)) => match value.as_array() {
            Some(items) => remove_from_list(node, &kind, items, set),
            None => Value::Null,
        },
        _ => value.clone(),
    }
}

fn remove_from_map(node: Node<'_>, map: &Map<String, Value>, set: &Set) -> Value {
    let mut left = Map::new();
    for (key, value) in map {
        let element = Element::field(key);
        if set.has(&element) {
            continue;
        }
        let kept = match set.child(&element) {
            Some(below) => remove(node.field(key), value, below),
            None => value.clone(),
        };
        left.insert(key.clone(), kept);
    }
    if left.is_empty() {
        Value::Null
    } else {
        Value::Object(left)
    }
}

fn remove_from_list(node: Node<'_>, kind: &ListKind<'_>, items: &[Value], set: &Set) -> Value {
    let mut left = Vec::new();
    for item in items {
        let Ok(element) = item_element(node, kind, item) else {
            left.push(item.clone());
            continue;
        };
        if set.has(&element) {
            continue;
        }
        left.push(match set.child(&element) {
            Some(below) => remove(node.element(), item, below),
            None => item.clone(),
        });
    }
    if left.is_empty() {
        Value::Null
    } else {
        Value::Array(left)
    }
}
