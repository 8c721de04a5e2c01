//! Objections to environment variables and to references to fields and resources.

use crate::Quantity;
use crate::field::{ErrorList, Path, invalid, not_found, not_supported, required};
use crate::kinds::access::{get, has, list, str_of};
use crate::kinds::check;
use crate::kinds::meta::NameRule;
use crate::names;
use serde_json::Value;

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Everything that a downward reference can be converted from.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// `env`.
pub fn variables(errors: &mut ErrorList, path: &Path, variables: &[Value]) {
    for (i, variable) in variables.iter().enumerate() {
        let path = path.index(i);
        let name = str_of(variable, "name");
        if name.is_empty() {
            errors.push(required(&path.child("name"), ""));
        } else {
            check::each(errors, &path.child("name"), name, names::env_var_name(name));
        }
        if get(variable, "valueFrom").is_object() {
            value_from(errors, &path.child("valueFrom"), variable);
        }
    }
}

fn value_from(errors: &mut ErrorList, path: &Path, variable: &Value) {
    let from = get(variable, "valueFrom");
    let mut sources = 0;
    for kind in [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ] {
        let reference = get(from, kind);
        if !reference.is_object() {
            continue;
        }
        sources += 1;
        let at = path.child(kind);
        match kind {
            "fieldRef" => field_reference(errors, &at, reference, ENV_FIELDS),
            "resourceFieldRef" => resource_reference(errors, &at, reference, false),
            "fileKeyRef" => file_reference(errors, &at, reference),
            _ => key_reference(errors, &at, reference),
        }
    }
    if sources == 0 {
        errors.push(invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ));
    } else if !str_of(variable, "value").is_empty() {
        errors.push(invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(invalid(
            path,
            "",
            "may not have more than one field specified at a time",
        ));
    }
}

fn key_reference(errors: &mut ErrorList, path: &Path, reference: &Value) {
    check::dns_subdomain(errors, &path.child("name"), str_of(reference, "name"));
    let key = str_of(reference, "key");
    if key.is_empty() {
        errors.push(required(&path.child("key"), ""));
    } else {
        check::each(errors, &path.child("key"), key, names::config_map_key(key));
    }
}

fn file_reference(errors: &mut ErrorList, path: &Path, reference: &Value) {
    for key in ["key", "volumeName", "path"] {
        let at = path.child(key);
        match (key, str_of(reference, key)) {
            (_, "") => errors.push(required(&at, "")),
            ("key", text) => check::each(errors, &at, text, names::env_var_name(text)),
            ("volumeName", text) => check::dns_label(errors, &at, text),
            (_, text) => super::volumes::no_backsteps(errors, &at, text),
        }
    }
}

/// Files with variables lie in empty directories of the same pod.
pub fn file_volumes(errors: &mut ErrorList, path: &Path, spec: &Value) {
    // The last of a name, where there are several.
    let volumes = check::by_name(list(spec, "volumes").iter().rev());
    for (at, container) in super::containers::all(path, spec) {
        for (i, variable) in list(container, "env").iter().enumerate() {
            let reference = get(get(variable, "valueFrom"), "fileKeyRef");
            if !reference.is_object() {
                continue;
            }
            let name = str_of(reference, "volumeName");
            let at = at.child("env").index(i).child("valueFrom").child("fileKeyRef");
            let at = at.child("volumeName");
            match volumes.get(name) {
                None => errors.push(not_found(&at, name)),
                Some(volume) if !has(volume, "emptyDir") => {
                    errors.push(invalid(&at, name, "referenced volume must be of type emptyDir"));
                }
                Some(_) => {}
            }
        }
    }
}

/// `envFrom`.
pub fn sources(errors: &mut ErrorList, path: &Path, sources: &[Value]) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = str_of(source, "prefix");
        if !prefix.is_empty() {
            check::each(errors, &at.child("prefix"), prefix, names::env_var_name(prefix));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if has(source, kind) {
                count += 1;
                let at = at.child(kind).child("name");
                match str_of(get(source, kind), "name") {
                    "" => errors.push(required(&at, "")),
                    // A dash at the end is let through here, as if the name were the beginning of one.
                    name => check::each(errors, &at, name, NameRule::Subdomain.objections(name, true)),
                }
            }
        }
        match count {
            0 => errors.push(invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            )),
        }
    }
}

