//! Leaves `metadata.managedFields` out of an object before it is decoded: caches keep none, and decoding them costs more
//! than the rest of the object.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "positions in a text in memory, at most its length plus two"
)]

use std::borrow::Cow;

/// The object's JSON with null for its managed fields; what is not an object in JSON stays as it is.
pub(crate) fn without_managed_fields(text: &str) -> Cow<'_, str> {
    let found = || {
        let (metadata, _) = member(text.as_bytes(), 0, b"\"metadata\"")?;
        let (from, to) = member(text.as_bytes(), metadata, b"\"managedFields\"")?;
        Some((text.get(..from)?, text.get(to..)?))
    };
    match found() {
        Some((before, after)) => Cow::Owned([before, "null", after].concat()),
        None => Cow::Borrowed(text),
    }
}

/// Where the value of a member of the object at `at` begins and ends; `name` is the member's name with its quotes.
fn member(json: &[u8], at: usize, name: &[u8]) -> Option<(usize, usize)> {
    let mut at = blank(json, at);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    loop {
        // Behind the brace, or a comma.
        let key = blank(json, at + 1);
        let key_end = string(json, key)?;
        let colon = blank(json, key_end);
        if json.get(colon) != Some(&b':') {
            return None;
        }
        let value = blank(json, colon + 1);
        let value_end = skip(json, value)?;
        if json.get(key..key_end) == Some(name) {
            return Some((value, value_end));
        }
        at = blank(json, value_end);
        if json.get(at) != Some(&b',') {
            return None;
        }
    }
}

/// The first place from `at` on that is not white space.
fn blank(json: &[u8], at: usize) -> usize {
    let rest = json.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// The end of the string that begins at `at`.
fn string(json: &[u8], at: usize) -> Option<usize> {
    if json.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The end of the value that begins at `at`.
fn skip(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match json.get(at)? {
            b'"' => at = string(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            // A number or a word ends before whatever follows it.
            _ if depth == 0 => {
                let rest = json.get(at..)?;
                return Some(at + rest.iter().take_while(|b| !b", }]\t\r\n".contains(b)).count());
            }
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn only_the_objects_own_managed_fields_go() {
        let list = json!([{"manager": "a\"}]", "fieldsV1": {"f:x": {".": {}}}}]);
        let cases = [
            json!({"metadata": {"name": "a", "managedFields": list, "uid": "u"}, "spec": {"managedFields": list}}),
            json!({"data": {"metadata": "{\"managedFields\":[]}"}, "metadata": {"managedFields": []}}),
            json!({"a": [1, -2.5e3, true, null, "\\"], "metadata": {"labels": {"managedFields": "x"}, "managedFields": list}}),
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {}}),
            json!({"metadata": null}),
            json!({"items": [{"metadata": {"managedFields": list}}]}),
            json!([]),
        ];
        for case in cases {
            let mut expected = case.clone();
            if let Some(fields) = expected.pointer_mut("/metadata/managedFields") {
                *fields = Value::Null;
            }
            for text in [case.to_string(), format!("{case:#}")] {
                let trimmed: Value = serde_json::from_str(&without_managed_fields(&text)).expect("JSON");
                assert_eq!(trimmed, expected, "{text}");
            }
        }
    }

    #[test]
    fn what_is_cut_off_stays_as_it_is() {
        let whole = r#"{"metadata":{"managedFields":[{"a":"\\"}],"n":1}}"#;
        for end in 0..whole.len() - 1 {
            let text = &whole[..end];
            // Cut behind the list, it may be found already; the decoder refuses the rest.
            assert!(
                serde_json::from_str::<Value>(&without_managed_fields(text)).is_err(),
                "{text}"
            );
        }
    }
}
