//! Values inside error texts, in the field order of the API's own structs.
//!
//! Kubernetes prints the offending value of an error as compact JSON in declaration order, while our maps are
//! sorted. Where a text shows an object, it is written here, field by field.

use super::access::{entries, list, str_of};
use super::check::strings;
use crate::field::{ErrorKind, FieldError, Path};
use serde_json::Value;

/// Compact JSON of `fields` in the given order; missing members are left out.
pub fn ordered(v: &Value, fields: &[&str]) -> String {
    let shown: Vec<String> = fields
        .iter()
        .filter_map(|f| {
            v.get(*f)
                .map(|x| format!("{}:{}", json_text(&Value::from(*f)), json_text(x)))
        })
        .collect();
    format!("{{{}}}", shown.join(","))
}

/// Compact JSON with the characters that Go escapes in JSON strings.
pub fn json_text(v: &Value) -> String {
    v.to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// A list of objects, each with `fields` in the given order.
pub fn ordered_list(items: &[Value], fields: &[&str]) -> String {
    let shown: Vec<String> = items.iter().map(|v| ordered(v, fields)).collect();
    format!("[{}]", shown.join(","))
}

/// A label selector as its struct prints.
pub fn label_selector(v: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(labels) = v
        .get("matchLabels")
        .filter(|x| x.as_object().is_some_and(|m| !m.is_empty()))
    {
        parts.push(format!("\"matchLabels\":{}", json_text(labels)));
    }
    if let Some(items) = v
        .get("matchExpressions")
        .and_then(Value::as_array)
        .filter(|x| !x.is_empty())
    {
        parts.push(format!(
            "\"matchExpressions\":{}",
            ordered_list(items, &["key", "operator", "values"])
        ));
    }
    format!("{{{}}}", parts.join(","))
}

/// A struct of these members, each with its value as text; the texts of absent values are the callers'.
pub fn structure(fields: &[(&str, String)]) -> String {
    let shown: Vec<String> = fields.iter().map(|(name, text)| format!("\"{name}\":{text}")).collect();
    format!("{{{}}}", shown.join(","))
}

/// A label selector as Go writes the struct, not as JSON.
pub fn struct_selector(v: &Value) -> String {
    let labels: String = entries(v, "matchLabels")
        .map(|(k, v)| format!("{k}: {},", v.as_str().unwrap_or("")))
        .collect();
    let expression = |e: &Value| {
        let (key, operator, values) = (str_of(e, "key"), str_of(e, "operator"), strings(e, "values").join(" "));
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
    };
    let expressions: String = list(v, "matchExpressions").iter().map(expression).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// An `Invalid value` error whose value is already text.
pub fn invalid_shown(path: &Path, shown: &str, detail: &str) -> FieldError {
    shown_error(ErrorKind::Invalid, path, shown, detail)
}

/// A `Duplicate value` error whose value is already text.
pub fn duplicate_shown(path: &Path, shown: &str) -> FieldError {
    FieldError {
        kind: ErrorKind::Duplicate,
        field: path.to_string(),
        bad_value: None,
        detail: shown.to_owned(),
    }
}

/// An `Unsupported value` error whose value is already text.
pub fn not_supported_shown(path: &Path, shown: &str, supported: &[&str]) -> FieldError {
    let list: Vec<String> = supported.iter().map(|s| crate::field::quote(s)).collect();
    shown_error(
        ErrorKind::NotSupported,
        path,
        shown,
        &format!("supported values: {}", list.join(", ")),
    )
}

fn shown_error(kind: ErrorKind, path: &Path, shown: &str, detail: &str) -> FieldError {
    FieldError {
        kind,
        field: path.to_string(),
        bad_value: None,
        detail: format!("{shown}: {detail}"),
    }
}
