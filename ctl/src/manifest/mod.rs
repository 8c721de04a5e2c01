//! Reading manifests: files, directories and standard input, in YAML or JSON, with the place of every field,
//! so that a mistake is reported as `file:line:column: what is wrong`.
//!
//! Built-in kinds are checked here before anything is sent; custom resources are checked by the server.

mod check;
mod kustomize;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use coxswain_api::codec::{Spans, decode_yaml_documents};
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
    /// The first document of a text.
    #[cfg(test)]
    pub fn of_text(file: &str, text: &str) -> Result<Self> {
        let found = parse(vec![(file.to_owned(), text.to_owned())], &mut Vec::new())?;
        found.into_iter().next().context("no document")
    }

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

/// The JSON pointer of a field path such as `spec.containers[name="web"].image` in an object.
#[must_use]
pub fn pointer(object: &Value, field: &str) -> String {
    let path = indexed(object, field);
    format!("/{}", path.replace("][", "/").replace(['.', '['], "/").replace(']', ""))
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

/// The flags of every command that takes manifests.
#[derive(Args, Clone, Default)]
pub struct Files {
    /// Files or directories; - is standard input
    #[arg(long, short = 'f', value_name = "FILE", value_delimiter = ',')]
    pub filename: Vec<String>,
    /// A directory with a kustomization.yaml
    #[arg(long, short = 'k', value_name = "DIR", conflicts_with = "filename")]
    pub kustomize: Option<String>,
    /// Look into subdirectories too
    #[arg(long, short = 'R')]
    pub recursive: bool,
}

impl Files {
    /// Whether any of the flags was used.
    #[must_use]
    pub fn given(&self) -> bool {
        !self.filename.is_empty() || self.kustomize.is_some()
    }

    /// Every object, checked against the schema of its kind.
    ///
    /// # Errors
    /// What cannot be read, or the place and kind of every mistake.
    pub fn read(&self) -> Result<Vec<Manifest>> {
        let (manifests, mut mistakes) = self.load()?;
        for manifest in &manifests {
            check::check(manifest, &mut mistakes);
        }
        complain(mistakes)?;
        Ok(manifests)
    }

    /// Every object, of which only kind, namespace and name matter.
    ///
    /// # Errors
    /// What cannot be read, or which object does not say what it is.
    pub fn names(&self) -> Result<Vec<Manifest>> {
        let (manifests, mut mistakes) = self.load()?;
        mistakes.clear();
        for manifest in &manifests {
            check::identity(manifest, &mut mistakes);
        }
        complain(mistakes)?;
        Ok(manifests)
    }

    fn load(&self) -> Result<(Vec<Manifest>, Vec<String>)> {
        if !self.given() {
            bail!("must specify one of -f and -k");
        }
        let mut mistakes = Vec::new();
        let manifests = match &self.kustomize {
            Some(directory) => kustomize::build(Path::new(directory))?,
            None => parse(sources(&self.filename, self.recursive)?, &mut mistakes)?,
        };
        if manifests.is_empty() && mistakes.is_empty() {
            bail!("no objects passed");
        }
        Ok((manifests, mistakes))
    }
}

#[derive(Args)]
pub struct Kustomize {
    /// A directory with a kustomization.yaml
    #[arg(default_value = ".", value_name = "DIR")]
    pub directory: PathBuf,
}

/// Runs `ctl kustomize`.
///
/// # Errors
/// What is wrong with the files.
pub fn print_kustomization(args: &Kustomize) -> Result<ExitCode> {
    let texts: Vec<String> = kustomize::build(&args.directory)?
        .iter()
        .map(|manifest| crate::print::document(&manifest.object, true, true))
        .collect();
    print!("{}", texts.join("---\n"));
    Ok(ExitCode::SUCCESS)
}

/// The documents of some files. Text that is no YAML ends it; what the decoder merely notes is a mistake.
fn parse(sources: Vec<(String, String)>, mistakes: &mut Vec<String>) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    let mut broken = Vec::new();
    for (file, text) in sources {
        match decode_yaml_documents(&text) {
            Err(error) => broken.push(format!("{file}:{}:{}: {}", error.line, error.column, error.message)),
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
    complain(broken)?;
    Ok(manifests)
}

fn complain(mut mistakes: Vec<String>) -> Result<()> {
    if mistakes.is_empty() {
        return Ok(());
    }
    let more = mistakes.len().saturating_sub(MISTAKES_MAX);
    mistakes.truncate(MISTAKES_MAX);
    if more > 0 {
        mistakes.push(format!("and {more} more"));
    }
    bail!("{}", mistakes.join("\n"))
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
