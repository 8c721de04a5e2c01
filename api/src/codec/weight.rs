//! How much memory a document takes once it is read.
//!
//! A body of three bytes a value becomes thirty to two hundred times as large: every object has a node with room for
//! eleven fields, every text and list an allocation of its own. Readers charge a [`Budget`] for each value before they
//! build it, so that a body is refused when it would become too large and not when it has. [`of_json`] estimates the
//! same from the text alone, for whoever has to know before reading what reading will take.
//!
//! The figures are those of `serde_json` on 64-bit systems, rounded up: `tests` holds them against an allocator.

use serde_json::Value;

/// One place in a list.
const VALUE_BYTES: usize = size_of::<Value>();
/// One field in a map's node.
const FIELD_BYTES: usize = size_of::<String>() + size_of::<Value>();
/// A map's node: eleven fields and their parent.
const NODE_BYTES: usize = 11 * FIELD_BYTES + 16;
/// Lists begin with room for four items and double; maps that were filled in order are half empty.
const FIRST_ITEMS: usize = 4;
/// The smallest allocation of a text.
const TEXT_BYTES_MIN: usize = 16;

/// Nesting that is looked at: deeper than any reader goes.
const DEPTH_MAX: usize = 256;

/// How many more bytes of memory values may take.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    left: usize,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Takes `bytes` of it.
    pub fn charge(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.left = self.left.checked_sub(bytes).ok_or(TooLarge)?;
        Ok(())
    }

    /// Takes what the item at `index` of a list needs there.
    pub fn item(&mut self, index: usize) -> Result<(), TooLarge> {
        self.charge(item(index))
    }

    /// Takes what the field at `index` of an object needs there.
    pub fn field(&mut self, index: usize, name: &str) -> Result<(), TooLarge> {
        self.charge(field(index) + text(name.len()))
    }

    pub fn text(&mut self, value: &str) -> Result<(), TooLarge> {
        self.charge(text(value.len()))
    }
}

fn text(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes.max(TEXT_BYTES_MIN) }
}

fn item(index: usize) -> usize {
    if index == 0 {
        FIRST_ITEMS * VALUE_BYTES
    } else if index < FIRST_ITEMS {
        0
    } else {
        2 * VALUE_BYTES
    }
}

fn field(index: usize) -> usize {
    if index == 0 {
        NODE_BYTES
    } else if index < 11 {
        0
    } else {
        2 * FIELD_BYTES
    }
}

/// The bytes that a value takes beside its own place.
pub fn of(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(value) => text(value.len()),
        Value::Array(items) => items.iter().enumerate().map(|(at, below)| item(at) + of(below)).sum(),
        Value::Object(map) => map
            .iter()
            .enumerate()
            .map(|(at, (name, below))| field(at) + text(name.len()) + of(below))
            .sum(),
    }
}

/// The bytes that a JSON text will about take as a value; never much less. Any other text gives some number.
pub fn of_json(json: &[u8]) -> usize {
    let mut bytes = 0;
    // What is open: whether it is an object, and how many fields or items it has.
    let mut open: Vec<(bool, usize)> = Vec::with_capacity(DEPTH_MAX);
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = text_end(json, at + 1);
                bytes += text(end - at - 1);
                at = end;
            }
            b'{' | b'[' => {
                let object = *byte == b'{';
                let next = json[at + 1..].iter().find(|byte| !byte.is_ascii_whitespace());
                if !matches!(next, Some(b'}' | b']')) {
                    bytes += if object { field(0) } else { item(0) };
                }
                if open.len() == DEPTH_MAX {
                    // No reader goes on from here.
                    return bytes;
                }
                open.push((object, 0));
            }
            b'}' | b']' => drop(open.pop()),
            b',' => {
                if let Some((object, count)) = open.last_mut() {
                    *count += 1;
                    bytes += if *object { field(*count) } else { item(*count) };
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes
}

/// Where the text that begins at `at` has its closing quote, or the end.
fn text_end(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if json.get(at) == Some(&b'"') {
            return at;
        }
        at += 2;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_weighed_as_the_values_that_they_become() {
        let cases = [
            json!(null),
            json!([]),
            json!({}),
            json!([[], {}, "", "x", 1, true]),
            json!({"a": {"b": {"c": "d"}}, "e": ["f", {"g": "\"h\\"}]}),
            json!((0..100).collect::<Vec<_>>()),
            Value::Object((0..100).map(|i| (format!("key-{i}"), json!([i]))).collect()),
        ];
        for value in cases {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).expect("JSON")] {
                let (estimated, exact) = (of_json(text.as_bytes()), of(&value));
                // Escapes are longer than what they stand for.
                assert!(
                    estimated >= exact && estimated <= exact + 16,
                    "{text}: {estimated} {exact}"
                );
            }
        }
        assert!(of_json("[".repeat(1_000_000).as_bytes()) < 1 << 20);
        for odd in ["", "{", "]]]]", "\"", "\\", "{\"a", ",,,", "[,"] {
            of_json(odd.as_bytes());
        }
    }
}
