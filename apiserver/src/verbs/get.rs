//! `GET` of one object.

use std::time::Duration;

use coxswain_api::ApiError;
use serde_json::json;

use crate::answer::{self, Reply};
use crate::call::Call;
use crate::options::parse_version;

/// How long a read waits for a revision that is not there yet.
pub(crate) const FUTURE_WAIT: Duration = Duration::from_secs(3);

/// Runs the verb.
pub(crate) async fn get(call: &Call) -> Result<Reply, ApiError> {
    if let Some(revision) = parse_version(call.query.text("resourceVersion"))? {
        wait_for(call, revision).await?;
    }
    let snapshot = call.snapshot();
    let stored = snapshot
        .get(&call.key(&call.path.name))
        .ok_or_else(|| call.not_found(&call.path.name))?;
    answer::stored(call, 200, stored)
}

/// Waits until the store has reached `revision`.
///
/// # Errors
/// 504 with Kubernetes' "too large resource version" when it does not come.
pub(crate) async fn wait_for(call: &Call, revision: u64) -> Result<(), ApiError> {
    let current = call.server.store.snapshot().revision();
    if revision <= current {
        return Ok(());
    }
    if call.server.store.wait_revision(revision, FUTURE_WAIT).await.is_ok() {
        return Ok(());
    }
    let message = format!("Too large resource version: {revision}, current: {current}");
    let mut error = ApiError::timeout(format!("Timeout: {message}"));
    error.details = Some(json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }));
    error.retry_after_s = Some(1);
    Err(error)
}
