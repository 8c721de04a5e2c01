//! `-k DIR`: the manifests that a kustomization.yaml describes.
//!
//! Understands resources and bases, generated ConfigMaps and Secrets with hashed names, patches, namespace,
//! name prefix and suffix, labels, annotations, images and replicas. What it does not understand is an error
//! with its place, never left out in silence. Nothing is fetched and no other program is run.

mod fields;
mod generate;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use coxswain_api::codec::{Spans, decode_yaml_documents};
use coxswain_api::patch::{json_patch, merge_patch, strategic_merge};
use coxswain_api::registry::{split_api_version, type_name};
use coxswain_api::schema::Node;
use coxswain_api::selector::LabelSelector;
use serde_json::Value;

use super::{Manifest, load};
use crate::create::hash::hash;
use crate::pods::{list, text};
use crate::set::matches;

const FILES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// Bases of bases of bases go this deep.
const DEPTH_MAX: usize = 32;
const KNOWN: [&str; 22] = [
    "apiVersion",
    "kind",
    "metadata",
    "resources",
    "bases",
    "namespace",
    "namePrefix",
    "nameSuffix",
    "commonLabels",
    "commonAnnotations",
    "labels",
    "images",
    "replicas",
    "configMapGenerator",
    "secretGenerator",
    "generatorOptions",
    "patches",
    "patchesStrategicMerge",
    "patchesJson6902",
    "buildMetadata",
    "sortOptions",
    "crds",
];

/// One object on its way through the layers.
struct Item {
    manifest: Manifest,
    /// Its name before any layer changed it.
    original: String,
    /// The name gets a hash of the contents in the end.
    hashed: bool,
}

/// The manifests of a directory.
pub(super) fn build(directory: &Path) -> Result<Vec<Manifest>> {
    let mut items = layer(directory, 0)?;
    let mut names = BTreeMap::new();
    for item in items.iter_mut().filter(|item| item.hashed) {
        let name = item.manifest.text("/metadata/name").to_owned();
        let hashed = format!("{name}-{}", hash(&item.manifest.object));
        names.insert((item.manifest.text("/kind").to_owned(), name), hashed.clone());
        item.manifest.object["metadata"]["name"] = hashed.into();
    }
    for item in &mut items {
        fields::rename(&mut item.manifest.object, &names);
    }
    Ok(items.into_iter().map(|item| item.manifest).collect())
}

fn layer(directory: &Path, depth: usize) -> Result<Vec<Item>> {
    if depth > DEPTH_MAX {
        bail!(
            "{}: bases are nested too deeply (is one its own base?)",
            directory.display()
        );
    }
    let path = FILES
        .iter()
        .map(|name| directory.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            anyhow!(
                "unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '{}'",
                directory.display()
            )
        })?;
    let place = path.display().to_string();
    let document = decode_yaml_documents(&load(&path)?)
        .map_err(|e| anyhow!("{place}:{}:{}: {}", e.line, e.column, e.message))?
        .into_iter()
        .next()
        .with_context(|| format!("{place} is empty"))?;
    let wanted = document.value;
    for (key, _) in wanted
        .as_object()
        .with_context(|| format!("{place} is not an object"))?
    {
        if !KNOWN.contains(&key.as_str()) {
            let (line, column) = document.spans.nearest(key).unwrap_or((1, 1));
            bail!(
                "{place}:{line}:{column}: {key} is not supported here; build the manifests with `kustomize build {} | ctl apply -f -`",
                directory.display()
            );
        }
    }
    let mut items = Vec::new();
    for word in strings(&wanted["resources"]).chain(strings(&wanted["bases"])) {
        items.extend(resource(directory, word, depth).with_context(|| format!("{place}: {word}"))?);
    }
    generate::add(&wanted, directory, &place, &mut items)?;
    transform(&wanted, directory, &mut items).with_context(|| place.clone())?;
    Ok(items)
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn resource(directory: &Path, word: &str, depth: usize) -> Result<Vec<Item>> {
    let remote = word.contains("://") || word.starts_with("git@") || word.starts_with("github.com/");
    if remote {
        bail!("manifests are read from files, not from the network; fetch it first and give its path");
    }
    let path = directory.join(word);
    if path.is_dir() {
        return layer(&path, depth + 1);
    }
    inside(directory, &path)?;
    let mut mistakes = Vec::new();
    let found = super::parse(vec![(path.display().to_string(), load(&path)?)], &mut mistakes)?;
    super::complain(mistakes)?;
    Ok(found.into_iter().map(|manifest| Item::of(manifest, false)).collect())
}

