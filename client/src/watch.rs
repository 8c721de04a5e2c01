//! Following one collection: initial events, then changes, resumed from the last revision.
//!
//! ```text
//!   Start --initial events--> collecting --bookmark "initial-events-end"--> following
//!     ^                                                                       | stream ends
//!     +------------- 410 Gone ------------- resume from last revision <-------+
//! ```

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use coxswain_api::AsStored;
use coxswain_supervise::{catch, catch_now};
use futures::StreamExt as _;
use http::Request;
use http_body_util::BodyExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Held};
use crate::item::{Item, ObjectKey};
use crate::transport::Client;
use crate::trim::without_managed_fields;
use crate::write::revision_of;

/// No single event may be longer than this many bytes.
const EVENT_BYTES_MAX: usize = 16 << 20;
/// A watch that says nothing for so long is dead, whatever its connection looks like: servers send a bookmark every
/// minute.
const SILENT_MAX: Duration = Duration::from_secs(150);
const BACKOFF_MS_MIN: u64 = 50;
const BACKOFF_MS_MAX: u64 = 5_000;
/// The name under which panics of followers are counted.
const TASK: &str = "client/watch";
/// What to accept for an object's metadata and nothing else of it, from servers that can.
pub const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// A collection to follow.
#[derive(Clone, Debug)]
pub struct Source {
    /// The collection's path, such as `/api/v1/pods`.
    pub path: String,
    /// Label selector.
    pub labels: Option<String>,
    /// Field selector.
    pub fields: Option<String>,
}

