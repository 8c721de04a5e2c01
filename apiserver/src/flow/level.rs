//! One priority level: seats, fair queues for when they are all taken, and seats lent between levels.
//!
//! The counter of taken seats is the only thing that requests share while there are free ones. The queues
//! have a lock, which is only touched when the level is full or somebody waits.
//!
//! ```text
//!   nominal seats  [ own, never lent | lendable: other levels' requests run here while nobody of ours needs them ]
//!   a full level   borrows idle lendable seats of others, up to its borrowing limit, before its requests wait
//! ```
//!
//! A lent seat comes back when its request is done; it is never taken away. Kubernetes shifts the limits every ten
//! seconds by what was needed; here a seat is lent at the moment it is needed, within the same bounds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use coxswain_api::kinds::access;
use serde_json::Value;
use tokio::sync::oneshot;

/// Most seats that one request takes.
const WIDTH_MAX: usize = 10;

/// What a level is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Requests are never held up.
    exempt: bool,
    /// Its share of the server's seats.
    seats: usize,
    /// How many of them others may use, and how many it may use of others.
    lendable: usize,
    borrowing: usize,
    /// Number of queues, how many of them a flow may use, and how many wait in each; 0 queues: nobody waits.
    queues: usize,
    hand: usize,
    length: usize,
}

impl Shape {
    /// Reads a PriorityLevelConfiguration; `shares` is the sum over all levels.
    pub fn new(value: &Value, seats: u64, shares: u64) -> Self {
        let exempt = access::text(value, "/spec/type") != "Limited";
        let own = access::at(value, if exempt { "/spec/exempt" } else { "/spec/limited" });
        let part =
            |field: &str, default: i64| u64::try_from(access::int_of(own, field).unwrap_or(default)).unwrap_or(0);
        let nominal = seats
            .saturating_mul(part("nominalConcurrencyShares", if exempt { 0 } else { 30 }))
            .div_ceil(shares.max(1));
        let percent = |percent: u64| whole(nominal.saturating_mul(percent).saturating_add(50) / 100);
        let number = |field: &str, default: i64| -> usize {
            let queuing = access::at(own, "/limitResponse/queuing");
            usize::try_from(access::int_of(queuing, field).unwrap_or(default)).unwrap_or(0)
        };
        let waits = access::text(own, "/limitResponse/type") == "Queue";
        Self {
            exempt,
            seats: whole(nominal),
            lendable: percent(part("lendablePercent", 0).min(100)),
            borrowing: match access::int_of(own, "borrowingLimitPercent") {
                Some(limit) => percent(u64::try_from(limit).unwrap_or(0)),
                None => usize::MAX,
            },
            queues: if waits {
                number("queues", 64).clamp(1, 10_000)
            } else {
                0
            },
            hand: number("handSize", 8).max(1),
            length: number("queueLengthLimit", 50),
        }
    }
}

fn whole(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Why a request got no seat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Every queue it may wait in is full, or the level has none.
    Full,
    /// It waited too long.
    TimedOut,
}

/// The levels that lend each other seats.
#[derive(Default)]
pub(super) struct Group {
    levels: ArcSwap<Vec<Weak<Level>>>,
    /// Requests that wait in any of them.
    waiting: AtomicUsize,
}

impl Group {
    /// Says which levels there are now.
    pub fn set(&self, levels: Vec<Weak<Level>>) {
        self.levels.store(Arc::new(levels));
    }

    fn each(&self, mut visit: impl FnMut(Arc<Level>) -> bool) {
        let levels = self.levels.load();
        for level in levels.iter().filter_map(Weak::upgrade) {
            if visit(level) {
                return;
            }
        }
    }
}

/// One level's seats and queues.
pub(super) struct Level {
    shape: Shape,
    group: Arc<Group>,
    /// Seats in use, those lent included.
    taken: AtomicUsize,
    lent: AtomicUsize,
    borrowed: AtomicUsize,
    waiting: AtomicUsize,
    queues: Mutex<Queues>,
}

struct Waiter {
    width: usize,
    sender: oneshot::Sender<Seat>,
}

#[derive(Default)]
struct Queues {
    lines: Vec<VecDeque<Waiter>>,
    /// The line that is served next.
    turn: usize,
}

