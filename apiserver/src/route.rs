//! What a request path means, decided from the text alone.
//!
//! This is Kubernetes' "request info": group, version, namespace, resource, name, subresource. It
//! does not know which resources exist; the pipeline looks the parts up in the registry and asks
//! [`ResourcePath::leads_to`] whether such a resource may stand there. Like Kubernetes it decodes the
//! path first and splits it afterwards, so that authorisation and routing can never see different parts.

use coxswain_api::ApiError;

use crate::query::decode_strict;

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
    /// Anything else, with the path split at every slash.
    Other(Vec<String>),
}

/// The parts of a resource path. Missing parts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty for cluster-wide requests. The path of a namespace itself names it here, too.
    pub namespace: String,
    /// The resource stands below `namespaces/NAME/`. False for the path of a namespace itself.
    pub below_namespace: bool,
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
    /// A part in front of `rest` is empty although another follows it (`//`). No resource stands there.
    pub gap: bool,
}

impl ResourcePath {
    /// Whether a resource of that scope may stand at this path. The one check of scopes: every request to every
    /// resource, custom ones too, passes it in the pipeline, so that nothing of the whole cluster is ever reached
    /// below a namespace, and nothing of a namespace outside one, but for collections that can be listed.
    pub fn leads_to(&self, namespaced: bool, listable: bool) -> bool {
        let deeper = self.rest.len() > 1 && self.subresource != "proxy";
        if self.gap || deeper || (self.watch && !self.subresource.is_empty()) {
            return false;
        }
        match (namespaced, self.below_namespace) {
            (true, true) | (false, false) => true,
            (true, false) => self.name.is_empty() && listable,
            (false, true) => false,
        }
    }
}

/// The text of a request path.
///
/// # Errors
/// 400 for percent signs that encode nothing and for what is no UTF-8: it means nothing that could be authorised.
pub fn decoded(path: &str) -> Result<String, ApiError> {
    decode_strict(path).ok_or_else(|| ApiError::bad_request(format!("the path {path:?} is not valid percent-encoding")))
}

/// Splits a decoded request path.
pub fn parse(path: &str) -> Target {
    let other = || Target::Other(split(path.strip_prefix('/').unwrap_or(path)));
    if path.starts_with("//") {
        return other();
    }
    let parts = split(path.trim_matches('/'));
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
        ["apis", group, version, rest @ ..] => {
            let mut found = resource(group, version, rest, path);
            found.gap |= group.is_empty();
            Target::Resource(found)
        }
        // Kubernetes serves this page, and no other outside its APIs, with a slash at the end, too.
        ["version"] => Target::Other(parts),
        _ => other(),
    }
}

/// The parts between slashes; none of an empty text.
fn split(text: &str) -> Vec<String> {
    match text {
        "" => Vec::new(),
        text => text.split('/').map(str::to_owned).collect(),
    }
}

