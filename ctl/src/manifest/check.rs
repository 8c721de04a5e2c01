//! Mistakes in a manifest that the schema shows: unknown fields with the name that was probably meant, and
//! values of the wrong type, each with its place.

use coxswain_api::registry::{split_api_version, type_name};
use coxswain_api::schema::{Node, NodeKind, Shape};
use serde_json::Value;

use super::Manifest;

/// Adds what is wrong with one manifest.
pub(super) fn check(manifest: &Manifest, mistakes: &mut Vec<String>) {
    if !identity(manifest, mistakes) {
        return;
    }
    let (group, version) = split_api_version(manifest.text("/apiVersion"));
    if let Some(node) = type_name(group, version, manifest.text("/kind")).and_then(Node::of_type) {
        walk(node, &manifest.object, "", manifest, mistakes);
    }
}

/// Adds what is missing of the things that say which object a manifest is; tells whether it is an object.
pub(super) fn identity(manifest: &Manifest, mistakes: &mut Vec<String>) -> bool {
    if !manifest.object.is_object() {
        mistakes.push(format!(
            "{}: a manifest is an object with apiVersion, kind and metadata",
            manifest.place("")
        ));
        return false;
    }
    for key in ["apiVersion", "kind"] {
        if manifest.text(&format!("/{key}")).is_empty() {
            mistakes.push(format!("{}: {key} is not set", manifest.place(key)));
        }
    }
    let named = !manifest.text("/metadata/name").is_empty() || !manifest.text("/metadata/generateName").is_empty();
    if !named {
        mistakes.push(format!("{}: metadata.name is not set", manifest.place("metadata")));
    }
    true
}

fn walk(node: Node<'_>, value: &Value, path: &str, manifest: &Manifest, mistakes: &mut Vec<String>) {
    match (node.kind(), value) {
        (_, Value::Null) | (NodeKind::Untyped, _) => {}
        (NodeKind::Object | NodeKind::Map, Value::Object(map)) => {
            for (key, below) in map {
                let place = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match node.field(key) {
                    Some(field) => walk(field, below, &place, manifest, mistakes),
                    None => mistakes.push(unknown(node, key, &place, manifest)),
                }
            }
        }
        (NodeKind::List, Value::Array(items)) => {
            for (position, item) in items.iter().enumerate() {
                if let Some(element) = node.element() {
                    walk(element, item, &format!("{path}[{position}]"), manifest, mistakes);
                }
            }
        }
        (kind, value) => {
            if let Some(expected) = misfit(node, kind, value) {
                mistakes.push(format!(
                    "{}: {path} must be {expected}, not {}",
                    manifest.place(path),
                    shown(value)
                ));
            }
        }
    }
}

fn unknown(node: Node<'_>, key: &str, place: &str, manifest: &Manifest) -> String {
    let names = node
        .type_row()
        .map(|row| row.fields.iter().map(|field| field.name).collect::<Vec<_>>())
        .unwrap_or_default();
    let hint = match nearest(key, &names) {
        Some(name) => format!(" - did you mean \"{name}\"?"),
        None => String::new(),
    };
    format!("{}: unknown field \"{place}\"{hint}", manifest.place(place))
}

/// The name that was probably meant, if one is near.
#[must_use]
pub fn nearest<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    let limit = (word.len() / 3).clamp(1, 4);
    let distance = |name: &str| distance(&word.to_lowercase(), &name.to_lowercase());
    names
        .iter()
        .map(|name| (distance(name), *name))
        .filter(|(far, _)| *far <= limit)
        .min()
        .map(|(_, name)| name)
}

/// How many letters must be changed, added, removed or swapped with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().take(64).collect(), right.chars().take(64).collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(a != b))
                .min(rows[i][j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

fn misfit(node: Node<'_>, kind: NodeKind, value: &Value) -> Option<&'static str> {
    match kind {
        NodeKind::Object | NodeKind::Map => Some("an object"),
        NodeKind::List => Some("a list"),
        NodeKind::Untyped => None,
        NodeKind::Scalar => match node.shape()? {
            Shape::String { .. } | Shape::Bytes | Shape::Time | Shape::MicroTime => {
                (!value.is_string()).then_some("a string")
            }
            Shape::Integer { .. } => (!(value.is_i64() || value.is_u64())).then_some("a whole number"),
            Shape::Number => (!value.is_number()).then_some("a number"),
            Shape::Boolean => (!value.is_boolean()).then_some("true or false"),
            Shape::IntOrString | Shape::Quantity => {
                (!(value.is_string() || value.is_number())).then_some("a number or a string")
            }
            _ => None,
        },
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::Bool(_) | Value::Number(_) => format!("{value} (put it in quotes if text is meant)"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let mut out = Vec::new();
        check(&Manifest::of_text("x.yaml", text).expect("YAML"), &mut out);
        out
    }

    #[test]
    fn mistakes_have_places() {
        let head = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\nspec:\n";
        let cases = [
            (
                "  containers:\n  - name: a\n    imag: b\n",
                "x.yaml:8:5: unknown field \"spec.containers[0].imag\" - did you mean \"image\"?",
            ),
            (
                "  nodename: n\n",
                "x.yaml:6:3: unknown field \"spec.nodename\" - did you mean \"nodeName\"?",
            ),
            ("  qqqq: n\n", "x.yaml:6:3: unknown field \"spec.qqqq\""),
            (
                "  hostNetwork: 3\n",
                "x.yaml:6:3: spec.hostNetwork must be true or false, not 3 (put it in quotes if text is meant)",
            ),
            (
                "  nodeSelector:\n    a: true\n",
                "x.yaml:7:5: spec.nodeSelector.a must be a string, not true (put it in quotes if text is meant)",
            ),
            (
                "  containers: {}\n",
                "x.yaml:6:3: spec.containers must be a list, not an object",
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(mistakes(&format!("{head}{body}")), [expected], "{body}");
        }
        assert_eq!(
            mistakes("kind: Pod\nmetadata:\n  name: x\n"),
            ["x.yaml:1:1: apiVersion is not set"]
        );
    }

    #[test]
    fn near_names() {
        let names = ["containers", "initContainers", "nodeName", "replicas"];
        for (word, expected) in [
            ("contianers", Some("containers")),
            ("replica", Some("replicas")),
            ("nodename", Some("nodeName")),
            ("zzz", None),
        ] {
            assert_eq!(nearest(word, &names), expected, "{word}");
        }
    }
}
