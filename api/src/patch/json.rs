//! JSON Patch (RFC 6902) as Kubernetes understands it: `replace` of an absent key adds it, negative list
//! positions count from the end, and `test` of an absent value passes against null.

use serde_json::Value;

use crate::status::ApiError;

use super::{OPERATIONS_MAX, unprocessable};

/// All values that `copy` operations duplicate together may be this large, in bytes of JSON.
const COPIED_MAX: usize = 3 * 1024 * 1024;

/// No result may nest deeper: what is stored must be readable again.
const DEPTH_MAX: usize = 100;

/// Applies a JSON Patch. Errors: 400 when `patch` is no list of operations, 413 for more than
/// [`OPERATIONS_MAX`] operations or too much copying, 422 when an operation fails.
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, ApiError> {
    let operations = patch.as_array().ok_or_else(|| {
        ApiError::bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch",
        )
    })?;
    if operations.len() > OPERATIONS_MAX {
        let count = operations.len();
        return Err(ApiError::too_large(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
        )));
    }
    let mut result = doc.clone();
    let mut copied = 0;
    for operation in operations {
        if !operation.is_object() {
            return Err(ApiError::bad_request(
                "error decoding patch: an operation is not an object",
            ));
        }
        step(&mut result, operation, &mut copied)?;
    }
    if depth(&result) > DEPTH_MAX {
        return Err(unprocessable(&format!(
            "the result nests deeper than {DEPTH_MAX} levels"
        )));
    }
    Ok(result)
}

fn step(doc: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), ApiError> {
    let member = |name: &str| operation.get(name).and_then(Value::as_str);
    let kind = member("op").unwrap_or_default();
    let path = member("path").ok_or_else(|| unprocessable(&format!("{kind} operation: missing path")))?;
    let from = || member("from").ok_or_else(|| unprocessable(&format!("{kind} operation: missing from")));
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    let outcome = match kind {
        "add" => put(doc, path, value(), Mode::Add),
        "remove" => take(doc, path).map(drop),
        "replace" => put(doc, path, value(), Mode::Replace),
        "move" => {
            let source = from()?;
            take(doc, source).and_then(|moved| put(doc, path, moved, Mode::Add))
        }
        "copy" => copy(doc, from()?, path, copied)?,
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            match get(doc, path) {
                Ok(found) if found.unwrap_or(&Value::Null) == expected => Ok(()),
                Ok(_) => Err(format!("testing value {path} failed")),
                Err(why) => Err(why),
            }
        }
        _ => Err(format!("Unexpected kind: {kind}")),
    };
    outcome.map_err(|why| unprocessable(&format!("{kind} operation: {why}")))
}

fn copy(doc: &mut Value, from: &str, path: &str, copied: &mut usize) -> Result<Result<(), String>, ApiError> {
    let value = match get(doc, from) {
        Ok(found) => found.cloned().unwrap_or(Value::Null),
        Err(why) => return Ok(Err(why)),
    };
    *copied += size(&value);
    if *copied > COPIED_MAX {
        return Err(ApiError::too_large(format!(
            "Request entity too large: the copy operations of the patch duplicate more than {COPIED_MAX} bytes"
        )));
    }
    Ok(put(doc, path, value, Mode::Add))
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Add,
    Replace,
}

/// The reference tokens of a JSON pointer.
fn tokens(pointer: &str) -> Result<Vec<String>, String> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let rest = pointer
        .strip_prefix('/')
        .ok_or_else(|| format!("{pointer:?} is not a JSON pointer"))?;
    Ok(rest
        .split('/')
        .map(|token| token.replace("~1", "/").replace("~0", "~"))
        .collect())
}

/// The position that `token` names in a list of `length` items.
fn position(token: &str, length: usize) -> Result<usize, String> {
    let index: i64 = token.parse().map_err(|_| format!("{token:?} is not a list position"))?;
    let length_signed = i64::try_from(length).unwrap_or(i64::MAX);
    let index = if index < 0 { index + length_signed } else { index };
    usize::try_from(index)
        .ok()
        .filter(|index| *index <= length)
        .ok_or_else(|| format!("list position {token} is out of bounds ({length} items)"))
}

/// `Ok(None)` is an absent key of an existing object.
fn get<'v>(doc: &'v Value, pointer: &str) -> Result<Option<&'v Value>, String> {
    let tokens = tokens(pointer)?;
    let mut current = Some(doc);
    for token in &tokens {
        current = match current {
            Some(Value::Object(map)) => map.get(token),
            Some(Value::Array(items)) => {
                let index = position(token, items.len())?;
                Some(items.get(index).ok_or_else(|| format!("{pointer} does not exist"))?)
            }
            _ => return Err(format!("{pointer} does not exist")),
        };
    }
    Ok(current)
}

fn parent<'v>(doc: &'v mut Value, pointer: &str, path: &[String]) -> Result<&'v mut Value, String> {
    let mut current = doc;
    for token in path {
        current = match current {
            Value::Object(map) => map.get_mut(token),
            Value::Array(items) => {
                let index = position(token, items.len())?;
                items.get_mut(index)
            }
            _ => None,
        }
        .ok_or_else(|| format!("doc is missing path: {pointer}"))?;
    }
    Ok(current)
}

fn put(doc: &mut Value, pointer: &str, value: Value, mode: Mode) -> Result<(), String> {
    let tokens = tokens(pointer)?;
    let Some((last, path)) = tokens.split_last() else {
        *doc = value;
        return Ok(());
    };
    match parent(doc, pointer, path)? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
        }
        Value::Array(items) if mode == Mode::Replace => {
            let index = position(last, items.len())?;
            *items
                .get_mut(index)
                .ok_or_else(|| format!("{pointer} does not exist"))? = value;
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let index = position(last, items.len())?;
            items.insert(index, value);
        }
        _ => return Err(format!("doc is missing path: {pointer}")),
    }
    Ok(())
}

fn take(doc: &mut Value, pointer: &str) -> Result<Value, String> {
    let tokens = tokens(pointer)?;
    let (last, path) = tokens.split_last().ok_or("the whole document cannot be removed")?;
    match parent(doc, pointer, path)? {
        Value::Object(map) => map
            .remove(last)
            .ok_or_else(|| format!("Unable to remove nonexistent key: {last}")),
        Value::Array(items) => {
            let index = position(last, items.len())?;
            if index >= items.len() {
                return Err(format!("{pointer} does not exist"));
            }
            Ok(items.remove(index))
        }
        _ => Err(format!("doc is missing path: {pointer}")),
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

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