fn resource(group: &str, version: &str, parts: &[&str], path: &str) -> ResourcePath {
    let mut out = ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        gap: version.is_empty(),
        ..ResourcePath::default()
    };
    let mut parts = parts;
    if let (["watch", rest @ ..], true) = (parts, parts.len() > 1) {
        out.watch = true;
        parts = rest;
    }
    if let ["namespaces", namespace, rest @ ..] = parts {
        out.namespace = (*namespace).to_owned();
        out.gap |= namespace.is_empty();
        if !matches!(rest, [] | ["status" | "finalize", ..]) {
            out.below_namespace = true;
            parts = rest;
        }
    }
    let (front, rest) = parts.split_at(parts.len().min(3));
    // Slashes at the end of a path are no parts, so that an empty one has another behind it.
    out.gap |= front.iter().any(|part| part.is_empty());
    let mut words = front.iter();
    let mut next = || words.next().map(|word| (*word).to_owned()).unwrap_or_default();
    out.resource = next();
    out.name = next();
    out.subresource = next();
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
        assert_eq!(parse("/version/"), parse("/version"));
        for other in ["/healthz/", "//healthz", "//api/v1/pods", "/API/v1/pods", "api"] {
            assert!(
                matches!(parse(other), Target::Other(_) | Target::ApiVersions),
                "{other}"
            );
            assert_ne!(parse(other), Target::Other(vec!["healthz".to_owned()]), "{other}");
        }
    }

    /// Whether a path leads to a resource of the cluster, to one of a namespace, and to one that cannot be listed.
    #[test]
    fn scopes() {
        let cases = [
            ("/api/v1/x", [true, true, false]),
            ("/api/v1/x/", [true, true, false]),
            ("/api/v1/x/n", [true, false, false]),
            ("/api/v1/watch/x", [true, true, false]),
            ("/api/v1/watch/x/n", [true, false, false]),
            ("/api/v1/x/n/sub", [true, false, false]),
            ("/api/v1/x/n/sub/deeper", [false, false, false]),
            ("/api/v1/x/n/proxy/deeper//still", [true, false, false]),
            ("/api/v1/namespaces/foo/x", [false, true, true]),
            ("/api/v1/namespaces/foo/x/n/sub", [false, true, true]),
            ("/api/v1/namespaces/foo/x/n/proxy/deeper", [false, true, true]),
            ("/api/v1/watch/namespaces/foo/x", [false, true, true]),
            ("/api/v1/watch/namespaces/foo/x/n/sub", [false, false, false]),
            ("/apis/example.com/v1/namespaces/foo/x/n", [false, true, true]),
            // A namespace itself, and what only looks like it.
            ("/api/v1/namespaces", [true, true, false]),
            ("/api/v1/namespaces/foo", [true, false, false]),
            ("/api/v1/namespaces/foo/status", [true, false, false]),
            ("/api/v1/namespaces/foo/finalize", [true, false, false]),
            ("/api/v1/namespaces/foo/status/x", [false, false, false]),
            ("/api/v1/namespaces/foo/namespaces", [false, true, true]),
            ("/api/v1/namespaces/foo/namespaces/foo", [false, true, true]),
            ("/api/v1/namespaces/foo/namespaces/foo/status", [false, true, true]),
            (
                "/api/v1/namespaces/foo/namespaces/kube-system/finalize",
                [false, true, true],
            ),
            ("/api/v1/watch/namespaces/foo", [true, false, false]),
            ("/api/v1/watch/namespaces/foo/status", [false, false, false]),
            ("/api/v1/watch/namespaces/foo/namespaces", [false, true, true]),
            // Nothing stands behind an empty part.
            ("/api//v1/x", [false, false, false]),
            ("/api/v1//x", [false, false, false]),
            ("/apis//v1/x", [false, false, false]),
            ("/api/v1/x//n", [false, false, false]),
            ("/api/v1/x/n//sub", [false, false, false]),
            ("/api/v1/namespaces//x", [false, false, false]),
            ("/api/v1/namespaces/foo//x", [false, false, false]),
            ("/api/v1/namespaces//namespaces/foo", [false, false, false]),
        ];
        for (path, expected) in cases {
            let Target::Resource(found) = parse(path) else {
                panic!("{path}")
            };
            let leads = [(false, true), (true, true), (true, false)].map(|(n, l)| found.leads_to(n, l));
            assert_eq!(leads, expected, "{path}");
        }
    }

    #[test]
    fn paths_are_decoded_before_they_are_split() {
        let parsed = |path: &str| decoded(path).map(|path| parse(&path));
        for (path, same) in [
            (
                "/api/v1/namespaces/foo%2Fconfigmaps",
                "/api/v1/namespaces/foo/configmaps",
            ),
            ("/%61pi/v1/%70ods", "/api/v1/pods"),
            (
                "/api/v1/namespaces/foo%2Fnamespaces%2fbar",
                "/api/v1/namespaces/foo/namespaces/bar",
            ),
            (
                "/api/v1/namespaces/a/services/http%3Ax%3A80/proxy",
                "/api/v1/namespaces/a/services/http:x:80/proxy",
            ),
        ] {
            assert_eq!(parsed(path).ok(), parsed(same).ok(), "{path}");
        }
        for path in [
            "/api/v1/configmaps/%",
            "/api/v1/configmaps/%zz",
            "/api/v1/configmaps/%f",
            "/api/v1/%ff%fe",
        ] {
            assert_eq!(parsed(path).map_err(|error| error.code), Err(400), "{path}");
        }
        assert_eq!(
            parsed("/api/v1/configmaps/%2525").ok(),
            Some(parse("/api/v1/configmaps/%25"))
        );
    }
}
