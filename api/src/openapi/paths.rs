//! Paths: the operations of every resource with their query parameters.

use serde_json::{Map, Value, json};

use super::definitions::gvk_value;
use super::{Format, custom_name};
use crate::registry::{Gvk, Resource, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
pub(super) const BODY_TYPES: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const STREAM_TYPES: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const LOG_TYPES: [&str; 4] = [
    "text/plain",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// One operation to describe.
struct Operation<'a> {
    /// The verb as `x-kubernetes-action` names it.
    action: &'static str,
    row: &'a Resource,
    sub: Option<&'a Subresource>,
    id: String,
    text: String,
    /// The definition of what comes back; without one it is text.
    answer: Option<String>,
}

/// Verb, method, action, how the operation's id begins.
type Verb = (&'static str, &'static str, &'static str, &'static str);

const OF_COLLECTIONS: &[Verb] = &[
    ("list", "get", "list", "list"),
    ("create", "post", "post", "create"),
    ("deletecollection", "delete", "deletecollection", "delete"),
];
const OF_OBJECTS: &[Verb] = &[
    ("get", "get", "get", "read"),
    ("create", "post", "post", "create"),
    ("update", "put", "put", "replace"),
    ("patch", "patch", "patch", "patch"),
    ("delete", "delete", "delete", "delete"),
];
/// The methods of what is a connection rather than an object: those with the verb, and for `proxy` all.
const OF_CONNECTIONS: &[(&str, &str)] = &[
    ("delete", "delete"),
    ("get", "get"),
    ("", "head"),
    ("", "options"),
    ("patch", "patch"),
    ("create", "post"),
    ("update", "put"),
];

/// Adds the paths of one resource.
pub(super) fn add(paths: &mut Map<String, Value>, row: &Resource, format: Format) {
    let base = base(&row.group, &row.version);
    let scope = if row.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{scope}/{}", row.plural);
    let kind = &*row.kind;
    let own = definition_name(row, &row.gvk());
    let list = definition_name(
        row,
        &Gvk {
            kind: row.list_kind.clone(),
            ..row.gvk()
        },
    );
    let status = format!("{META}Status");
    let operation = |(_, _, action, word): Verb, text: String, answer: &str, more: &str| Operation {
        action,
        row,
        sub: None,
        id: operation_id(row, word, action, more),
        text,
        answer: Some(answer.to_owned()),
    };
    let list_text = format!("list or watch objects of kind {kind}");
    let mut all = Map::new();
    for verb in OF_COLLECTIONS.iter().filter(|verb| row.has_verb(verb.0)) {
        let (text, answer) = match verb.0 {
            "list" => (list_text.clone(), &list),
            "create" => (format!("create{}{kind}", article(kind)), &own),
            _ => (format!("delete collection of {kind}"), &status),
        };
        all.insert(verb.1.into(), describe(&operation(*verb, text, answer, ""), format));
    }
    let mut item = Map::new();
    for verb in OF_OBJECTS
        .iter()
        .filter(|verb| verb.0 != "create" && row.has_verb(verb.0))
    {
        let answer = match verb.0 {
            // Namespaces are shown too, but the document of Kubernetes does not say so.
            "delete" if !row.deleting_shows_it() || &*row.plural == "namespaces" => &status,
            _ => &own,
        };
        item.insert(
            verb.1.into(),
            describe(&operation(*verb, object_text(verb.3, kind, ""), answer, ""), format),
        );
    }
    let (many, named) = (parameters(row, None, format), parameters(row, Some(kind), format));
    insert(paths, format!("{base}{collection}"), all, &many);
    insert(paths, format!("{base}{collection}/{{name}}"), item, &named);
    if row.namespaced && row.has_verb("list") {
        let everywhere = operation(OF_COLLECTIONS[0], list_text, &list, "ForAllNamespaces");
        let everywhere = Map::from_iter([("get".to_owned(), describe(&everywhere, format))]);
        insert(paths, format!("{base}/{}", row.plural), everywhere, &[]);
    }
    if row.has_verb("watch") {
        let event = format!("{META}WatchEvent");
        let old = "deprecated: use the 'watch' parameter with a list operation instead";
        let one = format!(
            "watch changes to an object of kind {kind}. {old}, filtered to a single item with the 'fieldSelector' parameter."
        );
        let several = format!("watch individual changes to a list of {kind}. {old}.");
        let mut watch = |path: String, action: &'static str, text: &str, more: &str, own: &[Value]| {
            let operation = operation(("watch", "get", action, "watch"), text.to_owned(), &event, more);
            let entry = Map::from_iter([("get".to_owned(), describe(&operation, format))]);
            insert(paths, format!("{base}/watch{path}"), entry, own);
        };
        watch(collection.clone(), "watchlist", &several, "List", &many);
        watch(format!("{collection}/{{name}}"), "watch", &one, "", &named);
        if row.namespaced {
            watch(
                format!("/{}", row.plural),
                "watchlist",
                &several,
                "ListForAllNamespaces",
                &[],
            );
        }
    }
    for sub in &row.subresources {
        add_subresource(
            paths,
            row,
            sub,
            &format!("{base}{collection}/{{name}}/{}", sub.name),
            format,
        );
    }
}

