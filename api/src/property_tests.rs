//! Laws that hold for every object of every kind, over objects made from the schemas.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::apply::{ApplyRequest, apply, keep_times_when_unchanged};
use crate::codec::tests::value_of;
use crate::codec::{self, Limits, Media, Validation, check_fields, decode_object, encode_protobuf, to_yaml};
use crate::patch::{merge_patch, strategic_merge};
use crate::registry::Registry;
use crate::schema::{ListKind, Node, NodeKind, Shape, type_ref};

const NOW: &str = "2026-01-02T03:04:05Z";

/// An object of one of the served kinds, as the server would store it, and the name of its type.
fn made(which: &prop::sample::Index, seed: u64) -> (Value, &'static str) {
    let registry = Registry::builtin();
    let rows: Vec<_> = registry
        .resources()
        .filter_map(|row| Some((row, row.type_name?)))
        .collect();
    let (row, type_name) = which.get(&rows);
    let reference = type_ref(type_name).expect("a type");
    let mut object = value_of(Shape::Object(reference), &mut { seed }, 0);
    object["apiVersion"] = row.api_version().into();
    object["kind"] = (*row.kind).into();
    check_fields(&mut object, type_name, Validation::Warn).expect("a well-typed object");
    (object, type_name)
}

/// The object as Go has it after reading it from protobuf, where nothing and empty are the same.
fn settled(object: &Value, type_name: &str) -> Value {
    let body = encode_protobuf(object).expect("a kind with a protobuf form");
    let mut read = codec::decode_protobuf(&body, &Limits::default()).expect("what was written can be read");
    check_fields(&mut read, type_name, Validation::Strict).expect("and has its types");
    read
}

/// The same object with some of its fields changed, gone or added.
fn changed(object: &Value, type_name: &str, seed: u64) -> Value {
    let reference = type_ref(type_name).expect("a type");
    let mut other = value_of(Shape::Object(reference), &mut { seed ^ 0x55 }, 0);
    for (at, (key, value)) in object.as_object().into_iter().flatten().enumerate() {
        if matches!(key.as_str(), "apiVersion" | "kind") || (seed >> (at % 60)) & 1 == 1 {
            other[key] = value.clone();
        }
    }
    check_fields(&mut other, type_name, Validation::Warn).expect("a well-typed object");
    other
}

/// A strategic merge that does what the words say, item by item and without regard to cost. Only for what
/// [`directed`] makes: keyed lists of objects, sets, directives in objects.
mod reference {
    use super::*;

    pub fn merge(live: &Value, patch: &Map<String, Value>, node: Option<Node<'_>>) -> Value {
        let mut out = live.as_object().cloned().unwrap_or_default();
        match patch.get("$patch").and_then(Value::as_str) {
            Some("delete") => return json!({}),
            Some("replace") => {
                let mut whole = patch.clone();
                whole.remove("$patch");
                return Value::Object(whole);
            }
            _ => {}
        }
        if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
            out.retain(|key, _| kept.iter().any(|name| name == key));
        }
        for (key, change) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
            let field = node.and_then(|node| node.field(key));
            let facts = field.map(|field| field.patch()).unwrap_or_default();
            let merged = match (out.get(key), change) {
                (_, Value::Null) => Value::Null,
                (Some(Value::Array(before)), Value::Array(items)) if facts.merge => {
                    list(before, items, facts.merge_key, field.and_then(|field| field.element()))
                }
                (Some(before @ Value::Object(_)), Value::Object(inner)) => merge(before, inner, field),
                (_, Value::Object(inner)) => merge(&Value::Null, inner, field),
                (_, other) => other.clone(),
            };
            if merged.is_null() {
                out.remove(key);
            } else {
                out.insert(key.clone(), merged);
            }
        }
        for (key, order) in patch {
            let (Some(name), Some(order)) = (key.strip_prefix("$setElementOrder/"), order.as_array()) else {
                continue;
            };
            let key = node
                .and_then(|node| node.field(name))
                .map_or("", |field| field.patch().merge_key);
            let place = |item: &Value| order.iter().position(|wanted| same(wanted, item, key));
            if let Some(items) = out.get_mut(name).and_then(Value::as_array_mut) {
                items.sort_by_key(place);
            }
        }
        Value::Object(out)
    }

    fn same(a: &Value, b: &Value, key: &str) -> bool {
        if key.is_empty() {
            a == b
        } else {
            a.get(key) == b.get(key)
        }
    }

    /// The items by key; in which order is not said here.
    fn list(before: &[Value], items: &[Value], key: &str, element: Option<Node<'_>>) -> Value {
        let mut out = before.to_vec();
        for item in items {
            let at = out.iter().position(|other| same(other, item, key));
            let deleted = item.get("$patch").and_then(Value::as_str) == Some("delete");
            match (at, item.as_object()) {
                (Some(at), _) if deleted => drop(out.remove(at)),
                (None, _) if deleted => {}
                (Some(at), Some(inner)) => out[at] = merge(&out[at], inner, element),
                (None, _) => out.push(item.clone()),
                (Some(_), None) => {}
            }
        }
        Value::Array(out)
    }
}

