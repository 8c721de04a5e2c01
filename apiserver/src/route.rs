//! What a request path means, decided from the text alone.
//!
//! This is Kubernetes' "request info": group, version, namespace, resource, name, subresource. It
//! does not know which resources exist; the pipeline looks the parts up in the registry.

use crate::query::decode;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An object, a collection or a subresource.
    Resource(ResourcePath),
    /// `/api`
    ApiVersions,
    /// `/apis`
    ApiGroups,
    /// `/apis/GROUP`
    ApiGroup(String),
    /// `/api/v1` or `/apis/GROUP/VERSION` (group empty for the core group).
    ApiResources { group: String, version: String },
    /// Anything else, with the path split at slashes.
    Other(Vec<String>),
}

/// The parts of a resource path. Missing parts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty for cluster-wide requests.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Object name, empty for collections.
    pub name: String,
    /// Subresource.
    pub subresource: String,
    /// What follows the subresource (paths behind `proxy`), with a leading slash when not empty.
    pub rest: String,
    /// The path had the old `/watch/` prefix.
    pub watch: bool,
}

/// Splits a request path.
pub fn parse(path: &str) -> Target {
    let parts: Vec<String> = path
        .trim_matches('/')
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| decode(part, false))
        .collect();
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["api"] => Target::ApiVersions,
        ["apis"] => Target::ApiGroups,
        ["apis", group] => Target::ApiGroup((*group).to_owned()),
        ["api", version] => Target::ApiResources {
            group: String::new(),
            version: (*version).to_owned(),
        },
        ["apis", group, version] => Target::ApiResources {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
        },
        ["api", version, rest @ ..] => Target::Resource(resource("", version, rest, path)),
        ["apis", group, version, rest @ ..] => Target::Resource(resource(group, version, rest, path)),
        _ => Target::Other(parts),
    }
}

fn resource(group: &str, version: &str, parts: &[&str], path: &str) -> ResourcePath {
    let mut out = ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        ..ResourcePath::default()
    };
    let mut parts = parts;
    if let (["watch", rest @ ..], true) = (parts, parts.len() > 1) {
        out.watch = true;
        parts = rest;
    }
    if let ["namespaces", namespace, rest @ ..] = parts {
        let itself = matches!(rest, [] | ["status"] | ["finalize"]);
        out.namespace = (*namespace).to_owned();
        if !itself {
            parts = rest;
        }
    }
    let mut words = parts.iter();
    let mut next = || words.next().map(|word| (*word).to_owned()).unwrap_or_default();
    out.resource = next();
    out.name = next();
    out.subresource = next();
    let rest = parts.get(3..).unwrap_or_default();
    if !rest.is_empty() {
        out.rest = rest.iter().fold(String::new(), |all, part| all + "/" + part);
    }
    if !out.subresource.is_empty() && path.ends_with('/') {
        out.rest.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let cases = [
            ("/api/v1/pods", ["", "v1", "", "pods", "", "", ""]),
            ("/api/v1/namespaces", ["", "v1", "", "namespaces", "", "", ""]),
            ("/api/v1/namespaces/a", ["", "v1", "a", "namespaces", "a", "", ""]),
            (
                "/api/v1/namespaces/a/finalize",
                ["", "v1", "a", "namespaces", "a", "finalize", ""],
            ),
            ("/api/v1/namespaces/a/pods", ["", "v1", "a", "pods", "", "", ""]),
            (
                "/api/v1/watch/namespaces/a/pods/x",
                ["", "v1", "a", "pods", "x", "", ""],
            ),
            (
                "/apis/apps/v1/namespaces/a/deployments/x/scale",
                ["apps", "v1", "a", "deployments", "x", "scale", ""],
            ),
            (
                "/api/v1/namespaces/a/services/http:x:80/proxy/p/q/",
                ["", "v1", "a", "services", "http:x:80", "proxy", "/p/q/"],
            ),
            ("/api/v1/nodes/n/proxy/", ["", "v1", "", "nodes", "n", "proxy", "/"]),
        ];
        for (path, expected) in cases {
            let Target::Resource(found) = parse(path) else {
                panic!("{path}")
            };
            let found_parts = [
                found.group,
                found.version,
                found.namespace,
                found.resource,
                found.name,
                found.subresource,
                found.rest,
            ];
            assert_eq!(found_parts, expected.map(str::to_owned), "{path}");
        }
        assert_eq!(parse("/apis/"), Target::ApiGroups);
        assert_eq!(parse("/"), Target::Other(vec![]));
    }
}
