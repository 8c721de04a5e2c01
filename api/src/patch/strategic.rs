//! Strategic merge patch: a merge patch that knows which lists are merged item by item, by which key, and
//! that obeys directives inside the patch.
//!
//! | directive | meaning |
//! |---|---|
//! | `$patch: replace` | in an object: use the patch as it is; in a list item: replace the whole list |
//! | `$patch: delete` | in an object: empty it; in a list item: remove the item with this key |
//! | `$deleteFromPrimitiveList/NAME` | remove these values from the list NAME |
//! | `$setElementOrder/NAME` | put the items of the list NAME into this order |
//! | `$retainKeys` | drop the fields that are not named here |
//!
//! The order of a merged list: items of the patch in the patch's order, the others in the live order, and
//! between the two the live order as far as it goes.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::schema::{Node, PatchFacts};
use crate::status::ApiError;

use super::unprocessable;

type Object = Map<String, Value>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to `doc`, whose schema is `node`. Errors: 400 for a malformed directive,
/// 422 for lists of lists, 500 for an item without its merge key (all as in Kubernetes).
pub fn strategic_merge(doc: &Value, patch: &Value, node: Node<'_>) -> Result<Value, ApiError> {
    let (Some(original), Some(changes)) = (doc.as_object(), patch.as_object()) else {
        return Err(ApiError::bad_request(
            "error decoding patch: the patch is not an object",
        ));
    };
    merge_object(original.clone(), changes, Some(node)).map(Value::Object)
}

fn merge_object(original: Object, patch: &Object, node: Option<Node<'_>>) -> Result<Object, ApiError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                let mut replacement = patch.clone();
                replacement.remove(DIRECTIVE);
                Ok(replacement)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(directive, patch)),
        };
    }
    let mut original = retain_keys(original, patch)?;
    let mut handled = HashSet::from([RETAIN_KEYS]);
    for (key, order) in patch {
        if let Some(name) = key.strip_prefix(ELEMENT_ORDER) {
            order_list(&mut original, patch, name, order, node)?;
            handled.extend([key.as_str(), name]);
        }
    }
    for (key, change) in patch {
        if handled.contains(key.as_str()) {
            continue;
        }
        let name = key.strip_prefix(DELETE_FROM);
        let key = name.unwrap_or(key);
        if change.is_null() {
            original.remove(key);
            continue;
        }
        let field = node.and_then(|node| node.field(key));
        let merged = match (original.remove(key), change) {
            (Some(Value::Array(mut live)), Value::Array(doomed)) if name.is_some() => {
                let doomed: HashSet<String> = doomed.iter().map(Value::to_string).collect();
                live.retain(|item| !doomed.contains(&item.to_string()));
                Value::Array(live)
            }
            (Some(live), _) if name.is_some() => live,
            (None, _) if name.is_some() => continue,
            (Some(Value::Object(live)), Value::Object(change)) => Value::Object(merge_object(live, change, field)?),
            (Some(Value::Array(live)), Value::Array(change)) => {
                let facts = field.map(|field| field.patch()).unwrap_or_default();
                Value::Array(merge_list(live, change, facts, field)?)
            }
            _ => match without_markers(&without_nulls(change)) {
                Some(value) => value,
                None => continue,
            },
        };
        original.insert(key.to_owned(), merged);
    }
    Ok(original)
}

/// Obeys `$retainKeys`.
fn retain_keys(mut original: Object, patch: &Object) -> Result<Object, ApiError> {
    let Some(retained) = patch.get(RETAIN_KEYS) else {
        return Ok(original);
    };
    let malformed = || ApiError::bad_request("invalid patch format of retainKeys");
    let retained = retained.as_array().ok_or_else(malformed)?;
    let kept: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let is_retained = |key: &str| kept.contains(key);
    let directive = |key: &str| key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER);
    if patch
        .iter()
        .any(|(key, value)| !value.is_null() && !directive(key) && !is_retained(key))
    {
        return Err(malformed());
    }
    original.retain(|key, _| is_retained(key));
    Ok(original)
}

