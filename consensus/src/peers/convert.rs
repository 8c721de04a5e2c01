//! Messages on the wire and back.

use coxswain_proto::peers::envelope::Content;
use coxswain_proto::peers::refused::Reason;
use coxswain_proto::peers::{Chunk, Envelope, Forward, Forwarded, Received, Refused};

use crate::{Message, Refusal};

pub(super) fn to_wire(message: Message) -> Envelope {
    let content = match message {
        Message::Raft(bytes) => Content::Raft(bytes),
        Message::Forward {
            term,
            session,
            oldest,
            first,
            txns,
        } => Content::Forward(Forward {
            term,
            session,
            oldest,
            first,
            txns,
        }),
        Message::Forwarded {
            term,
            session,
            through,
            refused,
        } => Content::Forwarded(Forwarded {
            term,
            session,
            through,
            refused: refused.into_iter().map(refused_to_wire).collect(),
        }),
        Message::Chunk {
            transfer,
            number,
            data,
            last,
        } => Content::Chunk(Chunk {
            transfer,
            number,
            data,
            last,
        }),
        Message::Received { transfer, next } => Content::Received(Received { transfer, next }),
    };
    Envelope { content: Some(content) }
}

fn refused_to_wire((number, refusal): (u64, Refusal)) -> Refused {
    let reason = match refusal {
        Refusal::Overloaded => Reason::Overloaded,
        Refusal::NoSpace => Reason::NoSpace,
        Refusal::Malformed => Reason::Malformed,
    };
    Refused {
        number,
        reason: reason as i32,
    }
}

/// The message in an envelope; `None` when it is of a kind that this version doesn't know.
pub(super) fn from_wire(envelope: Envelope) -> Option<Message> {
    Some(match envelope.content? {
        Content::Raft(bytes) => Message::Raft(bytes),
        Content::Forward(forward) => Message::Forward {
            term: forward.term,
            session: forward.session,
            oldest: forward.oldest,
            first: forward.first,
            txns: forward.txns,
        },
        Content::Forwarded(forwarded) => Message::Forwarded {
            term: forwarded.term,
            session: forwarded.session,
            through: forwarded.through,
            refused: forwarded.refused.into_iter().map(refused_from_wire).collect(),
        },
        Content::Chunk(chunk) => Message::Chunk {
            transfer: chunk.transfer,
            number: chunk.number,
            data: chunk.data,
            last: chunk.last,
        },
        Content::Received(received) => Message::Received {
            transfer: received.transfer,
            next: received.next,
        },
    })
}

fn refused_from_wire(refused: Refused) -> (u64, Refusal) {
    let refusal = match refused.reason() {
        Reason::Overloaded => Refusal::Overloaded,
        Reason::NoSpace => Refusal::NoSpace,
        Reason::Malformed => Refusal::Malformed,
    };
    (refused.number, refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_the_wire() {
        let messages = [
            Message::Raft(vec![1, 2, 3]),
            Message::Forward {
                term: 1,
                session: u64::MAX,
                oldest: 2,
                first: 3,
                txns: vec![vec![], vec![4]],
            },
            Message::Forwarded {
                term: 1,
                session: 2,
                through: 3,
                refused: vec![(1, Refusal::NoSpace), (2, Refusal::Overloaded), (3, Refusal::Malformed)],
            },
            Message::Chunk {
                transfer: 1,
                number: 0,
                data: vec![9; 10],
                last: true,
            },
            Message::Received { transfer: 1, next: 7 },
        ];
        for message in messages {
            assert_eq!(from_wire(to_wire(message.clone())), Some(message));
        }
        assert_eq!(from_wire(Envelope::default()), None);
    }

    /// Envelopes and raft messages of any bytes: read or refused.
    #[test]
    fn fuzz_envelopes() {
        use prost::Message as _;
        let raft = raft::eraftpb::Message {
            to: 2,
            from: 1,
            term: 7,
            index: 9,
            ..Default::default()
        };
        let raft = protobuf::Message::write_to_bytes(&raft).expect("written");
        let messages = [
            Message::Raft(raft.clone()),
            Message::Forward {
                term: 1,
                session: 2,
                oldest: 2,
                first: 3,
                txns: vec![vec![], vec![4]],
            },
            Message::Forwarded {
                term: 1,
                session: 2,
                through: 3,
                refused: vec![(1, Refusal::NoSpace)],
            },
            Message::Chunk {
                transfer: 1,
                number: 0,
                data: vec![9; 10],
                last: true,
            },
        ];
        let mut seeds: Vec<Vec<u8>> = messages
            .into_iter()
            .map(|message| to_wire(message).encode_to_vec())
            .collect();
        seeds.push(raft);
        coxswain_fuzz::fuzz(
            "peer-messages",
            seeds,
            &["\u{a}", "\u{12}", "\u{ff}"],
            |bytes: &Vec<u8>| {
                let read: Result<raft::eraftpb::Message, _> = protobuf::Message::parse_from_bytes(bytes);
                let envelope = Envelope::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
                let message = from_wire(envelope).ok_or("no content")?;
                assert_eq!(from_wire(to_wire(message.clone())), Some(message));
                read.map(|_| ()).map_err(|error| error.to_string())
            },
        );
    }
}
