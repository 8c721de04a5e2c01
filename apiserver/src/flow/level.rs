//! One priority level: seats, fair queues for when they are all taken, and seats lent between levels.
//!
//! The counter of taken seats is the only thing that requests share while there are free ones. The queues
//! have a lock, which is only touched when the level is full or somebody waits.
//!
//! One user never takes all seats: an eighth of a level is for the others. In a queue, who has the fewest seats is
//! served first, and in a full one the user with the most requests gives up a place. So a user who fills a level delays
//! mostly himself, even where the level has a single queue or its schemas make all users one flow.
//!
//! ```text
//!   nominal seats  [ own, never lent | lendable: other levels' requests run here while nobody of ours needs them ]
//!   a full level   borrows idle lendable seats of others, up to its borrowing limit, before its requests wait
//! ```
//!
//! A lent seat comes back when its request is done; it is never taken away. Kubernetes shifts the limits every ten
//! seconds by what was needed; here a seat is lent at the moment it is needed, within the same bounds.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use coxswain_api::kinds::access;
use serde_json::Value;
use tokio::sync::oneshot;

/// Most seats that one request takes.
const WIDTH_MAX: usize = 10;
/// One of so many seats of a level is never the same user's as the others.
const SPARED: usize = 8;
/// Counters of the seats of users, who share them by chance.
const USERS: usize = 256;

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct By {
    /// Decides which queues it may wait in.
    pub flow: u64,
    /// Decides how many seats and places it may have beside others.
    pub user: u64,
}

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
    /// Its own seats that each user has.
    users: Box<[AtomicUsize]>,
    queues: Mutex<Queues>,
}

struct Waiter {
    user: u64,
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
    user: u64,
    width: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(taken) = self.0.take() {
            let Taken {
                level,
                lender,
                user,
                width,
            } = taken;
            let owner = match lender {
                Some(lender) => {
                    level.borrowed.fetch_sub(width, Ordering::SeqCst);
                    lender.lent.fetch_sub(width, Ordering::SeqCst);
                    lender
                }
                None => {
                    level.of(user).fetch_sub(width, Ordering::SeqCst);
                    level
                }
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
            users: (0..USERS).map(|_| AtomicUsize::new(0)).collect(),
            queues: Mutex::new(Queues { lines, turn: 0 }),
        }
    }

    /// What it is.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The counter of a user's seats.
    fn of(&self, user: u64) -> &AtomicUsize {
        let at = usize::try_from(user % USERS as u64).unwrap_or(0);
        self.users.get(at).unwrap_or(&self.taken)
    }

