//! One priority level: seats, and fair queues for when they are all taken.
//!
//! The counter of taken seats is the only thing that requests share while there are free ones. The queues
//! have a lock, which is only touched when the level is full or somebody waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coxswain_api::kinds::access;
use serde_json::Value;
use tokio::sync::oneshot;

/// What a level is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// `None`: without limit.
    seats: Option<usize>,
    /// Number of queues, how many of them a flow may use, and how many wait in each; 0 queues: nobody waits.
    queues: usize,
    hand: usize,
    length: usize,
}

impl Shape {
    /// Reads a PriorityLevelConfiguration; `shares` is the sum over all levels.
    pub fn new(value: &Value, seats: u64, shares: u64) -> Self {
        if access::text(value, "/spec/type") != "Limited" {
            return Self {
                seats: None,
                queues: 0,
                hand: 0,
                length: 0,
            };
        }
        let number = |pointer: &str, default: i64| -> usize {
            usize::try_from(access::int(value, pointer).unwrap_or(default)).unwrap_or(0)
        };
        let own = number("/spec/limited/nominalConcurrencyShares", 30) as u64;
        let seats = seats.saturating_mul(own).div_ceil(shares.max(1));
        let waits = access::text(value, "/spec/limited/limitResponse/type") == "Queue";
        let queuing = "/spec/limited/limitResponse/queuing";
        Self {
            seats: Some(usize::try_from(seats).unwrap_or(usize::MAX)),
            queues: if waits {
                number(&format!("{queuing}/queues"), 64).clamp(1, 10_000)
            } else {
                0
            },
            hand: number(&format!("{queuing}/handSize"), 8).max(1),
            length: number(&format!("{queuing}/queueLengthLimit"), 50),
        }
    }
}

/// Why a request got no seat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Every queue it may wait in is full, or the level has none.
    Full,
    /// It waited too long.
    TimedOut,
}

/// One level's seats and queues.
pub(super) struct Level {
    shape: Shape,
    taken: AtomicUsize,
    waiting: AtomicUsize,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    lines: Vec<VecDeque<oneshot::Sender<Seat>>>,
    /// The line that is served next.
    turn: usize,
}

/// The right to run; given back when it is dropped.
pub(crate) struct Seat(Option<Arc<Level>>);

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(level) = self.0.take() {
            level.leave();
        }
    }
}

impl Level {
    /// An empty level.
    pub fn new(shape: Shape) -> Self {
        let lines = (0..shape.queues).map(|_| VecDeque::new()).collect();
        Self {
            shape,
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queues: Mutex::new(Queues { lines, turn: 0 }),
        }
    }

    /// What it is.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Takes a seat, at once or in turn.
    pub async fn seat(self: &Arc<Self>, flow: u64, longest: Duration) -> Result<Seat, Refused> {
        let Some(seats) = self.shape.seats else {
            return Ok(Seat(None));
        };
        if self.waiting.load(Ordering::SeqCst) == 0 && self.take(seats) {
            return Ok(Seat(Some(self.clone())));
        }
        let receiver = self.line_up(flow, seats)?;
        match receiver {
            Ok(seat) => Ok(seat),
            Err(mut receiver) => match tokio::time::timeout(longest, &mut receiver).await {
                Ok(Ok(seat)) => Ok(seat),
                // A seat that came at the last moment is used.
                _ => receiver.try_recv().map_err(|_| Refused::TimedOut),
            },
        }
    }

    fn take(&self, seats: usize) -> bool {
        let more = |taken: usize| (taken < seats).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .is_ok()
    }

    /// A seat that has become free meanwhile, or a place in the shortest line that the flow may use.
    fn line_up(self: &Arc<Self>, flow: u64, seats: usize) -> Result<Result<Seat, oneshot::Receiver<Seat>>, Refused> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before looking for a seat once more: whoever gives one back after this look sees it.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let alone = self.waiting.load(Ordering::SeqCst) == 1;
        if alone && self.take(seats) {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Ok(Ok(Seat(Some(self.clone()))));
        }
        let hand = hand(flow, self.shape.queues, self.shape.hand);
        for at in &hand {
            // Who has given up takes no place.
            if let Some(line) = queues.lines.get_mut(*at) {
                let before = line.len();
                line.retain(|sender| !sender.is_closed());
                self.waiting.fetch_sub(before - line.len(), Ordering::SeqCst);
            }
        }
        let length = |line: usize| queues.lines.get(line).map_or(usize::MAX, VecDeque::len);
        let shortest = hand.into_iter().min_by_key(|line| length(*line));
        let Some(line) = shortest.filter(|line| length(*line) < self.shape.length) else {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Err(Refused::Full);
        };
        let (sender, receiver) = oneshot::channel();
        if let Some(line) = queues.lines.get_mut(line) {
            line.push_back(sender);
        }
        Ok(Err(receiver))
    }

    /// Gives a seat back, or on to the next who waits: one of each line in turn.
    fn leave(self: &Arc<Self>) {
        loop {
            if self.waiting.load(Ordering::SeqCst) > 0 && self.hand_on() {
                return;
            }
            self.taken.fetch_sub(1, Ordering::SeqCst);
            // Who lined up between the two saw no free seat: the one just given back is theirs, unless
            // somebody has taken it, who will come by here too.
            let seats = self.shape.seats.unwrap_or(usize::MAX);
            if self.waiting.load(Ordering::SeqCst) == 0 || !self.take(seats) {
                return;
            }
        }
    }

    /// Gives a taken seat to the next who still waits; false when there is none.
    fn hand_on(self: &Arc<Self>) -> bool {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = queues.next() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            match sender.send(Seat(Some(self.clone()))) {
                Ok(()) => return true,
                // Gone: the seat is still ours to give.
                Err(mut seat) => {
                    seat.0.take();
                }
            }
        }
        false
    }
}

