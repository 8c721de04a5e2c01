//! Label selectors of typed objects.

use std::collections::BTreeMap;

use coxswain_client::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// The selector matches these labels. An empty selector matches everything.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let wanted = selector.match_labels.iter().flatten();
    let get = |key: &str| labels.and_then(|l| l.get(key));
    let equal = wanted.into_iter().all(|(key, value)| get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|rule| {
            let value = get(&rule.key);
            let listed = value.is_some_and(|v| rule.values.iter().flatten().any(|x| x == v));
            match rule.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The selector is there and matches these labels.
pub(crate) fn selected(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    selector.is_some_and(|selector| matches(selector, labels))
}

/// The selector has no requirement at all.
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// All of `wanted` are among `labels` (a Service's or a pod template's plain map).
pub(crate) fn contains(labels: Option<&Labels>, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors() {
        let check = |selector: serde_json::Value, labels: serde_json::Value, expected: bool| {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).expect("selector");
            let map: Labels = serde_json::from_value(labels.clone()).expect("labels");
            assert_eq!(matches(&parsed, Some(&map)), expected, "{selector} on {labels}");
        };
        check(json!({}), json!({"a": "b"}), true);
        check(json!({"matchLabels": {"a": "b"}}), json!({"a": "b", "c": "d"}), true);
        check(json!({"matchLabels": {"a": "b"}}), json!({"a": "x"}), false);
        let rule = |op: &str| json!({"matchExpressions": [{"key": "a", "operator": op, "values": ["b"]}]});
        check(rule("In"), json!({"a": "b"}), true);
        check(rule("In"), json!({}), false);
        check(rule("NotIn"), json!({}), true);
        check(rule("NotIn"), json!({"a": "b"}), false);
        check(rule("Exists"), json!({"a": "x"}), true);
        check(rule("DoesNotExist"), json!({"a": "x"}), false);
    }
}
