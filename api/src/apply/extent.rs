//! The set of paths that a configuration states.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::schema::Node;

use super::set::{Element, Set, is_declared};
use super::walk::{Form, form, item_element};

/// Every path that `value` states: leaves, keys of maps, items of lists, and empty or null objects.
/// Empty lists state nothing.
pub(super) fn extent(node: Node<'_>, value: &Value) -> Set {
    let (set, _) = extent_at(Some(node), value);
    set
}

/// The paths below, and whether the value itself is a leaf.
fn extent_at(node: Option<Node<'_>>, value: &Value) -> (Set, bool) {
    let mut set = Set::default();
    match (form(node, [Some(value), None]), node) {
        (Form::Map, Some(node)) => {
            for (key, below) in value.as_object().into_iter().flatten() {
                let element = Element::field(key);
                let (child, leaf) = extent_at(node.field(key), below);
                let hollow = below.is_null() || below.as_object().is_some_and(serde_json::Map::is_empty);
                let member = leaf || hollow || !is_declared(node, key);
                if member || !child.is_empty() {
                    set.put(element, member, child);
                }
            }
            (set, false)
        }
        (Form::List(kind), Some(node)) => {
            let mut seen: BTreeMap<Element, Vec<&Value>> = BTreeMap::new();
            for item in value.as_array().into_iter().flatten() {
                if let Ok(element) = item_element(node, &kind, item) {
                    seen.entry(element).or_default().push(item);
                }
            }
            for (element, items) in seen {
                let below = match items.as_slice() {
                    [item] => extent_at(node.element(), item).0,
                    // Duplicates are owned as a whole.
                    _ => Set::default(),
                };
                set.put(element, true, below);
            }
            (set, false)
        }
        _ => (set, true),
    }
}
