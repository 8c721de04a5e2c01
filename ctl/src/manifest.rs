//! Reading manifests: files, directories and standard input, in YAML or JSON, with the place of every field,
//! so that a mistake is reported as `file:line:column: what is wrong`.
//!
//! Built-in kinds are checked here before anything is sent; custom resources are checked by the server.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use coxswain_api::codec::{Spans, decode_yaml_documents};
use coxswain_api::registry::{split_api_version, type_name};
use coxswain_api::schema::{Node, NodeKind, Shape};
use serde_json::Value;

/// A file may hold at most this many bytes.
const FILE_MAX: u64 = 64 * 1024 * 1024;
/// At most this many mistakes are shown at once.
const MISTAKES_MAX: usize = 20;

/// One object of a manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub object: Value,
    /// What to call the file in messages.
    pub file: String,
    spans: Spans,
    /// Where the object starts inside a list: `items[0].`
    prefix: String,
    line: usize,
}

impl Manifest {
    pub fn text<'a>(&'a self, pointer: &str) -> &'a str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// `web.yaml:12:5` for a field of the object, or the nearest thing around it.
    #[must_use]
    pub fn place(&self, field: &str) -> String {
        let path = format!("{}{}", self.prefix, indexed(&self.object, field));
        let (line, column) = self.spans.nearest(&path).unwrap_or((self.line, 1));
        format!("{}:{line}:{column}", self.file)
    }
}

/// A field path in which items named by their keys (`[name="web"]`, as in conflicts) have their positions.
fn indexed(object: &Value, field: &str) -> String {
    let mut out = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((inside, tail)) = after.split_once(']') else {
            break;
        };
        out.push_str(before);
        let pointer = format!("/{}", out.replace("][", "/").replace(['.', '['], "/").replace(']', ""));
        let matches = |item: &Value| {
            inside.split(',').all(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                item.get(key)
                    .is_some_and(|found| serde_json::from_str::<Value>(value).is_ok_and(|value| value == *found))
            })
        };
        let items = object.pointer(&pointer).and_then(Value::as_array);
        let position = items
            .filter(|_| inside.contains('='))
            .and_then(|items| items.iter().position(matches));
        match position {
            Some(position) => out.push_str(&format!("[{position}]")),
            None => out.push_str(&format!("[{inside}]")),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Reads every object of the named files; `-` is standard input, a directory stands for the manifests in it.
///
/// # Errors
/// What cannot be read, or the place and kind of every mistake.
pub fn read(paths: &[String], recursive: bool) -> Result<Vec<Manifest>> {
    if paths.is_empty() {
        bail!("must specify one of -f and -k");
    }
    let mut manifests = Vec::new();
    let mut mistakes = Vec::new();
    for (file, text) in sources(paths, recursive)? {
        match decode_yaml_documents(&text) {
            Err(error) => mistakes.push(format!("{file}:{}:{}: {}", error.line, error.column, error.message)),
            Ok(documents) => {
                for document in documents {
                    for problem in &document.problems {
                        mistakes.push(format!("{file}:{}: {}", document.line, problem.text));
                    }
                    let whole = Manifest {
                        object: document.value,
                        file: file.clone(),
                        spans: document.spans,
                        prefix: String::new(),
                        line: document.line,
                    };
                    unfold(whole, &mut manifests);
                }
            }
        }
    }
    for manifest in &manifests {
        check(manifest, &mut mistakes);
    }
    if !mistakes.is_empty() {
        let more = mistakes.len().saturating_sub(MISTAKES_MAX);
        mistakes.truncate(MISTAKES_MAX);
        if more > 0 {
            mistakes.push(format!("and {more} more"));
        }
        bail!("{}", mistakes.join("\n"));
    }
    if manifests.is_empty() {
        bail!("no objects passed to apply");
    }
    Ok(manifests)
}

/// A `List` stands for its items.
fn unfold(manifest: Manifest, out: &mut Vec<Manifest>) {
    let is_list = manifest.text("/kind").ends_with("List") && manifest.object.get("items").is_some_and(Value::is_array);
    if !is_list {
        out.push(manifest);
        return;
    }
    for (position, item) in manifest.object["items"].as_array().into_iter().flatten().enumerate() {
        let prefix = format!("{}items[{position}].", manifest.prefix);
        unfold(
            Manifest {
                object: item.clone(),
                prefix,
                ..manifest.clone()
            },
            out,
        );
    }
}

fn sources(paths: &[String], recursive: bool) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for path in paths {
        if path == "-" {
            let mut text = String::new();
            std::io::stdin()
                .take(FILE_MAX)
                .read_to_string(&mut text)
                .context("read standard input")?;
            out.push(("STDIN".to_owned(), text));
        } else if path.starts_with("http://") || path.starts_with("https://") {
            bail!("{path}: manifests are read from files, not from the network; fetch it first and give its path");
        } else if Path::new(path).is_dir() {
            let mut found = Vec::new();
            list(Path::new(path), recursive, &mut found).with_context(|| format!("read {path}"))?;
            found.sort();
            for file in found {
                out.push((file.display().to_string(), load(&file)?));
            }
        } else {
            if !Path::new(path).exists() {
                bail!("the path \"{path}\" does not exist");
            }
            out.push((path.clone(), load(Path::new(path))?));
        }
    }
    Ok(out)
}

fn load(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut text = String::new();
    file.take(FILE_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("read {}", path.display()))?;
    Ok(text)
}

fn list(directory: &Path, recursive: bool, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if path.is_dir() {
            if recursive {
                list(&path, recursive, out)?;
            }
        } else if matches!(extension, "yaml" | "yml" | "json") {
            out.push(path);
        }
    }
    Ok(())
}

fn check(manifest: &Manifest, mistakes: &mut Vec<String>) {
    if !manifest.object.is_object() {
        mistakes.push(format!(
            "{}: a manifest is an object with apiVersion, kind and metadata",
            manifest.place("")
        ));
        return;
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
    let (group, version) = split_api_version(manifest.text("/apiVersion"));
    if let Some(node) = type_name(group, version, manifest.text("/kind")).and_then(Node::of_type) {
        walk(node, &manifest.object, "", manifest, mistakes);
    }
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
        for document in decode_yaml_documents(text).expect("YAML") {
            let manifest = Manifest {
                object: document.value,
                file: "x.yaml".into(),
                spans: document.spans,
                prefix: String::new(),
                line: document.line,
            };
            check(&manifest, &mut out);
        }
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
    fn keyed_items_have_positions() {
        let object = serde_json::json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 80}]}]}});
        for (field, expected) in [
            ("spec.containers[name=\"b\"].image", "spec.containers[1].image"),
            (
                "spec.containers[name=\"b\"].ports[containerPort=80].name",
                "spec.containers[1].ports[0].name",
            ),
            ("spec.containers[0].image", "spec.containers[0].image"),
            ("spec.replicas", "spec.replicas"),
        ] {
            assert_eq!(indexed(&object, field), expected);
        }
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
