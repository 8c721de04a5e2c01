//! `/openapi/v2` and `/openapi/v3`: big documents that every client asks for and that change with the registry only.
//!
//! A document is built when it is first asked for and kept compressed; a client that has it already gets a 304.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coxswain_api::{ApiError, Registry, openapi};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, EXPIRES, HeaderValue, LOCATION, VARY};
use serde_json::Value;
use sha2::{Digest, Sha512};

use super::{KUBERNETES, Page};
use crate::answer::{self, Reply};
use crate::compress;
use crate::negotiate;
use crate::query::Query;
use crate::shared::Shared;

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What older clients ask with; `@` is no legal part of a media type, so that it never stands in an answer.
const PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// A version of a document that was asked for by its hash stays good for this long.
const GOOD_FOR_S: i64 = 365 * 24 * 3600;

/// The documents of one registry.
#[derive(Default)]
pub(crate) struct OpenApiCache(Mutex<Vec<Cached>>);

struct Cached {
    registry: Arc<Registry>,
    key: String,
    document: Document,
}

#[derive(Clone)]
struct Document {
    packed: Bytes,
    etag: String,
}

impl OpenApiCache {
    fn get(&self, registry: &Arc<Registry>, key: &str, build: impl FnOnce() -> Option<Vec<u8>>) -> Option<Document> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |cached: &Cached| Arc::ptr_eq(&cached.registry, registry) && cached.key == key;
        if let Some(cached) = lock().iter().find(|cached| found(cached)) {
            return Some(cached.document.clone());
        }
        // Built outside of the lock: two clients may build the same, nobody waits for another document.
        let document = Document::pack(&build()?);
        let mut all = lock();
        all.retain(|cached| Arc::ptr_eq(&cached.registry, registry) && cached.key != key);
        all.push(Cached {
            registry: registry.clone(),
            key: key.to_owned(),
            document: document.clone(),
        });
        Some(document)
    }
}

impl Document {
    fn pack(bytes: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to memory does not fail.
        let packed = encoder
            .write_all(bytes)
            .and_then(|()| encoder.finish())
            .unwrap_or_default();
        let digest = Sha512::digest(bytes);
        Self {
            packed: packed.into(),
            etag: digest.iter().map(|byte| format!("{byte:02X}")).collect(),
        }
    }

    fn reply(&self, page: &Page<'_>, media: &str) -> Reply {
        let etag = format!("\"{}\"", self.etag);
        let mut reply = if page.has(&etag) {
            let mut reply = answer::raw(304, media, "");
            reply.headers_mut().remove(http::header::CONTENT_TYPE);
            reply
        } else if compress::accepts_gzip(page.header(&ACCEPT_ENCODING)) {
            let mut reply = answer::raw(200, media, self.packed.clone());
            let gzip = HeaderValue::from_static("gzip");
            reply.headers_mut().insert(CONTENT_ENCODING, gzip);
            reply
        } else {
            let mut bytes = Vec::new();
            // Our own packing.
            let _ = GzDecoder::new(&*self.packed).read_to_end(&mut bytes);
            answer::raw(200, media, bytes)
        };
        if let Ok(value) = HeaderValue::from_str(&etag) {
            reply.headers_mut().insert(ETAG, value);
        }
        let vary = HeaderValue::from_static("Accept, Accept-Encoding");
        reply.headers_mut().insert(VARY, vary);
        reply
    }
}

/// Swagger 2 in JSON or protobuf.
pub(super) fn v2(shared: &Shared, page: &Page<'_>) -> Result<Reply, ApiError> {
    let Some(media) = first_of(page.accept, &[JSON, PROTOBUF_OLD, PROTOBUF]) else {
        return Ok(answer::raw(406, "text/plain; charset=utf-8", ""));
    };
    let registry = shared.registry();
    let build = || openapi::v2(&registry, KUBERNETES);
    let (key, media) = if media == JSON {
        ("v2", JSON)
    } else {
        ("v2.pb", PROTOBUF)
    };
    let document = shared.openapi.get(&registry, key, || {
        Some(match media {
            JSON => to_json(&build()),
            _ => openapi::v2_protobuf(&build()),
        })
    });
    let document = document.ok_or_else(ApiError::page_not_found)?;
    Ok(document.reply(page, media))
}

/// The document of one group version.
pub(super) fn v3(shared: &Shared, page: &Page<'_>, key: &str, query: &Query) -> Result<Reply, ApiError> {
    if first_of(page.accept, &[JSON]).is_none() {
        return Ok(answer::raw(406, "text/plain; charset=utf-8", ""));
    }
    let registry = shared.registry();
    let build = || openapi::v3(&registry, key, KUBERNETES).map(|document| to_json(&document));
    let document = shared.openapi.get(&registry, &format!("v3/{key}"), build);
    let mut document = document.ok_or_else(ApiError::page_not_found)?;
    // The index names documents by this hash, without building them.
    document.etag = openapi::document_hash(&registry, key);
    let asked = query.text("hash");
    if !asked.is_empty() && asked != document.etag {
        let mut reply = answer::raw(301, "text/html; charset=utf-8", "");
        let place = format!("/openapi/v3/{key}?hash={}", document.etag);
        if let Ok(value) = HeaderValue::from_str(&place) {
            reply.headers_mut().insert(LOCATION, value);
        }
        return Ok(reply);
    }
    let mut reply = document.reply(page, JSON);
    if !asked.is_empty() {
        let until = answer::now() + jiff::SignedDuration::from_secs(GOOD_FOR_S);
        let until = until.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let headers = reply.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        headers.extend(HeaderValue::from_str(&until).ok().map(|until| (EXPIRES, until)));
    }
    Ok(reply)
}

fn to_json(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

/// The first of `served` that a clause of the header names, the clauses in their order.
fn first_of<'a>(accept: &str, served: &[&'a str]) -> Option<&'a str> {
    if accept.is_empty() {
        return served.first().copied();
    }
    let clauses = negotiate::clauses(accept);
    clauses.iter().find_map(|clause| {
        let wild = matches!(clause.media, "*" | "*/*" | "application/*");
        served.iter().copied().find(|media| wild || *media == clause.media)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_chosen_by_the_header() {
        let cases = [
            ("", Some(JSON)),
            ("*/*", Some(JSON)),
            (PROTOBUF, Some(PROTOBUF)),
            (
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
                Some(PROTOBUF_OLD),
            ),
            (
                "application/json;q=0.5, application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
                Some(PROTOBUF),
            ),
            ("text/html", None),
        ];
        for (accept, expected) in cases {
            assert_eq!(first_of(accept, &[JSON, PROTOBUF_OLD, PROTOBUF]), expected, "{accept}");
        }
    }

    #[test]
    fn documents_are_built_once_for_a_registry() {
        let cache = OpenApiCache::default();
        let (one, two) = (Arc::new(Registry::builtin()), Arc::new(Registry::builtin()));
        let get = |registry, text: &str| {
            let document = cache
                .get(registry, "k", || Some(text.as_bytes().to_vec()))
                .expect("built");
            let mut out = String::new();
            GzDecoder::new(&*document.packed)
                .read_to_string(&mut out)
                .expect("packed");
            out
        };
        assert_eq!(get(&one, "first"), "first");
        assert_eq!(get(&one, "never built"), "first");
        assert_eq!(get(&two, "second"), "second");
        assert_eq!(
            cache.0.lock().expect("a lock").len(),
            1,
            "what nobody serves any more is dropped"
        );
    }
}