/// Lists that are merged, in one order, so that results can be compared whatever the order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(sorted).collect();
            items.sort_by_key(Value::to_string);
            Value::Array(items)
        }
        Value::Object(map) => Value::Object(map.iter().map(|(key, below)| (key.clone(), sorted(below))).collect()),
        other => other.clone(),
    }
}

/// A pod's spec with containers of these names.
fn spec(names: &[String], images: &[u8], selector: &[(String, String)]) -> Value {
    let container = |(at, name): (usize, &String)| {
        let image = images.get(at % images.len().max(1)).copied().unwrap_or(0);
        json!({"name": name, "image": format!("i{image}"), "env": [{"name": "A", "value": image.to_string()}], "args": [name]})
    };
    let containers: Vec<Value> = names.iter().enumerate().map(container).collect();
    let selector: Map<String, Value> = selector
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().into()))
        .collect();
    json!({"containers": containers, "nodeSelector": selector, "hostname": "h"})
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set("[a-f]", 1..5)
        .prop_map(|set| set.into_iter().collect())
        .prop_shuffle()
}

fn selector() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::btree_map("[a-d]", "[x-z]", 0..3).prop_map(|map| map.into_iter().collect())
}

/// A patch with directives, chosen by the bits of a number.
fn directed(live: &[String], wanted: &[String], images: &[u8], selector: &[(String, String)], choice: u16) -> Value {
    let has = |bit: u16| choice & (1 << bit) != 0;
    let mut patch = spec(wanted, images, selector);
    if has(0) {
        let doomed: Vec<Value> = live
            .iter()
            .filter(|name| !wanted.contains(name))
            .map(|name| json!({"name": name, "$patch": "delete"}))
            .collect();
        patch["containers"].as_array_mut().expect("containers").extend(doomed);
    }
    if has(1) {
        let rest = live.iter().filter(|name| !wanted.contains(name) && !has(0));
        let order: Vec<Value> = wanted.iter().chain(rest).map(|name| json!({"name": name})).collect();
        patch["$setElementOrder/containers"] = order.into();
    }
    if has(2) {
        let keys: Vec<&str> = patch
            .as_object()
            .expect("a patch")
            .keys()
            .map(String::as_str)
            .filter(|key| !key.starts_with('$'))
            .collect();
        patch["$retainKeys"] = json!(keys);
    }
    match choice >> 3 & 3 {
        1 => patch["nodeSelector"] = json!({"$patch": "replace", "r": "s"}),
        2 => patch["nodeSelector"] = json!({"$patch": "delete"}),
        3 => patch["nodeSelector"] = Value::Null,
        _ => {}
    }
    if has(5) {
        patch["hostname"] = Value::Null;
        if let Some(keys) = patch.get_mut("$retainKeys").and_then(Value::as_array_mut) {
            keys.retain(|key| key != "hostname");
        }
    }
    patch
}

