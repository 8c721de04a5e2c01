//! The controllers: loops that make the cluster's objects what their specs ask for.
//!
//! Every controller watches through shared caches, is woken by keys, and does observe (read the
//! caches), plan (a pure function, `plan.rs`) and apply (writes with preconditions, no choices).
//! An executor returns only when the caches show what it wrote, so the next plan starts from
//! there and nothing is created twice.
//!
//! Does not: elect a leader (the caller starts and stops it with leadership), keep state of its
//! own, or see the store.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

mod adoption;
mod aggregation;
mod autoscale;
mod bootstrap_tokens;
mod certificates;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod error;
mod fleet;
mod garbage;
mod history;
mod inventory;
mod job;
mod labels;
mod mirroring;
mod namespace;
mod node;
mod pods;
mod protection;
mod replicaset;
mod resourcequota;
mod serviceaccount;
mod single;
mod statefulset;
mod wire;
mod writes;

pub use context::{Authority, Clients, Config};
pub use error::ControllerError;
pub use node::EvictionLimits;
pub use wire::run;