/// A kustomization reads files of its own directory only: one that came from elsewhere cannot pick up others.
/// Other directories are for bases.
fn inside(directory: &Path, path: &Path) -> Result<()> {
    let whole = |path: &Path| path.canonicalize().with_context(|| format!("open {}", path.display()));
    if !whole(path)?.starts_with(whole(directory)?) {
        bail!("file '{}' is not in or below '{}'", path.display(), directory.display());
    }
    Ok(())
}

/// The text of a file of the directory.
fn own(directory: &Path, word: &str) -> Result<String> {
    let path = directory.join(word);
    inside(directory, &path)?;
    load(&path)
}

impl Item {
    fn of(manifest: Manifest, hashed: bool) -> Self {
        Self {
            original: manifest.text("/metadata/name").to_owned(),
            manifest,
            hashed,
        }
    }

    fn made(object: Value, file: &str, hashed: bool) -> Self {
        Self::of(
            Manifest {
                object,
                file: file.to_owned(),
                spans: Spans::default(),
                prefix: String::new(),
                line: 1,
            },
            hashed,
        )
    }
}

fn transform(wanted: &Value, directory: &Path, items: &mut Vec<Item>) -> Result<()> {
    for word in strings(&wanted["patchesStrategicMerge"]) {
        // Either a file or the patch itself.
        let content = if word.contains('\n') {
            word.to_owned()
        } else {
            own(directory, word)?
        };
        patch(items, &Value::Null, &content)?;
    }
    for row in list(wanted, "/patches").iter().chain(list(wanted, "/patchesJson6902")) {
        let content = match row["path"].as_str() {
            Some(path) => own(directory, path)?,
            None => row["patch"].as_str().context("a patch needs path or patch")?.to_owned(),
        };
        patch(items, &row["target"], &content)?;
    }
    if let Some(namespace) = wanted["namespace"].as_str() {
        let accounts: Vec<String> = items
            .iter()
            .filter(|item| item.manifest.text("/kind") == "ServiceAccount")
            .map(|item| item.manifest.text("/metadata/name").to_owned())
            .collect();
        for item in items.iter_mut() {
            fields::set_namespace(&mut item.manifest.object, namespace, &accounts);
        }
    }
    let affix = |key: &str| wanted[key].as_str().unwrap_or_default();
    let (prefix, suffix) = (affix("namePrefix"), affix("nameSuffix"));
    if !prefix.is_empty() || !suffix.is_empty() {
        let mut names = BTreeMap::new();
        for item in items.iter_mut() {
            let (kind, name) = (
                item.manifest.text("/kind").to_owned(),
                item.manifest.text("/metadata/name").to_owned(),
            );
            if !matches!(kind.as_str(), "Namespace" | "CustomResourceDefinition" | "APIService") {
                let new = format!("{prefix}{name}{suffix}");
                item.manifest.object["metadata"]["name"] = new.clone().into();
                names.insert((kind, name), new);
            }
        }
        for item in items.iter_mut() {
            fields::rename(&mut item.manifest.object, &names);
        }
    }
    for item in items.iter_mut() {
        let object = &mut item.manifest.object;
        if let Some(labels) = wanted["commonLabels"].as_object() {
            fields::label(object, labels, fields::Reach::Selectors);
        }
        for row in list(wanted, "/labels") {
            let reach = match (row["includeSelectors"] == true, row["includeTemplates"] == true) {
                (true, _) => fields::Reach::Selectors,
                (_, true) => fields::Reach::Templates,
                _ => fields::Reach::Object,
            };
            if let Some(labels) = row["pairs"].as_object() {
                fields::label(object, labels, reach);
            }
        }
        if let Some(annotations) = wanted["commonAnnotations"].as_object() {
            fields::annotate(object, annotations);
        }
        for row in list(wanted, "/images") {
            fields::set_image(object, row);
        }
        for row in list(wanted, "/replicas") {
            if row["name"] == *item.original && object["spec"].is_object() {
                object["spec"]["replicas"] = row["count"].clone();
            }
        }
    }
    Ok(())
}

