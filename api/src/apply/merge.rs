//! Merging an applied configuration into the live object.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value};

use crate::schema::{ListKind, Node};

use super::set::Element;
use super::walk::{Form, form, item_element};

/// `live` with everything that `applied` states. Errors name list items without identity.
pub(super) fn merge(node: Node<'_>, live: &Value, applied: &Value) -> Result<Value, String> {
    let merged = merge_at(Some(node), Some(live), Some(applied))?;
    Ok(merged.unwrap_or_else(|| Value::Object(Map::new())))
}

fn merge_at(node: Option<Node<'_>>, live: Option<&Value>, applied: Option<&Value>) -> Result<Option<Value>, String> {
    let take = || applied.or(live).cloned();
    let (Some(_), Some(_)) = (live, applied) else {
        return Ok(take());
    };
    match form(node, [live, applied]) {
        Form::Leaf => Ok(take()),
        Form::Map => {
            let (left, right) = (live.and_then(Value::as_object), applied.and_then(Value::as_object));
            if left.is_none_or(Map::is_empty) && right.is_none_or(Map::is_empty) {
                return Ok(take());
            }
            merge_maps(node, left, right).map(Some)
        }
        Form::List(kind) => {
            let (left, right) = (live.and_then(Value::as_array), applied.and_then(Value::as_array));
            if left.is_none_or(Vec::is_empty) && right.is_none_or(Vec::is_empty) {
                return Ok(take());
            }
            let (left, right) = (
                left.map_or(&[][..], Vec::as_slice),
                right.map_or(&[][..], Vec::as_slice),
            );
            match node {
                Some(node) => merge_lists(node, &kind, left, right).map(Some),
                None => Ok(take()),
            }
        }
    }
}

fn merge_maps(
    node: Option<Node<'_>>,
    live: Option<&Map<String, Value>>,
    applied: Option<&Map<String, Value>>,
) -> Result<Value, String> {
    let mut merged = live.cloned().unwrap_or_default();
    for (key, right) in applied.into_iter().flatten() {
        let left = live.and_then(|map| map.get(key));
        let field = node.and_then(|node| node.field(key));
        if let Some(value) = merge_at(field, left, Some(right))? {
            merged.insert(key.clone(), value);
        }
    }
    Ok(Value::Object(merged))
}

/// Keeps the live order for live items and the applied order for applied ones, with the applied items as
/// close to their live neighbours as both orders allow.
fn merge_lists(node: Node<'_>, kind: &ListKind<'_>, live: &[Value], applied: &[Value]) -> Result<Value, String> {
    let (live_ids, applied_ids) = (identities(node, kind, live)?, identities(node, kind, applied)?);
    let live_by_id = by_identity(&live_ids, live);
    let applied_by_id = by_identity(&applied_ids, applied);
    let mut shared: VecDeque<&Element> = applied_ids.iter().filter(|id| live_by_id.contains_key(id)).collect();
    let mut merged_ids = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut r) = (0, 0);
    while l < live_ids.len() || r < applied_ids.len() {
        if let (Some(left), Some(right)) = (live_ids.get(l), applied_ids.get(r)) {
            if left == right {
                merged_ids.insert(left);
                push(
                    &mut out,
                    node,
                    live_by_id.get(left).copied(),
                    applied_by_id.get(left).copied(),
                )?;
                l += 1;
                r += 1;
                shared.pop_front();
                continue;
            }
            if applied_by_id.contains_key(left) && shared.front().is_some_and(|next| *next != left) {
                l += 1;
                continue;
            }
        }
        if let Some(left) = live_ids.get(l) {
            if !applied_by_id.contains_key(left) {
                push(&mut out, node, live.get(l), None)?;
                l += 1;
                continue;
            }
            if merged_ids.contains(left) {
                l += 1;
            }
        }
        if let Some(right) = applied_ids.get(r) {
            merged_ids.insert(right);
            push(
                &mut out,
                node,
                live_by_id.get(right).copied(),
                applied_by_id.get(right).copied(),
            )?;
            r += 1;
            if shared.front() == Some(&right) {
                shared.pop_front();
            }
        }
    }
    Ok(Value::Array(out))
}

fn push(out: &mut Vec<Value>, node: Node<'_>, live: Option<&Value>, applied: Option<&Value>) -> Result<(), String> {
    out.extend(merge_at(node.element(), live, applied)?);
    Ok(())
}

fn identities(node: Node<'_>, kind: &ListKind<'_>, items: &[Value]) -> Result<Vec<Element>, String> {
    items.iter().map(|item| item_element(node, kind, item)).collect()
}

/// The first item of each identity.
fn by_identity<'v>(ids: &[Element], items: &'v [Value]) -> BTreeMap<Element, &'v Value> {
    let mut found = BTreeMap::new();
    for (id, item) in ids.iter().zip(items) {
        found.entry(id.clone()).or_insert(item);
    }
    found
}
