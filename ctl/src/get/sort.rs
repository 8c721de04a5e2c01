//! Sorting what is listed by a field.

use std::cmp::Ordering;

use anyhow::{Result, bail};
use coxswain_api::quantity::Quantity;
use serde_json::Value;

use crate::print::jsonpath::Template;

/// Orders `rows` by what `path` reaches in the object of each; what lacks it comes first.
///
/// # Errors
/// When the path does not parse, or no object has the field.
pub(super) fn by_path(rows: &mut [Value], path: &str, object: impl Fn(&Value) -> &Value) -> Result<()> {
    let template = Template::parse(path)?;
    let key = |row: &Value| template.values(object(row)).first().map(|value| (*value).clone());
    let mut keyed: Vec<(Option<Value>, Value)> = rows.iter_mut().map(|row| (key(row), row.take())).collect();
    if !keyed.is_empty() && keyed.iter().all(|(key, _)| key.is_none()) {
        bail!("couldn't find any field with path {path:?} in the list of objects");
    }
    keyed.sort_by(|(left, _), (right, _)| match (left, right) {
        (Some(left), Some(right)) => order(left, right),
        (left, right) => left.is_some().cmp(&right.is_some()),
    });
    for (place, (_, row)) in rows.iter_mut().zip(keyed) {
        *place = row;
    }
    Ok(())
}

fn order(left: &Value, right: &Value) -> Ordering {
    if let (Some(left), Some(right)) = (left.as_f64(), right.as_f64()) {
        return left.total_cmp(&right);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (left, right) = (text(left), text(right));
    match (Quantity::parse(&left), Quantity::parse(&right)) {
        (Ok(left), Ok(right)) => left.nano().cmp(&right.nano()),
        _ => natural(&left, &right),
    }
}

/// Text in which runs of digits count as numbers: `a9` comes before `a10`.
fn natural(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    loop {
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (l, r) = (digits(left), digits(right));
        if l > 0 && r > 0 {
            let number = |text: &str| text.trim_start_matches('0').to_owned();
            let (a, b) = (number(&left[..l]), number(&right[..r]));
            let order = a.len().cmp(&b.len()).then_with(|| a.cmp(&b));
            if order.is_ne() {
                return order;
            }
            (left, right) = (&left[l..], &right[r..]);
            continue;
        }
        let (mut a, mut b) = (left.chars(), right.chars());
        match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (x, y) if x != y => return x.cmp(&y),
            _ => (left, right) = (a.as_str(), b.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn orders() {
        let check = |values: Value, expected: Value| {
            let mut rows: Vec<Value> = values
                .as_array()
                .into_iter()
                .flatten()
                .map(|v| json!({"k": v}))
                .collect();
            by_path(&mut rows, ".k", |row| row).expect("sorts");
            let sorted: Vec<Value> = rows.iter().map(|row| row["k"].clone()).collect();
            assert_eq!(Value::from(sorted), expected);
        };
        check(json!([3, 1, 2]), json!([1, 2, 3]));
        check(json!(["a10", "a9", "b"]), json!(["a9", "a10", "b"]));
        check(json!(["1Gi", "500Mi", "2"]), json!(["2", "500Mi", "1Gi"]));
        check(
            json!(["2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"]),
            json!(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        );
        let mut rows = [json!({"k": 1}), json!({})];
        by_path(&mut rows, ".k", |row| row).expect("sorts");
        assert_eq!(rows, [json!({}), json!({"k": 1})]);
        assert!(by_path(&mut rows, ".none", |row| row).is_err());
    }
}
