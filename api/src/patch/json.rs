//! JSON Patch (RFC 6902) as Kubernetes understands it: `replace` of an absent key adds it, negative list
//! positions count from the end, and `test` of an absent value passes against null.
//!
//! An operation may cost far more than its text: one at the front of a list moves every item behind it, and a `copy` makes
//! a value a second time. Both are charged before they are done, and a patch that has used up its share is rejected.

use serde_json::Value;

use crate::codec::{Limits, too_heavy, weight};
use crate::status::ApiError;

use super::{OPERATIONS_MAX, unprocessable};

/// All values that `copy` operations duplicate together may be this large, in bytes of JSON.
const COPIED_MAX: usize = 3 * 1024 * 1024;

/// List items moved and values walked by all operations together: less than half a second's work.
const STEPS_MAX: usize = 32 << 20;

/// No result may nest deeper: what is stored must be readable again.
const DEPTH_MAX: usize = 100;

/// Applies a JSON Patch. Errors: 400 when `patch` is no list, 413 for more than [`OPERATIONS_MAX`] operations, 422 when
/// an operation fails, in the words of the library that Kubernetes uses.
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, ApiError> {
    let patch = patch
        .as_array()
        .ok_or_else(|| ApiError::bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch"))?;
    if patch.len() > OPERATIONS_MAX {
        let count = patch.len();
        return Err(ApiError::too_large(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
        )));
    }
    let mut result = doc.clone();
    let mut work = Work {
        left: STEPS_MAX,
        copied: 0,
        memory: Limits::default().memory_max,
    };
    for operation in patch {
        step(&mut result, operation, &mut work).map_err(|stop| match stop {
            Stop::Fails(why) => unprocessable(&why),
            Stop::TooCostly => ApiError::too_large(format!(
                "Request entity too large: the operations of this JSON patch insert, remove or copy too much in long \
                 lists (more than {STEPS_MAX} items in all); send fewer operations, or replace the whole list"
            )),
            Stop::TooHeavy => too_heavy(Limits::default().memory_max),
        })?;
    }
    Ok(result)
}

/// What a patch may still do.
struct Work {
    /// List items that are moved to make or close a place, and values that are walked to be copied or moved elsewhere.
    left: usize,
    /// Bytes of JSON that were copied.
    copied: usize,
    /// Bytes of memory that copies may still take.
    memory: usize,
}

impl Work {
    fn charge(&mut self, steps: usize) -> Result<(), Stop> {
        self.left = self.left.checked_sub(steps).ok_or(Stop::TooCostly)?;
        Ok(())
    }
}

/// Why a patch ends early.
enum Stop {
    Fails(String),
    TooCostly,
    TooHeavy,
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Fails(why)
    }
}

const MISSING: &str = "missing value";

