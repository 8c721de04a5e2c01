//! The port to the other members.

/// Carries raft's messages, as opaque bytes, to other members. Delivery is best effort: raft
/// repeats what is lost.
pub trait Transport: Send {
    /// Hands a message on; must not block.
    fn send(&mut self, to: u64, message: Vec<u8>);
}

/// The transport of a member that is alone.
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&mut self, to: u64, _message: Vec<u8>) {
        tracing::warn!(to, "a raft message has nowhere to go");
    }
}
