//! `/cluster/...`: what this server does for those who run it. No part of Kubernetes.
//!
//! - `POST /cluster/backup` answers with everything that is stored, as it was at one revision, in the framed parts of
//!   [`coxswain_consensus::backup`]. Only an answer that ends with the last part is whole.
//! - `POST /cluster/rotate-key` has this server's disk encrypted with a new key and destroys the old one.
//!
//! - `GET /cluster/members` shows how the servers stand: role, term, and how far each is, by its own word.
//!
//! Authorised as paths, like every page. The first two are POST, so that a role which may `get` every path does not thereby
//! read every Secret.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use coxswain_api::ApiError;
use coxswain_consensus::RotateError;
use coxswain_consensus::backup::{Parts, framed};
use futures::stream;
use http::Method;
use serde_json::json;
use tokio::sync::mpsc;

use super::not_allowed;
use crate::answer::{self, Reply};
use crate::negotiate::Encoding;
use crate::shared::{Shared, refused};

/// Backups taken at the same time: each keeps what it shows from being forgotten.
pub(crate) const BACKUPS_MAX: usize = 2;
/// How long a client may take for one part before its backup is given up.
const PART_WITHIN: Duration = Duration::from_secs(60);

/// Answers a request below `/cluster`.
pub(crate) async fn answer(shared: &Arc<Shared>, words: &[&str], method: &Method) -> Result<Reply, ApiError> {
    match words {
        ["backup"] | ["rotate-key"] if method != Method::POST => Err(not_allowed()),
        ["members"] if !matches!(*method, Method::GET | Method::HEAD) => Err(not_allowed()),
        ["members"] => members(shared).await,
        ["backup"] => backup(shared).await,
        ["rotate-key"] => rotate_key(shared).await,
        _ => Err(ApiError::page_not_found()),
    }
}

async fn backup(shared: &Arc<Shared>) -> Result<Reply, ApiError> {
    let permit = shared.backups.clone().try_acquire_owned();
    let permit =
        permit.map_err(|_| ApiError::too_many_requests("other backups are being taken; try again later", 10))?;
    let snapshot = shared.store.read_barrier().await.map_err(|error| refused(&error))?;
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let stopping = shared.stopping.clone();
    tokio::spawn(async move {
        let _permit = permit;
        for part in Parts::of(snapshot) {
            tokio::select! {
                () = stopping.cancelled() => return,
                sent = sender.send_timeout(framed(&part).into(), PART_WITHIN) => if sent.is_err() { return },
            }
        }
    });
    let parts = stream::unfold(receiver, |mut receiver| async move {
        let part = receiver.recv().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(part), receiver))
    });
    Ok(answer::raw(200, "application/octet-stream", Body::from_stream(parts)))
}

async fn members(shared: &Arc<Shared>) -> Result<Reply, ApiError> {
    let members = shared.store.members().await.map_err(|error| refused(&error))?;
    let items = members.into_iter().map(|member| {
        json!({
            "id": member.id,
            "name": member.name,
            "address": member.address,
            "role": member.role,
            "term": member.term,
            "commit": member.commit,
            "applied": member.applied,
            "lag": member.lag,
            "alive": member.alive,
        })
    });
    let list = json!({"kind": "MemberList", "apiVersion": "coxswain/v1", "items": items.collect::<Vec<_>>()});
    Ok(answer::document(200, &list, Encoding::Json, false))
}

async fn rotate_key(shared: &Arc<Shared>) -> Result<Reply, ApiError> {
    let store = shared.store.clone();
    // It goes on when the client goes away.
    let rotated = tokio::spawn(async move { store.rotate_key().await }).await;
    match rotated {
        Ok(Ok(())) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
            Ok(answer::document(200, &status, Encoding::Json, false))
        }
        Ok(Err(RotateError::Refused(error))) => Err(refused(&error)),
        Ok(Err(error)) => Err(ApiError::internal(error.to_string())),
        Err(error) => Err(ApiError::internal(error.to_string())),
    }
}