    /// Takes `width` seats, at once or in turn. No request takes more than its flow's part of the level.
    pub async fn seat(self: &Arc<Self>, by: By, width: usize, longest: Duration) -> Result<Seat, Refused> {
        if self.shape.exempt {
            return Ok(Seat(None));
        }
        let most = (self.shape.seats / self.shape.hand.max(1)).clamp(1, WIDTH_MAX);
        let width = width.clamp(1, most);
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Some(seat) = self.take(by.user, width)
        {
            return Ok(seat);
        }
        match self.line_up(by, width)? {
            Ok(seat) => Ok(seat),
            Err(mut receiver) => match tokio::time::timeout(longest, &mut receiver).await {
                Ok(Ok(seat)) => Ok(seat),
                // Another user needed the place.
                Ok(Err(_)) => Err(Refused::Full),
                // A seat that came at the last moment is used.
                Err(_) => {
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
    fn take(self: &Arc<Self>, user: u64, width: usize) -> Option<Seat> {
        let seat = |lender| {
            Seat(Some(Taken {
                level: self.clone(),
                lender,
                user,
                width,
            }))
        };
        let seats = self.shape.seats;
        if add(self.of(user), width, seats - seats / SPARED) {
            if add(&self.taken, width, seats) {
                return Some(seat(None));
            }
            self.of(user).fetch_sub(width, Ordering::SeqCst);
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
    fn line_up(self: &Arc<Self>, by: By, width: usize) -> Result<Result<Seat, oneshot::Receiver<Seat>>, Refused> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before looking for a seat once more: whoever gives one back after this look sees it.
        self.group.waiting.fetch_add(1, Ordering::SeqCst);
        // Seats that a waiting user may not have are for others: one look is worth it also when somebody waits.
        let first = self.waiting.fetch_add(1, Ordering::SeqCst) == 0 || queues.all_at_their_limit(self, by.user);
        if first && let Some(seat) = self.take(by.user, width) {
            self.wait_ended(1);
            return Ok(Ok(seat));
        }
        let hand = hand(by.flow, self.shape.queues, self.shape.hand);
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
        let Some(line) = shortest.and_then(|line| queues.lines.get_mut(line)) else {
            self.wait_ended(1);
            return Err(Refused::Full);
        };
        if line.len() >= self.shape.length {
            // One request waits less in any case: this one, or one of the user with the most.
            self.wait_ended(1);
            if !give_way(line, by.user) {
                return Err(Refused::Full);
            }
        }
        let (sender, receiver) = oneshot::channel();
        line.push_back(Waiter {
            user: by.user,
            width,
            sender,
        });
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

    /// Gives seats to those who wait, one of each line in turn, as long as there are enough for one of them.
    fn serve(self: &Arc<Self>) {
        loop {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let (count, turn) = (queues.lines.len(), queues.turn);
            let mut served = None;
            for at in (0..count).map(|step| (turn + step) % count) {
                let Some(line) = queues.lines.get_mut(at) else { continue };
                let before = line.len();
                line.retain(|waiter| !waiter.sender.is_closed());
                self.wait_ended(before - line.len());
                let Some((place, user, width)) = self.next_of(line) else {
                    continue;
                };
                if let Some(seat) = self.take(user, width) {
                    served = line.remove(place).map(|waiter| (at, waiter, seat));
                    break;
                }
            }
            let Some((at, waiter, seat)) = served else { return };
            queues.turn = (at + 1) % count.max(1);
            self.wait_ended(1);
            drop(queues);
            // A seat that nobody takes any more is dropped here, outside the lock, and served again.
            drop(waiter.sender.send(seat));
        }
    }

    /// Who is served next in a line: the first of the user with the fewest seats. Its place, user and width.
    fn next_of(&self, line: &VecDeque<Waiter>) -> Option<(usize, u64, usize)> {
        let mut waiters = line.iter().enumerate();
        let (_, first) = waiters.next()?;
        let mut best = (0, first.user, first.width);
        let mut fewest = self.of(first.user).load(Ordering::SeqCst);
        for (place, waiter) in waiters {
            let has = self.of(waiter.user).load(Ordering::SeqCst);
            if has < fewest {
                (best, fewest) = ((place, waiter.user, waiter.width), has);
            }
        }
        Some(best)
    }
}

/// Takes the last request of the user who has the most in a line out of it, for one of a user who has fewer.
fn give_way(line: &mut VecDeque<Waiter>, user: u64) -> bool {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for waiter in line.iter() {
        *counts.entry(waiter.user).or_default() += 1;
    }
    let own = counts.get(&user).copied().unwrap_or(0);
    let Some((most, greediest)) = counts.into_iter().map(|(user, count)| (count, user)).max() else {
        return false;
    };
    if most <= own + 1 {
        return false;
    }
    let last = line.iter().rposition(|waiter| waiter.user == greediest);
    last.and_then(|place| line.remove(place)).is_some()
}

impl Queues {
    /// Whether everybody who waits is a user who has as many seats as one may have, and this user is not.
    fn all_at_their_limit(&self, level: &Level, user: u64) -> bool {
        let own = level.of(user).load(Ordering::SeqCst);
        let most = level.shape.seats - level.shape.seats / SPARED;
        let at_most = |waiter: &Waiter| level.of(waiter.user).load(Ordering::SeqCst) + waiter.width > most;
        own < most && self.lines.iter().flatten().all(at_most)
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
mod tests;
