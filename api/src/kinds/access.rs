//! Reading and writing small parts of a `Value`. Missing parts read as empty, and nothing here panics.

use serde_json::{Map, Value};

/// An empty object to read from where there is none.
pub static NOTHING: Value = Value::Null;

/// Replaces anything that is not an object by an empty object.
pub fn ensure_object(v: &mut Value) -> &mut Map<String, Value> {
    if !v.is_object() {
        *v = Value::Object(Map::new());
    }
    match v {
        Value::Object(map) => map,
        _ => unreachable!("just made an object"),
    }
}

/// A member, or null.
pub fn get<'a>(v: &'a Value, key: &str) -> &'a Value {
    v.get(key).unwrap_or(&NOTHING)
}

/// [`Value::pointer`], which copies every part of every pointer to replace escapes that hardly any has.
fn find<'a>(v: &'a Value, pointer: &str) -> Option<&'a Value> {
    if pointer.contains('~') {
        return v.pointer(pointer);
    }
    let mut parts = pointer.split('/');
    let beginning = parts.next().filter(|part| part.is_empty());
    parts.try_fold(beginning.map(|_| v)?, |v, part| match v {
        Value::Object(map) => map.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

/// What a JSON pointer leads to, or null.
pub fn at<'a>(v: &'a Value, pointer: &str) -> &'a Value {
    find(v, pointer).unwrap_or(&NOTHING)
}

/// A string member, or empty.
pub fn str_of<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or("")
}

/// The string at a JSON pointer, or empty.
pub fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    find(v, pointer).and_then(Value::as_str).unwrap_or("")
}

/// An integer member.
pub fn int_of(v: &Value, key: &str) -> Option<i64> {
    v.get(key).and_then(Value::as_i64)
}

/// The integer at a JSON pointer.
pub fn int(v: &Value, pointer: &str) -> Option<i64> {
    find(v, pointer).and_then(Value::as_i64)
}

/// A boolean member, false when missing.
pub fn flag(v: &Value, key: &str) -> bool {
    v.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// The elements of an array member, none when missing.
pub fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The strings among the elements of an array member.
pub fn texts(v: &Value, key: &str) -> Vec<String> {
    let items = list(v, key).iter();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The elements of the array at a JSON pointer.
pub fn list_at<'a>(v: &'a Value, pointer: &str) -> &'a [Value] {
    find(v, pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of an object member, none when missing.
pub fn entries<'a>(v: &'a Value, key: &str) -> Box<dyn Iterator<Item = (&'a String, &'a Value)> + 'a> {
    match v.get(key).and_then(Value::as_object) {
        Some(map) => Box::new(map.iter()),
        None => Box::new(std::iter::empty()),
    }
}

/// Whether a member is there and not null.
pub fn has(v: &Value, key: &str) -> bool {
    v.get(key).is_some_and(|x| !x.is_null())
}

/// A member as an object to write into, created when missing.
pub fn child<'a>(v: &'a mut Value, key: &str) -> &'a mut Value {
    let entry = ensure_object(v).entry(key.to_owned()).or_insert(Value::Null);
    ensure_object(entry);
    entry
}

/// A member to write into, only when it is an object.
pub fn child_if<'a>(v: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    v.get_mut(key).filter(|x| x.is_object())
}

/// The elements of an array member to write into.
pub fn each_mut<'a>(v: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    v.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a member.
pub fn set(v: &mut Value, key: &str, value: impl Into<Value>) {
    ensure_object(v).insert(key.to_owned(), value.into());
}

/// Sets a member that is missing or null.
pub fn set_default(v: &mut Value, key: &str, value: impl Into<Value>) {
    if !has(v, key) {
        set(v, key, value);
    }
}

/// Sets a string member that is missing, null or empty.
pub fn set_text_default(v: &mut Value, key: &str, value: &str) {
    if str_of(v, key).is_empty() {
        set(v, key, value);
    }
}

/// Removes a member.
pub fn remove(v: &mut Value, key: &str) -> Option<Value> {
    v.as_object_mut().and_then(|map| map.remove(key))
}

/// Copies a member from another object, removing it when it is missing there.
pub fn copy(to: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(value) => set(to, key, value.clone()),
        None => {
            remove(to, key);
        }
    }
}

/// `metadata.name`, or empty.
pub fn name(obj: &Value) -> &str {
    text(obj, "/metadata/name")
}

/// `metadata.namespace`, or empty.
pub fn namespace(obj: &Value) -> &str {
    text(obj, "/metadata/namespace")
}

/// Equality in which a missing member, null, an empty list and an empty map are the same.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a.unwrap_or(&NOTHING), b.unwrap_or(&NOTHING)) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, value)| same(Some(value), b.get(key)))
                && b.iter()
                    .all(|(key, value)| a.contains_key(key) || same(None, Some(value)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (a, b) => a == b || (is_empty(a) && is_empty(b)),
    }
}

/// Null, an empty list or an empty map.
pub fn is_empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pointers_lead_where_they_lead_everywhere() {
        let value = json!({"a": {"b": [1, {"c": 2}], "": 3, "x/y": 4, "m~n": 5}, "": 6});
        for pointer in [
            "",
            "/",
            "/a",
            "/a/b",
            "/a/b/0",
            "/a/b/1/c",
            "/a/b/2",
            "/a/b/x",
            "/a/",
            "/a/x~1y",
            "/a/m~0n",
            "/a/b/1/c/d",
            "a",
        ] {
            assert_eq!(find(&value, pointer), value.pointer(pointer), "{pointer:?}");
        }
    }
}