/// Obeys `$setElementOrder/NAME`, merging the patch's list NAME on the way.
fn order_list(
    original: &mut Object,
    patch: &Object,
    name: &str,
    order: &Value,
    node: Option<Node<'_>>,
) -> Result<(), ApiError> {
    let list = |value: &Value| match value {
        Value::Array(items) => Ok(items.clone()),
        other => Err(server_error(format!(
            "expected a []interface {{}}, but received a {}",
            go_type(other)
        ))),
    };
    let order = list(order)?;
    let live = original.get(name).map(list).transpose()?;
    let change = patch.get(name).map(list).transpose()?;
    let field = node.and_then(|node| node.field(name));
    if let (None, Some(owner)) = (field, node.and_then(|node| node.type_row())) {
        let owner = owner.name.rsplit('.').next().unwrap_or_default();
        return Err(server_error(format!(
            "unable to find api field in struct {owner} for the json field {name:?}"
        )));
    }
    let facts = field.map(|field| field.patch()).unwrap_or_default();
    if let Some(change) = &change {
        check_order(change, &order, facts.merge_key)?;
    }
    let merged = match (live.clone(), &change) {
        (None, None) => return Ok(()),
        (Some(live), None) => live,
        (None, Some(change)) => change.iter().filter_map(without_markers).collect(),
        (Some(live), Some(change)) => merge_list(live, change, facts, field)?,
    };
    let live = live.unwrap_or_default();
    same_types(&live, &change.unwrap_or_default())?;
    let sorted = arrange(merged, &order, &live, facts.merge_key)?;
    original.insert(name.to_owned(), Value::Array(sorted));
    Ok(())
}

/// The items that the patch keeps must be in the order list, in the same order.
fn check_order(change: &[Value], order: &[Value], merge_key: &str) -> Result<(), ApiError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for item in change.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if !merge_key.is_empty() && item.get(merge_key).is_none() {
            return Err(no_merge_key(item, merge_key));
        }
        if !places.any(|place| same(place, item, merge_key)) {
            let shown = |items: &[Value]| go_map(&Value::Array(items.to_vec()));
            let (change, order) = (shown(change), shown(order));
            return Err(server_error(format!(
                "The order in patch list:\n{change}\n doesn't match $setElementOrder list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

fn merge_list(
    live: Vec<Value>,
    patch: &[Value],
    facts: PatchFacts,
    node: Option<Node<'_>>,
) -> Result<Vec<Value>, ApiError> {
    if !facts.merge {
        return Ok(patch.to_vec());
    }
    let Some(first) = live.iter().chain(patch).next() else {
        return Ok(live);
    };
    same_types(&live, patch)?;
    if !first.is_object() {
        let mut seen = HashSet::new();
        let all = live.iter().chain(patch);
        let merged = all.filter(|item| seen.insert(identity(item, ""))).cloned().collect();
        return arrange(merged, patch, &live, "");
    }
    let key = facts.merge_key;
    if key.is_empty() {
        return Err(server_error("cannot merge lists without merge key for struct".into()));
    }
    let (live, changes) = special_items(live, patch, key)?;
    let mut merged = live.clone();
    let mut places = places(&merged, key);
    for change in &changes {
        let Some(object) = change.as_object().filter(|object| object.contains_key(key)) else {
            return Err(no_merge_key(change, key));
        };
        let place = *places.entry(identity(change, key)).or_insert(merged.len());
        match merged.get_mut(place) {
            Some(item) => {
                let before = match item.take() {
                    Value::Object(before) => before,
                    _ => Object::new(),
                };
                let element = node.and_then(|node| node.element());
                *item = Value::Object(merge_object(before, object, element)?);
            }
            None => merged.push(change.clone()),
        }
    }
    arrange(merged, &changes, &live, key)
}

/// Obeys `$patch` in list items: what is left of the live list, and the changes without directives.
fn special_items(mut live: Vec<Value>, patch: &[Value], key: &str) -> Result<(Vec<Value>, Vec<Value>), ApiError> {
    let mut changes = Vec::new();
    let mut doomed = HashSet::new();
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            changes.push(item.clone());
            continue;
        };
        match directive.as_str() {
            Some("delete") if item.get(key).is_some() => drop(doomed.insert(identity(item, key))),
            Some("delete") => return Err(no_merge_key(item, key)),
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(server_error(
                    "merging lists cannot yet be specified in the patch".into(),
                ));
            }
            _ => return Err(unknown_directive(directive, item.as_object().unwrap_or(&Object::new()))),
        }
    }
    if !doomed.is_empty() {
        live.retain(|item| item.get(key).is_none() || !doomed.contains(&identity(item, key)));
    }
    // What replaces the list is taken as it stands.
    Ok(if replace {
        (changes, Vec::new())
    } else {
        (live, changes)
    })
}

/// Puts the items that `wanted` names into its order and weaves the others between them, in `live` order.
fn arrange(items: Vec<Value>, wanted: &[Value], live: &[Value], key: &str) -> Result<Vec<Value>, ApiError> {
    if !key.is_empty()
        && let Some(item) = items.iter().chain(wanted).find(|item| item.get(key).is_none())
    {
        return Err(no_merge_key(item, key));
    }
    let (wanted_at, live_at) = (places(wanted, key), places(live, key));
    let place_of = |item: &Value| {
        let identity = identity(item, key);
        (wanted_at.get(&identity), live_at.get(&identity))
    };
    let placed = items.into_iter().map(|item| (place_of(&item), item));
    let (mut named, mut rest): (Vec<_>, Vec<_>) = placed.partition(|((wanted, _), _)| wanted.is_some());
    named.sort_by_key(|((wanted, _), _)| *wanted);
    rest.sort_by_key(|((_, live), _)| *live);
    let mut woven = Vec::with_capacity(named.len() + rest.len());
    let mut named = named.into_iter().peekable();
    for ((_, before), item) in rest {
        while let Some((_, next)) = named.next_if(|((_, next), _)| match (before, next) {
            (Some(before), Some(next)) => before >= *next,
            _ => true,
        }) {
            woven.push(next);
        }
        woven.push(item);
    }
    woven.extend(named.map(|(_, item)| item));
    Ok(woven)
}

/// What makes a list item the same as another: its key, or all of it. Lists are matched by tables of these, since a patch may
/// be long.
fn identity(item: &Value, key: &str) -> String {
    match key {
        "" => item.to_string(),
        key => item.get(key).map(Value::to_string).unwrap_or_default(),
    }
}

/// The first place of each item.
fn places(list: &[Value], key: &str) -> HashMap<String, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (place, item) in list.iter().enumerate() {
        places.entry(identity(item, key)).or_insert(place);
    }
    places
}

