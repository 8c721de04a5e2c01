//! The OpenAPI documents (v2, and v3 per group version), made from the schema tables and the registry.
//!
//! Documents are built when asked for and are not kept: descriptions are unpacked for the call only. What
//! they hold is what `kubectl explain`, `kubectl diff`, Helm and client generators read: definitions with
//! group-version-kinds and merge facts, and the paths with their operations and query parameters.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::registry::{Gvk, Registry, Resource};
use crate::schema;

mod definitions;
mod pages;
mod paths;
mod protobuf;

pub use protobuf::v2_protobuf;

use definitions::Definitions;

/// The two generations of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    V2,
    V3,
}

impl Format {
    /// Where definitions are found from a reference.
    fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }
}

/// The whole API as one Swagger 2 document. `version` is shown as the API's version, such as `v1.36.0`.
pub fn v2(registry: &Registry, version: &str) -> Value {
    let mut definitions = Definitions::new(registry, Format::V2);
    let mut all_paths = Map::new();
    for row in registry.resources() {
        definitions.add_resource(row);
        paths::add(&mut all_paths, row, Format::V2);
    }
    all_paths.extend(pages::keys(registry).iter().map(|key| pages::page(key, Format::V2)));
    all_paths.values().for_each(|path| definitions.add_referenced(path));
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": all_paths,
        "definitions": definitions.finish(),
        "security": [{"BearerToken": []}],
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey",
        }},
    })
}

/// The index of v3 documents: each group version with its address, whose hash changes with its content.
pub fn v3_index(registry: &Registry) -> Value {
    let mut entries = Map::new();
    for key in pages::keys(registry) {
        let hash = document_hash(registry, &key);
        entries.insert(
            key.clone(),
            json!({"serverRelativeURL": format!("/openapi/v3/{key}?hash={hash}")}),
        );
    }
    json!({"paths": entries})
}

/// The hash under which the index lists a document, for `?hash=` and ETags. `key` is as in the index
/// (`api/v1`, `apis/apps/v1`).
pub fn document_hash(registry: &Registry, key: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(env!("OPENAPI_SOURCES").as_bytes());
    hasher.update(key.as_bytes());
    for row in registry.resources() {
        if key.ends_with(&row.api_version()) || !key.contains('/') {
            hasher.update(row.qualified().as_bytes());
            for sub in &row.subresources {
                hasher.update(sub.name.as_bytes());
            }
            if let Some(schema) = &row.schema {
                hasher.update(schema.to_string().as_bytes());
            }
        }
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// One v3 document; `key` is as in the index. `None` when nothing is served there.
pub fn v3(registry: &Registry, key: &str, version: &str) -> Option<Value> {
    let rows = match key.split('/').collect::<Vec<_>>().as_slice() {
        ["api" | "apis" | "version"] | [".well-known", "openid-configuration"] | ["openid", "v1", "jwks"] => Vec::new(),
        ["apis", group] if registry.groups().iter().any(|known| &*known.name == *group) => Vec::new(),
        ["api", found] => served(registry, "", found)?,
        ["apis", group, found] if !group.is_empty() => served(registry, group, found)?,
        _ => return None,
    };
    let mut definitions = Definitions::new(registry, Format::V3);
    let mut all_paths = Map::new();
    let (path, page) = pages::page(key, Format::V3);
    all_paths.insert(path, page);
    for row in rows {
        definitions.add_resource(row);
        paths::add(&mut all_paths, row, Format::V3);
    }
    all_paths.values().for_each(|path| definitions.add_referenced(path));
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": all_paths,
        "components": {
            "schemas": definitions.finish(),
            "securitySchemes": {"BearerToken": {
                "description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey",
            }},
        },
    }))
}

/// The resources of a group version that has any.
fn served<'a>(registry: &'a Registry, group: &'a str, version: &'a str) -> Option<Vec<&'a Resource>> {
    let rows: Vec<&Resource> = registry.in_version(group, version).map(|row| &**row).collect();
    if rows.is_empty() { None } else { Some(rows) }
}

/// The definition name of a custom resource: the group backwards, the version, the kind.
fn custom_name(gvk: &Gvk) -> String {
    let reversed: Vec<&str> = gvk.group.split('.').rev().collect();
    format!("{}.{}.{}", reversed.join("."), gvk.version, gvk.kind)
}

/// Which kinds each built-in type stands for.
fn kinds_of_types(registry: &Registry) -> BTreeMap<&'static str, BTreeSet<Gvk>> {
    let mut kinds: BTreeMap<&'static str, BTreeSet<Gvk>> = BTreeMap::new();
    for row in registry.resources() {
        if let Some(name) = row.type_name {
            kinds.entry(name).or_default().insert(row.gvk());
            if let Some(list) = schema::lookup(&format!("{name}List")) {
                kinds.entry(list.name).or_default().insert(Gvk {
                    kind: row.list_kind.clone(),
                    ..row.gvk()
                });
            }
        }
        for sub in &row.subresources {
            if let Some(name) = sub.kind.type_name() {
                kinds.entry(name).or_default().insert(sub.kind.clone());
            }
        }
        for (name, kind) in [("DeleteOptions", "DeleteOptions"), ("Status", "Status")] {
            if let Some(found) = schema::lookup(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")) {
                let only_core = name == "Status" && !row.group.is_empty();
                if !only_core {
                    kinds.entry(found.name).or_default().insert(Gvk {
                        kind: kind.into(),
                        ..row.gvk()
                    });
                }
            }
        }
    }
    kinds
}

#[cfg(test)]
mod tests;