/// One file of a downward API volume.
pub fn downward_file(errors: &mut ErrorList, path: &Path, file: &Value) {
    let place = str_of(file, "path");
    if place.is_empty() {
        errors.push(required(&path.child("path"), ""));
    }
    super::volumes::not_reserved_path(errors, &path.child("path"), place);
    match (
        get(file, "fieldRef").is_object(),
        get(file, "resourceFieldRef").is_object(),
    ) {
        (true, both) => {
            field_reference(errors, &path.child("fieldRef"), get(file, "fieldRef"), VOLUME_FIELDS);
            if both {
                errors.push(invalid(
                    path,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                ));
            }
        }
        (false, true) => resource_reference(
            errors,
            &path.child("resourceFieldRef"),
            get(file, "resourceFieldRef"),
            true,
        ),
        (false, false) => errors.push(required(path, "one of fieldRef and resourceFieldRef is required")),
    }
    super::volumes::file_mode(errors, &path.child("mode"), file, "mode");
}

fn field_reference(errors: &mut ErrorList, path: &Path, reference: &Value, supported: &[&str]) {
    let (version, field) = (str_of(reference, "apiVersion"), str_of(reference, "fieldPath"));
    for (key, value) in [("apiVersion", version), ("fieldPath", field)] {
        if value.is_empty() {
            errors.push(required(&path.child(key), ""));
            return;
        }
    }
    let at = path.child("fieldPath");
    if version != "v1" {
        errors.push(invalid(
            &at,
            field,
            format!("error converting fieldPath: unsupported pod version: {version}"),
        ));
        return;
    }
    if let Some((base, subscript)) = subscripted(field) {
        match base {
            "metadata.annotations" => check::each(
                errors,
                path,
                subscript,
                names::qualified_name(&subscript.to_lowercase()),
            ),
            "metadata.labels" => check::qualified(errors, path, subscript),
            _ => errors.push(invalid(
                &at,
                field,
                format!("error converting fieldPath: field label does not support subscript: {field}"),
            )),
        }
        return;
    }
    let field = if field == "spec.host" { "spec.nodeName" } else { field };
    if !KNOWN_FIELDS.contains(&field) {
        errors.push(invalid(
            &at,
            field,
            format!("error converting fieldPath: field label not supported: {field}"),
        ));
    } else if !supported.contains(&field) {
        errors.push(not_supported(&at, field, supported));
    }
}

/// `metadata.labels['key']` as path and key.
fn subscripted(field: &str) -> Option<(&str, &str)> {
    let rest = field.strip_suffix("']")?;
    rest.split_once("['").filter(|(base, _)| !base.is_empty())
}

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn resource_reference(errors: &mut ErrorList, path: &Path, reference: &Value, in_volume: bool) {
    let resource = str_of(reference, "resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && str_of(reference, "containerName").is_empty() {
        errors.push(required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(not_supported(&path.child("resource"), resource, RESOURCES));
    }
    let divisor = str_of(reference, "divisor");
    if Quantity::parse(divisor).map_or(true, |q| q == Quantity::ZERO) {
        return;
    }
    const SIZES: &[&str] = &[
        "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
    ];
    let (allowed, noun): (&[&str], &str) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "cpu"),
        "limits.memory" | "requests.memory" => (SIZES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (SIZES, "local ephemeral storage"),
        _ if huge => (SIZES, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        let list = if noun == "cpu" {
            "1m and 1".to_owned()
        } else {
            SIZES.join(", ")
        };
        let detail = format!("only divisor's values {list} are supported with the {noun} resource");
        errors.push(invalid(&path.child("divisor"), resource, detail));
    }
}

/// The key references of projected and object volumes.
pub fn key_to_path(errors: &mut ErrorList, path: &Path, item: &Value) {
    for key in ["key", "path"] {
        if str_of(item, key).is_empty() {
            errors.push(required(&path.child(key), ""));
        }
    }
    super::volumes::not_reserved_path(errors, &path.child("path"), str_of(item, "path"));
    super::volumes::file_mode(errors, &path.child("mode"), item, "mode");
}

/// Every item of an `items` member.
pub fn keys_to_paths(errors: &mut ErrorList, path: &Path, owner: &Value) {
    for (i, item) in list(owner, "items").iter().enumerate() {
        key_to_path(errors, &path.child("items").index(i), item);
    }
}
