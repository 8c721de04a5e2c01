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

/// Which operations have been put in order: all known ones before `first`, and these behind it or unknown.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Order {
    first: usize,
    others: Vec<usize>,
}

impl Order {
    fn has(&self, at: usize) -> bool {
        self.others.binary_search(&at).is_ok()
    }

    fn with(&self, at: usize, known: &[Operation]) -> Order {
        let mut order = self.clone();
        order
            .others
            .insert(order.others.partition_point(|other| *other < at), at);
        while order.first < known.len() && order.others.first() == Some(&order.first) {
            order.others.remove(0);
            order.first += 1;
        }
        order
    }
}

/// What may come next in some order: the last one is tried first.
struct Choice {
    order: Order,
    value: Option<u64>,
    next: Vec<usize>,
}

impl Choice {
    fn new(order: Order, value: Option<u64>, known: &[Operation], unknown: &[Operation]) -> Choice {
        // Until the first of these returns the others may come before it; who was called later cannot.
        let mut first_return = u64::MAX;
        let mut next = Vec::new();
        for at in (order.first..known.len()).filter(|at| !order.has(*at)) {
            if known[at].called > first_return {
                break;
            }
            first_return = first_return.min(known[at].returned);
            next.push(at);
        }
        let lost = unknown.iter().take_while(|operation| operation.called < first_return);
        next.extend((known.len()..known.len() + lost.count()).filter(|at| !order.has(*at)));
        next.reverse();
        Choice { order, value, next }
    }
}

/// Whether the operations on one key, which has no value at first, have an order that explains them.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    let mut operations = operations.to_vec();
    operations.retain(|operation| (operation.call, operation.answer) != (Call::Read, Answer::Unknown));
    operations.sort_by_key(|operation| operation.called);
    let (unknown, known): (Vec<_>, Vec<_>) = operations
        .into_iter()
        .partition(|operation| operation.answer == Answer::Unknown);
    let mut seen: HashSet<(Order, Option<u64>)> = HashSet::new();
    let mut choices = vec![Choice::new(Order::default(), None, &known, &unknown)];
    while let Some(choice) = choices.last_mut() {
        if choice.order.first == known.len() {
            return true;
        }
        let Some(at) = choice.next.pop() else {
            choices.pop();
            continue;
        };
        let operation = known.get(at).unwrap_or_else(|| &unknown[at - known.len()]);
        // What has no answer and changes nothing need not be placed.
        let changes = |after: &Option<u64>| operation.answer != Answer::Unknown || *after != choice.value;
        let Some(after) = step(operation, choice.value).filter(changes) else {
            continue;
        };
        let order = choice.order.with(at, &known);
        if seen.insert((order.clone(), after)) {
            choices.push(Choice::new(order, after, &known, &unknown));
        }
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
