//! What members say to each other. Delivery is best effort: each part repeats what was lost and knows
//! again what came twice.

/// A message from one member to another. Who sent it is for the transport to say, which knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// One of raft's own, opaque.
    Raft(Vec<u8>),
    /// Writes that a follower was given, for the leader to propose.
    Forward {
        /// Term of the leader that is meant. Another one leaves them alone: the sender forwards them again.
        term: u64,
        /// The sender's session: its numbers count from 1 in each term.
        session: u64,
        /// Number of the sender's oldest write that it still waits for.
        oldest: u64,
        /// Number of the first write in this message.
        first: u64,
        /// Encoded transactions.
        txns: Vec<Vec<u8>>,
    },
    /// How far a follower's writes have come in, and which were not taken.
    Forwarded {
        /// Term in which they came.
        term: u64,
        /// Session of the follower.
        session: u64,
        /// Number of the last write received.
        through: u64,
        /// Numbers of the writes that will not be done, and why.
        refused: Vec<(u64, Refusal)>,
    },
    /// A part of a snapshot.
    Chunk {
        /// Which transfer, of this sender.
        transfer: u64,
        /// Number of the part, from 0.
        number: u64,
        /// The objects, or in the last part raft's message.
        data: Vec<u8>,
        /// Whether this is the last part.
        last: bool,
    },
    /// How many parts of a snapshot have come in.
    Received {
        /// Which transfer.
        transfer: u64,
        /// Number of the part wanted next.
        next: u64,
    },
}

/// Why a leader didn't take a write that was forwarded to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its disk is full.
    NoSpace,
    /// Too much is waiting already.
    Overloaded,
    /// It cannot be decoded.
    Malformed,
}
