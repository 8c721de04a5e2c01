//! A list as a stream of pieces, made one after the other while the client reads.
//!
//! JSON is the stored bytes one behind the other; rows of a Table are made one by one. Protobuf puts the length of the whole in front, so that the items
//! are measured first; their messages are kept with the objects, or made a second time where memory for that is used up.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coxswain_api::ApiError;
use coxswain_api::codec::protobuf;
use coxswain_api::table::{self, IncludeObject};
use coxswain_store::Stored;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::answer::{self, Reply};
use crate::call::{Call, encode};
use crate::compress::{BYTES_MIN, Compressible};
use crate::negotiate::{Encoding, View};

/// Size of the pieces, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of messages measured before other requests get their turn.
const TURN_BYTES: usize = 256 << 10;

/// The answer: at once when it is short, in pieces when it is long.
///
/// # Errors
/// 400 for a Table whose rows shall carry what there is not.
pub(super) async fn reply(call: Arc<Call>, items: Vec<Arc<Stored>>, metadata: &Value) -> Result<Reply, ApiError> {
    let include = match call.form.view {
        View::Table => answer::include_object(&call)?,
        _ => IncludeObject::None,
    };
    let encoding = call.form.encoding;
    let (head, length) = match encoding {
        Encoding::Protobuf => protobuf_head(&call, &items, metadata).await?,
        Encoding::Json | Encoding::Yaml => json_head(&call, &items, metadata),
    };
    let heavy = items.iter().any(|stored| call.decodes(stored));
    let pieces = Pieces {
        heavy,
        call,
        items: items.into_iter(),
        written: 0,
        head,
        ended: false,
        include,
        now: answer::now(),
    };
    let (first, pieces) = piece(pieces).await?;
    let first = first.unwrap_or_default();
    if pieces.ended {
        return Ok(answer::raw(200, encoding.media_type(), first));
    }
    let body = if pieces.heavy {
        let rest = stream::unfold(Some(pieces), |pieces| async move {
            match piece(pieces?).await {
                Ok((next, pieces)) => Some((Ok(next?), Some(pieces))),
                // The answer has begun: it can only be cut short.
                Err(error) => Some((Err(std::io::Error::other(error.message)), None)),
            }
        });
        Body::from_stream(stream::iter([Ok(first)]).chain(rest))
    } else {
        let rest = std::iter::once(first).chain(pieces);
        Body::from_stream(stream::iter(rest.map(Ok::<Bytes, std::convert::Infallible>)))
    };
    let mut reply = answer::raw(200, encoding.media_type(), body);
    if length as u64 > BYTES_MIN {
        reply.extensions_mut().insert(Compressible);
    }
    Ok(reply)
}

/// The next piece, made beside the workers when large objects have to be decoded for it.
async fn piece(mut pieces: Pieces) -> Result<(Option<Bytes>, Pieces), ApiError> {
    if !pieces.heavy {
        return Ok((pieces.next(), pieces));
    }
    let call = pieces.call.clone();
    call.aside(1024, move || Ok((pieces.next(), pieces))).await
}

fn list_type(call: &Call) -> (String, &str) {
    match call.form.view {
        View::PartialList => (call.form.view_version().to_owned(), "PartialObjectMetadataList"),
        View::Table => (call.form.view_version().to_owned(), "Table"),
        _ => (call.group_version(), &call.row.list_kind),
    }
}

/// The beginning of a list in JSON, and about how long the whole will be.
fn json_head(call: &Call, items: &[Arc<Stored>], metadata: &Value) -> (Vec<u8>, usize) {
    let (api_version, kind) = list_type(call);
    let mut head = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
    if call.form.view == View::Table {
        head["columnDefinitions"] = table::column_definitions(call.row.rules.columns());
    }
    let mut head = head.to_string().into_bytes();
    head.pop();
    head.extend_from_slice(match call.form.view {
        View::Table => &b",\"rows\":["[..],
        _ => b",\"items\":[",
    });
    let length = items.iter().map(|stored| stored.bytes.len()).sum();
    (head, length)
}

/// The beginning of a list in protobuf, and how long its items are.
async fn protobuf_head(
    call: &Arc<Call>,
    items: &[Arc<Stored>],
    metadata: &Value,
) -> Result<(Vec<u8>, usize), ApiError> {
    let (mut length, mut turn) = (0, 0);
    for stored in items {
        let message = if call.decodes(stored) {
            let (own, stored) = (call.clone(), stored.clone());
            call.aside(1024, move || Ok(message(&own, &stored).len())).await?
        } else {
            message(call, stored).len()
        };
        length += protobuf::item_bytes(message);
        turn += message;
        if turn > TURN_BYTES {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    let (api_version, kind) = list_type(call);
    Ok((protobuf::list_head(&api_version, kind, metadata, length), length))
}

fn message(call: &Call, stored: &Stored) -> Bytes {
    match call.form.view {
        View::PartialList => call.partial_message(stored),
        _ => call.message(stored),
    }
}

struct Pieces {
    /// Some of the objects are large and have to be decoded.
    heavy: bool,
    call: Arc<Call>,
    items: std::vec::IntoIter<Arc<Stored>>,
    /// Items that are out.
    written: usize,
    head: Vec<u8>,
    ended: bool,
    /// What a Table's rows carry.
    include: IncludeObject,
    /// The moment that a Table's ages are about.
    now: jiff::Timestamp,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK_BYTES + 8192);
        out.extend_from_slice(&std::mem::take(&mut self.head));
        while out.len() < CHUNK_BYTES {
            let Some(stored) = self.items.next() else {
                self.ended = true;
                match self.call.form.encoding {
                    Encoding::Protobuf => out.extend_from_slice(protobuf::END),
                    Encoding::Json | Encoding::Yaml => out.extend_from_slice(b"]}\n"),
                }
                break;
            };
            self.item(&stored, &mut out);
            self.written += 1;
        }
        Some(out.freeze())
    }
}

impl Pieces {
    fn item(&self, stored: &Stored, out: &mut BytesMut) {
        if self.call.form.encoding == Encoding::Protobuf {
            let message = message(&self.call, stored);
            out.extend_from_slice(&protobuf::item_head(message.len()));
            out.extend_from_slice(&message);
            return;
        }
        if self.written > 0 {
            out.extend_from_slice(b",");
        }
        match self.call.form.view {
            View::Table => {
                let row = table::row(
                    &*self.call.row.rules,
                    &self.call.internal(stored),
                    self.include,
                    self.now,
                );
                let mut one = json!({"rows": [row]});
                answer::set_versions(&self.call, &mut one);
                out.extend_from_slice(&encode(&one["rows"][0]));
            }
            View::PartialList => out.extend_from_slice(&self.call.partial_bytes(stored)),
            View::Whole | View::Partial => {
                self.call.add_item(stored, out);
            }
        }
    }
}
