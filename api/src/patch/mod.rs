//! The patch engines: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386) and Kubernetes' strategic merge
//! patch, and the three-way diff with which tools make a strategic merge patch.
//!
//! All are pure functions from a document and a patch to a new document; a failing patch changes nothing.
//! The results are not checked against a schema: the caller decodes, defaults and validates them like any
//! other body. Server-side apply is not a patch engine, see [`crate::apply`].

mod json;
mod merge;
mod strategic;
mod three_way;

#[cfg(test)]
mod tests;

use serde_json::json;

use crate::status::ApiError;

pub use json::json_patch;
pub use merge::merge_patch;
pub use strategic::strategic_merge;
pub use three_way::{strategic_diff, three_way};

/// The most operations that one JSON Patch may hold.
pub const OPERATIONS_MAX: usize = 10_000;

/// 422 as Kubernetes answers for a patch that cannot be applied to this document; the reason is appended.
fn unprocessable(why: &str) -> ApiError {
    let mut error = ApiError::new(
        422,
        "Invalid",
        format!("the server rejected our request due to an error in our request: {why}"),
    );
    error.details = Some(json!({}));
    error
}