/// The scalars that an applied object states, by pointer; list items that merge are found by their place in `live`.
fn stated(node: Node<'_>, applied: &Value, live: &Value, at: &str, out: &mut Vec<(String, Value)>) {
    match (applied, live) {
        (Value::Object(map), _) => {
            for (key, below) in map {
                let pointer = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                let field = node.field(key).unwrap_or(Node::Untyped);
                stated(field, below, live.get(key).unwrap_or(&Value::Null), &pointer, out);
            }
        }
        // Which item is which is the lists' own business; only whole ones are compared.
        (Value::Array(_), _) if matches!(node.list(), ListKind::Set | ListKind::Map(_)) => {}
        (Value::Null, _) => {}
        (other, _) if node.kind() != NodeKind::Object => out.push((at.to_owned(), other.clone())),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn decoding_what_was_encoded_gives_it_back(which in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let registry = Registry::builtin();
        let (object, type_name) = made(&which, seed);
        let (group, version) = crate::registry::split_api_version(object["apiVersion"].as_str().expect("a version"));
        let row = registry.by_kind(group, version, object["kind"].as_str().expect("a kind")).expect("a row");
        let settled = settled(&object, type_name);
        for (object, media) in [
            (&object, Media::Json),
            (&object, Media::Yaml),
            (&settled, Media::Json),
            (&settled, Media::Yaml),
            (&settled, Media::Protobuf),
        ] {
            let body = match media {
                Media::Json => object.to_string().into_bytes(),
                Media::Yaml => to_yaml(object).into_bytes(),
                Media::Protobuf => encode_protobuf(object).expect("a kind with a protobuf form"),
            };
            let decoded = decode_object(&body, media, &row.gvk(), row.node(), Validation::Strict, &Limits::default());
            let decoded = decoded.map_err(|error| TestCaseError::fail(format!("{media:?}: {error}\n{object}")))?;
            prop_assert_eq!(&decoded.value, object, "{:?}", media);
        }
    }

    /// A list written in pieces, item by item, is the list of the objects, and reads as the objects do.
    #[test]
    fn a_list_is_its_objects(which in any::<prop::sample::Index>(), seed in any::<u64>(), count in 0..4usize) {
        let (first, type_name) = made(&which, seed);
        let kind = format!("{}List", first["kind"].as_str().expect("a kind"));
        let items: Vec<Value> = (0..count as u64)
            .map(|at| {
                let mut item = settled(&made(&which, seed.wrapping_add(at)).0, type_name);
                let map = item.as_object_mut().expect("an object");
                map.remove("apiVersion");
                map.remove("kind");
                item
            })
            .collect();
        let list = json!({"apiVersion": first["apiVersion"], "kind": kind, "metadata": {"resourceVersion": "7"}, "items": items});
        let body = encode_protobuf(&list);
        prop_assume!(body.is_some());
        let read = codec::decode_protobuf(&body.expect("a list"), &Limits::default()).map_err(|error| TestCaseError::fail(error.message))?;
        let none = Vec::new();
        let read = read["items"].as_array().unwrap_or(&none);
        prop_assert_eq!(read.len(), items.len());
        for (read, item) in read.iter().zip(&items) {
            let mut read = read.clone();
            check_fields(&mut read, type_name, Validation::Strict).map_err(|error| TestCaseError::fail(error.message))?;
            prop_assert_eq!(&read, item);
        }
    }

    /// Patching each object of a list is patching the list's member with that object's patch.
    #[test]
    fn a_patched_list_is_the_patched_objects(which in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let (one, type_name) = made(&which, seed);
        let two = changed(&one, type_name, seed);
        let patch = changed(&one, type_name, seed.rotate_left(9));
        let merged: Vec<Value> = [&one, &two]
            .iter()
            .map(|object| {
                let mut object = (*object).clone();
                merge_patch(&mut object, &patch).expect("applies");
                object
            })
            .collect();
        let mut both = json!({"one": one, "two": two});
        merge_patch(&mut both, &json!({"one": patch, "two": patch})).expect("applies");
        prop_assert_eq!(&both["one"], &merged[0]);
        prop_assert_eq!(&both["two"], &merged[1]);
    }

    #[test]
    fn applying_again_is_nothing_and_keeps_what_others_own(which in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let (live, type_name) = made(&which, seed);
        let (mut first, mut second) = (changed(&live, type_name, seed), changed(&live, type_name, seed.rotate_left(7)));
        for object in [&mut first, &mut second] {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        }
        let node = Node::of_type(type_name).expect("a type");
        let (gv, kind) = (live["apiVersion"].as_str().expect("a version"), live["kind"].as_str().expect("a kind"));
        let run = |live: Option<&Value>, applied: &Value, manager: &str| -> Result<Value, TestCaseError> {
            let request = ApplyRequest { live, applied, manager, force: true, gv, kind, subresource: "", now: NOW, node };
            let mut done = apply(&request).map_err(|error| TestCaseError::reject(error.message))?;
            check_fields(&mut done, type_name, Validation::Warn).map_err(|error| TestCaseError::fail(error.message))?;
            Ok(done)
        };
        let one = run(None, &first, "a")?;
        let two = run(Some(&one), &second, "b")?;
        let mut again = run(Some(&two), &second, "b")?;
        keep_times_when_unchanged(&two, &mut again);
        prop_assert_eq!(&again, &two, "apply then apply is a no-op");
        // What b has taken it states; what b gives up and a owns too, stays.
        let mut wanted = Vec::new();
        stated(node, &second, &two, "", &mut wanted);
        for (pointer, value) in &wanted {
            prop_assert_eq!(two.pointer(pointer), Some(value), "{}", pointer);
        }
        let empty = json!({"apiVersion": gv, "kind": kind, "metadata": {"name": "x"}});
        let left = run(Some(&two), &empty, "b")?;
        let mut kept = Vec::new();
        stated(node, &first, &left, "", &mut kept);
        for (pointer, value) in &kept {
            if !pointer.starts_with("/metadata") && second.pointer(pointer) == Some(value) {
                prop_assert_eq!(left.pointer(pointer), Some(value), "{} was a's too", pointer);
            }
        }
    }

    #[test]
    fn strategic_merge_does_what_the_words_say(
        live in names(), wanted in names(), images in prop::collection::vec(0..3u8, 1..4),
        before in selector(), after in selector(), choice in any::<u16>(),
    ) {
        let node = Node::of_type("io.k8s.api.core.v1.PodSpec").expect("a type");
        let object = spec(&live, &[9], &before);
        let patch = directed(&live, &wanted, &images, &after, choice);
        let merged = strategic_merge(&object, &patch, node).map_err(|error| TestCaseError::fail(format!("{error}\n{patch}")))?;
        let slow = reference::merge(&object, patch.as_object().expect("a patch"), Some(node));
        prop_assert_eq!(sorted(&merged), sorted(&slow), "{}\n{}", object, patch);
        if patch.get("$setElementOrder/containers").is_some() {
            prop_assert_eq!(&merged["containers"], &slow["containers"], "{}", patch);
        }
        // The order of the patch's own items is the patch's.
        let order = |value: &Value| -> Vec<String> {
            let items = value["containers"].as_array().into_iter().flatten();
            items.filter_map(|item| item["name"].as_str().map(str::to_owned)).filter(|name| wanted.contains(name)).collect()
        };
        prop_assert_eq!(order(&merged), wanted);
    }
}