#[derive(Debug)]
enum Ended {
    /// The server closed the stream: resume.
    Closed,
    /// The revision is gone: start over.
    Expired,
    /// It failed.
    Failed(String),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct MetadataOnly {
    #[serde(default)]
    metadata: ObjectMeta,
}

#[derive(Deserialize)]
struct ErrorObject {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

/// Where a follower is: nothing yet (`fresh` collects the list), or resumable from a revision.
struct Position<K> {
    revision: Option<u64>,
    fresh: Vec<(ObjectKey, Held<K>)>,
}

/// Keeps `cache` equal to the collection until the token is cancelled.
pub(crate) async fn follow<K: Item>(client: Client, source: Source, cache: Cache<K>, token: CancellationToken) {
    let mut position = Position {
        revision: None,
        fresh: Vec::new(),
    };
    let mut backoff_ms = 0;
    loop {
        let ended = tokio::select! {
            () = token.cancelled() => break,
            // A panic outside of one object's decoding leaves the position in doubt: everything is read again.
            ended = catch(TASK, &source.path, stream(&client, &source, &cache, &mut position, &mut backoff_ms)) => {
                ended.unwrap_or(Ended::Expired)
            }
        };
        match ended {
            Ended::Closed => {}
            Ended::Expired => position.revision = None,
            Ended::Failed(error) => {
                tracing::debug!(path = source.path, "watch failed, will resume: {error}");
            }
        }
        backoff_ms = backoff_ms.saturating_mul(2).clamp(BACKOFF_MS_MIN, BACKOFF_MS_MAX);
        let jittered = (backoff_ms / 2).saturating_add(rand::random_range(0..=backoff_ms / 2));
        tokio::select! {
            () = token.cancelled() => break,
            () = tokio::time::sleep(Duration::from_millis(jittered)) => {}
        }
    }
    cache.close();
}

/// One watch request, from its start to its end.
async fn stream<K: Item>(
    client: &Client,
    source: &Source,
    cache: &Cache<K>,
    position: &mut Position<K>,
    backoff_ms: &mut u64,
) -> Ended {
    position.fresh.clear();
    let request = match request::<K>(source, position.revision) {
        Ok(request) => request,
        Err(error) => return Ended::Failed(error.to_string()),
    };
    let silent = || Ended::Failed(format!("nothing came for {} s", SILENT_MAX.as_secs()));
    let response = match timeout(SILENT_MAX, client.kube().send(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Ended::Failed(error.to_string()),
        Err(_) => return silent(),
    };
    let status = response.status();
    if status.as_u16() == 410 {
        return Ended::Expired;
    }
    if !status.is_success() {
        return Ended::Failed(format!("the server answered {status}"));
    }
    let as_stored = response.extensions().get::<AsStored>().is_some();
    let mut body = response.into_body().into_data_stream();
    let mut lines = Lines::default();
    loop {
        match timeout(SILENT_MAX, body.next()).await {
            Ok(Some(Ok(chunk))) if as_stored => lines.push_piece(chunk),
            Ok(Some(Ok(chunk))) => lines.push(&chunk),
            Ok(Some(Err(error))) => return Ended::Failed(error.to_string()),
            Ok(None) => return Ended::Closed,
            Err(_) => return silent(),
        }
        if let Some((kind, object)) = lines.object() {
            if let Err(ended) = stored(&kind, object, cache, position) {
                return ended;
            }
            *backoff_ms = 0;
        }
        while let Some(line) = lines.next() {
            if line.is_empty() {
                continue;
            }
            if let Err(ended) = event(&line, cache, position) {
                return ended;
            }
            *backoff_ms = 0;
        }
        if lines.too_long() {
            return Ended::Failed("an event is longer than 16 MiB".to_string());
        }
    }
}

fn request<K: Item>(source: &Source, revision: Option<u64>) -> Result<Request<kube::client::Body>, http::Error> {
    let mut query = String::from("watch=1&allowWatchBookmarks=true");
    match revision {
        Some(revision) => query.push_str(&format!("&resourceVersion={revision}")),
        None => query.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
    }
    for (name, value) in [("labelSelector", &source.labels), ("fieldSelector", &source.fields)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", escape(value)));
        }
    }
    let accept = if K::METADATA_ONLY {
        METADATA_ONLY
    } else {
        "application/json"
    };
    Request::builder()
        .uri(format!("{}?{query}", source.path))
        .header("accept", accept)
        .extension(AsStored)
        .body(kube::client::Body::empty())
}

/// Percent-encodes everything but unreserved characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The type of an event and the text of its object. What servers write is taken apart without reading the object, which
/// is read once, by whoever decodes it.
fn split(line: &str) -> Result<(&str, &str), Ended> {
    let usual = || {
        let (kind, rest) = line.strip_prefix("{\"type\":\"")?.split_once('"')?;
        let object = rest.strip_prefix(",\"object\":")?.strip_suffix('}')?;
        Some((kind, object))
    };
    if let Some(parts) = usual() {
        return Ok(parts);
    }
    let envelope: Envelope<'_> =
        serde_json::from_str(line).map_err(|e| Ended::Failed(format!("an event is not JSON: {e}")))?;
    Ok((envelope.kind, envelope.object.get()))
}

/// Takes one event in. Errors end the stream.
fn event<K: Item>(line: &[u8], cache: &Cache<K>, position: &mut Position<K>) -> Result<(), Ended> {
    let (kind, text) = split(utf8(line)?)?;
    // A text of its own, because the line is part of a larger buffer.
    let kept = || {
        without_managed_fields(text)
            .into_owned()
            .into_boxed_str()
            .into_boxed_bytes()
            .into()
    };
    take(kind, text, kept, cache, position)
}

/// Takes in an event about an object whose bytes are the store's.
fn stored<K: Item>(kind: &str, object: Bytes, cache: &Cache<K>, position: &mut Position<K>) -> Result<(), Ended> {
    let text = object.clone();
    take(kind, utf8(&text)?, || object, cache, position)
}

fn utf8(text: &[u8]) -> Result<&str, Ended> {
    std::str::from_utf8(text).map_err(|e| Ended::Failed(format!("an event is not JSON: {e}")))
}

/// Takes in an event of this kind about an object with this text; `kept` is what a cache of texts holds of it.
fn take<K: Item>(
    kind: &str,
    text: &str,
    kept: impl FnOnce() -> Bytes,
    cache: &Cache<K>,
    position: &mut Position<K>,
) -> Result<(), Ended> {
    let held = |object: K| cache.take(object, (!K::METADATA_ONLY).then(kept));
    match kind {
        "ERROR" => {
            let error: ErrorObject = serde_json::from_str(text).unwrap_or(ErrorObject {
                code: 500,
                message: text.to_string(),
            });
            Err(match error.code {
                410 => Ended::Expired,
                _ => Ended::Failed(error.message),
            })
        }
        "BOOKMARK" => {
            let meta = metadata(text)?;
            bookmark(&meta, cache, position);
            Ok(())
        }
        "ADDED" | "MODIFIED" => {
            match decoded::<K>(text) {
                Ok(object) if position.revision.is_none() => position.fresh.push(held(object)),
                Ok(object) => {
                    position.revision = Some(object.revision());
                    cache.put(held(object));
                }
                Err(error) => {
                    let meta = metadata(text)?;
                    cache.skip(Some(&ObjectKey::of(&meta)), &error);
                    if position.revision.is_some() {
                        position.revision = Some(revision_of(&meta));
                    }
                }
            }
            Ok(())
        }
        "DELETED" => {
            let meta = metadata(text)?;
            if position.revision.is_some() {
                position.revision = Some(revision_of(&meta));
            }
            cache.remove(&ObjectKey::of(&meta), revision_of(&meta));
            Ok(())
        }
        other => Err(Ended::Failed(format!("unknown event type {other:?}"))),
    }
}

/// The object, or why it cannot be read; a decoder that panics is a defect that concerns one object only.
fn decoded<K: Item>(text: &str) -> Result<K, String> {
    match catch_now(TASK, &std::any::type_name::<K>(), || K::decode(text)) {
        Ok(decoded) => decoded.map_err(|error| error.to_string()),
        Err(panicked) => Err(format!("decoding panicked: {panicked}")),
    }
}

fn bookmark<K: Item>(meta: &ObjectMeta, cache: &Cache<K>, position: &mut Position<K>) {
    let revision = revision_of(meta);
    let annotations = meta.annotations.as_ref();
    let end = annotations.is_some_and(|a| a.get("k8s.io/initial-events-end").map(String::as_str) == Some("true"));
    if position.revision.is_none() && end {
        cache.replace_all(std::mem::take(&mut position.fresh), revision);
        position.revision = Some(revision);
    } else if position.revision.is_some() {
        position.revision = Some(revision);
        cache.advance(revision);
    }
}

fn metadata(text: &str) -> Result<ObjectMeta, Ended> {
    serde_json::from_str::<MetadataOnly>(text)
        .map(|object| object.metadata)
        .map_err(|e| Ended::Failed(format!("an object without usable metadata: {e}")))
}

/// Splits chunks into lines without copying more than a partial line.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
    scanned: usize,
    /// The object of the line that `buffer` begins, a piece by itself.
    object: Option<Bytes>,
    /// The event that has come in pieces, and whose object was not copied.
    complete: Option<(String, Bytes)>,
}

/// What comes before an object that is a piece by itself, and after it.
const OBJECT_BEGINS: &[u8] = b"\",\"object\":";
const OBJECT_ENDS: &[u8] = b"}\n";

impl Lines {
    /// Takes in a piece of a stream whose objects come as pieces of their own. Any other division will do, too.
    fn push_piece(&mut self, piece: Bytes) {
        match self.object.take() {
            Some(object) if *piece == *OBJECT_ENDS => {
                let begin = self.buffer.split();
                self.scanned = 0;
                let kind = begin
                    .strip_prefix(b"{\"type\":\"")
                    .and_then(|rest| rest.strip_suffix(OBJECT_BEGINS));
                match kind.map(String::from_utf8_lossy) {
                    Some(kind) => self.complete = Some((kind.into_owned(), object)),
                    None => [&begin[..], &object[..], &piece[..]]
                        .into_iter()
                        .for_each(|part| self.push(part)),
                }
            }
            Some(object) => [object, piece].iter().for_each(|part| self.push(part)),
            None if self.buffer.ends_with(OBJECT_BEGINS) && piece.starts_with(b"{") => self.object = Some(piece),
            None => self.push(&piece),
        }
    }