/// Whether two list items are the same item.
fn same(left: &Value, right: &Value, key: &str) -> bool {
    if key.is_empty() {
        left == right
    } else {
        left.get(key).is_some() && left.get(key) == right.get(key)
    }
}

/// All items must be of one kind, and there must be one.
fn same_types(live: &[Value], patch: &[Value]) -> Result<(), ApiError> {
    let mut items = live.iter().chain(patch);
    let Some(first) = items.next() else {
        return Err(server_error("no elements in any of the given slices".into()));
    };
    if first.is_array() {
        return Err(unprocessable("lists of lists are not supported"));
    }
    if items.any(|item| go_type(item) != go_type(first)) {
        let shown = [live, patch]
            .map(|items| go_map(&Value::Array(items.to_vec())))
            .join(" ");
        return Err(server_error(format!("list element types are not identical: [{shown}]")));
    }
    Ok(())
}

/// A value that was not there before, without the members that are null.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, below)| !below.is_null());
            Value::Object(kept.map(|(key, below)| (key.clone(), without_nulls(below))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        scalar => scalar.clone(),
    }
}

/// A value that was not there before, without the objects that carry a `$patch`: there is nothing that they could
/// replace or delete. Other directives stay, and are found to be unknown fields.
fn without_markers(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => return None,
        Value::Object(map) => {
            let kept = map
                .iter()
                .filter_map(|(key, below)| Some((key.clone(), without_markers(below)?)));
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.iter().filter_map(without_markers).collect()),
        scalar => scalar.clone(),
    })
}

fn no_merge_key(item: &Value, key: &str) -> ApiError {
    server_error(format!(
        "map: {} does not contain declared merge key: {key}",
        go_map(item)
    ))
}

fn unknown_directive(directive: &Value, patch: &Object) -> ApiError {
    let directive = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    server_error(format!(
        "unknown patch type: {directive} in map: {}",
        go_map(&Value::Object(patch.clone()))
    ))
}

/// 500 without a reason, as Kubernetes answers.
fn server_error(message: String) -> ApiError {
    ApiError::new(500, "", message)
}

/// The type of a value as Go prints it.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Kubernetes' messages print it: `map[image:q]`.
fn go_map(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let inner: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_map(value)))
                .collect();
            format!("map[{}]", inner.join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(go_map).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}
