//! Paths: the operations of every resource with their query parameters.

use serde_json::{Map, Value, json};

use super::definitions::gvk_value;
use super::{Format, custom_name};
use crate::registry::{Gvk, Resource, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const BODY_TYPES: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const LIST_TYPES: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// One operation to describe.
struct Operation<'a> {
    /// The HTTP method in lower case.
    method: &'static str,
    /// The verb as `x-kubernetes-action` names it.
    action: &'static str,
    /// How the operation's id begins.
    word: &'static str,
    row: &'a Resource,
    sub: Option<&'a Subresource>,
    /// The definition of what comes back.
    answer: String,
    /// What follows the kind in the operation's id.
    suffix: String,
}

/// Adds the paths of one resource.
pub(super) fn add(paths: &mut Map<String, Value>, row: &Resource, format: Format) {
    let root = if row.group.is_empty() { "api" } else { "apis" };
    let base = format!("/{root}/{}", row.api_version());
    let scope = if row.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", row.plural);
    let own = definition_name(row, &row.gvk());
    let list = definition_name(
        row,
        &Gvk {
            kind: row.list_kind.clone(),
            ..row.gvk()
        },
    );
    let mut item = Map::new();
    let mut all = Map::new();
    for (verb, method, action, word) in [
        ("list", "get", "list", "list"),
        ("create", "post", "post", "create"),
        ("deletecollection", "delete", "deletecollection", "delete"),
    ] {
        if row.has_verb(verb) {
            let answer = match verb {
                "list" => list.clone(),
                "create" => own.clone(),
                _ => format!("{META}Status"),
            };
            let operation = Operation {
                method,
                action,
                word,
                row,
                sub: None,
                answer,
                suffix: String::new(),
            };
            all.insert(method.into(), describe(&operation, format));
        }
    }
    for (verb, method, action, word) in [
        ("get", "get", "get", "read"),
        ("update", "put", "put", "replace"),
        ("patch", "patch", "patch", "patch"),
        ("delete", "delete", "delete", "delete"),
    ] {
        if row.has_verb(verb) {
            let answer = if verb == "delete" {
                format!("{META}Status")
            } else {
                own.clone()
            };
            let operation = Operation {
                method,
                action,
                word,
                row,
                sub: None,
                answer,
                suffix: String::new(),
            };
            item.insert(method.into(), describe(&operation, format));
        }
    }
    insert(paths, collection.clone(), all, &parameters(row, false), format);
    insert(
        paths,
        format!("{collection}/{{name}}"),
        item,
        &parameters(row, true),
        format,
    );
    if row.namespaced && row.has_verb("list") {
        let suffix = "ForAllNamespaces".to_owned();
        let answer = list.clone();
        let operation = Operation {
            method: "get",
            action: "list",
            word: "list",
            row,
            sub: None,
            answer,
            suffix,
        };
        let everywhere = Map::from_iter([("get".to_owned(), describe(&operation, format))]);
        insert(paths, format!("{base}/{}", row.plural), everywhere, &[], format);
    }
    for sub in &row.subresources {
        add_subresource(paths, row, sub, &collection, format);
    }
}

fn add_subresource(
    paths: &mut Map<String, Value>,
    row: &Resource,
    sub: &Subresource,
    collection: &str,
    format: Format,
) {
    let mut item = Map::new();
    for (verb, method, action, word) in [
        ("get", "get", "get", "read"),
        ("create", "post", "post", "create"),
        ("update", "put", "put", "replace"),
        ("patch", "patch", "patch", "patch"),
        ("delete", "delete", "delete", "delete"),
    ] {
        if sub.verbs.contains(&verb) {
            let answer = definition_name(row, &sub.kind);
            let suffix = capital(&sub.name);
            let operation = Operation {
                method,
                action,
                word,
                row,
                sub: Some(sub),
                answer,
                suffix,
            };
            item.insert(method.into(), describe(&operation, format));
        }
    }
    insert(
        paths,
        format!("{collection}/{{name}}/{}", sub.name),
        item,
        &parameters(row, true),
        format,
    );
}

/// The document of a root or group without resources of its own.
pub(super) fn plain(key: &str) -> Value {
    json!({"get": {
        "description": "get available API versions or information of a group",
        "operationId": format!("get{}", key.split('/').map(capital).collect::<String>()),
        "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
    }})
}

fn insert(paths: &mut Map<String, Value>, path: String, operations: Map<String, Value>, own: &[&str], format: Format) {
    if operations.is_empty() {
        return;
    }
    let mut entry = operations;
    let parameters: Vec<Value> = own
        .iter()
        .map(|name| parameter(name, "path", "string", format))
        .collect();
    if !parameters.is_empty() {
        entry.insert("parameters".into(), parameters.into());
    }
    paths.insert(path, Value::Object(entry));
}

fn parameters(row: &Resource, named: bool) -> Vec<&'static str> {
    let mut names = Vec::new();
    if named {
        names.push("name");
    }
    if row.namespaced {
        names.push("namespace");
    }
    names
}