fn add_subresource(paths: &mut Map<String, Value>, row: &Resource, sub: &Subresource, path: &str, format: Format) {
    let mut item = Map::new();
    let own = parameters(row, Some(&sub.kind.kind), format);
    let suffix = capital(&sub.name);
    if !sub.kind.kind.ends_with("Options") {
        for (_, method, action, word) in OF_OBJECTS.iter().filter(|verb| sub.verbs.contains(&verb.0)) {
            let operation = Operation {
                action,
                row,
                sub: Some(sub),
                id: operation_id(row, word, action, &suffix),
                text: object_text(word, &row.kind, &sub.name),
                answer: (&*sub.name != "log").then(|| definition_name(row, &sub.kind)),
            };
            item.insert((*method).into(), describe(&operation, format));
        }
        return insert(paths, path.to_owned(), item, &own);
    }
    let is_proxy = &*sub.name == "proxy";
    let of = |suffix: &str| -> Map<String, Value> {
        let verbs = OF_CONNECTIONS.iter();
        let verbs = verbs.filter(|(verb, _)| sub.verbs.contains(verb) || verb.is_empty() && is_proxy);
        let described = verbs.map(|(_, method)| {
            let word = format!("connect{}{}", version_words(row), capital(method));
            let operation = Operation {
                action: "connect",
                row,
                sub: Some(sub),
                id: format!(
                    "{word}{}{}{suffix}",
                    if row.namespaced { "Namespaced" } else { "" },
                    row.kind
                ),
                text: format!(
                    "connect {} requests to {} of {}",
                    method.to_uppercase(),
                    sub.name,
                    row.kind
                ),
                answer: None,
            };
            ((*method).to_owned(), describe(&operation, format))
        });
        described.collect()
    };
    insert(paths, path.to_owned(), of(&suffix), &own);
    if is_proxy {
        let mut own = own;
        own.push(parameter("path", "path", "string", "path to the resource", format));
        insert(paths, format!("{path}/{{path}}"), of("ProxyWithPath"), &own);
    }
}

/// `/api/v1`, `/apis/apps/v1`.
pub(super) fn base(group: &str, version: &str) -> String {
    match group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    }
}

/// What is done to one object, or to a subresource of it.
fn object_text(word: &str, kind: &str, sub: &str) -> String {
    let of = if sub.is_empty() {
        String::new()
    } else {
        format!(" {sub} of")
    };
    match word {
        "create" | "delete" => format!("{word}{of}{}{kind}", article(kind)),
        "patch" => format!("partially update{of} the specified {kind}"),
        _ => format!("{word}{of} the specified {kind}"),
    }
}

