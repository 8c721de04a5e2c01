//! Is a history linearizable? A search in the way of Wing, Gong and Lowe, for one key at a time: a
//! history of single-key operations is linearizable when that of each key is.

use std::collections::HashSet;

/// What was asked of one key. Values are unique, so that one tells which write it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Write a value whatever there is.
    Put(u64),
    /// Write a value if there is none.
    Create(u64),
    /// Write a value in the place of another.
    Swap {
        /// The value that must be there.
        old: u64,
        /// The new one.
        new: u64,
    },
    /// Remove the value.
    Delete,
    /// Look.
    Read,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The write was done.
    Done,
    /// The write was refused, because this was there.
    Refused(Option<u64>),
    /// This was there.
    Seen(Option<u64>),
    /// Nothing came back: it was done at some later time, or never.
    Unknown,
}

/// One operation; times are places in the order of all calls and answers.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// What was asked.
    pub call: Call,
    /// What came back.
    pub answer: Answer,
    /// When it was asked.
    pub called: u64,
    /// When it came back.
    pub returned: u64,
}

/// The value after an operation, if the operation can have had its answer with that value before.
fn step(operation: &Operation, value: Option<u64>) -> Option<Option<u64>> {
    let (holds, after) = match operation.call {
        Call::Put(new) => (true, Some(new)),
        Call::Create(new) => (value.is_none(), Some(new)),
        Call::Swap { old, new } => (value == Some(old), Some(new)),
        Call::Delete => (value.is_some(), None),
        Call::Read => (true, value),
    };
    match operation.answer {
        Answer::Done => holds.then_some(after),
        Answer::Refused(seen) => (!holds && seen == value).then_some(value),
        Answer::Seen(seen) => (seen == value).then_some(value),
        Answer::Unknown => Some(if holds { after } else { value }),
    }
}

/// Whether the operations on one key, which has no value at first, have an order that explains them.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    let mut operations = operations.to_vec();
    operations.retain(|operation| (operation.call, operation.answer) != (Call::Read, Answer::Unknown));
    for operation in &mut operations {
        if operation.answer == Answer::Unknown {
            operation.returned = u64::MAX;
        }
    }
    operations.sort_by_key(|operation| operation.called);
    let words = operations.len().div_ceil(64);
    let mut seen: HashSet<(Vec<u64>, Option<u64>)> = HashSet::new();
    let mut stack = vec![(vec![0u64; words], None)];
    while let Some((done, value)) = stack.pop() {
        let is_done = |at: usize| done[at / 64] >> (at % 64) & 1 == 1;
        let open = || (0..operations.len()).filter(|at| !is_done(*at));
        let first_return = open().map(|at| operations[at].returned).min().unwrap_or(u64::MAX);
        if first_return == u64::MAX {
            return true;
        }
        // The last one pushed is tried first: operations whose answer is known.
        let mut known = Vec::new();
        for at in open().take_while(|at| operations[*at].called < first_return) {
            let Some(after) = step(&operations[at], value) else {
                continue;
            };
            let mut done = done.clone();
            done[at / 64] |= 1 << (at % 64);
            if seen.insert((done.clone(), after)) {
                match operations[at].answer {
                    Answer::Unknown => stack.push((done, after)),
                    _ => known.push((done, after)),
                }
            }
        }
        stack.extend(known.into_iter().rev());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_can_be_explained() {
        use Answer::{Done, Refused, Seen, Unknown};
        use Call::{Create, Delete, Put, Read, Swap};
        type Row = (Call, Answer, u64, u64);
        let table: [(&str, &[Row], bool); 9] = [
            ("nothing", &[], true),
            ("in order", &[(Put(1), Done, 0, 1), (Read, Seen(Some(1)), 2, 3)], true),
            (
                "stale read",
                &[(Put(1), Done, 0, 1), (Put(2), Done, 2, 3), (Read, Seen(Some(1)), 4, 5)],
                false,
            ),
            (
                "read of a write under way",
                &[
                    (Put(1), Done, 0, 5),
                    (Read, Seen(Some(1)), 1, 2),
                    (Read, Seen(Some(1)), 3, 4),
                ],
                true,
            ),
            (
                "back and forth",
                &[
                    (Put(1), Done, 0, 9),
                    (Read, Seen(Some(1)), 1, 2),
                    (Read, Seen(None), 3, 4),
                ],
                false,
            ),
            (
                "unknown, done later",
                &[
                    (Put(1), Unknown, 0, 1),
                    (Read, Seen(None), 2, 3),
                    (Read, Seen(Some(1)), 4, 5),
                ],
                true,
            ),
            (
                "unknown, undone",
                &[
                    (Put(1), Unknown, 0, 1),
                    (Read, Seen(Some(1)), 2, 3),
                    (Read, Seen(None), 4, 5),
                ],
                false,
            ),
            (
                "two swaps of one value",
                &[
                    (Create(1), Done, 0, 1),
                    (Swap { old: 1, new: 2 }, Done, 2, 5),
                    (Swap { old: 1, new: 3 }, Done, 3, 6),
                ],
                false,
            ),
            (
                "refused by what is there",
                &[
                    (Create(1), Done, 0, 1),
                    (Create(2), Refused(Some(1)), 2, 3),
                    (Delete, Done, 4, 5),
                    (Delete, Refused(None), 6, 7),
                ],
                true,
            ),
        ];
        for (name, rows, expected) in table {
            let operations: Vec<Operation> = rows
                .iter()
                .map(|&(call, answer, called, returned)| Operation {
                    call,
                    answer,
                    called,
                    returned,
                })
                .collect();
            assert_eq!(is_linearizable(&operations), expected, "{name}");
        }
    }
}