fn step(doc: &mut Value, operation: &Value, work: &mut Work) -> Result<(), Stop> {
    let member = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = member("op").unwrap_or("unknown");
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    let path = member("path").ok_or_else(|| match kind {
        "add" | "remove" | "copy" => format!("{kind} operation failed to decode path: {MISSING}"),
        _ => format!("{kind} operation failed to decode path: operation missing path field: {MISSING}"),
    });
    let from = || {
        let why = || format!("{kind} operation failed to decode from: operation, missing from field: {MISSING}");
        member("from").ok_or_else(why)
    };
    let no_path = |what: &str, path: &str| format!("{kind} operation does not apply: {what}: {path}: {MISSING}");
    match kind {
        "add" => {
            let path = path?;
            let (parent, key) =
                find(doc, path).ok_or_else(|| no_path("doc is missing path", &format!("\"{path}\"")))?;
            let value = value();
            check_depth(path, &value, work)?;
            work.charge(moved_by(parent, &key))?;
            add(parent, &key, value).map_err(|why| format!("error in add for path: '{path}': {why}"))?;
        }
        "remove" => {
            let path = path?;
            let (parent, key) =
                find(doc, path).ok_or_else(|| no_path("doc is missing path", &format!("\"{path}\"")))?;
            work.charge(moved_by(parent, &key))?;
            remove(parent, &key).map_err(|why| format!("error in remove for path: '{path}': {why}"))?;
        }
        "replace" => {
            let (path, value) = (path?, value());
            check_depth(path, &value, work)?;
            replace(doc, path, value).map_err(|(what, path)| no_path(what, path))?;
        }
        "move" => {
            let source = from()?;
            let (parent, key) = find(doc, source).ok_or_else(|| no_path("doc is missing from path", source))?;
            work.charge(moved_by(parent, &key))?;
            let moved = remove(parent, &key).map_err(|why| format!("error in move for path: '{key}': {why}"))?;
            let path = path?;
            check_depth(path, &moved, work)?;
            let (parent, key) = find(doc, path).ok_or_else(|| no_path("doc is missing destination path", path))?;
            work.charge(moved_by(parent, &key))?;
            add(parent, &key, moved).map_err(|why| format!("error in move for path: '{path}': {why}"))?;
        }
        "test" => {
            let path = path?;
            let expected = operation.get("value").unwrap_or(&Value::Null);
            let found = if path.is_empty() {
                &*doc
            } else {
                let (parent, key) = find(doc, path).ok_or_else(|| no_path("is missing path", path))?;
                get(parent, &key).map_err(|why| format!("error in test for path: '{path}': {why}"))?
            };
            let failed = || format!("testing value {path} failed: test failed");
            (found == expected).then_some(()).ok_or_else(failed)?;
        }
        "copy" => {
            let source = from()?;
            let (parent, key) = find(doc, source).ok_or_else(|| no_path("doc is missing from path", source))?;
            let value = get(parent, &key).map_err(|why| format!("error in copy for from: '{source}': {why}"))?;
            let path = path?;
            check_depth(path, value, work)?;
            let size = size(value);
            let heavy = weight::of(value);
            let fits = work.copied.saturating_add(size) <= COPIED_MAX;
            let value = if fits {
                work.memory = work.memory.checked_sub(heavy).ok_or(Stop::TooHeavy)?;
                value.clone()
            } else {
                Value::Null
            };
            let (parent, key) = find(doc, path).ok_or_else(|| no_path("doc is missing destination path", path))?;
            work.copied = work.copied.saturating_add(size);
            if !fits {
                let copied = work.copied;
                return Err(Stop::Fails(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the \
                     limit {COPIED_MAX}"
                )));
            }
            work.charge(moved_by(parent, &key))?;
            add(parent, &key, value).map_err(|why| format!("error while adding value during copy: {why}"))?;
        }
        _ => return Err(Stop::Fails(format!("Unexpected kind: {kind}"))),
    }
    Ok(())
}

/// How many items of a list move when one is put to, or taken from, the place of `key`.
fn moved_by(parent: &Value, key: &str) -> usize {
    let Value::Array(items) = parent else { return 0 };
    let at = position(key, items.len()).unwrap_or(items.len());
    items.len() - at
}

/// Refuses a value that would nest too deeply at `path`: it could not be read again, nor be walked on a stack.
fn check_depth(path: &str, value: &Value, work: &mut Work) -> Result<(), Stop> {
    let above = path.split('/').skip(1).count();
    if above.saturating_add(depth(value, work)?) > DEPTH_MAX {
        return Err(Stop::Fails(format!("the result nests deeper than {DEPTH_MAX} levels")));
    }
    Ok(())
}

/// Replaces what there is, or the whole document. The error is what is missing, and the path.
fn replace<'p>(doc: &mut Value, path: &'p str, value: Value) -> Result<(), (&'static str, &'p str)> {
    if path.is_empty() && (value.is_object() || value.is_array()) {
        *doc = value;
        return Ok(());
    }
    let (parent, key) = find(doc, path).ok_or(("doc is missing path", path))?;
    match parent {
        Value::Object(map) => drop(map.insert(key, value)),
        Value::Array(items) => {
            let place = position(&key, items.len()).ok().and_then(|index| items.get_mut(index));
            *place.ok_or(("doc is missing key", path))? = value;
        }
        _ => return Err(("doc is missing path", path)),
    }
    Ok(())
}

