//! Making strategic merge patches, for tools.

use serde_json::{Map, Value, json};

use crate::schema::Node;

type Object = Map<String, Value>;

/// What a diff may contain.
#[derive(Clone, Copy)]
struct Wanted {
    changes: bool,
    deletions: bool,
}

/// The patch that turns `current` into `modified`, deleting only what `original` (the last configuration
/// of this tool) had and `modified` has no more. What others added to `current` stays. An empty object
/// means that nothing is to be done.
pub fn three_way(original: &Value, modified: &Value, current: &Value, node: Node<'_>) -> Value {
    let changes = Wanted {
        changes: true,
        deletions: false,
    };
    let deletions = Wanted {
        changes: false,
        deletions: true,
    };
    let mut patch = diff(current, modified, Some(node), changes);
    let removed = diff(original, modified, Some(node), deletions);
    combine(&mut patch, removed, Some(node));
    Value::Object(patch)
}

/// The patch that turns `before` into `after`.
pub fn strategic_diff(before: &Value, after: &Value, node: Node<'_>) -> Value {
    Value::Object(diff(
        before,
        after,
        Some(node),
        Wanted {
            changes: true,
            deletions: true,
        },
    ))
}

fn diff(before: &Value, after: &Value, node: Option<Node<'_>>, wanted: Wanted) -> Object {
    let mut patch = Object::new();
    let (Some(left), Some(right)) = (before.as_object(), after.as_object()) else {
        return patch;
    };
    if wanted.deletions {
        for key in left.keys().filter(|key| !right.contains_key(*key)) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    for (key, new) in right {
        let field = node.and_then(|node| node.field(key));
        match (left.get(key), new) {
            (Some(old), new) if old == new => {}
            (Some(old @ Value::Object(_)), Value::Object(_)) => {
                let below = diff(old, new, field, wanted);
                if !below.is_empty() {
                    patch.insert(key.clone(), Value::Object(below));
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => diff_lists(key, old, new, field, wanted, &mut patch),
            _ if wanted.changes => {
                patch.insert(key.clone(), new.clone());
            }
            _ => {}
        }
    }
    patch
}

fn diff_lists(name: &str, old: &[Value], new: &[Value], node: Option<Node<'_>>, wanted: Wanted, patch: &mut Object) {
    let facts = node.map(|node| node.patch()).unwrap_or_default();
    if !facts.merge {
        if wanted.changes {
            patch.insert(name.to_owned(), Value::Array(new.to_vec()));
        }
        return;
    }
    let plain = old.iter().chain(new).all(|item| !item.is_object());
    let (items, order) = if plain {
        let doomed: Vec<Value> = old.iter().filter(|item| !new.contains(item)).cloned().collect();
        if wanted.deletions && !doomed.is_empty() {
            patch.insert(format!("$deleteFromPrimitiveList/{name}"), Value::Array(doomed));
        }
        let added = new
            .iter()
            .filter(|item| wanted.changes && !old.contains(item))
            .cloned()
            .collect();
        (added, new.to_vec())
    } else {
        let key = facts.merge_key;
        let order = new
            .iter()
            .filter_map(|item| Some(json!({key: item.get(key)?})))
            .collect();
        (diff_items(old, new, key, node, wanted), order)
    };
    let kept = |list: &[Value]| -> Vec<Value> {
        let id = |item: &Value| {
            if plain {
                Some(item.clone())
            } else {
                item.get(facts.merge_key).cloned()
            }
        };
        list.iter().filter_map(id).collect()
    };
    if !items.is_empty() || (wanted.changes && kept(old) != kept(new)) {
        patch.insert(format!("$setElementOrder/{name}"), Value::Array(order));
    }
    if !items.is_empty() {
        patch.insert(name.to_owned(), Value::Array(items));
    }
}

fn diff_items(old: &[Value], new: &[Value], key: &str, node: Option<Node<'_>>, wanted: Wanted) -> Vec<Value> {
    let find = |list: &[Value], id: &Value| list.iter().find(|item| item.get(key) == Some(id)).cloned();
    let mut items = Vec::new();
    for item in new {
        let Some(id) = item.get(key) else { continue };
        match find(old, id) {
            Some(before) => {
                let mut below = diff(&before, item, node.and_then(|node| node.element()), wanted);
                if !below.is_empty() {
                    below.insert(key.to_owned(), id.clone());
                    items.push(Value::Object(below));
                }
            }
            None if wanted.changes => items.push(item.clone()),
            None => {}
        }
    }
    for id in old.iter().filter_map(|item| item.get(key)).filter(|_| wanted.deletions) {
        if find(new, id).is_none() {
            items.push(json!({"$patch": "delete", key: id}));
        }
    }
    items
}

/// Adds the deletions to the changes.
fn combine(patch: &mut Object, deletions: Object, node: Option<Node<'_>>) {
    for (key, deletion) in deletions {
        let field = node.and_then(|node| node.field(&key));
        match (patch.get_mut(&key), deletion) {
            (Some(Value::Object(below)), Value::Object(deletion)) => combine(below, deletion, field),
            (Some(Value::Array(items)), Value::Array(deletions)) if !key.starts_with('$') => {
                let merge_key = field.map(|field| field.patch().merge_key).unwrap_or_default();
                combine_items(items, deletions, merge_key, field);
            }
            // The order of the changes names every item that stays.
            (Some(_), _) if key.starts_with("$setElementOrder/") => {}
            (Some(_), Value::Null) => {}
            (_, deletion) => {
                patch.insert(key, deletion);
            }
        }
    }
}

fn combine_items(items: &mut Vec<Value>, deletions: Vec<Value>, merge_key: &str, node: Option<Node<'_>>) {
    for deletion in deletions {
        let same = |item: &&mut Value| !merge_key.is_empty() && item.get(merge_key) == deletion.get(merge_key);
        match (items.iter_mut().find(same), &deletion) {
            (Some(Value::Object(item)), Value::Object(deletion)) => {
                combine(item, deletion.clone(), node.and_then(|node| node.element()));
            }
            _ => items.push(deletion),
        }
    }
}
