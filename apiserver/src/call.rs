//! One request to one resource, and how stored objects look from there.
//!
//! Objects are stored without `apiVersion` and `kind`, because the same bytes are served under
//! every version of a resource and inside lists, where built-in kinds carry neither. A single
//! object gets the two members put in front of its stored bytes; a resource whose versions differ
//! in shape is converted by its kind's rules.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use coxswain_api::codec::protobuf;
use coxswain_api::kinds::access;
use coxswain_api::schema::Node;
use coxswain_api::{ApiError, Registry, Resource};
use coxswain_store::{Draft, Head, Key, Snapshot, Stored};
use serde_json::Value;

use crate::User;
use crate::negotiate::Form;
use crate::query::Query;
use crate::route::ResourcePath;
use crate::shared::{Shared, refused};

/// Warnings that are kept: more than an answer has room for, where each has some letters.
const WARNINGS_MAX: usize = 500;

/// A decoded request to one row of the registry.
pub(crate) struct Call {
    pub server: Arc<Shared>,
    pub registry: Arc<Registry>,
    pub row: Arc<Resource>,
    pub path: ResourcePath,
    /// The verb that was authorised.
    pub verb: String,
    pub user: User,
    /// The address that the request came from, by its connection.
    pub source: Option<IpAddr>,
    pub query: Query,
    pub form: Form,
    pub user_agent: String,
    pub content_type: String,
    pub body: Bytes,
    pub(crate) warnings: Mutex<Vec<String>>,
}

