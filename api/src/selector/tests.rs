use super::*;
use proptest::prelude::*;
use serde_json::json;

#[test]
fn label_queries() {
    let labels = json!({"app": "web", "tier": "a", "n": "5"});
    let cases = [
        ("", true),
        ("app=web", true),
        ("app==web,tier!=b", true),
        ("app in (web, db),tier notin (b)", true),
        ("app,!old", true),
        ("old", false),
        ("!app", false),
        ("n>4,n<6", true),
        ("n>5", false),
        ("missing!=x", true),
        ("missing=", false),
        ("in=x", false),
    ];
    for (text, expected) in cases {
        assert_eq!(
            LabelSelector::parse(text).map(|s| s.matches(&labels)),
            Ok(expected),
            "{text}"
        );
    }
}

#[test]
fn label_refusals() {
    let cases = [
        (
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        ("a===b", "unable to parse requirement: found '=', expected: identifier"),
        ("a in", "unable to parse requirement: found '' expected: '('"),
        ("=b", "found '=', expected: !, identifier, or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        (
            "a>",
            "unable to parse requirement: values[0]: Invalid value: \"\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(LabelSelector::parse(text), Err(expected.to_owned()), "{text}");
    }
    let why = LabelSelector::parse("a=-b").unwrap_err();
    assert!(
        why.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label"),
        "{why}"
    );
    let why = LabelSelector::parse("x/y/z").unwrap_err();
    assert!(
        why.starts_with("unable to parse requirement: <nil>: Invalid value: \"x/y/z\": a valid label key"),
        "{why}"
    );
}

#[test]
fn selector_objects() {
    let labels = json!({"app": "web"});
    let cases = [
        (json!(null), false),
        (json!({}), true),
        (json!({"matchLabels": {"app": "web"}}), true),
        (
            json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
            true,
        ),
        (
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}),
            false,
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(
            LabelSelector::from_value(&value).map(|s| s.matches(&labels)),
            Ok(expected),
            "{value}"
        );
    }
}

#[test]
fn field_queries() {
    let selector = FieldSelector::parse("metadata.name=x,status.phase!=Running").unwrap();
    assert_eq!(selector.exact("metadata.name"), Some("x"));
    assert!(selector.matches_with(|name| (name == "metadata.name").then_some("x")));
    assert_eq!(
        FieldSelector::parse("x").unwrap_err(),
        "invalid selector: 'x'; can't understand 'x'"
    );
    assert_eq!(FieldSelector::parse("a=b\\,c").unwrap().requirements[0].value, "b,c");
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".{0,60}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text);
    }
}
