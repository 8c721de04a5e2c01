//! The functions of Go templates, and how values are shown.

use std::cmp::Ordering;

use anyhow::{Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

const NAMES: [&str; 20] = [
    "and",
    "or",
    "not",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "len",
    "index",
    "slice",
    "print",
    "println",
    "printf",
    "html",
    "js",
    "urlquery",
    "exists",
    "base64decode",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// What `if` takes for true.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A value as Go prints it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let pairs: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{key}:{}", shown(value)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value> {
    let argument = |at: usize| {
        arguments
            .get(at)
            .ok_or_else(|| anyhow!("wrong number of args for {name}: got {}", arguments.len()))
    };
    Ok(match name {
        "and" => arguments
            .iter()
            .find(|value| !truth(value))
            .or(arguments.last())
            .cloned()
            .unwrap_or(Value::Null),
        "or" => arguments
            .iter()
            .find(|value| truth(value))
            .or(arguments.last())
            .cloned()
            .unwrap_or(Value::Null),
        "not" => (!truth(argument(0)?)).into(),
        "eq" => {
            let first = argument(0)?;
            argument(1)?;
            arguments.iter().skip(1).any(|other| same(first, other)).into()
        }
        "ne" => (!same(argument(0)?, argument(1)?)).into(),
        "lt" | "le" | "gt" | "ge" => {
            let order = order(argument(0)?, argument(1)?)?;
            match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        "len" => match argument(0)? {
            Value::String(text) => text.len().into(),
            Value::Array(items) => items.len().into(),
            Value::Object(fields) => fields.len().into(),
            other => bail!("error calling len: len of type {}", shown(other)),
        },
        "index" => indexed(argument(0)?, arguments.get(1..).unwrap_or_default())?,
        "slice" => sliced(argument(0)?, arguments.get(1..).unwrap_or_default())?,
        "exists" => indexed(argument(0)?, arguments.get(1..).unwrap_or_default())
            .is_ok_and(|found| !found.is_null())
            .into(),
        "print" => arguments.iter().map(shown).collect::<String>().into(),
        "println" => (arguments.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => printf(&shown(argument(0)?), arguments.get(1..).unwrap_or_default()).into(),
        "html" => shown(argument(0)?)
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&#34;")
            .replace('\'', "&#39;")
            .into(),
        "js" => shown(argument(0)?)
            .replace('\\', "\\\\")
            .replace('\'', "\\'")
            .replace('"', "\\\"")
            .replace('\n', "\\u000A")
            .into(),
        "urlquery" => crate::context::encode(&shown(argument(0)?)).into(),
        "base64decode" => {
            let bytes = STANDARD
                .decode(shown(argument(0)?))
                .map_err(|e| anyhow!("base64 decode failed: {e}"))?;
            String::from_utf8_lossy(&bytes).into_owned().into()
        }
        other => bail!("function {other:?} not defined"),
    })
}

fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

fn order(left: &Value, right: &Value) -> Result<Ordering> {
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (left, right) => left.as_f64().zip(right.as_f64()).and_then(|(l, r)| l.partial_cmp(&r)),
    };
    order.ok_or_else(|| anyhow!("incompatible types for comparison"))
}

fn indexed(value: &Value, keys: &[Value]) -> Result<Value> {
    let mut value = value;
    for key in keys {
        value = match (value, key) {
            (Value::Object(fields), Value::String(key)) => fields.get(key).unwrap_or(&Value::Null),
            (Value::Array(items), Value::Number(_)) => {
                let at = key.as_u64().and_then(|at| usize::try_from(at).ok());
                at.and_then(|at| items.get(at))
                    .ok_or_else(|| anyhow!("error calling index: index out of range: {key}"))?
            }
            (Value::Null, _) => bail!("error calling index: index of untyped nil"),
            (value, key) => bail!("error calling index: cannot index {} with {}", shown(value), shown(key)),
        };
    }
    Ok(value.clone())
}

fn sliced(value: &Value, bounds: &[Value]) -> Result<Value> {
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        other => bail!("error calling slice: can't slice item of type {}", shown(other)),
    };
    let bound = |at: usize, otherwise: usize| match bounds.get(at) {
        None => Ok(otherwise),
        Some(bound) => bound
            .as_u64()
            .and_then(|bound| usize::try_from(bound).ok())
            .filter(|bound| *bound <= length)
            .ok_or_else(|| anyhow!("error calling slice: index out of range: {bound}")),
    };
    let range = bound(0, 0)?..bound(1, length)?;
    let part = match value {
        Value::String(text) => text.get(range).map(Value::from),
        Value::Array(items) => items.get(range).map(Value::from),
        _ => None,
    };
    part.ok_or_else(|| anyhow!("error calling slice: invalid bounds"))
}

/// `%s`, `%v`, `%d`, `%q`, `%t`, `%f`, `%x` and `%%`, with a width.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flags = String::new();
        let verb = loop {
            match chars.next() {
                Some(c) if c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | ' ') => flags.push(c),
                other => break other,
            }
        };
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let (Some(verb), Some(argument)) = (verb, arguments.next()) else {
            out.push_str("%!(MISSING)");
            continue;
        };
        let (width, places) = flags.split_once('.').unwrap_or((&flags, ""));
        let text = match verb {
            'q' => format!("{:?}", shown(argument)),
            'f' => format!(
                "{:.*}",
                places.parse::<usize>().unwrap_or(6).min(64),
                argument.as_f64().unwrap_or_default()
            ),
            'x' => argument
                .as_i64()
                .map_or_else(|| shown(argument), |number| format!("{number:x}")),
            _ => shown(argument),
        };
        let least = width.trim_start_matches('-').parse::<usize>().unwrap_or(0).min(1024);
        let zeros = width.starts_with('0') && verb != 's';
        if width.starts_with('-') {
            out.push_str(&format!("{text:<least$}"));
        } else if zeros {
            out.push_str(&format!("{text:0>least$}"));
        } else {
            out.push_str(&format!("{text:>least$}"));
        }
    }
    out
}
