//! Memory that is held for users while they send or receive: so much for each, so much for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What one user may always have, however much the others hold.
const FLOOR_BYTES: usize = 4 << 20;

/// A limit of bytes for each user, and for all together.
pub(crate) struct Usage {
    total_max: usize,
    user_max: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    total: usize,
    users: HashMap<Arc<str>, usize>,
}

/// Bytes that count until this is dropped.
pub(crate) struct Reservation {
    usage: Arc<Usage>,
    user: Arc<str>,
    bytes: usize,
}

impl Usage {
    /// Nothing is held yet.
    pub fn new(total_max: usize, user_max: usize) -> Arc<Self> {
        Arc::new(Self {
            total_max,
            user_max,
            held: Mutex::default(),
        })
    }

    /// Counts bytes for a user; `None` when they are too many. The limit of one user does not hold for the
    /// `privileged`, and nothing is refused what must be done (`forced`).
    pub fn reserve(self: &Arc<Self>, user: &str, bytes: usize, privileged: bool, forced: bool) -> Option<Reservation> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, has) = match held.users.get_key_value(user) {
            Some((name, has)) => (name.clone(), *has),
            None => (Arc::from(user), 0),
        };
        if !forced && !self.fits(&held, has, bytes, privileged) {
            return None;
        }
        held.total += bytes;
        held.users.insert(name.clone(), has + bytes);
        drop(held);
        Some(Reservation {
            usage: self.clone(),
            user: name,
            bytes,
        })
    }

    fn fits(&self, held: &Held, has: usize, bytes: usize, privileged: bool) -> bool {
        let own = has.saturating_add(bytes);
        let small = own <= FLOOR_BYTES.min(self.user_max);
        small || ((privileged || own <= self.user_max) && held.total.saturating_add(bytes) <= self.total_max)
    }

    /// Bytes held for all users.
    pub fn total(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Reservation {
    /// Counts more bytes; false when they are too many.
    pub fn grow(&mut self, bytes: usize, privileged: bool) -> bool {
        let mut held = self.usage.held.lock().unwrap_or_else(PoisonError::into_inner);
        let has = held.users.get(&self.user).copied().unwrap_or(0);
        if !self.usage.fits(&held, has, bytes, privileged) {
            return false;
        }
        held.total += bytes;
        held.users.insert(self.user.clone(), has + bytes);
        drop(held);
        self.bytes += bytes;
        true
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.usage.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.total = held.total.saturating_sub(self.bytes);
        let left = held
            .users
            .get(&self.user)
            .map_or(0, |has| has.saturating_sub(self.bytes));
        if left == 0 {
            held.users.remove(&self.user);
        } else {
            held.users.insert(self.user.clone(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn one_user_leaves_room_for_others() {
        let usage = Usage::new(20 * MIB, 10 * MIB);
        let greedy: Vec<_> = (0..40)
            .map_while(|_| usage.reserve("greedy", MIB, false, false))
            .collect();
        assert_eq!(greedy.len(), 10);
        let more: Vec<_> = (0..40)
            .map_while(|_| usage.reserve("second", MIB, false, false))
            .collect();
        assert_eq!(more.len(), 10);
        // Everything is taken, and still a third has a little.
        let mut third = usage.reserve("third", MIB, false, false).expect("the floor");
        assert!(third.grow(3 * MIB, false));
        assert!(!third.grow(1, false));
        assert!(usage.reserve("admin", 5 * MIB, true, false).is_none());
        drop(greedy);
        let admin = usage.reserve("admin", 6 * MIB, true, false).expect("room");
        drop((admin, more, third));
        assert_eq!(usage.total(), 0);
        assert!(usage.held.lock().expect("a lock").users.is_empty());
    }
}
