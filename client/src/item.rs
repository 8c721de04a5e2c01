//! What caches hold: typed objects, or only how objects are related.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::trim::without_managed_fields;
use crate::write::revision_of;

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> ObjectKey {
        ObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object.
    pub fn of(meta: &ObjectMeta) -> ObjectKey {
        ObjectKey::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What a cached kind must be able to do; every typed Kubernetes kind can.
pub trait Item: DeserializeOwned + Clone + Debug + Send + Sync + 'static {
    /// The server is asked for metadata only, nothing is looked up by its controller, and objects are held decoded; of
    /// others a cache holds the text.
    const METADATA_ONLY: bool;

    /// From its JSON, without what caches do not keep.
    ///
    /// # Errors
    /// When it is not such an object.
    fn decode(text: &str) -> Result<Self, serde_json::Error>;

    /// Where it is.
    fn key(&self) -> ObjectKey;

    /// Its `resourceVersion`, 0 when it has none.
    fn revision(&self) -> u64;

    /// Its uid, empty when it has none.
    fn uid(&self) -> &str;

    /// The uid of the owner that is marked as the controller.
    fn controller(&self) -> Option<&str>;

    /// Its labels, where objects are looked up by them.
    fn labels(&self) -> Option<&BTreeMap<String, String>>;

    /// Makes it as a cache holds it decoded: without what is not looked at, and sharing the cache's key.
    fn fit(&mut self, key: &ObjectKey);
}

impl<K: Resource + DeserializeOwned + Clone + Debug + Send + Sync + 'static> Item for K {
    const METADATA_ONLY: bool = false;

    fn decode(text: &str) -> Result<K, serde_json::Error> {
        serde_json::from_str(&without_managed_fields(text))
    }

    fn key(&self) -> ObjectKey {
        ObjectKey::of(self.meta())
    }

    fn revision(&self) -> u64 {
        revision_of(self.meta())
    }

    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }

    fn controller(&self) -> Option<&str> {
        let owners = self.meta().owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        controller.map(|owner| owner.uid.as_str())
    }

    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.meta().labels.as_ref()
    }

    fn fit(&mut self, _key: &ObjectKey) {
        self.meta_mut().managed_fields = None;
    }
}

/// What tells any object and its relations apart: a quarter of the memory of its metadata.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Partial")]
pub struct Relations {
    /// Where it is.
    pub key: ObjectKey,
    /// Its uid, empty when it has none.
    pub uid: Arc<str>,
    /// Its `resourceVersion`, 0 when it has none.
    pub revision: u64,
    /// Its `ownerReferences`.
    pub owners: Box<[OwnerReference]>,
    /// Its finalizers.
    pub finalizers: Box<[String]>,
    /// Its `deletionTimestamp` is set.
    pub deleting: bool,
}

#[derive(Deserialize)]
struct Partial {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
    deletion_timestamp: Option<IgnoredAny>,
}

impl From<Partial> for Relations {
    fn from(Partial { metadata }: Partial) -> Relations {
        let text = |text: Option<String>| text.unwrap_or_default();
        Relations {
            key: ObjectKey::new(&text(metadata.namespace), &text(metadata.name)),
            uid: text(metadata.uid).into(),
            revision: text(metadata.resource_version).parse().unwrap_or(0),
            owners: metadata.owner_references.unwrap_or_default().into(),
            finalizers: metadata.finalizers.unwrap_or_default().into(),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Item for Relations {
    const METADATA_ONLY: bool = true;

    fn decode(text: &str) -> Result<Relations, serde_json::Error> {
        serde_json::from_str(text)
    }

    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn controller(&self) -> Option<&str> {
        None
    }

    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        None
    }

    fn fit(&mut self, key: &ObjectKey) {
        self.key = key.clone();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn relations_are_read_from_any_object() {
        let owner = r#"{"apiVersion":"v1","kind":"X","name":"o","uid":"ou","controller":true}"#;
        let text = format!(
            r#"{{"kind":"X","metadata":{{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","labels":{{"l":"1"}},
                "managedFields":[{{}}],"ownerReferences":[{owner}],"finalizers":["f"],"deletionTimestamp":"then"}},"x":1}}"#
        );
        let found = Relations::decode(&text).expect("decodes");
        assert_eq!(
            (found.key(), found.revision(), found.uid()),
            (ObjectKey::new("n", "a"), 7, "u")
        );
        assert_eq!(found.owners[0].uid, "ou");
        assert_eq!((&*found.finalizers, found.deleting), (&["f".to_owned()][..], true));
        let nothing = Relations::decode(r#"{"metadata":{"name":"a","finalizers":null,"deletionTimestamp":null}}"#);
        let nothing = nothing.expect("decodes");
        assert_eq!(
            (nothing.revision, nothing.owners.len(), nothing.deleting),
            (0, 0, false)
        );
        assert!(Relations::decode("[1]").is_err());
    }

    #[test]
    fn managed_fields_are_not_kept() {
        let text = r#"{"metadata":{"name":"a","labels":{"l":"1"},"managedFields":[{"manager":"m"}]}}"#;
        let object = ConfigMap::decode(text).expect("decodes");
        assert!(object.metadata.labels.is_some() && object.metadata.managed_fields.is_none());
    }
}
