//! Which resources the server has, from its aggregated discovery documents (two requests).

use serde::Deserialize;

use crate::error::ClientError;
use crate::transport::Client;

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource in one version of its group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceInfo {
    /// Empty for the core group.
    pub group: String,
    /// For example `v1`.
    pub version: String,
    /// For example `pods`.
    pub plural: String,
    /// For example `Pod`.
    pub kind: String,
    /// It lives in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
}

impl ResourceInfo {
    /// The collection's path, in one namespace or over all.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// It can do all of these.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }
}

#[derive(Deserialize)]
struct GroupList {
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
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

/// All resources in all versions, groups and versions in the server's order of preference.
pub async fn all_resources(client: &Client) -> Result<Vec<ResourceInfo>, ClientError> {
    let mut found = Vec::new();
    for path in ["/api", "/apis"] {
        let list: GroupList = client
            .request(http::Method::GET, path, &[("accept", ACCEPT)], None)
            .await?;
        for group in list.items {
            for version in group.versions {
                for row in version.resources {
                    found.push(ResourceInfo {
                        group: group.metadata.name.clone(),
                        version: version.version.clone(),
                        plural: row.resource,
                        kind: row.response_kind.map(|k| k.kind).unwrap_or_default(),
                        namespaced: row.scope == "Namespaced",
                        verbs: row.verbs,
                    });
                }
            }
        }
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
