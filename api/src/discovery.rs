//! The discovery documents, made from the registry: the legacy lists and the aggregated form (v2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::registry::{Group, Registry, Resource, Subresource, api_version};

/// Which of the two discovery roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `/api`
    Core,
    /// `/apis`
    Groups,
}

/// `/api`: the versions of the core group. `server_address` is `host:port` as clients should see it.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`: every named group.
pub fn api_group_list(registry: &Registry) -> Value {
    let named = registry.groups().into_iter().filter(|group| !group.name.is_empty());
    let groups: Vec<Value> = named.map(|group| group_entry(&group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub fn api_group(registry: &Registry, name: &str) -> Option<Value> {
    let group = registry
        .groups()
        .into_iter()
        .find(|group| !name.is_empty() && &*group.name == name)?;
    let mut entry = group_entry(&group);
    if let Some(map) = entry.as_object_mut() {
        map.insert("kind".into(), "APIGroup".into());
        map.insert("apiVersion".into(), "v1".into());
    }
    Some(entry)
}

/// `/api/v1` and `/apis/<group>/<version>`: the resources of one version.
pub fn resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for row in registry.in_version(group, version) {
        resources.push(resource_entry(row));
        resources.extend(row.subresources.iter().map(|sub| subresource_entry(row, sub)));
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = api_version(group, version);
    let mut list = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    if let (false, Some(map)) = (group.is_empty(), list.as_object_mut()) {
        map.insert("apiVersion".into(), "v1".into());
    }
    Some(list)
}

/// The aggregated form (`apidiscovery.k8s.io/v2`) of one root.
pub fn aggregated(registry: &Registry, root: Root) -> Value {
    let wanted = |group: &Group| group.name.is_empty() == (root == Root::Core);
    let items: Vec<Value> = registry
        .groups()
        .iter()
        .filter(|group| wanted(group))
        .map(|group| aggregated_group(registry, group))
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// What Kubernetes prints as the `storageVersionHash` of a stored resource.
pub fn storage_version_hash(resource: &Resource) -> String {
    // Versions in which Kubernetes 1.36 stores these; clients only compare the hash.
    let stored_version = match (&*resource.group, &*resource.plural) {
        ("apiextensions.k8s.io", "customresourcedefinitions") => "v1beta1",
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies" | "mutatingadmissionpolicybindings") => "v1beta1",
        ("autoscaling", "horizontalpodautoscalers") => "v2",
        ("events.k8s.io", "events") => "v1",
        ("" | "autoscaling", _) => &*resource.version,
        _ => &*resource.storage_gvk.version,
    };
    let text = format!("{}/{stored_version}/{}", resource.group, resource.kind);
    let digest = Sha256::digest(text.as_bytes());
    STANDARD.encode(digest.get(..8).unwrap_or(&digest))
}

fn group_entry(group: &Group) -> Value {
    let version = |version: &str| json!({"groupVersion": api_version(&group.name, version), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(|name| version(name)).collect();
    let preferred = group.versions.first().map(|name| version(name));
    json!({"name": &*group.name, "versions": versions, "preferredVersion": preferred})
}

fn resource_entry(row: &Resource) -> Value {
    let mut entry = Map::new();
    entry.insert("name".into(), (&*row.plural).into());
    entry.insert("singularName".into(), (&*row.singular).into());
    entry.insert("namespaced".into(), row.namespaced.into());
    entry.insert("kind".into(), (&*row.kind).into());
    entry.insert("verbs".into(), row.verbs.into());
    insert_names(&mut entry, row);
    if row.is_stored() {
        entry.insert("storageVersionHash".into(), storage_version_hash(row).into());
    }
    Value::Object(entry)
}

fn insert_names(entry: &mut Map<String, Value>, row: &Resource) {
    for (key, names) in [("shortNames", &row.short_names), ("categories", &row.categories)] {
        if !names.is_empty() {
            entry.insert(key.into(), names.iter().map(|name| Value::from(&**name)).collect());
        }
    }
}

fn subresource_entry(row: &Resource, sub: &Subresource) -> Value {
    let mut entry = Map::new();
    entry.insert("name".into(), format!("{}/{}", row.plural, sub.name).into());
    entry.insert("singularName".into(), "".into());
    entry.insert("namespaced".into(), row.namespaced.into());
    if sub.foreign {
        entry.insert("group".into(), (&*sub.kind.group).into());
        entry.insert("version".into(), (&*sub.kind.version).into());
    }
    entry.insert("kind".into(), (&*sub.kind.kind).into());
    entry.insert("verbs".into(), sub.verbs.into());
    Value::Object(entry)
}

fn aggregated_group(registry: &Registry, group: &Group) -> Value {
    let mut versions: Vec<Value> = Vec::new();
    for version in &group.versions {
        let resources: Vec<Value> = registry
            .in_version(&group.name, version)
            .map(|row| aggregated_resource(row))
            .collect();
        versions.push(json!({"version": &**version, "resources": resources, "freshness": "Current"}));
    }
    let metadata = if group.name.is_empty() {
        json!({})
    } else {
        json!({"name": &*group.name})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(row: &Resource) -> Value {
    let own = registered_kind(row);
    let mut entry = Map::new();
    entry.insert("resource".into(), (&*row.plural).into());
    entry.insert(
        "responseKind".into(),
        json!({"group": own.0, "version": own.1, "kind": &*row.kind}),
    );
    entry.insert(
        "scope".into(),
        if row.namespaced { "Namespaced" } else { "Cluster" }.into(),
    );
    entry.insert("singularResource".into(), (&*row.singular).into());
    entry.insert("verbs".into(), row.verbs.into());
    insert_names(&mut entry, row);
    let subresources: Vec<Value> = row
        .subresources
        .iter()
        .map(|sub| aggregated_subresource(row, sub))
        .collect();
    if !subresources.is_empty() {
        entry.insert("subresources".into(), subresources.into());
    }
    Value::Object(entry)
}

fn aggregated_subresource(row: &Resource, sub: &Subresource) -> Value {
    let own = registered_kind(row);
    let (group, version) = if sub.foreign {
        (&*sub.kind.group, &*sub.kind.version)
    } else {
        own
    };
    json!({
        "subresource": &*sub.name,
        "responseKind": {"group": group, "version": version, "kind": &*sub.kind.kind},
        "verbs": sub.verbs,
    })
}

/// Kubernetes leaves group and version of a built-in's response kind empty (they are the list's own) and
/// fills them in for custom resources.
fn registered_kind(row: &Resource) -> (&str, &str) {
    if row.type_name.is_some() {
        ("", "")
    } else {
        (&row.group, &row.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kubernetes() {
        let registry = Registry::builtin();
        let cases = [
            ("apps", "v1", "deployments", "8aSe+NMegvE="),
            ("", "v1", "configmaps", "qFsyl6wFWjQ="),
            ("", "v1", "events", "r2yiGXH7wu8="),
            ("autoscaling", "v1", "horizontalpodautoscalers", "qwQve8ut294="),
            (
                "apiextensions.k8s.io",
                "v1",
                "customresourcedefinitions",
                "jfWCUB31mvA=",
            ),
        ];
        for (group, version, plural, hash) in cases {
            assert_eq!(
                storage_version_hash(registry.resource(group, version, plural).unwrap()),
                hash,
                "{plural}"
            );
        }
    }

    /// The recorded documents, when the workspace has its sibling with the recordings.
    #[test]
    fn documents_are_those_recorded() {
        let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference");
        let registry = Registry::builtin();
        for (file, root) in [
            ("discovery-api.json", Root::Core),
            ("discovery-apis.json", Root::Groups),
        ] {
            let Ok(text) = std::fs::read_to_string(format!("{shared}/{file}")) else {
                return;
            };
            let recorded: Value = serde_json::from_str(&text).unwrap();
            let ours = aggregated(&registry, root);
            for (position, item) in recorded["items"].as_array().unwrap().iter().enumerate() {
                assert_eq!(&ours["items"][position], item, "{file}");
            }
        }
    }
}