    /// The event that has come in pieces: its type and its object.
    fn object(&mut self) -> Option<(String, Bytes)> {
        self.complete.take()
    }

    fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    fn next(&mut self) -> Option<Bytes> {
        let rest = self.buffer.get(self.scanned..)?;
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let mut line = self.buffer.split_to(self.scanned.saturating_add(at).saturating_add(1));
                line.truncate(line.len().saturating_sub(1));
                self.scanned = 0;
                if self.buffer.is_empty() && self.buffer.capacity() > (1 << 18) {
                    self.buffer = BytesMut::new();
                }
                Some(line.freeze())
            }
            None => {
                self.scanned = self.buffer.len();
                None
            }
        }
    }

    fn too_long(&self) -> bool {
        self.buffer.len() > EVENT_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn lines_over_chunk_borders() {
        let mut lines = Lines::default();
        lines.push(b"ab");
        assert_eq!(lines.next(), None);
        lines.push(b"c\nd\n\ne");
        let mut seen = Vec::new();
        while let Some(line) = lines.next() {
            seen.push(line);
        }
        assert_eq!(seen, [&b"abc"[..], b"d", b""]);
    }

    #[test]
    fn a_bad_object_is_left_out_and_the_rest_arrives() {
        let cache: Cache<ConfigMap> = Cache::fixed(Vec::new());
        let mut position = Position {
            revision: None,
            fresh: Vec::new(),
        };
        let mut feed = |line: &str| event(line.as_bytes(), &cache, &mut position);
        let good = r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"4"}}}"#;
        let bad = r#"{"type":"ADDED","object":{"metadata":{"name":"b","resourceVersion":"5"},"data":7}}"#;
        let end = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        let gone = r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"11"}}}"#;
        let expired = r#"{"type":"ERROR","object":{"kind":"Status","code":410}}"#;
        feed(good).expect("accepted");
        feed(bad).expect("skipped");
        feed(end).expect("accepted");
        assert_eq!((cache.len(), cache.skipped(), cache.revision()), (1, 1, 9));
        feed(gone).expect("accepted");
        assert!(matches!(feed(expired), Err(Ended::Expired)));
        assert_eq!((cache.len(), cache.revision(), position.revision), (0, 11, Some(11)));
    }

    #[test]
    fn events_in_any_spelling() {
        for line in [
            r#"{"type":"ADDED","object":{"metadata":{"name":"a\"}"}}}"#,
            r#"{"object": {"metadata":{"name":"a\"}"}}, "type": "ADDED"}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":"a\"}"}} }"#,
        ] {
            let (kind, object) = split(line).expect("an event");
            let meta = metadata(object).expect("metadata");
            assert_eq!((kind, meta.name.as_deref()), ("ADDED", Some("a\"}")), "{line}");
        }
        for line in ["", "{}", "{\"type\":\"ADDED\"}"] {
            assert!(matches!(split(line), Err(Ended::Failed(_))), "{line}");
        }
    }

    #[test]
    fn queries() {
        let source = Source {
            path: "/api/v1/pods".into(),
            labels: None,
            fields: Some("spec.nodeName=a b".into()),
        };
        let uri = request::<ConfigMap>(&source, Some(5))
            .expect("a request")
            .uri()
            .to_string();
        assert_eq!(
            uri,
            "/api/v1/pods?watch=1&allowWatchBookmarks=true&resourceVersion=5&fieldSelector=spec.nodeName%3Da%20b"
        );
    }
}