impl Call {
    /// Adds a text for a `Warning` header, once. Beyond what an answer tells there is nothing to add to.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < WARNINGS_MAX && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// The texts collected so far.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until this member knows every write that was acknowledged anywhere before: for a read that does not say
    /// which state will do, and for a write that is prepared here although another member leads.
    ///
    /// # Errors
    /// 503 when no leader confirms it in time.
    pub async fn catch_up(&self, verb: &str) -> Result<(), ApiError> {
        let store = &self.server.store;
        let reads = matches!(verb, "get" | "list" | "watch");
        let will_do = match reads {
            true => ["resourceVersion", "continue"]
                .iter()
                .any(|name| !self.query.text(name).is_empty()),
            false => *store.leader().borrow(),
        };
        if !will_do {
            store.read_barrier().await.map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    /// The newest state of this member.
    pub fn snapshot(&self) -> Snapshot {
        self.server.store.snapshot()
    }

    /// The namespace objects of this request live in, empty for cluster-scoped resources.
    pub fn namespace(&self) -> &str {
        if self.row.namespaced { &self.path.namespace } else { "" }
    }

    /// Key of an object of this resource in the request's namespace.
    pub fn key(&self, name: &str) -> Key {
        Key::new(self.row.storage.clone(), self.namespace(), name)
    }

    /// `apps/v1`
    pub fn group_version(&self) -> String {
        group_version(&self.row.group, &self.row.version)
    }

    /// Whether stored objects have another shape than this version shows.
    pub fn converted(&self) -> bool {
        self.row.storage_gvk != self.row.gvk()
    }

    /// The schema of this resource's objects.
    pub fn node(&self) -> Node<'_> {
        self.row.node()
    }

    /// The member texts `"apiVersion":...,"kind":...,` that go in front of a stored object.
    pub fn type_prefix(&self) -> String {
        let Resource {
            group, version, kind, ..
        } = &*self.row;
        let slash = if group.is_empty() { "" } else { "/" };
        // Names of groups, versions and kinds are plain letters.
        [
            "{\"apiVersion\":\"",
            group,
            slash,
            version,
            "\",\"kind\":\"",
            kind,
            "\",",
        ]
        .concat()
    }

    /// The stored object as this version shows it.
    pub fn present(&self, stored: &Stored) -> Value {
        let mut value: Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
        if self.converted() {
            access::set(
                &mut value,
                "apiVersion",
                group_version(&self.row.storage_gvk.group, &self.row.storage_gvk.version),
            );
            access::set(&mut value, "kind", &*self.row.storage_gvk.kind);
            self.row.rules.from_storage(&mut value, &self.row.version);
        }
        access::set(&mut value, "apiVersion", self.group_version());
        access::set(&mut value, "kind", &*self.row.kind);
        value
    }

    /// The stored object in the shape rules work on.
    pub fn internal(&self, stored: &Stored) -> Value {
        let mut value: Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
        self.stamp_type(&mut value);
        value
    }

    /// Turns an object of the request's version into the shape rules work on.
    pub fn to_internal(&self, mut value: Value) -> Value {
        if self.converted() {
            self.row.rules.to_storage(&mut value, &self.row.version);
        }
        self.stamp_type(&mut value);
        value
    }

    /// Turns an object in the rules' shape into the request's version.
    pub fn to_versioned(&self, mut value: Value) -> Value {
        if self.converted() {
            self.row.rules.from_storage(&mut value, &self.row.version);
        }
        access::set(&mut value, "apiVersion", self.group_version());
        access::set(&mut value, "kind", &*self.row.kind);
        value
    }

    fn stamp_type(&self, value: &mut Value) {
        access::set(
            value,
            "apiVersion",
            group_version(&self.row.storage_gvk.group, &self.row.storage_gvk.version),
        );
        access::set(value, "kind", &*self.row.storage_gvk.kind);
    }

    /// The stored bytes as this version shows them, in pieces to be sent one after the other.
    pub fn object_bytes(&self, stored: &Stored) -> Vec<Bytes> {
        if self.converted() {
            return vec![encode(&self.present(stored))];
        }
        vec![
            Bytes::from(self.type_prefix()),
            stored.bytes.slice(1.min(stored.bytes.len())..),
        ]
    }

    /// Adds one item of a list: built-in kinds carry no type there.
    pub fn add_item(&self, stored: &Stored, out: &mut BytesMut) {
        if self.converted() {
            let mut value = self.present(stored);
            access::remove(&mut value, "apiVersion");
            access::remove(&mut value, "kind");
            out.extend_from_slice(&encode(&value));
        } else if self.row.type_name.is_some() {
            out.extend_from_slice(&stored.bytes);
        } else {
            for piece in self.object_bytes(stored) {
                out.extend_from_slice(&piece);
            }
        }
    }

    /// The protobuf message of a stored object of a built-in kind, kept with it while there is room.
    pub fn message(&self, stored: &Stored) -> Bytes {
        let type_name = self.row.type_name.unwrap_or_default();
        if self.converted() {
            return protobuf::message(&self.present(stored), type_name).into();
        }
        stored.other_form(&self.server.forms, || {
            let value: Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
            // A boxed slice has no room to spare: what is kept is what is counted.
            protobuf::message(&value, type_name).into_boxed_slice().into()
        })
    }

    /// The PartialObjectMetadata of a stored object in JSON.
    pub fn partial_bytes(&self, stored: &Stored) -> Vec<u8> {
        let version = self.form.view_version();
        let mut out =
            format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{version}\",\"metadata\":").into_bytes();
        out.extend_from_slice(&self.metadata_bytes(stored));
        out.push(b'}');
        out
    }

    /// The metadata of a stored object as this version shows it.
    fn metadata_bytes(&self, stored: &Stored) -> Bytes {
        if self.converted() {
            // What a version cannot say may stand in its annotations.
            return encode(access::get(&self.present(stored), "metadata"));
        }
        let found = metadata_of(&stored.bytes);
        if found.is_empty() {
            Bytes::from_static(b"{}")
        } else {
            stored.bytes.slice_ref(found)
        }
    }

    /// The protobuf message of what a PartialObjectMetadataList holds of a stored object.
    pub fn partial_message(&self, stored: &Stored) -> Bytes {
        let metadata: Value = serde_json::from_slice(&self.metadata_bytes(stored)).unwrap_or_default();
        protobuf::partial(&serde_json::json!({"metadata": metadata}))
            .unwrap_or_default()
            .into()
    }