/// The object or list that holds what `pointer` names, and the key or position in it. What stands before the first
/// slash counts for nothing.
fn find<'v>(doc: &'v mut Value, pointer: &str) -> Option<(&'v mut Value, String)> {
    let tokens = pointer.split('/').skip(1);
    let mut tokens: Vec<String> = tokens
        .map(|token| token.replace("~1", "/").replace("~0", "~"))
        .collect();
    let key = tokens.pop()?;
    let mut current = doc;
    for token in &tokens {
        current = match current {
            Value::Object(map) => map.get_mut(token)?,
            Value::Array(items) => {
                let index = position(token, items.len()).ok()?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    (current.is_object() || current.is_array()).then_some((current, key))
}

/// The position that `token` names in a list of `length` items; negative ones count from its end. What it gives is at
/// most `length`.
fn position(token: &str, length: usize) -> Result<usize, String> {
    let index: i64 = token
        .parse()
        .map_err(|_| format!("strconv.Atoi: parsing {token:?}: invalid syntax"))?;
    let from_end = i64::try_from(length).map_or(index, |length| index + length);
    usize::try_from(if index < 0 { from_end } else { index })
        .ok()
        .filter(|index| *index <= length)
        .ok_or_else(|| no_index(index))
}

fn no_index(index: i64) -> String {
    format!("Unable to access invalid index: {index}: invalid index referenced")
}

/// The position of an item that there is.
fn item_position(token: &str, length: usize) -> Result<usize, String> {
    let index = position(token, length)?;
    let outside = || no_index(i64::try_from(index).unwrap_or(i64::MAX));
    (index < length).then_some(index).ok_or_else(outside)
}

/// An absent member is null.
fn get<'v>(parent: &'v Value, key: &str) -> Result<&'v Value, String> {
    match parent {
        Value::Array(items) => Ok(&items[item_position(key, items.len())?]),
        other => Ok(other.get(key).unwrap_or(&Value::Null)),
    }
}

fn add(parent: &mut Value, key: &str, value: Value) -> Result<(), String> {
    match parent {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            // Counted from the end of the list that comes out.
            let longer = items.len() + 1;
            let index = match key.parse::<i64>() {
                Ok(_) => item_position(key, longer)?,
                Err(_) => {
                    let why = position(key, longer).err().unwrap_or_default();
                    return Err(format!("value was not a proper array index: '{key}': {why}"));
                }
            };
            items.insert(index, value);
        }
        Value::Object(map) => drop(map.insert(key.to_owned(), value)),
        _ => {}
    }
    Ok(())
}

fn remove(parent: &mut Value, key: &str) -> Result<Value, String> {
    match parent {
        Value::Array(items) => {
            let index = item_position(key, items.len())?;
            Ok(items.remove(index))
        }
        Value::Object(map) => {
            let absent = || format!("Unable to remove nonexistent key: {key}: {MISSING}");
            map.remove(key).ok_or_else(absent)
        }
        _ => Ok(Value::Null),
    }
}

/// About the length of the value's JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, item)| key.len() + size(item) + 4).sum::<usize>(),
    }
}

fn depth(value: &Value, work: &mut Work) -> Result<usize, Stop> {
    work.charge(1)?;
    let mut deepest = 0;
    match value {
        Value::Array(items) => {
            for item in items {
                deepest = deepest.max(1 + depth(item, work)?);
            }
            Ok(deepest.max(1))
        }
        Value::Object(map) => {
            for item in map.values() {
                deepest = deepest.max(1 + depth(item, work)?);
            }
            Ok(deepest.max(1))
        }
        _ => Ok(0),
    }
}