/// The right to run; given back when it is dropped.
pub(crate) struct Seat(Option<Taken>);

struct Taken {
    level: Arc<Level>,
    /// Whose seats they are, when they are borrowed.
    lender: Option<Arc<Level>>,
    width: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(Taken { level, lender, width }) = self.0.take() {
            let owner = match lender {
                Some(lender) => {
                    level.borrowed.fetch_sub(width, Ordering::SeqCst);
                    lender.lent.fetch_sub(width, Ordering::SeqCst);
                    lender
                }
                None => level,
            };
            owner.taken.fetch_sub(width, Ordering::SeqCst);
            owner.seats_are_free();
        }
    }
}

/// Adds to a counter that must not pass a limit.
fn add(counter: &AtomicUsize, width: usize, limit: usize) -> bool {
    let more = |now: usize| now.checked_add(width).filter(|sum| *sum <= limit);
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
}

impl Level {
    /// An empty level.
    pub fn new(shape: Shape, group: Arc<Group>) -> Self {
        let lines = (0..shape.queues).map(|_| VecDeque::new()).collect();
        Self {
            shape,
            group,
            taken: AtomicUsize::new(0),
            lent: AtomicUsize::new(0),
            borrowed: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queues: Mutex::new(Queues { lines, turn: 0 }),
        }
    }

    /// What it is.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Takes `width` seats, at once or in turn. No request takes more than its flow's part of the level.
    pub async fn seat(self: &Arc<Self>, flow: u64, width: usize, longest: Duration) -> Result<Seat, Refused> {
        if self.shape.exempt {
            return Ok(Seat(None));
        }
        let most = (self.shape.seats / self.shape.hand.max(1)).clamp(1, WIDTH_MAX);
        let width = width.clamp(1, most);
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Some(seat) = self.take(width)
        {
            return Ok(seat);
        }
        match self.line_up(flow, width)? {
            Ok(seat) => Ok(seat),
            Err(mut receiver) => match tokio::time::timeout(longest, &mut receiver).await {
                Ok(Ok(seat)) => Ok(seat),
                // A seat that came at the last moment is used.
                _ => {
                    let late = receiver.try_recv();
                    drop(receiver);
                    if late.is_err() {
                        // Who is next in line may need less.
                        self.serve();
                    }
                    late.map_err(|_| Refused::TimedOut)
                }
            },
        }
    }

    /// Free seats of its own, or idle ones of another level.
    fn take(self: &Arc<Self>, width: usize) -> Option<Seat> {
        let seat = |lender| {
            Seat(Some(Taken {
                level: self.clone(),
                lender,
                width,
            }))
        };
        if add(&self.taken, width, self.shape.seats) {
            return Some(seat(None));
        }
        if !add(&self.borrowed, width, self.shape.borrowing) {
            return None;
        }
        let mut found = None;
        self.group.each(|lender| {
            if !Arc::ptr_eq(self, &lender) && lender.lend(width) {
                found = Some(lender);
            }
            found.is_some()
        });
        if found.is_none() {
            self.borrowed.fetch_sub(width, Ordering::SeqCst);
        }
        found.map(|lender| seat(Some(lender)))
    }

    /// Gives idle seats to another level, unless its own requests wait for them.
    fn lend(&self, width: usize) -> bool {
        if self.waiting.load(Ordering::SeqCst) > 0 || !add(&self.lent, width, self.shape.lendable) {
            return false;
        }
        let free = add(&self.taken, width, self.shape.seats);
        if !free {
            self.lent.fetch_sub(width, Ordering::SeqCst);
        }
        free
    }

