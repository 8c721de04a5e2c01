//! The verbs, one file each, the same for every row of the registry.
//!
//! A write runs seven steps: authorise (done by the pipeline before it gets here), decode and
//! default, mutating admission, prepare and validate, validating admission, propose with a
//! precondition, encode. Everything between decoding and proposing is synchronous and works on one
//! snapshot; losing a race shows as a rejected precondition and the steps run again.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod deletecollection;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod update;
pub(crate) mod watch;
