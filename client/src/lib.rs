//! The one way every part of the cluster reaches the API server.
//!
//! Owns: the typed [`Client`] with its two transports (HTTPS, and in-process calls into the API
//! server's own service without a socket), shared [`Cache`]s of watched objects, the keyed work
//! [`Queue`] with backoff, the [`Recorder`] of Events, and [`discovery`].
//!
//! Guarantees: caches are event-driven (list and watch in one stream, resumed from the last
//! revision), bounded by the number of objects, and one object that cannot be decoded is reported
//! and skipped without stopping the rest.
//!
//! Does not: know the store, decide anything, or cache writes. A writer that must see its own
//! write waits with [`Cache::caught_up`].

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

mod cache;
pub mod discovery;
mod error;
mod events;
mod item;
mod queue;
mod servers;
mod transport;
mod trim;
mod watch;
mod work;
mod write;

pub use coxswain_supervise as supervise;

pub use cache::{Cache, Caches, Change, Changes, Scope};
pub use error::{ClientError, Failure, failure, message};
pub use events::{EventType, Recorder, reference};
pub use item::{Item, ObjectKey, Relations};
pub use k8s_openapi;
pub use kube;
pub use queue::Queue;
pub use servers::Servers;
pub use transport::Client;
pub use watch::{METADATA_ONLY, Source};
pub use work::{Next, work};
pub use write::{merge, merge_diff, revision_of};
