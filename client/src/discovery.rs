//! Which resources the server has, from its aggregated discovery documents (two requests).

use serde::Deserialize;

use crate::error::ClientError;
use crate::transport::Client;

/// Asks for the aggregated form.
pub const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource in one version of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceInfo {
    /// Empty for the core group.
    pub group: String,
    /// For example `v1`.
    pub version: String,
    /// For example `pods`.
    pub plural: String,
    /// For example `pod`; some kinds have none.
    pub singular: String,
    /// For example `Pod`.
    pub kind: String,
    /// For example `po`.
    pub short_names: Vec<String>,
    /// Names of groups of resources, for example `all`.
    pub categories: Vec<String>,
    /// It lives in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
    /// For example `status`.
    pub subresources: Vec<String>,
}

impl ResourceInfo {
    /// The collection's path, in one namespace or over all; a namespace is ignored for what is cluster-scoped.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{}/{}", encode(namespace), self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// The path of one object.
    pub fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.path(Some(namespace)), encode(name))
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, `deployments.apps`: as error texts and counts name it.
    pub fn qualified(&self) -> String {
        with_group(&self.plural, &self.group)
    }

    /// `pod`, `deployment.apps`: as objects are named in front of a slash.
    pub fn object_prefix(&self) -> String {
        if self.singular.is_empty() {
            with_group(&self.kind.to_lowercase(), &self.group)
        } else {
            with_group(&self.singular, &self.group)
        }
    }

    /// It can do all of these.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }
}

/// Percent-encodes one query value or path segment.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn with_group(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

/// One aggregated discovery document, `/api` or `/apis`.
#[derive(Deserialize)]
pub struct GroupList {
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupName,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct GroupName {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    resource: String,
    #[serde(default)]
    response_kind: Option<Kind>,
    #[serde(default)]
    singular_resource: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    subresources: Vec<Subrow>,
}

#[derive(Deserialize)]
struct Subrow {
    subresource: String,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

/// Where the documents are.
pub const PATHS: [&str; 2] = ["/api", "/apis"];

impl GroupList {
    /// Its resources in all versions, in the server's order of preference.
    pub fn resources(self) -> Vec<ResourceInfo> {
        let mut found = Vec::new();
        for group in self.items {
            for version in group.versions {
                for row in version.resources {
                    found.push(ResourceInfo {
                        group: group.metadata.name.clone(),
                        version: version.version.clone(),
                        plural: row.resource,
                        singular: row.singular_resource,
                        kind: row.response_kind.map(|k| k.kind).unwrap_or_default(),
                        short_names: row.short_names,
                        categories: row.categories,
                        namespaced: row.scope == "Namespaced",
                        verbs: row.verbs,
                        subresources: row.subresources.into_iter().map(|s| s.subresource).collect(),
                    });
                }
            }
        }
        found
    }
}

/// All resources in all versions, groups and versions in the server's order of preference.
pub async fn all_resources(client: &Client) -> Result<Vec<ResourceInfo>, ClientError> {
    let mut found = Vec::new();
    for path in PATHS {
        let list: GroupList = client
            .request(http::Method::GET, path, &[("accept", ACCEPT)], None)
            .await?;
        found.extend(list.resources());
    }
    Ok(found)
}

/// Each resource once, in its group's preferred version that has it.
pub async fn preferred_resources(client: &Client) -> Result<Vec<ResourceInfo>, ClientError> {
    let mut kept: Vec<ResourceInfo> = Vec::new();
    for resource in all_resources(client).await? {
        let known = kept
            .iter()
            .any(|k| k.group == resource.group && k.plural == resource.plural);
        if !known {
            kept.push(resource);
        }
    }
    Ok(kept)
}
