//! ConfigMaps and Secrets made from files and values.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use super::{Item, fields, inside, strings};
use crate::create::objects::{Data, config_map, secret};
use crate::pods::list;

/// Adds what the generators of a kustomization make, or merges it into what a base made.
pub(super) fn add(wanted: &Value, directory: &Path, place: &str, items: &mut Vec<Item>) -> Result<()> {
    for (key, kind) in [("/configMapGenerator", "ConfigMap"), ("/secretGenerator", "Secret")] {
        for row in list(wanted, key) {
            let name = row["name"]
                .as_str()
                .ok_or_else(|| anyhow!("{place}: a generator needs a name"))?;
            let data = data(row, directory).with_context(|| format!("{place}: {name}"))?;
            let made = if kind == "ConfigMap" {
                config_map(name, &data)
            } else {
                secret(name, &data, Some(row["type"].as_str().unwrap_or("Opaque")))
            };
            let mut object = made.with_context(|| format!("{place}: {name}"))?;
            let option = |field: &str| {
                let own = &row["options"][field];
                if own.is_null() {
                    &wanted["generatorOptions"][field]
                } else {
                    own
                }
            };
            if let Some(namespace) = row["namespace"].as_str() {
                object["metadata"]["namespace"] = namespace.into();
            }
            if let Some(labels) = option("labels").as_object() {
                fields::label(&mut object, labels, fields::Reach::Object);
            }
            if let Some(annotations) = option("annotations").as_object() {
                fields::annotate(&mut object, annotations);
            }
            if *option("immutable") == true {
                object["immutable"] = true.into();
            }
            let hashed = *option("disableNameSuffixHash") != true;
            let known = items
                .iter_mut()
                .find(|item| item.original == name && item.manifest.text("/kind") == kind);
            match (row["behavior"].as_str().unwrap_or("create"), known) {
                ("create", None) => items.push(Item::made(object, place, hashed)),
                ("create", Some(_)) => {
                    bail!("{place}: {kind} {name:?} is there already; say `behavior: merge` or `replace`")
                }
                ("merge" | "replace", None) => bail!("{place}: there is no {kind} {name:?} to change"),
                ("merge", Some(item)) => {
                    for field in ["data", "binaryData"] {
                        for (key, value) in object[field].as_object().into_iter().flatten() {
                            item.manifest.object[field][key] = value.clone();
                        }
                    }
                }
                ("replace", Some(item)) => {
                    for field in ["data", "binaryData"] {
                        item.manifest.object[field] = object.get(field).cloned().unwrap_or_else(|| json!({}));
                    }
                }
                (other, _) => bail!("{place}: behavior must be create, merge or replace, not {other:?}"),
            }
        }
    }
    Ok(())
}

fn data(row: &Value, directory: &Path) -> Result<Data> {
    let own = |path: &str| {
        let path = directory.join(path);
        inside(directory, &path)?;
        Ok::<_, anyhow::Error>(path.display().to_string())
    };
    let mut data = Data {
        from_literal: strings(&row["literals"]).map(str::to_owned).collect(),
        ..Data::default()
    };
    for word in strings(&row["files"]) {
        data.from_file.push(match word.split_once('=') {
            Some((key, path)) => format!("{key}={}", own(path)?),
            None => own(word)?,
        });
    }
    for path in strings(&row["envs"]).chain(row["env"].as_str()) {
        data.from_env_file.push(own(path)?);
    }
    Ok(data)
}
