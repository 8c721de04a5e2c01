//! What a log record says: the hard state, and the entries appended with it.
//!
//! Every record carries the hard state, so that no record depends on an earlier, trimmed one.

use coxswain_store::codec::{put_number, take_number};
use raft::eraftpb::{Entry, EntryType, HardState};

const APPEND: u8 = 1;
const SEAL: u8 = 2;
const RESET: u8 = 3;

/// One decoded record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Payload {
    /// Entries follow those before, replacing any of the same or a higher index.
    Append {
        /// Term, vote and commit index from here on.
        hard: HardState,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The log was closed after the record before. Written by version 1 only.
    Seal,
    /// The entries before are void: the log goes on after this place, which a checkpoint holds.
    Reset {
        /// Term, vote and commit index from here on.
        hard: HardState,
        /// Index of the last entry before the next.
        index: u64,
        /// Its term.
        term: u64,
    },
}

/// Appends the encoding of a record of entries.
pub(crate) fn encode_append(hard: &HardState, entries: &[Entry], out: &mut Vec<u8>) {
    out.push(APPEND);
    for number in [hard.term, hard.vote, hard.commit, entries.len() as u64] {
        put_number(out, number);
    }
    for entry in entries {
        put_number(out, entry.index);
        put_number(out, entry.term);
        out.push(match entry.get_entry_type() {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChange => 1,
            EntryType::EntryConfChangeV2 => 2,
        });
        put_number(out, entry.context.len() as u64);
        out.extend_from_slice(&entry.context);
        put_number(out, entry.data.len() as u64);
        out.extend_from_slice(&entry.data);
    }
}

/// Upper bound of the size of the encoding of a record of entries, in bytes.
pub(crate) fn append_size(entries: &[Entry]) -> usize {
    const NUMBER: usize = 10;
    let each = |entry: &Entry| 1 + 4 * NUMBER + entry.context.len() + entry.data.len();
    1 + 4 * NUMBER + entries.iter().map(each).sum::<usize>()
}

/// Appends the encoding of a reset.
pub(crate) fn encode_reset(hard: &HardState, index: u64, term: u64, out: &mut Vec<u8>) {
    out.push(RESET);
    for number in [hard.term, hard.vote, hard.commit, index, term] {
        put_number(out, number);
    }
}

/// Decodes a record; `None` when it is none this version knows.
pub(crate) fn decode(mut input: &[u8]) -> Option<Payload> {
    let (&kind, rest) = input.split_first()?;
    input = rest;
    match kind {
        SEAL if input.is_empty() => Some(Payload::Seal),
        APPEND => {
            let hard = decode_hard(&mut input)?;
            let count = take_number(&mut input)?;
            let mut entries = Vec::new();
            for _ in 0..count {
                entries.push(decode_entry(&mut input)?);
            }
            input.is_empty().then_some(Payload::Append { hard, entries })
        }
        RESET => {
            let hard = decode_hard(&mut input)?;
            let index = take_number(&mut input)?;
            let term = take_number(&mut input)?;
            input.is_empty().then_some(Payload::Reset { hard, index, term })
        }
        _ => None,
    }
}

fn decode_hard(input: &mut &[u8]) -> Option<HardState> {
    Some(HardState {
        term: take_number(input)?,
        vote: take_number(input)?,
        commit: take_number(input)?,
        ..HardState::default()
    })
}

fn decode_entry(input: &mut &[u8]) -> Option<Entry> {
    let mut entry = Entry {
        index: take_number(input)?,
        term: take_number(input)?,
        ..Entry::default()
    };
    let (&kind, rest) = input.split_first()?;
    *input = rest;
    entry.set_entry_type(match kind {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return None,
    });
    entry.context = take_bytes(input)?.to_vec().into();
    entry.data = take_bytes(input)?.to_vec().into();
    Some(entry)
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(input)?).ok()?;
    if length > input.len() {
        return None;
    }
    let (bytes, rest) = input.split_at(length);
    *input = rest;
    Some(bytes)
}
