//! What changed between two objects, as sets of paths.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{ListKind, Node};

use super::set::{Element, Set};
use super::walk::{Form, form, item_element};

/// The outcome of a comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn attach(&mut self, element: &Element, below: Self) {
        let sets = [&mut self.added, &mut self.modified, &mut self.removed];
        for (set, child) in sets.into_iter().zip([below.added, below.modified, below.removed]) {
            if !child.is_empty() {
                set.attach(element.clone(), child);
            }
        }
    }
}

/// Compares two whole objects.
pub(super) fn compare(node: Node<'_>, old: &Value, new: &Value) -> Changes {
    let mut changes = Changes::default();
    if old != new
        && let (Some(old), Some(new)) = (old.as_object(), new.as_object())
    {
        compare_maps(Some(node), Some(old), Some(new), &mut changes);
    }
    changes
}

/// Compares what `element` leads to, which differs, and adds the outcome to `out`.
fn compare_at(node: Option<Node<'_>>, element: Element, old: Option<&Value>, new: Option<&Value>, out: &mut Changes) {
    match (old, new) {
        (None, Some(new)) => return appear(node, element, new, &mut out.added),
        (Some(old), None) => return appear(node, element, old, &mut out.removed),
        _ => {}
    }
    let mut below = Changes::default();
    let leaf = match form(node, [old, new]) {
        Form::Leaf => true,
        Form::Map => {
            let (left, right) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let empty = left.is_none_or(Map::is_empty) && right.is_none_or(Map::is_empty);
            if !empty {
                compare_maps(node, left, right, &mut below);
            }
            empty
        }
        Form::List(kind) => {
            let (left, right) = (items(old), items(new));
            let empty = left.is_empty() && right.is_empty();
            if let (false, Some(node)) = (empty, node) {
                compare_lists(node, &kind, left, right, &mut below);
            }
            empty
        }
    };
    out.attach(&element, below);
    if leaf {
        out.modified.insert(element);
    }
}

/// Adds what is on one side only, with all that is below it.
fn appear(node: Option<Node<'_>>, element: Element, value: &Value, out: &mut Set) {
    out.put(element, true, everything(node, value));
}

/// Every path below a value.
fn everything(node: Option<Node<'_>>, value: &Value) -> Set {
    let mut found = Set::default();
    match (form(node, [Some(value), None]), node) {
        (Form::Map, _) => {
            for (key, below) in value.as_object().into_iter().flatten() {
                appear(
                    node.and_then(|node| node.field(key)),
                    Element::field(key),
                    below,
                    &mut found,
                );
            }
        }
        (Form::List(kind), Some(node)) => {
            let mut seen: BTreeMap<Element, Vec<&Value>> = BTreeMap::new();
            for item in items(Some(value)) {
                if let Ok(element) = item_element(node, &kind, item) {
                    seen.entry(element).or_default().push(item);
                }
            }
            for (element, items) in seen {
                match items.as_slice() {
                    [single] => appear(node.element(), element, single, &mut found),
                    // Duplicates stand for the item as a whole.
                    _ => found.insert(element),
                }
            }
        }
        _ => {}
    }
    found
}

fn compare_maps(
    node: Option<Node<'_>>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    out: &mut Changes,
) {
    let mut visit = |key: &str, left: Option<&Value>, right: Option<&Value>| {
        if left != right {
            compare_at(
                node.and_then(|node| node.field(key)),
                Element::field(key),
                left,
                right,
                out,
            );
        }
    };
    for (key, left) in old.into_iter().flatten() {
        visit(key, Some(left), new.and_then(|map| map.get(key)));
    }
    for (key, right) in new.into_iter().flatten() {
        if old.is_none_or(|map| !map.contains_key(key)) {
            visit(key, None, Some(right));
        }
    }
}

/// Items are matched by identity; the order of the list is nobody's. Items without identity are skipped.
fn compare_lists(node: Node<'_>, kind: &ListKind<'_>, old: &[Value], new: &[Value], out: &mut Changes) {
    let mut sides: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old {
        if let Ok(element) = item_element(node, kind, item) {
            sides.entry(element).or_default().0.push(item);
        }
    }
    for item in new {
        if let Ok(element) = item_element(node, kind, item) {
            sides.entry(element).or_default().1.push(item);
        }
    }
    for (element, (left, right)) in sides {
        match (left.as_slice(), right.as_slice()) {
            (left, right) if left.len() <= 1 && right.len() <= 1 => {
                let (left, right) = (left.first().copied(), right.first().copied());
                if left != right {
                    compare_at(node.element(), element, left, right, out);
                }
            }
            ([], _) => out.added.insert(element),
            (_, []) => out.removed.insert(element),
            // Duplicates on one side stand for the item as a whole.
            (_, [single]) => compare_at(node.element(), element, None, Some(single), out),
            (left, right) => {
                if left != right {
                    out.modified.insert(element);
                }
            }
        }
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