/// ` a `, ` an `, or nothing before what is a plural.
fn article(noun: &str) -> &'static str {
    match noun.chars().next() {
        _ if noun.ends_with('s') && !noun.ends_with("ss") => " ",
        Some('A' | 'E' | 'I' | 'O' | 'U') => " an ",
        _ => " a ",
    }
}

fn insert(paths: &mut Map<String, Value>, path: String, operations: Map<String, Value>, own: &[Value]) {
    if operations.is_empty() {
        return;
    }
    let mut entry = operations;
    if !own.is_empty() {
        entry.insert("parameters".into(), own.into());
    }
    paths.insert(path, Value::Object(entry));
}

/// The parameters in the path: the name of an object of `kind`, when there is one, and the namespace.
fn parameters(row: &Resource, kind: Option<&str>, format: Format) -> Vec<Value> {
    let name = kind.map(|kind| parameter("name", "path", "string", &format!("name of the {kind}"), format));
    let scope = "object name and auth scope, such as for teams and projects";
    let namespace = row
        .namespaced
        .then(|| parameter("namespace", "path", "string", scope, format));
    name.into_iter().chain(namespace).collect()
}

fn describe(operation: &Operation<'_>, format: Format) -> Value {
    let row = operation.row;
    let kind = operation.sub.map_or_else(|| row.gvk(), |sub| sub.kind.clone());
    let sub = operation.sub.map_or("", |sub| &sub.name);
    let produces: &[&str] = match operation.action {
        "list" | "watch" | "watchlist" => &STREAM_TYPES,
        "connect" => &["*/*"],
        _ if sub == "log" => &LOG_TYPES,
        _ => &BODY_TYPES,
    };
    let consumes: &[&str] = if operation.action == "patch" {
        &PATCH_TYPES
    } else {
        &["*/*"]
    };
    let known = |name: &String| {
        name.ends_with(".WatchEvent")
            || name.starts_with("io.k8s.") && crate::schema::lookup(name).is_some()
            || row.schema.is_some()
    };
    let reference = |name: &str| json!({"$ref": format!("{}{name}", format.prefix())});
    let answer = operation.answer.as_ref().filter(|name| known(name));
    let answer = answer.map_or_else(|| json!({"type": "string"}), |name| reference(name));
    let mut out = json!({
        "description": operation.text,
        "operationId": operation.id,
        "tags": [format!("{}_{}", tag(&row.group), row.version)],
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": gvk_value(&kind),
    });
    let Some(map) = out.as_object_mut() else { return out };
    let mut query = query_parameters(operation, format);
    let body = match operation.action {
        "post" | "put" => Some(definition_name(row, &kind)).filter(|name| known(name)),
        "patch" => Some(format!("{META}Patch")),
        "delete" | "deletecollection" => Some(format!("{META}DeleteOptions")),
        _ => None,
    };
    let body = body.map(|name| reference(&name));
    let codes: &[(&str, &str)] = match operation.action {
        "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        "put" | "patch" => &[("200", "OK"), ("201", "Created")],
        "delete" => &[("200", "OK"), ("202", "Accepted")],
        _ => &[("200", "OK")],
    };
    match format {
        Format::V2 => {
            map.insert("consumes".into(), consumes.into());
            map.insert("produces".into(), produces.into());
            map.insert("schemes".into(), json!(["https"]));
            let required = !operation.action.starts_with("delete");
            let body = body.map(|schema| {
                let mut body = json!({"name": "body", "in": "body", "schema": schema});
                if required {
                    body["required"] = true.into();
                }
                body
            });
            query.extend(body);
        }
        Format::V3 => {
            if let Some(schema) = body {
                map.insert("requestBody".into(), json!({"content": content(consumes, &schema)}));
            }
        }
    }
    map.insert("responses".into(), responses(codes, produces, &answer, format));
    if !query.is_empty() {
        map.insert("parameters".into(), query.into());
    }
    out
}

