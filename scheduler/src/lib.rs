//! The scheduler: gives every pending pod a node.
//!
//! It watches pods and nodes, keeps an incremental snapshot of what each node has left, and binds pods in order of
//! priority and age. [`core`] decides, purely: `schedule(pod, snapshot, seed)` is a node, or a typed explanation for
//! every node. `run` is the thin shell: caches in, bindings, events and conditions out.
//!
//! It guarantees that a binding was decided on a snapshot that includes its own earlier bindings, and that a pod that
//! does not fit is tried again when something happens that could help it. It does not run pods, and it does not touch
//! pods of other schedulers.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod core;
mod error;
mod run;
mod writes;

pub use error::SchedulerError;
pub use run::{Config, run};
