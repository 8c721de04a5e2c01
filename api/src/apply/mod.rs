//! Server-side apply and the ownership of fields.
//!
//! Every write records who wrote which field in `metadata.managedFields`. An *apply* request states all the
//! fields that its manager wants; fields that it stated before and now leaves out are removed unless
//! somebody else owns them, and fields that others own with another value are conflicts. Every other write
//! (create, update, patch) takes ownership of exactly the fields that it changed.
//!
//! ```text
//!   apply:   live + applied -> merge -> prune what was dropped -> who else loses? -> managedFields
//!   update:  live -> new    -> compare                         -> who else loses? -> managedFields
//! ```
//!
//! [`set`] holds sets of field paths and their `FieldsV1` form, [`managed`] the entries of an object, the
//! other modules the five walks over a value and its schema: compare, merge, remove, extent and validate.
//!
//! Guarantees: applying the same configuration twice changes nothing, not even a time; a refused apply
//! changes nothing. All times come from the caller.
//!
//! Does not: default or validate the object (the caller does, before or after as Kubernetes does: see each
//! function), nor convert between API versions: an entry written in another version of the same kind is
//! taken to name the same fields.

mod blank;
mod compare;
mod engine;
mod extent;
pub mod managed;
mod merge;
mod remove;
mod reset;
mod scale;
pub mod set;
mod validate;
mod walk;

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::schema::Node;
use crate::status::ApiError;

pub use scale::apply_scale;

/// The manager whose apply keeps `kubectl apply`'s annotation up to date and may take over from it.
const KUBECTL: &str = "kubectl";

/// The manager that owns what was there before the first apply of an object without managed fields.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// One apply request.
#[derive(Clone, Copy, Debug)]
pub struct ApplyRequest<'a> {
    /// The stored object in the request's version; `None` when the apply creates it.
    pub live: Option<&'a Value>,
    /// The body of the request, undefaulted, as sent.
    pub applied: &'a Value,
    /// The `fieldManager` parameter, already checked.
    pub manager: &'a str,
    /// Take fields from other managers instead of failing.
    pub force: bool,
    /// `apps/v1`; must be the body's `apiVersion`.
    pub gv: &'a str,
    /// Must be the body's `kind`.
    pub kind: &'a str,
    /// `""`, `status`, ...
    pub subresource: &'a str,
    /// RFC 3339 in UTC with whole seconds.
    pub now: &'a str,
    /// The schema of the object.
    pub node: Node<'a>,
}

/// Merges an applied configuration into the live object and returns the result with its managed fields.
/// The caller defaults, prepares and validates the result as an update (or a create) and calls
/// [`keep_times_when_unchanged`] before storing.
///
/// Errors: 400 for another kind or version or for `managedFields` in the body, 409 with one cause per field
/// for conflicts, 500 (as Kubernetes) for a body that does not fit the schema.
pub fn apply(request: &ApplyRequest<'_>) -> Result<Value, ApiError> {
    engine::apply(request)
}

/// Records in `new.metadata.managedFields` what `manager` changed between `live` and `new`. Call it after
/// defaulting and before admission and the kind's `prepare_*`; never for an apply request.
///
/// `operation` is `Update`; `gv` is the version of the request, `now` is RFC 3339 in whole seconds. For a
/// create `live` is `None`. Managed fields that the client sent are respected on the main resource
/// (`[]` and `[{}]` reset them) and ignored on subresources. Objects that exist without managed fields stay so.
#[allow(clippy::too_many_arguments)]
pub fn update_managed_fields(
    live: Option<&Value>,
    new: &mut Value,
    manager: &str,
    operation: &str,
    gv: &str,
    subresource: &str,
    now: &str,
    node: Node<'_>,
) {
    engine::record_update(
        live,
        new,
        &engine::Writer {
            manager,
            operation,
            gv,
            subresource,
            now,
            node,
        },
    );
}

/// When `new` differs from `old` in nothing but the times of managed fields (and the resource version),
/// takes the old managed fields back, so that storing it is a no-op. Returns whether it did.
pub fn keep_times_when_unchanged(old: &Value, new: &mut Value) -> bool {
    managed::keep_times_when_unchanged(old, new)
}
