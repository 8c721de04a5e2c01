//! Responses on their way to a client: cut into pieces, so that it is known whether the client takes them.
//!
//! HTTP/2 lets a client leave a response where it is, by not opening its window, and HTTP/1 by not reading. What was
//! handed to the connection then stays in memory. Every piece tells when the connection is done with it: how much
//! of a response waits, and since when, is known to the look at all connections that ends those who do not read.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};

use super::connections::{Connection, RequestGuard};
use super::usage::Reservation;
use crate::answer::Reply;

/// Bytes of one piece.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// Bytes of a response that the connection holds at a time.
const AHEAD_BYTES_MAX: usize = 512 << 10;

/// A response that was not taken in full yet.
pub(crate) struct Response {
    connection: Arc<Connection>,
    number: OnceLock<u64>,
    /// It is a stream whose reader may pause.
    pub is_long: bool,
    /// Bytes that the connection holds.
    ahead: AtomicUsize,
    /// The next piece is not there yet: the client waits for the server.
    awaits_source: AtomicBool,
    moved_ms: AtomicU64,
    waker: AtomicWaker,
    _request: RequestGuard,
    _held: Option<Reservation>,
}

impl Response {
    /// Since when the client has taken nothing although there was something; 0: it has.
    pub fn waiting_since_ms(&self) -> u64 {
        if self.awaits_source.load(Ordering::Relaxed) && self.ahead.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.moved_ms.load(Ordering::Relaxed)
    }

    fn moved(&self) {
        self.moved_ms.store(self.connection.now_ms(), Ordering::Relaxed);
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        if let Some(number) = self.number.get() {
            self.connection.remove_response(*number);
        }
    }
}

/// Makes a reply one whose progress is known. The request counts as in progress until the reply was taken.
pub(crate) fn metered(reply: Reply, mut request: RequestGuard, held: Option<Reservation>, is_long: bool) -> Reply {
    if reply.body().is_end_stream() {
        return reply;
    }
    if is_long {
        request.set_long();
    }
    let connection = request.connection().clone();
    let response = Arc::new(Response {
        number: OnceLock::new(),
        is_long,
        ahead: AtomicUsize::new(0),
        awaits_source: AtomicBool::new(false),
        moved_ms: AtomicU64::new(connection.now_ms()),
        waker: AtomicWaker::new(),
        _request: request,
        _held: held,
        connection,
    });
    let _ = response.number.set(response.connection.add_response(&response));
    reply.map(|inner| {
        Body::new(Metered {
            inner,
            rest: Bytes::new(),
            response,
        })
    })
}

/// Bytes that the connection has not sent yet.
struct Piece {
    bytes: Bytes,
    response: Arc<Response>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.response.ahead.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        self.response.moved();
        self.response.waker.wake();
    }
}

struct Metered {
    inner: Body,
    /// What came from `inner` and was not handed on yet.
    rest: Bytes,
    response: Arc<Response>,
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let response = self.response.clone();
        let full = || response.ahead.load(Ordering::Relaxed) >= AHEAD_BYTES_MAX;
        if full() {
            response.waker.register(context.waker());
            if full() {
                return Poll::Pending;
            }
        }
        if self.rest.is_empty() {
            match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Pending => {
                    response.awaits_source.store(true, Ordering::Relaxed);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => {
                    response.moved();
                    response.awaits_source.store(false, Ordering::Relaxed);
                    match frame.into_data() {
                        Ok(bytes) => self.rest = bytes,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    }
                }
                end => {
                    // What the connection holds is all that is left.
                    response.awaits_source.store(true, Ordering::Relaxed);
                    return end;
                }
            }
        }
        let length = self.rest.len().min(PIECE_BYTES_MAX);
        let bytes = self.rest.split_to(length);
        response.ahead.fetch_add(length, Ordering::Relaxed);
        if self.is_end_stream() {
            response.awaits_source.store(true, Ordering::Relaxed);
        }
        let piece = Bytes::from_owner(Piece { bytes, response });
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
