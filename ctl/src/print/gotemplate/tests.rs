use serde_json::json;

use super::*;

#[test]
fn templates_and_what_they_print() {
    let object = json!({
        "kind": "List", "n": 3, "yes": true, "none": null, "list": ["a", "b", "c"], "empty": [],
        "metadata": {"name": "web", "labels": {"app": "x", "tier/y": "z"}},
        "items": [{"name": "one", "data": "b25l"}, {"name": "two"}]});
    let cases = [
        ("{{.metadata.name}}", "web"),
        ("{{ .metadata.labels.app }}-{{.n}}", "x-3"),
        ("{{.nope}}", "<no value>"),
        ("{{range .items}}{{.name}} {{end}}", "one two "),
        ("{{range $i, $e := .items}}{{$i}}={{$e.name}},{{end}}", "0=one,1=two,"),
        ("{{range $e := .list}}{{$e}}{{$.kind}};{{end}}", "aList;bList;cList;"),
        ("{{range .empty}}x{{else}}nothing{{end}}", "nothing"),
        (
            "{{range $k, $v := .metadata.labels}}{{$k}}:{{$v}}\n{{end}}",
            "app:x\ntier/y:z\n",
        ),
        ("{{if .yes}}y{{else}}n{{end}}{{if not .yes}}y{{else}}n{{end}}", "yn"),
        ("{{if eq .n 1}}one{{else if eq .n 2 3}}more{{else}}none{{end}}", "more"),
        ("{{if and .yes (gt .n 2)}}both{{end}}", "both"),
        ("{{or .nope .none \"last\"}}", "last"),
        (
            "{{with .metadata}}{{.name}}{{end}}{{with .none}}x{{else}}-{{end}}",
            "web-",
        ),
        ("{{index .metadata.labels \"tier/y\"}} {{index .list 1}}", "z b"),
        ("{{len .items}} {{len .metadata.name}}", "2 3"),
        ("{{(index .items 0).data | base64decode}}", "one"),
        (
            "{{printf \"%s-%03d %q|%5s|%-3s|\" .kind .n \"x\" \"a\" \"b\"}}",
            "List-003 \"x\"|    a|b  |",
        ),
        (
            "{{print .n}}{{println}}{{.list}} {{.metadata.labels}}",
            "3\n[a b c] map[app:x tier/y:z]",
        ),
        ("a  {{- .n -}}  b{{/* a note */}}", "a3b"),
        ("{{$x := .n}}{{$x = 5}}{{$x}}", "5"),
        ("{{\"{{\"}}{{`}}`}}", "{{}}"),
        ("{{range .list}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a"),
        ("{{if exists . \"metadata\" \"name\"}}there{{end}}", "there"),
        ("{{slice .metadata.name 1 2}}", "e"),
    ];
    for (template, expected) in cases {
        let parsed = Template::parse(template).unwrap_or_else(|e| panic!("{template}: {e}"));
        let printed = parsed.render(&object).unwrap_or_else(|e| panic!("{template}: {e}"));
        assert_eq!(printed, expected, "{template}");
    }
}

#[test]
fn what_does_not_parse_or_fit() {
    for (template, expected) in [
        ("{{.a", "unclosed action"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{if .a}}", "unexpected EOF"),
        ("{{nope .a}}", "function \"nope\" not defined"),
        ("{{(.a}}", "unclosed left paren"),
        ("{{\"a}}", "unclosed action"),
        ("{{}}", "missing value for command"),
        ("{{template \"x\"}}", "template is not supported here"),
    ] {
        let error = Template::parse(template).expect_err(template).to_string();
        assert!(error.contains(expected), "{template}: {error}");
    }
    for (template, expected) in [
        ("{{.a.b.c}}", "nil pointer evaluating interface {}.c"),
        ("{{range .t}}{{end}}", "range can't iterate over x"),
        ("{{$y}}", "undefined variable: $y"),
        ("{{index .l 3}}", "index out of range"),
        ("{{lt .t 1}}", "incompatible types"),
        ("{{.t.x}}", "can't evaluate field x"),
    ] {
        let parsed = Template::parse(template).unwrap_or_else(|e| panic!("{template}: {e}"));
        let error = parsed
            .render(&json!({"t": "x", "l": [], "a": {}}))
            .expect_err(template)
            .to_string();
        assert!(error.contains(expected), "{template}: {error}");
    }
}