/// Applies the patches of one text to the objects that they are for.
fn patch(items: &mut Vec<Item>, target: &Value, content: &str) -> Result<()> {
    let documents =
        decode_yaml_documents(content).map_err(|e| anyhow!("patch:{}:{}: {}", e.line, e.column, e.message))?;
    for document in documents {
        let change = document.value;
        let named = if target.is_object() {
            target.clone()
        } else {
            target_of(&change)
        };
        let fitting = fitting(items, &named)?;
        if fitting.is_empty() {
            bail!(
                "no matches for {} {:?}: the patch is for nothing in the resources",
                text(&named, "/kind"),
                text(&named, "/name")
            );
        }
        if change["$patch"] == "delete" {
            for at in fitting.into_iter().rev() {
                items.remove(at);
            }
            continue;
        }
        for at in fitting {
            let Some(item) = items.get_mut(at) else { continue };
            let object = &mut item.manifest.object;
            let (name, namespace) = (
                object["metadata"]["name"].clone(),
                object["metadata"]["namespace"].clone(),
            );
            *object = patched(object, &change)?;
            if target.is_object() && !change.is_array() {
                // The patch's own name only says what it is for.
                object["metadata"]["name"] = name;
                if !namespace.is_null() {
                    object["metadata"]["namespace"] = namespace;
                }
            }
        }
    }
    Ok(())
}

fn patched(object: &Value, change: &Value) -> Result<Value> {
    if change.is_array() {
        return Ok(json_patch(object, change)?);
    }
    let (group, version) = split_api_version(text(object, "/apiVersion"));
    match type_name(group, version, text(object, "/kind")).and_then(Node::of_type) {
        Some(node) => Ok(strategic_merge(object, change, node)?),
        None => {
            let mut after = object.clone();
            merge_patch(&mut after, change)?;
            Ok(after)
        }
    }
}

/// What a patch without a target says that it is for.
fn target_of(change: &Value) -> Value {
    let (group, version) = split_api_version(text(change, "/apiVersion"));
    serde_json::json!({"group": group, "version": version, "kind": change["kind"],
        "name": change["metadata"]["name"], "namespace": change["metadata"]["namespace"]})
}

/// The positions of the objects that a target means. Its texts are patterns in which `.*` stands for anything.
fn fitting(items: &[Item], target: &Value) -> Result<Vec<usize>> {
    let selector = |key: &str| -> Result<Option<LabelSelector>> {
        match target[key].as_str() {
            None => Ok(None),
            Some(text) => Ok(Some(LabelSelector::parse(text).map_err(|e| anyhow!("{key}: {e}"))?)),
        }
    };
    let (labels, annotations) = (selector("labelSelector")?, selector("annotationSelector")?);
    let fits = |key: &str, found: &str| {
        let pattern = target[key].as_str().unwrap_or_default();
        pattern.is_empty() || matches(&pattern.trim_matches(['^', '$']).replace(".*", "*"), found)
    };
    let mut out = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let object = &item.manifest.object;
        let (group, version) = split_api_version(text(object, "/apiVersion"));
        let named = fits("name", text(object, "/metadata/name")) || fits("name", &item.original);
        let chosen = fits("group", group)
            && fits("version", version)
            && fits("kind", text(object, "/kind"))
            && fits("namespace", text(object, "/metadata/namespace"))
            && named
            && labels.as_ref().is_none_or(|s| s.matches(&object["metadata"]["labels"]))
            && annotations
                .as_ref()
                .is_none_or(|s| s.matches(&object["metadata"]["annotations"]));
        if chosen {
            out.push(at);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
