//! Load generators for any Kubernetes API server.
//!
//! Requests are bytes made beforehand and answers are not parsed beyond their framing, so that a server much faster
//! than a usual client can be measured on the same machine.

pub mod churn;
pub mod figures;
pub mod http;
pub mod lists;
pub mod objects;
pub mod process;
pub mod store;
pub mod target;
pub mod watches;
pub mod writes;
