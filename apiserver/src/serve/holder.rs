//! For whom memory is held while a request comes in and its answer goes out.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coxswain_api::ApiError;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::connections::{Connection, Connections};
use super::usage::Reservation;
use crate::User;
use crate::answer::Reply;
use crate::authn::ANONYMOUS;
use crate::flow::Refused;
use crate::pipeline::Peer;

/// What a request takes beside its body, and a response beside its own, in bytes.
const REQUEST_BYTES: usize = 16 << 10;
const RESPONSE_BYTES: usize = 8 << 10;
/// What a response takes whose length is not known: it is made piece by piece.
const STREAM_BYTES: usize = 256 << 10;

/// A user whose requests come from another process.
pub(crate) struct Holder {
    connections: Arc<Connections>,
    user: String,
    /// An administrator, or a proxy: bounded only together with everybody.
    privileged: bool,
}

/// Why a body is not there.
pub(crate) enum NotReceived {
    /// It is longer than allowed.
    TooLarge,
    /// Anything else, as it is answered.
    Other(ApiError),
}

impl Holder {
    /// The holder for a user on a connection, whose connection it is from now on.
    ///
    /// # Errors
    /// When the user has too many connections that are busy.
    pub fn of(peer: &Peer, connection: &Connection, user: &User) -> Result<Option<Self>, Refused> {
        let proxy = peer.certificate.as_ref().filter(|certificate| certificate.proxy);
        let privileged = proxy.is_some() || user.is_in("system:masters");
        let owner = proxy
            .and_then(|certificate| certificate.user.as_ref().ok())
            .map_or(user.name.as_str(), |proxy| proxy.name.as_str());
        if owner != ANONYMOUS && !connection.belongs_to(owner, privileged) {
            return Err(Refused::Full);
        }
        Ok(connection.connections().map(|connections| Self {
            connections,
            user: user.name.clone(),
            privileged,
        }))
    }

    /// Counts what an answer takes until the client has it.
    ///
    /// # Errors
    /// For the answer to a read when the user's clients leave too much where it is. What was written is answered.
    pub fn keep(&self, reply: &Reply, streams: bool, reads: bool) -> Result<Reservation, Refused> {
        let length = reply.body().size_hint().exact();
        let bytes = match length.and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) => bytes,
            None if streams => 0,
            None => STREAM_BYTES,
        };
        let usage = &self.connections.responses;
        let kept = usage.reserve(
            &self.user,
            bytes.saturating_add(RESPONSE_BYTES),
            self.privileged,
            !reads,
        );
        kept.ok_or(Refused::Full)
    }

    /// Receives a body, within the limits of time and memory.
    ///
    /// # Errors
    /// 408 when it comes too slowly, 429 when the user's bodies together are too large.
    pub async fn receive(&self, body: &mut Body, bytes_max: usize) -> Result<(Bytes, Reservation), NotReceived> {
        let too_many = || {
            let message = "the requests of this user that are being received take too much memory; retry";
            NotReceived::Other(ApiError::too_many_requests(message.to_owned(), 1))
        };
        let limits = &self.connections.limits;
        let usage = &self.connections.bodies;
        let mut held = usage
            .reserve(&self.user, REQUEST_BYTES, self.privileged, false)
            .ok_or_else(too_many)?;
        let ends = coxswain_supervise::deadline(limits.body);
        let mut received = BytesMut::new();
        let mut first = Bytes::new();
        loop {
            let left = ends.saturating_duration_since(Instant::now()).min(limits.body_idle);
            let Ok(frame) = timeout(left, body.frame()).await else {
                return Err(NotReceived::Other(too_slow(limits.body_idle, limits.body)));
            };
            let bytes = match frame {
                None => break,
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Err(NotReceived::Other(unreadable(&error))),
            };
            if first.len() + received.len() + bytes.len() > bytes_max {
                return Err(NotReceived::TooLarge);
            }
            if !held.grow(bytes.len(), self.privileged) {
                return Err(too_many());
            }
            // Most bodies come in one piece, which is not copied.
            if first.is_empty() && received.is_empty() {
                first = bytes;
            } else {
                received.extend_from_slice(&std::mem::take(&mut first));
                received.extend_from_slice(&bytes);
            }
        }
        let whole = if received.is_empty() { first } else { received.freeze() };
        Ok((whole, held))
    }
}

/// 400 for a body that cannot be read to its end.
pub(crate) fn unreadable(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("error reading the request body: {error}"))
}

fn too_slow(idle: Duration, whole: Duration) -> ApiError {
    let message = format!(
        "the request body did not arrive in time: it has {} s as a whole, and {} s for each part; retry over a faster connection",
        whole.as_secs_f64(),
        idle.as_secs_f64()
    );
    ApiError::new(408, "Timeout", message)
}