fn describe(operation: &Operation<'_>, format: Format) -> Value {
    let row = operation.row;
    let kind = operation.sub.map_or_else(|| row.gvk(), |sub| sub.kind.clone());
    let produces: &[&str] = if operation.action == "list" {
        &LIST_TYPES
    } else {
        &BODY_TYPES
    };
    let consumes: &[&str] = if operation.method == "patch" {
        &PATCH_TYPES
    } else {
        &BODY_TYPES
    };
    let reference = json!({"$ref": format!("{}{}", format.prefix(), operation.answer)});
    let known = operation.answer.starts_with("io.k8s.") && crate::schema::lookup(&operation.answer).is_some()
        || row.schema.is_some();
    let answer = if known { reference } else { json!({"type": "string"}) };
    let mut out = json!({
        "description": format!("{} the specified {}", operation.word, row.kind),
        "operationId": operation_id(operation),
        "tags": [format!("{}_{}", tag(&row.group), row.version)],
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": gvk_value(&kind),
    });
    let Some(map) = out.as_object_mut() else { return out };
    let mut query = query_parameters(operation, format);
    let body = match operation.method {
        "post" | "put" => Some(json!({"$ref": format!("{}{}", format.prefix(), definition_name(row, &kind))})),
        "patch" => Some(json!({"$ref": format!("{}{META}Patch", format.prefix())})),
        "delete" => Some(json!({"$ref": format!("{}{META}DeleteOptions", format.prefix())})),
        _ => None,
    }
    .filter(|_| known);
    match format {
        Format::V2 => {
            map.insert("consumes".into(), consumes.into());
            map.insert("produces".into(), produces.into());
            map.insert("schemes".into(), json!(["https"]));
            let required = operation.method != "delete";
            query.extend(
                body.map(|schema| json!({"name": "body", "in": "body", "required": required, "schema": schema})),
            );
            let responses =
                json!({"200": {"description": "OK", "schema": answer}, "401": {"description": "Unauthorized"}});
            map.insert("responses".into(), responses);
        }
        Format::V3 => {
            let content = |types: &[&str], schema: &Value| -> Value {
                types
                    .iter()
                    .map(|media| ((*media).to_owned(), json!({"schema": schema})))
                    .collect::<Map<_, _>>()
                    .into()
            };
            if let Some(schema) = body {
                let types = if operation.method == "patch" {
                    consumes
                } else {
                    &["*/*"]
                };
                map.insert("requestBody".into(), json!({"content": content(types, &schema)}));
            }
            let responses = json!({
                "200": {"description": "OK", "content": content(produces, &answer)},
                "401": {"description": "Unauthorized"},
            });
            map.insert("responses".into(), responses);
        }
    }
    if !query.is_empty() {
        map.insert("parameters".into(), query.into());
    }
    out
}

fn query_parameters(operation: &Operation<'_>, format: Format) -> Vec<Value> {
    let names: &[(&str, &str)] = match (operation.action, operation.method) {
        ("list", _) => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
            ("pretty", "string"),
        ],
        ("deletecollection", _) => &[
            ("continue", "string"),
            ("dryRun", "string"),
            ("fieldSelector", "string"),
            ("gracePeriodSeconds", "integer"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
            ("resourceVersion", "string"),
            ("pretty", "string"),
        ],
        (_, "delete") => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
            ("pretty", "string"),
        ],
        (_, "patch") => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
            ("pretty", "string"),
        ],
        (_, "post" | "put") => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("pretty", "string"),
        ],
        _ => &[("pretty", "string")],
    };
    names
        .iter()
        .map(|(name, kind)| parameter(name, "query", kind, format))
        .collect()
}

fn parameter(name: &str, place: &str, kind: &str, format: Format) -> Value {
    let mut out = json!({"name": name, "in": place, "uniqueItems": true});
    if let Some(map) = out.as_object_mut() {
        if place == "path" {
            map.insert("required".into(), true.into());
        }
        match format {
            Format::V2 => map.insert("type".into(), kind.into()),
            Format::V3 => {
                map.remove("uniqueItems");
                map.insert("schema".into(), json!({"type": kind, "uniqueItems": true}))
            }
        };
    }
    out
}

/// `patchAppsV1NamespacedDeployment`, `listCoreV1PodForAllNamespaces`, `deleteCoreV1CollectionNamespacedPod`.
fn operation_id(operation: &Operation<'_>) -> String {
    let row = operation.row;
    let version = format!("{}{}", words(&row.group), capital(&row.version));
    let collection = if operation.action == "deletecollection" {
        "Collection"
    } else {
        ""
    };
    let namespaced = if row.namespaced && operation.suffix != "ForAllNamespaces" {
        "Namespaced"
    } else {
        ""
    };
    format!(
        "{}{version}{collection}{namespaced}{}{}",
        operation.word, row.kind, operation.suffix
    )
}

/// `Core`, `Apps`, `RbacAuthorization`: the group without the common ending, capitalised.
fn words(group: &str) -> String {
    match group {
        "" => "Core".into(),
        other => other
            .strip_suffix(".k8s.io")
            .unwrap_or(other)
            .split(['.', '-'])
            .map(capital)
            .collect(),
    }
}

/// `core`, `apps`, `rbacAuthorization`.
fn tag(group: &str) -> String {
    let text = words(group);
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().chain(characters).collect())
        .unwrap_or_default()
}

fn capital(word: &str) -> String {
    let mut characters = word.chars();
    characters
        .next()
        .map(|first| first.to_uppercase().chain(characters).collect())
        .unwrap_or_default()
}

/// The name of the definition of a kind that this resource sends or receives.
fn definition_name(row: &Resource, kind: &Gvk) -> String {
    match kind.type_name() {
        Some(name) => name.to_owned(),
        None if row.schema.is_some() || row.type_name.is_none() => custom_name(kind),
        None => format!("{META}{}", kind.kind),
    }
}
