//! Tables: a definition, what it is refused for.

use super::super::Rules;
use super::{Definition, check_value, formats};
use crate::field::{FieldError, Path, join};
use serde_json::{Value, json};

fn definition(schema: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    })
}

/// Nothing, or everything that was said.
fn said(errors: &[FieldError]) -> String {
    if errors.is_empty() { String::new() } else { join(errors) }
}

/// Fails with every row that is not as expected.
fn compare(rows: impl IntoIterator<Item = (String, String, String)>) {
    let wrong: Vec<String> = rows
        .into_iter()
        .filter(|(_, found, expected)| found != expected)
        .map(|(of, found, expected)| format!("{of}\n  found    {found}\n  expected {expected}"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn created(mut obj: Value) -> Value {
    Definition.default(&mut obj);
    Definition.prepare_create(&mut obj);
    obj
}

fn refusal(obj: Value) -> String {
    said(&Definition.validate(&created(obj)))
}

fn with(mut obj: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
    match obj.pointer_mut(parent) {
        Some(Value::Object(members)) => {
            members.insert(key.to_owned(), value);
        }
        Some(Value::Array(items)) => items.push(value),
        _ => panic!("{pointer} leads nowhere"),
    }
    obj
}

#[test]
fn specs() {
    let base = || definition(&json!({"type": "object"}));
    assert_eq!(refusal(base()), "", "the base is acceptable");
    let label = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                 character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
                 validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let second =
        json!({"name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}});
    let rows = [
        ("/spec/scope", json!("Galaxy"), "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"".to_owned()),
        ("/spec/names/shortNames", json!(["A"]), format!("spec.names.shortNames[0]: Invalid value: \"A\": {label}")),
        ("/spec/names/categories", json!(["A"]), format!("spec.names.categories[0]: Invalid value: \"A\": {label}")),
        ("/spec/names/listKind", json!("Thing"), "spec.names.listKind: Invalid value: \"Thing\": kind and listKind may not be the same".to_owned()),
        ("/spec/versions/0/name", json!("1"), format!("[spec.versions[0].name: Invalid value: \"1\": {label}, spec.version: Invalid value: \"1\": {label}]")),
        ("/spec/versions/0/schema", json!({}), "spec.versions[0].schema.openAPIV3Schema: Required value".to_owned()),
        ("/spec/versions/0/deprecationWarning", json!("x"), "spec.versions[0].deprecationWarning: Invalid value: \"x\": can only be set for deprecated versions".to_owned()),
        ("/spec/versions/-", second, "[spec.versions: Invalid value: [{\"Name\":\"v1\",\"Served\":true,\"Storage\":true,\"Deprecated\":false,\"DeprecationWarning\":null,\"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\"SelectableFields\":null},{\"Name\":\"v2\",\"Served\":true,\"Storage\":true,\"Deprecated\":false,\"DeprecationWarning\":null,\"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\"SelectableFields\":null}]: must have exactly one version marked as storage version, status.storedVersions: Invalid value: [\"v1\"]: must have the storage version v2]".to_owned()),
        ("/spec/preserveUnknownFields", json!(true), "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead".to_owned()),
        ("/spec/conversion", json!({"strategy": "Webhook"}), "[spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook, spec.conversion.conversionReviewVersions: Required value]".to_owned()),
        ("/spec/conversion", json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}), "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook".to_owned()),
        ("/spec/conversion", json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://a.b/c"}, "conversionReviewVersions": ["v7", "v7"]}}), "[spec.conversion.conversionReviewVersions[1]: Invalid value: \"v7\": duplicate version, spec.conversion.conversionReviewVersions: Invalid value: [\"v7\",\"v7\"]: must include at least one of v1, v1beta1]".to_owned()),
        ("/spec/versions/0/subresources", json!({"scale": {"specReplicasPath": "spec.n", "statusReplicasPath": ".spec.n"}}), "[spec.subresources.scale.specReplicasPath: Invalid value: \"spec.n\": must be a simple json path starting with ., spec.subresources.scale.statusReplicasPath: Invalid value: \".spec.n\": should be a json path under .status]".to_owned()),
        ("/spec/versions/0/additionalPrinterColumns", json!([{"name": "", "type": "odd", "jsonPath": "x"}]), "[spec.additionalPrinterColumns[0].name: Required value, spec.additionalPrinterColumns[0].type: Invalid value: \"odd\": must be one of boolean,date,integer,number,string, spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"x\": must be a simple json path starting with .]".to_owned()),
        ("/spec/versions/0/selectableFields", json!([{"jsonPath": ".spec.a"}]), "spec.selectableFields[0].jsonPath: Invalid value: \".spec.a\": is an invalid path: does not refer to a valid field".to_owned()),
    ];
    compare(
        rows.map(|(pointer, value, expected)| (pointer.to_owned(), refusal(with(base(), pointer, value)), expected)),
    );
}

#[test]
fn approval_of_protected_groups() {
    let of = |annotation: Value| {
        let mut obj = definition(&json!({"type": "object"}));
        obj = with(obj, "/metadata/name", json!("things.x.k8s.io"));
        obj = with(obj, "/spec/group", json!("x.k8s.io"));
        refusal(with(obj, "/metadata/annotations", annotation))
    };
    let asked = "protected groups must have approval annotation \"api-approved.kubernetes.io\"";
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let path = "metadata.annotations[api-approved.kubernetes.io]";
    let key = "api-approved.kubernetes.io";
    assert_eq!(of(json!({})), format!("{path}: Required value: {asked}, {see}"));
    let odd = format!(
        "{path}: Invalid value: \"odd\": {asked} with either a URL or a reason starting with \"unapproved\", {see}"
    );
    assert_eq!(of(json!({key: "odd"})), odd);
    assert_eq!(of(json!({key: "unapproved, a test"})), "");
    assert_eq!(
        of(json!({key: "https://github.com/kubernetes/kubernetes/pull/78458"})),
        ""
    );
}

/// The part `a` of a schema, what it is refused for under its path.
#[test]
fn schemas() {
    let rows = [
        (
            json!({"type": "string", "pattern": "^[a-z{]+\\d{2}$", "format": "date"}),
            vec![],
        ),
        (
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            vec![],
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            vec![],
        ),
        (
            json!({"type": "array", "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
            vec![],
        ),
        (
            json!({}),
            vec![".type: Required value: must not be empty for specified object fields"],
        ),
        (
            json!({"type": "thing"}),
            vec![
                ".type: Unsupported value: \"thing\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ],
        ),
        (
            json!({"type": "array"}),
            vec![".items: Required value: must be specified"],
        ),
        (
            json!({"type": "array", "items": {}}),
            vec![".items.type: Required value: must not be empty for specified array items"],
        ),
        (
            json!({"type": "string", "pattern": "("}),
            vec![
                ".pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
            ],
        ),
        (
            json!({"type": "string", "pattern": "[a"}),
            vec![
                ".pattern: Invalid value: \"[a\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ]: `[a`",
            ],
        ),
        (
            json!({"type": "string", "pattern": "*"}),
            vec![
                ".pattern: Invalid value: \"*\": must be a valid regular expression, but isn't: error parsing regexp: missing argument to repetition operator: `*`",
            ],
        ),
        (
            json!({"type": "string", "default": 5}),
            vec![".default: Invalid value: \"integer\":  in body must be of type string: \"integer\""],
        ),
        (
            json!({"type": "string", "default": "c", "enum": ["a", "b"]}),
            vec![".default: Unsupported value: \"c\": supported values: \"a\", \"b\""],
        ),
        (
            json!({"type": "object", "properties": {"b": {"type": "integer"}}, "default": {"c": 1}}),
            vec![".default: Invalid value: {\"c\":1}: must not have unknown fields"],
        ),
        (
            json!({"type": "object", "properties": {"b": {"type": "integer", "maximum": 3}}, "default": {"b": 4}}),
            vec![".default.b: Invalid value: 4: b in body should be less than or equal to 3"],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
            vec![
                ".uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        ),
        (
            json!({"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            vec![".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"],
        ),
        (
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
            vec![".x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined"],
        ),
        (
            json!({"type": "object", "x-kubernetes-list-type": "set"}),
            vec![".type: Invalid value: \"object\": must be array if x-kubernetes-list-type is specified"],
        ),
        (
            json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"}),
            vec![
                ".items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
            vec![
                ".items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
            vec![".x-kubernetes-list-map-keys: Invalid value: [\"k\"]: entries must all be names of item properties"],
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            vec![
                ".properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
            ],
        ),
        (
            json!({"type": "string", "allOf": [{"type": "string", "description": "x"}]}),
            vec![
                ".allOf[0].description: Forbidden: must be empty to be structural",
                ".allOf[0].type: Forbidden: must be empty to be structural",
            ],
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": " "}]}),
            vec![".x-kubernetes-validations[0].rule: Required value: rule is not specified"],
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "true", "reason": "Odd"}]}),
            vec![
                ".x-kubernetes-validations[0].reason: Unsupported value: \"Odd\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
            ],
        ),
    ];
    let path = "spec.validation.openAPIV3Schema.properties[a]";
    compare(rows.into_iter().map(|(part, expected)| {
        let schema = json!({"type": "object", "properties": {"a": part.clone()}});
        let found = Definition.validate(&created(definition(&schema)));
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected: Vec<String> = expected.iter().map(|e| format!("{path}{e}")).collect();
        (part.to_string(), found.join("; "), expected.join("; "))
    }));
}

#[test]
fn roots() {
    let path = "spec.validation.openAPIV3Schema";
    let rows = [
        (
            json!({"type": "string"}),
            format!("{path}.type: Invalid value: \"string\": must be object at the root"),
        ),
        (
            json!({"description": "x"}),
            format!("{path}.type: Required value: must not be empty at the root"),
        ),
        (
            json!({"type": "object", "nullable": true}),
            format!("{path}.nullable: Forbidden: nullable cannot be true at the root"),
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            format!("{path}.additionalProperties: Forbidden: must not be used at the root"),
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string"}}}}}),
            String::new(),
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            format!(
                "{path}.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
            ),
        ),
        (
            json!({"type": "object", "properties": {"kind": {"type": "integer"}}}),
            format!("{path}.properties[kind].type: Invalid value: \"integer\": must be string"),
        ),
        (
            json!({"type": "object", "properties": {"kind": {"type": "string", "default": "x"}}}),
            format!("{path}.properties[kind].default: Forbidden: must not be set in top-level kind"),
        ),
        (
            json!({"type": "object", "anyOf": [{"required": ["a"], "properties": {"a": {"minimum": 1}}}]}),
            format!("{path}.properties[a]: Required value: because it is defined in {path}.anyOf[0].properties[a]"),
        ),
    ];
    compare(rows.map(|(schema, expected)| (schema.to_string(), refusal(definition(&schema)), expected)));
}

#[test]
fn updates() {
    let path = "spec.validation.openAPIV3Schema";
    let mut old = created(definition(&json!({"type": "object", "properties": {"a": {}}})));
    let mut new = old.clone();
    let found = |new: &Value, old: &Value| said(&Definition.check_update(new, old, None));
    assert_eq!(found(&new, &old), "", "what is not structural may stay");
    old = created(definition(&json!({"type": "object"})));
    let lost = format!("{path}.properties[a].type: Required value: must not be empty for specified object fields");
    assert_eq!(found(&new, &old), lost, "it may not become so");
    new = with(old.clone(), "/spec/scope", json!("Cluster"));
    assert_eq!(found(&new, &old), "", "nothing is established yet");
    old = with(
        old,
        "/status/conditions",
        json!([{"type": "Established", "status": "True"}]),
    );
    let fixed = "spec.scope: Invalid value: \"Cluster\": field is immutable";
    assert_eq!(found(&new, &old), fixed);
    new = with(old.clone(), "/spec/group", json!("other.com"));
    assert_eq!(
        found(&new, &old),
        "spec.group: Invalid value: \"other.com\": field is immutable"
    );
    new = with(old.clone(), "/status/storedVersions", json!(["v0", "v1"]));
    let gone = "status.storedVersions[0]: Invalid value: \"v0\": must appear in spec.versions";
    assert_eq!(found(&new, &old), gone);
}

#[test]
fn values() {
    let schema = json!({
        "type": "object",
        "required": ["n"],
        "properties": {
            "n": {"type": "integer", "minimum": 1, "exclusiveMinimum": true, "multipleOf": 2},
            "s": {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^a"},
            "l": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "boolean"}},
            "m": {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": {"type": "number"}},
            "q": {"x-kubernetes-int-or-string": true},
            "d": {"type": "string", "format": "date-time", "nullable": true},
            "o": {"type": "integer", "oneOf": [{"minimum": 5}, {"maximum": 6}]},
            "p": {"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 2}], "not": {"enum": [7]}},
        },
    });
    let rows = [
        (
            json!({"n": 2, "s": "ab", "l": [true], "m": {"x": 1.5}, "q": "1", "d": null, "o": 9}),
            "",
        ),
        (json!({}), "x.n: Required value"),
        (
            json!({"n": 1}),
            "[x.n: Invalid value: 1: n in body should be a multiple of 2, x.n: Invalid value: 1: n in body should be greater than 1]",
        ),
        (
            json!({"n": 2.5}),
            "[x.n: Invalid value: \"number\": n in body must be of type integer: \"number\", x.n: Invalid value: 2.5: n in body should be a multiple of 2]",
        ),
        (
            json!({"n": 2, "s": "b"}),
            "[x.s: Invalid value: \"b\": s in body should be at least 2 chars long, x.s: Invalid value: \"b\": s in body should match '^a']",
        ),
        (
            json!({"n": 2, "s": "abcd"}),
            "x.s: Too long: may not be more than 3 bytes",
        ),
        (
            json!({"n": 2, "s": null}),
            "x.s: Invalid value: \"null\": s in body must be of type string: \"null\"",
        ),
        (
            json!({"n": 2, "l": []}),
            "x.l: Invalid value: []: l in body should have at least 1 items",
        ),
        (
            json!({"n": 2, "l": [1, true]}),
            "[x.l[0]: Invalid value: \"integer\": l[0] in body must be of type boolean: \"integer\", x.l: Too many: 2: must have at most 1 item]",
        ),
        (
            json!({"n": 2, "m": {}}),
            "x.m: Invalid value: {}: m in body should have at least 1 properties",
        ),
        (
            json!({"n": 2, "m": {"a": "x"}}),
            "x.m.a: Invalid value: \"string\": m.a in body must be of type number: \"string\"",
        ),
        (
            json!({"n": 2, "q": true}),
            "x.q: Invalid value: \"boolean\": q in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"n": 2, "d": "soon"}),
            "x.d: Invalid value: \"soon\": d in body must be of type date-time: \"soon\"",
        ),
        (
            json!({"n": 2, "o": 5}),
            "x: Invalid value: \"\": \"o\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ),
        (
            json!({"n": 2, "p": 3}),
            "[x: Invalid value: \"\": \"p\" must validate at least one schema (anyOf), x.p: Invalid value: 3: p in body should be greater than or equal to 5]",
        ),
        (
            json!({"n": 2, "p": 7}),
            "x: Invalid value: \"\": \"p\" must not validate the schema (not)",
        ),
    ];
    compare(rows.map(|(value, expected)| {
        let found = said(&check_value(&Path::new("x"), &schema, &value));
        (value.to_string(), found, expected.to_owned())
    }));
}

/// Expressions as Go reads them.
#[test]
fn patterns() {
    let rows = [
        ("^[^[\\]]*$", "ab", true),
        ("^[^[\\]]*$", "a[b", false),
        ("^a{$", "a{", true),
        ("^a{,5}$", "a{,5}", true),
        ("^\\d+$", "\u{663}", false),
        ("^[\\w.]+$", "a_b.c", true),
        ("^\\S+$", "a b", false),
        ("^[]a]+$", "]a", true),
        ("^[a&&b]+$", "a&b", true),
        ("^[[:alpha:]-]+$", "a-b", true),
    ];
    for (pattern, text, expected) in rows {
        assert_eq!(formats::pattern_error(pattern), None, "{pattern}");
        let compiled = formats::compile(pattern);
        assert_eq!(
            compiled.map(|p| p.is_match(text)),
            Some(expected),
            "{pattern} on {text}"
        );
    }
    for (pattern, expected) in [
        ("a)", "unexpected ): `a)`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("[z-a]", "invalid character class range: `z-a`"),
    ] {
        let expected = format!("error parsing regexp: {expected}");
        assert_eq!(formats::pattern_error(pattern), Some(expected), "{pattern}");
    }
}
