//! The object model of Coxswain's Kubernetes-compatible API.
//!
//! Everything here is synchronous and pure: no tokio, no clock, no randomness, no files. Objects are
//! [`serde_json::Value`] (its maps are sorted, so `serde_json::to_vec` is the canonical form) and the
//! shape of every built-in type is a row of [`schema`], built at compile time. What a kind means beyond
//! its shape (defaults, validation, update rules, columns) is in [`kinds`].
//!
//! Does not: speak HTTP, store anything, or know which requests are allowed.

pub mod apply;
pub mod bounded;
pub mod codec;
pub mod discovery;
pub mod field;
pub mod intstr;
pub mod kinds;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;

/// Marks a watch in this process (as an extension of the request, and of the response when it is granted): objects come as
/// they are stored, without `apiVersion` and `kind`, and each in a chunk of its own whose bytes are the store's. So a cache
/// beside the store holds no second copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsStored;

pub use field::{ErrorList, FieldError, Path};
pub use quantity::Quantity;
pub use registry::{Registry, Resource};
pub use status::ApiError;

#[cfg(test)]
mod cost_tests;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod property_tests;
