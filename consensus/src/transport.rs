//! The port to the other members.

use crate::Message;

/// Carries messages to other members. Delivery is best effort: what is lost is repeated.
pub trait Transport: Send {
    /// Hands a message on; must not block.
    fn send(&mut self, to: u64, message: Message);
}

/// The transport of a member that is alone.
pub struct NoPeers;

impl Transport for NoPeers {
    fn send(&mut self, to: u64, _message: Message) {
        tracing::warn!(to, "a message has nowhere to go");
    }
}