    /// An object in the rules' shape as it goes to the store.
    pub fn draft(&self, value: &Value) -> Draft {
        draft(&self.row, value)
    }

    /// The same request in another namespace, for work on single objects of a list.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        let path = ResourcePath {
            namespace: namespace.to_owned(),
            ..self.path.clone()
        };
        Self {
            server: self.server.clone(),
            registry: self.registry.clone(),
            row: self.row.clone(),
            path,
            verb: self.verb.clone(),
            user: self.user.clone(),
            source: self.source,
            query: self.query.clone(),
            form: self.form,
            user_agent: self.user_agent.clone(),
            content_type: self.content_type.clone(),
            body: Bytes::new(),
            warnings: Mutex::default(),
        }
    }

    /// 404 for an object of this resource.
    pub fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.row.group, &self.row.plural, name)
    }

    /// 403 for an object of this resource.
    pub fn forbidden(&self, name: &str, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(&self.row.group, &self.row.plural, name, why)
    }
}

/// Makes the stored form of an object of `row`.
pub(crate) fn draft(row: &Resource, value: &Value) -> Draft {
    let head = head(row, value);
    let key = Key::new(row.storage.clone(), access::namespace(value), access::name(value));
    Draft::without(key, value, &["apiVersion", "kind"], head)
}

/// The facts the store keeps beside an object.
pub(crate) fn head(row: &Resource, value: &Value) -> Head {
    let metadata = access::get(value, "metadata");
    let mut labels: Vec<(String, String)> = access::entries(metadata, "labels")
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    labels.sort();
    Head {
        uid: access::str_of(metadata, "uid").to_owned(),
        labels,
        fields: row
            .rules
            .selectable(value)
            .into_iter()
            // A missing field counts as empty.
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        owners: access::list(metadata, "ownerReferences")
            .iter()
            .map(|owner| access::str_of(owner, "uid").to_owned())
            .collect(),
        finalizers: u32::try_from(access::list(metadata, "finalizers").len()).unwrap_or(u32::MAX),
        deleting: access::has(metadata, "deletionTimestamp"),
        generation: access::int_of(metadata, "generation").unwrap_or(0),
    }
}

/// The text of the member `metadata` of a stored object, empty when there is none.
pub(crate) fn metadata_of(json: &[u8]) -> &[u8] {
    const NAME: &[u8] = b"\"metadata\":";
    let (mut depth, mut begin, mut at) = (0usize, None, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                if depth == 1 && begin.is_none() && json[at..].starts_with(NAME) {
                    begin = Some(at + NAME.len());
                }
                at = text_end(json, at + 1);
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if let (1, Some(begin)) = (depth, begin) {
                    return json.get(begin..=at).unwrap_or_default();
                }
            }
            _ => {}
        }
        at += 1;
    }
    b""
}

/// Where the text that goes on at `at` has its closing quote.
fn text_end(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if json.get(at) == Some(&b'"') {
            return at;
        }
        // What follows a backslash is never the end.
        at += 2;
    }
    json.len()
}

/// Canonical JSON.
pub(crate) fn encode(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// `group/version`, or just the version for the core group.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_is_found_without_decoding() {
        let cases = [
            json!({"data": {"metadata": "\"metadata\":{", "x": "}\\"}, "metadata": {"name": "a\"}", "labels": {"l": "]"}}}),
            json!({"metadata": {}, "spec": {"template": {"metadata": {"name": "inner"}}}}),
            json!({"a": ["metadata", {"metadata": {"name": "no"}}], "metadata": {"name": "yes"}}),
        ];
        for value in cases {
            let text = value.to_string();
            let found: Value = serde_json::from_slice(metadata_of(text.as_bytes())).expect("JSON");
            assert_eq!(found, value["metadata"], "{text}");
        }
        for text in ["{}", "", "[", "{\"spec\":{}}"] {
            assert_eq!(metadata_of(text.as_bytes()), b"", "{text}");
        }
    }
}
