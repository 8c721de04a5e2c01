//! Kubernetes' protobuf form, from and to the same [`Value`]s as JSON.
//!
//! ```text
//!   "k8s\0" + Unknown { typeMeta { apiVersion, kind }, raw, contentEncoding, contentType }
//!                                                     raw: the message of that kind
//!   watch:  length (4 bytes, big end first) + WatchEvent { type, object { raw: a whole body as above } }
//! ```
//!
//! What a message holds comes from the schema, which number a field has from `protobuf.tsv` (see `table`). Go writes
//! every plain field, so zeros arrive here that JSON would leave out: the type step of [`super::decode_object`] drops
//! them as it does for JSON. Lists can be written piece by piece: [`list_head`], then for each item [`item_head`] and
//! its [`message`], then [`END`].
//!
//! Does not know custom resources: they have no protobuf form, only their metadata has one.

use serde_json::{Map, Value};

use super::Limits;
use super::weight::Budget;
use crate::registry::{Gvk, split_api_version};
use crate::schema::{TypeRef, type_ref};
use crate::status::ApiError;

mod read;
mod table;
mod wire;
mod write;

const MAGIC: &[u8] = b"k8s\0";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// What an envelope ends with: no encoding, no content type.
pub const END: &[u8] = &[0x1a, 0, 0x22, 0];

/// The parts of a body.
pub(super) struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    raw: &'a [u8],
}

/// Takes a body apart without reading the object.
pub(super) fn envelope<'a>(bytes: &'a [u8]) -> Result<Envelope<'a>, String> {
    if bytes.is_empty() {
        return Err("empty data".to_owned());
    }
    let body = bytes
        .strip_prefix(MAGIC)
        .ok_or("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")?;
    let mut parts = Envelope {
        api_version: String::new(),
        kind: String::new(),
        raw: &[],
    };
    for field in wire::Fields(body) {
        match field? {
            (1, meta) => {
                for field in wire::Fields(meta.bytes()?) {
                    match field? {
                        (1, text) => parts.api_version = read::utf8(text.bytes()?)?,
                        (2, text) => parts.kind = read::utf8(text.bytes()?)?,
                        _ => {}
                    }
                }
            }
            (2, raw) => parts.raw = raw.bytes()?,
            (3, encoding) if !encoding.bytes()?.is_empty() => return Err("its content is encoded".to_owned()),
            _ => {}
        }
    }
    Ok(parts)
}

impl Envelope<'_> {
    /// Reads the object as one of a type; `apiVersion` and `kind` are put in when the envelope has them.
    pub fn object(&self, reference: TypeRef, limits: &Limits) -> Result<Value, String> {
        let mut left = read::Left {
            values: limits.values_max,
            memory: Budget::new(limits.memory_max),
            depth: limits.depth_max,
        };
        let mut object = read::object(self.raw, reference, &mut left)?;
        if let Some(map) = object.as_object_mut() {
            for (name, text) in [("apiVersion", &self.api_version), ("kind", &self.kind)] {
                if !text.is_empty() {
                    map.insert(name.to_owned(), Value::String(text.clone()));
                }
            }
        }
        Ok(object)
    }
}

/// Reads a body into the object it holds, `apiVersion` and `kind` included.
///
/// # Errors
/// 400 when the bytes are not such a body, are too large or too deep, or hold a kind without protobuf form.
pub fn decode_protobuf(bytes: &[u8], limits: &Limits) -> Result<Value, ApiError> {
    if bytes.len() > limits.bytes_max {
        return Err(ApiError::body_too_large(limits.bytes_max));
    }
    let found = envelope(bytes).and_then(|parts| {
        let reference = type_of(&parts.api_version, &parts.kind).ok_or_else(|| {
            let (kind, version) = (&parts.kind, &parts.api_version);
            format!("no kind {kind:?} is registered for version {version:?}")
        })?;
        parts.object(reference, limits)
    });
    found.map_err(|why| ApiError::bad_request(format!("couldn't decode the protobuf body: {why}")))
}