    fn wait_ended(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::SeqCst);
        self.group.waiting.fetch_sub(count, Ordering::SeqCst);
    }

    /// A seat that has become free meanwhile, or a place in the shortest line that the flow may use.
    fn line_up(self: &Arc<Self>, flow: u64, width: usize) -> Result<Result<Seat, oneshot::Receiver<Seat>>, Refused> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before looking for a seat once more: whoever gives one back after this look sees it.
        self.group.waiting.fetch_add(1, Ordering::SeqCst);
        let alone = self.waiting.fetch_add(1, Ordering::SeqCst) == 0;
        if alone && let Some(seat) = self.take(width) {
            self.wait_ended(1);
            return Ok(Ok(seat));
        }
        let hand = hand(flow, self.shape.queues, self.shape.hand);
        for at in &hand {
            // Who has given up takes no place.
            if let Some(line) = queues.lines.get_mut(*at) {
                let before = line.len();
                line.retain(|waiter| !waiter.sender.is_closed());
                self.wait_ended(before - line.len());
            }
        }
        let length = |line: usize| queues.lines.get(line).map_or(usize::MAX, VecDeque::len);
        let shortest = hand.into_iter().min_by_key(|line| length(*line));
        let Some(line) = shortest.filter(|line| length(*line) < self.shape.length) else {
            self.wait_ended(1);
            return Err(Refused::Full);
        };
        let (sender, receiver) = oneshot::channel();
        if let Some(line) = queues.lines.get_mut(line) {
            line.push_back(Waiter { width, sender });
        }
        Ok(Err(receiver))
    }

    /// Seats came back: they go to who waits here, or to who waits elsewhere and may borrow them.
    fn seats_are_free(self: &Arc<Self>) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.serve();
        }
        if self.group.waiting.load(Ordering::SeqCst) > 0 {
            self.group.each(|level| {
                if level.waiting.load(Ordering::SeqCst) > 0 {
                    level.serve();
                }
                false
            });
        }
    }

    /// Gives seats to those who wait, one of each line in turn, as long as there are enough for the next.
    fn serve(self: &Arc<Self>) {
        loop {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((line, width)) = queues.next() else { return };
            let closed = queues.front(line).is_none_or(|waiter| waiter.sender.is_closed());
            let seat = if closed { None } else { self.take(width) };
            if !closed && seat.is_none() {
                return;
            }
            let waiter = queues.pop(line);
            self.wait_ended(1);
            drop(queues);
            // A seat that nobody takes any more is dropped here, outside the lock, and served again.
            if let (Some(waiter), Some(seat)) = (waiter, seat) {
                drop(waiter.sender.send(seat));
            }
        }
    }
}

impl Queues {
    /// The line whose turn it is, and what its first request needs.
    fn next(&self) -> Option<(usize, usize)> {
        let count = self.lines.len();
        (0..count)
            .map(|step| (self.turn + step) % count)
            .find_map(|at| Some((at, self.front(at)?.width)))
    }

    fn front(&self, line: usize) -> Option<&Waiter> {
        self.lines.get(line).and_then(VecDeque::front)
    }

    fn pop(&mut self, line: usize) -> Option<Waiter> {
        self.turn = (line + 1) % self.lines.len().max(1);
        self.lines.get_mut(line).and_then(VecDeque::pop_front)
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
        let shape = Shape {
            seats,
            queues,
            hand: queues.min(2),
            length,
            ..Shape::default()
        };
        Arc::new(Level::new(shape, Arc::default()))
    }

    /// Two levels that lend: seats, lendable and borrowing limit of each.
    fn pair(shapes: [(usize, usize, usize); 2]) -> [Arc<Level>; 2] {
        let group = Arc::new(Group::default());
        let levels = shapes.map(|(seats, lendable, borrowing)| {
            let shape = Shape {
                seats,
                lendable,
                borrowing,
                queues: 1,
                hand: 1,
                length: 10,
                ..Shape::default()
            };
            Arc::new(Level::new(shape, group.clone()))
        });
        group.set(levels.iter().map(Arc::downgrade).collect());
        levels
    }

    fn counts(level: &Level) -> [usize; 4] {
        [&level.taken, &level.lent, &level.borrowed, &level.waiting].map(|counter| counter.load(Ordering::SeqCst))
    }

    const SOON: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_secs(3600);

