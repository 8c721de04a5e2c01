//! Our own gRPC: what the members of a cluster say to each other.
//!
//! Raft's messages are opaque bytes here.

/// Between members of the store, and from one that wants to be.
#[allow(unused_qualifications, reason = "generated")]
pub mod peers {
    tonic::include_proto!("coxswain.peers.v1");
}
