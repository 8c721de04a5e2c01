//! gzip for large answers, when the client takes it.

use std::io::Write;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, VARY};
use http_body::Body as _;

use crate::answer::Reply;

/// Answers below this many bytes go out as they are.
pub(crate) const BYTES_MIN: u64 = 128 << 10;

/// Marks an answer that may be compressed although its length is not known (a long list).
#[derive(Clone, Copy)]
pub(crate) struct Compressible;

/// Whether an `Accept-Encoding` header takes gzip. Kubernetes knows the bare word only: a client that adds a quality
/// gets the answer as it is.
pub(crate) fn accepts_gzip(encodings: &str) -> bool {
    encodings.split(',').any(|item| item.trim() == "gzip")
}

/// Compresses `reply` if that is worth it and `encodings` (the request's `Accept-Encoding`) allows.
pub(crate) fn compressed(reply: Reply, encodings: &str) -> Reply {
    let accepts = accepts_gzip(encodings);
    let large = reply.body().size_hint().exact().is_some_and(|bytes| bytes > BYTES_MIN);
    let listed = reply.extensions().get::<Compressible>().is_some();
    if !accepts || !(large || listed) || reply.headers().contains_key(CONTENT_ENCODING) {
        return reply;
    }
    let (mut head, body) = reply.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let chunks = body.into_data_stream();
    let stream = futures::stream::unfold((chunks, Some(encoder)), |(mut chunks, encoder)| async move {
        let mut encoder = encoder?;
        loop {
            match chunks.next().await {
                Some(Ok(chunk)) => {
                    if let Err(error) = encoder.write_all(&chunk) {
                        return Some((Err(axum::Error::new(error)), (chunks, None)));
                    }
                    let ready: Vec<u8> = std::mem::take(encoder.get_mut());
                    if !ready.is_empty() {
                        return Some((Ok(Bytes::from(ready)), (chunks, Some(encoder))));
                    }
                }
                Some(Err(error)) => return Some((Err(error), (chunks, None))),
                None => {
                    let last = encoder.finish().map(Bytes::from).map_err(axum::Error::new);
                    return Some((last, (chunks, None)));
                }
            }
        }
    });
    Reply::from_parts(head, Body::from_stream(stream))
}