/// The answers by their codes, and that somebody is nobody.
pub(super) fn responses(codes: &[(&str, &str)], produces: &[&str], schema: &Value, format: Format) -> Value {
    let answer = |(code, text): &(&str, &str)| {
        let answer = match format {
            Format::V2 => json!({"description": text, "schema": schema}),
            Format::V3 => json!({"description": text, "content": content(produces, schema)}),
        };
        ((*code).to_owned(), answer)
    };
    let mut all: Map<String, Value> = codes.iter().map(answer).collect();
    all.insert("401".into(), json!({"description": "Unauthorized"}));
    all.into()
}

/// The schema under each media type.
fn content(types: &[&str], schema: &Value) -> Value {
    let types = types.iter();
    types
        .map(|media| ((*media).to_owned(), json!({"schema": schema})))
        .collect::<Map<_, _>>()
        .into()
}

fn query_parameters(operation: &Operation<'_>, format: Format) -> Vec<Value> {
    let sub = operation.sub.map_or("", |sub| &sub.name);
    let names: &[(&str, &str)] = match (operation.action, sub) {
        ("connect", "exec") => &[
            ("command", "string"),
            ("container", "string"),
            ("stderr", "boolean"),
            ("stdin", "boolean"),
            ("stdout", "boolean"),
            ("tty", "boolean"),
        ],
        ("connect", "attach") => &[
            ("container", "string"),
            ("stderr", "boolean"),
            ("stdin", "boolean"),
            ("stdout", "boolean"),
            ("tty", "boolean"),
        ],
        ("connect", "portforward") => &[("ports", "integer")],
        ("connect", _) => &[("path", "string")],
        ("get", "log") => &[
            ("container", "string"),
            ("follow", "boolean"),
            ("insecureSkipTLSVerifyBackend", "boolean"),
            ("limitBytes", "integer"),
            ("pretty", "string"),
            ("previous", "boolean"),
            ("sinceSeconds", "integer"),
            ("stream", "string"),
            ("tailLines", "integer"),
            ("timestamps", "boolean"),
        ],
        ("list" | "watch" | "watchlist", _) => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("pretty", "string"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        ("deletecollection", _) => &[
            ("continue", "string"),
            ("dryRun", "string"),
            ("fieldSelector", "string"),
            ("gracePeriodSeconds", "integer"),
            ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("orphanDependents", "boolean"),
            ("pretty", "string"),
            ("propagationPolicy", "string"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
        ],
        ("delete", _) => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
            ("orphanDependents", "boolean"),
            ("pretty", "string"),
            ("propagationPolicy", "string"),
        ],
        ("patch", _) => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
            ("pretty", "string"),
        ],
        ("post" | "put", _) => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("pretty", "string"),
        ],
        _ => &[("pretty", "string")],
    };
    let names = names.iter();
    names
        .map(|(name, kind)| parameter(name, "query", kind, "", format))
        .collect()
}

fn parameter(name: &str, place: &str, kind: &str, text: &str, format: Format) -> Value {
    let mut out = json!({"name": name, "in": place, "uniqueItems": true});
    if let Some(map) = out.as_object_mut() {
        if !text.is_empty() {
            map.insert("description".into(), text.into());
        }
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
fn operation_id(row: &Resource, word: &str, action: &str, more: &str) -> String {
    let collection = if action == "deletecollection" { "Collection" } else { "" };
    let namespaced = if row.namespaced && !more.ends_with("ForAllNamespaces") {
        "Namespaced"
    } else {
        ""
    };
    format!("{word}{}{collection}{namespaced}{}{more}", version_words(row), row.kind)
}

/// `CoreV1`, `AppsV1`.
fn version_words(row: &Resource) -> String {
    format!("{}{}", words(&row.group), capital(&row.version))
}

/// `Core`, `Apps`, `RbacAuthorization`: the group without the common ending, capitalised.
pub(super) fn words(group: &str) -> String {
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
pub(super) fn tag(group: &str) -> String {
    let text = words(group);
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().chain(characters).collect())
        .unwrap_or_default()
}

pub(super) fn capital(word: &str) -> String {
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