    #[test]
    fn shapes() {
        let limited = json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 20,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 3}}}}});
        let shape = Shape::new(&limited, 600, 245);
        assert_eq!((shape.seats, shape.queues, shape.hand, shape.length), (49, 4, 2, 3));
        assert_eq!((shape.lendable, shape.borrowing), (0, usize::MAX));
        let mut lends = limited.clone();
        lends["spec"]["limited"]["lendablePercent"] = json!(33);
        lends["spec"]["limited"]["borrowingLimitPercent"] = json!(200);
        let shape = Shape::new(&lends, 600, 245);
        assert_eq!((shape.lendable, shape.borrowing), (16, 98));
        assert!(Shape::new(&json!({"spec": {"type": "Exempt"}}), 600, 245).exempt);
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
        let seat = reject.seat(1, 1, LATE).await.expect("a seat");
        assert_eq!(reject.seat(2, 1, LATE).await.err(), Some(Refused::Full));
        drop(seat);
        drop(reject.seat(2, 1, LATE).await.expect("a seat"));
        assert_eq!(reject.taken.load(Ordering::SeqCst), 0);

        let queued = level(1, 1, 1);
        let seat = queued.seat(1, 1, LATE).await.expect("a seat");
        assert_eq!(queued.seat(1, 1, SOON).await.err(), Some(Refused::TimedOut));
        let other = queued.clone();
        let waiting = tokio::spawn(async move { other.seat(1, 1, LATE).await });
        tokio::task::yield_now().await;
        assert_eq!(queued.seat(1, 1, LATE).await.err(), Some(Refused::Full));
        drop(seat);
        drop(waiting.await.expect("a task").expect("a seat"));
        assert_eq!(queued.taken.load(Ordering::SeqCst), 0);
        assert_eq!(queued.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn flows_take_turns() {
        let shape = Shape {
            seats: 1,
            queues: 2,
            hand: 1,
            length: 10,
            ..Shape::default()
        };
        let level = Arc::new(Level::new(shape, Arc::default()));
        let seat = level.seat(0, 1, LATE).await.expect("a seat");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        // Four of one flow come first, then one of another.
        for flow in [0, 0, 0, 0, 1] {
            let (level, order) = (level.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let seat = level.seat(flow, 1, LATE).await.expect("a seat");
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
                let _seat = level.seat(flow % 7, 1, LATE).await.expect("a seat");
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

    #[tokio::test]
    async fn idle_seats_are_lent_within_bounds() {
        let [a, b] = pair([(2, 1, 0), (1, 1, 5)]);
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(b.seat(0, 1, LATE).await.expect("an own seat and one of a's"));
        }
        assert_eq!((counts(&a), counts(&b)), ([1, 1, 0, 0], [1, 0, 1, 0]));
        assert_eq!(b.seat(0, 1, SOON).await.err(), Some(Refused::TimedOut), "a lends one");
        held.push(a.seat(0, 1, LATE).await.expect("the seat that is never lent"));
        assert_eq!(
            a.seat(0, 1, SOON).await.err(),
            Some(Refused::TimedOut),
            "a borrows none"
        );
        drop(held);
        assert_eq!((counts(&a), counts(&b)), ([0; 4], [0; 4]));
    }

    #[tokio::test]
    async fn a_lent_seat_goes_back_to_who_waits_for_it() {
        let [a, b] = pair([(1, 1, 0), (1, 0, 1)]);
        let own = b.seat(0, 1, LATE).await.expect("its own");
        let lent = b.seat(0, 1, LATE).await.expect("a's");
        let waits = |level: &Arc<Level>| {
            let level = level.clone();
            tokio::spawn(async move { level.seat(0, 1, LATE).await.map(drop) })
        };
        let (first, second) = (waits(&a), waits(&b));
        tokio::task::yield_now().await;
        assert_eq!((counts(&a)[3], counts(&b)[3]), (1, 1));
        drop(lent);
        assert_eq!(first.await.expect("a task"), Ok(()));
        // And when a needs it no more, who waits at b may have it.
        assert_eq!(second.await.expect("a task"), Ok(()));
        drop(own);
        assert_eq!((counts(&a), counts(&b)), ([0; 4], [0; 4]));
    }

    #[tokio::test]
    async fn wide_requests_take_several_seats() {
        let wide = level(4, 0, 0);
        let seat = wide.seat(0, 100, LATE).await.expect("as many as there are");
        assert_eq!(counts(&wide)[0], 4);
        assert_eq!(wide.seat(0, 1, LATE).await.err(), Some(Refused::Full));
        drop(seat);
        assert_eq!(counts(&wide)[0], 0);
    }
}