/// The type of a kind that has a protobuf form. The kinds of every group (`Status`) are found under any version.
fn type_of(api_version: &str, kind: &str) -> Option<TypeRef> {
    let (group, version) = split_api_version(api_version);
    match Gvk::new(group, version, kind).type_name() {
        Some(name) => type_ref(name),
        None => match kind {
            "APIGroup" | "APIGroupList" | "APIResourceList" | "APIVersions" | "DeleteOptions" | "Status" => {
                type_ref(&format!("{META}.{kind}"))
            }
            _ => None,
        },
    }
}

/// Writes an object (a list, a Status, partial metadata) as a whole body. `None` when its kind has no protobuf form.
pub fn encode_protobuf(value: &Value) -> Option<Vec<u8>> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let raw = match kind {
        "PartialObjectMetadata" => partial(value)?,
        "PartialObjectMetadataList" => {
            let mut out = Vec::new();
            list_metadata(value.get("metadata").unwrap_or(&Value::Null), &mut out);
            for item in value.get("items").and_then(Value::as_array).into_iter().flatten() {
                wire::bytes(2, &partial(item)?, &mut out);
            }
            out
        }
        _ => {
            let mut out = Vec::new();
            write::object(value, type_of(api_version, kind)?, &mut out);
            out
        }
    };
    Some(enclose(api_version, kind, &raw))
}

/// The bare message of an object of a built-in type; empty when there is no such type.
pub fn message(value: &Value, type_name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(reference) = type_ref(type_name) {
        write::object(value, reference, &mut out);
    }
    out
}

/// The bare message of the metadata of an object, as an item of a PartialObjectMetadataList.
pub fn partial(value: &Value) -> Option<Vec<u8>> {
    let metadata = type_ref(&format!("{META}.ObjectMeta"))?;
    let mut out = Vec::new();
    let held = value.get("metadata").unwrap_or(&Value::Null);
    wire::nested(1, &mut out, |out| write::object(held, metadata, out));
    Some(out)
}

/// Puts a message into an envelope.
pub fn enclose(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = open(api_version, kind, raw.len(), raw.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(END);
    out
}

/// An envelope up to its message of `length` bytes, with room for `room` bytes to come.
fn open(api_version: &str, kind: &str, length: usize, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room + api_version.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    wire::nested(1, &mut out, |out| {
        wire::bytes(1, api_version.as_bytes(), out);
        wire::bytes(2, kind.as_bytes(), out);
    });
    wire::head(2, length, &mut out);
    out
}

fn list_metadata(metadata: &Value, out: &mut Vec<u8>) {
    if let Some(reference) = type_ref(&format!("{META}.ListMeta")) {
        wire::nested(1, out, |out| write::object(metadata, reference, out));
    }
}

/// The beginning of a list whose items take `items_bytes` bytes, each with its [`item_head`].
pub fn list_head(api_version: &str, kind: &str, metadata: &Value, items_bytes: usize) -> Vec<u8> {
    let mut inner = Vec::new();
    list_metadata(metadata, &mut inner);
    let mut out = open(api_version, kind, inner.len() + items_bytes, inner.len());
    out.extend_from_slice(&inner);
    out
}

/// What stands in front of a list's item of `length` bytes.
pub fn item_head(length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(8);
    wire::head(2, length, &mut out);
    out
}

/// How many bytes a list's item of `length` bytes takes, with its [`item_head`].
pub fn item_bytes(length: usize) -> usize {
    1 + wire::varint_length(length as u64) + length
}

/// One frame of a watch; `object` is a whole body.
pub fn watch_frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 32);
    out.extend_from_slice(&[0; 4]);
    wire::bytes(1, kind.as_bytes(), &mut out);
    wire::nested(2, &mut out, |out| wire::bytes(1, object, out));
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    if let Some(place) = out.first_chunk_mut() {
        *place = length.to_be_bytes();
    }
    out
}

/// An object that has nothing but its type.
pub(super) fn bare(api_version: &str, kind: &str) -> Value {
    let pairs = [("apiVersion", api_version), ("kind", kind)];
    let members = pairs.iter().filter(|(_, text)| !text.is_empty());
    Value::Object(
        members
            .map(|(name, text)| ((*name).to_owned(), Value::from(*text)))
            .collect::<Map<_, _>>(),
    )
}

#[cfg(test)]
mod tests;