impl Queues {
    fn next(&mut self) -> Option<oneshot::Sender<Seat>> {
        let count = self.lines.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            if let Some(sender) = self.lines.get_mut(at).and_then(VecDeque::pop_front) {
                self.turn = (at + 1) % count;
                return Some(sender);
            }
        }
        None
    }
}

/// The lines that a flow may use: different flows get different hands, so that a greedy one cannot fill the
/// lines of all others.
fn hand(flow: u64, queues: usize, size: usize) -> Vec<usize> {
    let mut left = flow;
    let mut cards: Vec<usize> = Vec::with_capacity(size);
    for dealt in 0..size.min(queues) {
        let remaining = (queues - dealt) as u64;
        let mut card = usize::try_from(left % remaining).unwrap_or(0);
        left /= remaining;
        let mut sorted = cards.clone();
        sorted.sort_unstable();
        for lower in sorted {
            if card >= lower {
                card += 1;
            }
        }
        cards.push(card);
    }
    cards
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn level(seats: usize, queues: usize, length: usize) -> Arc<Level> {
        Arc::new(Level::new(Shape {
            seats: Some(seats),
            queues,
            hand: queues.min(2),
            length,
        }))
    }

    const SOON: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_secs(3600);

    #[test]
    fn shapes() {
        let limited = json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 20,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 3}}}}});
        let shape = Shape::new(&limited, 600, 245);
        assert_eq!(
            (shape.seats, shape.queues, shape.hand, shape.length),
            (Some(49), 4, 2, 3)
        );
        assert_eq!(Shape::new(&json!({"spec": {"type": "Exempt"}}), 600, 245).seats, None);
    }

    #[test]
    fn hands_are_cards_of_one_deck() {
        for flow in 0..500u64 {
            let mut cards = hand(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15), 64, 6);
            cards.sort_unstable();
            cards.dedup();
            assert_eq!(cards.len(), 6, "{flow}");
            assert!(cards.iter().all(|card| *card < 64), "{flow}");
        }
    }

    #[tokio::test]
    async fn a_full_level_refuses_or_lets_wait() {
        let reject = level(1, 0, 0);
        let seat = reject.seat(1, LATE).await.expect("a seat");
        assert_eq!(reject.seat(2, LATE).await.err(), Some(Refused::Full));
        drop(seat);
        drop(reject.seat(2, LATE).await.expect("a seat"));
        assert_eq!(reject.taken.load(Ordering::SeqCst), 0);

        let queued = level(1, 1, 1);
        let seat = queued.seat(1, LATE).await.expect("a seat");
        assert_eq!(queued.seat(1, SOON).await.err(), Some(Refused::TimedOut));
        let other = queued.clone();
        let waiting = tokio::spawn(async move { other.seat(1, LATE).await });
        tokio::task::yield_now().await;
        assert_eq!(queued.seat(1, LATE).await.err(), Some(Refused::Full));
        drop(seat);
        drop(waiting.await.expect("a task").expect("a seat"));
        assert_eq!(queued.taken.load(Ordering::SeqCst), 0);
        assert_eq!(queued.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn flows_take_turns() {
        let level = Arc::new(Level::new(Shape {
            seats: Some(1),
            queues: 2,
            hand: 1,
            length: 10,
        }));
        let seat = level.seat(0, LATE).await.expect("a seat");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        // Four of one flow come first, then one of another.
        for flow in [0, 0, 0, 0, 1] {
            let (level, order) = (level.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let seat = level.seat(flow, LATE).await.expect("a seat");
                order.lock().expect("a list").push(flow);
                drop(seat);
            }));
            tokio::task::yield_now().await;
        }
        drop(seat);
        for task in tasks {
            task.await.expect("a task");
        }
        assert_eq!(*order.lock().expect("a list"), [0, 1, 0, 0, 0]);
        assert_eq!(level.taken.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_seat_is_lost_or_taken_twice() {
        let level = level(3, 4, 1000);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for flow in 0..400u64 {
            let (level, running, most) = (level.clone(), running.clone(), most.clone());
            tasks.push(tokio::spawn(async move {
                let _seat = level.seat(flow % 7, LATE).await.expect("a seat");
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
            }));
        }
        for task in tasks {
            task.await.expect("a task");
        }
        assert!(most.load(Ordering::SeqCst) <= 3);
        assert_eq!(level.taken.load(Ordering::SeqCst), 0);
        assert_eq!(level.waiting.load(Ordering::SeqCst), 0);
    }
}
