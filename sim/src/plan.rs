//! What is to happen, in the order of its time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events and when they come; those of the same time in the order in which they were planned.
pub struct Plan<E> {
    /// Time, number, and place in `events`.
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    planned: u64,
    events: Vec<Option<E>>,
    free: Vec<usize>,
}

impl<E> Default for Plan<E> {
    fn default() -> Plan<E> {
        Plan {
            queue: BinaryHeap::new(),
            planned: 0,
            events: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<E> Plan<E> {
    /// Plans an event.
    pub fn add(&mut self, at: u64, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.planned += 1;
        self.queue.push(Reverse((at, self.planned, place)));
    }

    /// Takes out the next event up to a time.
    pub fn next(&mut self, until: u64) -> Option<(u64, E)> {
        let Reverse((at, _, place)) = *self.queue.peek().filter(|Reverse((at, ..))| *at <= until)?;
        self.queue.pop();
        self.free.push(place);
        self.events[place].take().map(|event| (at, event))
    }
}
