//! What the walks share: which form a value takes at a place of the schema, and what identifies list items.

use std::sync::Arc;

use serde_json::Value;

use crate::schema::{ListKind, Node, NodeKind};

use super::blank::zero;
use super::set::{Element, Scalar};

/// How apply looks at a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form<'a> {
    /// Owned and merged as a whole.
    Leaf,
    /// Key by key.
    Map,
    /// Item by item.
    List(ListKind<'a>),
}

/// The form of these values; `None` and null fit every form.
pub(super) fn form<'a>(node: Option<Node<'a>>, values: [Option<&Value>; 2]) -> Form<'a> {
    let Some(node) = node else { return Form::Leaf };
    let all = |fits: fn(&Value) -> bool| values.iter().flatten().all(|value| value.is_null() || fits(value));
    let some = |fits: fn(&Value) -> bool| values.iter().flatten().any(|value| fits(value));
    match node.kind() {
        NodeKind::Scalar => Form::Leaf,
        NodeKind::Object | NodeKind::Map => {
            if node.map_atomic() || !all(Value::is_object) {
                Form::Leaf
            } else {
                Form::Map
            }
        }
        NodeKind::List => match node.list() {
            ListKind::Atomic => Form::Leaf,
            kind if all(Value::is_array) => Form::List(kind),
            _ => Form::Leaf,
        },
        NodeKind::Untyped => {
            if !node.map_atomic() && all(Value::is_object) && some(Value::is_object) {
                Form::Map
            } else {
                Form::Leaf
            }
        }
    }
}

/// What identifies a list's item, or why it has no identity.
pub(super) fn item_element(node: Node<'_>, kind: &ListKind<'_>, item: &Value) -> Result<Element, String> {
    let keys = match kind {
        ListKind::Map(keys) => keys,
        ListKind::Set | ListKind::Atomic => {
            // A null in a list is stored as the type's zero value, and is the same item then as now.
            let zero = match node.element() {
                Some(Node::Builtin { shape, .. }) if item.is_null() => Some(zero(shape)),
                _ => None,
            };
            let scalar = Scalar::of(zero.as_ref().unwrap_or(item)).ok_or("set: items must be scalars")?;
            return Ok(Element::Value(scalar));
        }
    };
    if keys.is_empty() {
        return Err("associative list without keys has an element that's a map type".into());
    }
    let Some(object) = item.as_object() else {
        return Err("associative list with keys may not have non-map elements".into());
    };
    let mut found: Vec<(Arc<str>, Scalar)> = Vec::with_capacity(keys.len());
    for key in keys {
        let declared = || node.element()?.field(key)?.default_value();
        let value = match object.get(*key) {
            Some(value) if !value.is_null() => Scalar::of(value),
            _ => declared().as_ref().and_then(Scalar::of),
        };
        let Some(value) = value else {
            return Err(format!(
                "associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
            ));
        };
        found.push(((*key).into(), value));
    }
    found.sort();
    Ok(Element::Key(found))
}
