//! Which connections to the peers' port are kept when there are many.
//!
//! A connection is unproven until its handshake has shown the certificate of a member. Unproven connections have places of
//! their own: when these are all taken, the newest comes in and the oldest one of the address that has the most of them is
//! closed. So whoever fills them, from wherever, can push out only itself or connections as old as the whole flood, never a
//! proven member, and hardly ever one whose handshake takes its usual few milliseconds. Proven members have places each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// Unproven connections at a time: a few kilobytes of memory each, and so many that one has its place for as long as a handshake
/// takes even when tens of thousands a second arrive.
pub(super) const MOST_UNPROVEN: usize = 1024;
/// Connections of one member at a time: one that stays, and calls.
const MOST_OF_MEMBER: usize = 16;

#[derive(Default)]
struct Places {
    /// By order of arrival.
    unproven: BTreeMap<u64, (IpAddr, AbortHandle)>,
    /// By member and order of arrival.
    proven: BTreeMap<(u64, u64), AbortHandle>,
    next: u64,
}

/// The places of all connections.
#[derive(Clone, Default)]
pub(super) struct Connections {
    places: Arc<Mutex<Places>>,
}

/// A connection's place; given back when dropped.
pub(super) struct Place {
    connections: Connections,
    number: u64,
    member: Option<u64>,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that just came in. `task` is the task that serves it, aborted when another needs the place.
    pub fn admit(&self, from: IpAddr, task: AbortHandle) -> Place {
        let mut places = self.lock();
        if places.unproven.len() >= MOST_UNPROVEN
            && let Some(number) = oldest_of_busiest(&places.unproven)
            && let Some((_, task)) = places.unproven.remove(&number)
        {
            task.abort();
        }
        let number = places.next;
        places.next += 1;
        places.unproven.insert(number, (from, task));
        drop(places);
        Place {
            connections: self.clone(),
            number,
            member: None,
        }
    }
}

/// The oldest connection of the address that has the most.
fn oldest_of_busiest(unproven: &BTreeMap<u64, (IpAddr, AbortHandle)>) -> Option<u64> {
    let mut counts: BTreeMap<IpAddr, (usize, u64)> = BTreeMap::new();
    for (number, (from, _)) in unproven.iter().rev() {
        let (count, oldest) = counts.entry(*from).or_insert((0, *number));
        *count += 1;
        *oldest = *number;
    }
    counts
        .into_values()
        .max_by_key(|(count, _)| *count)
        .map(|(_, oldest)| oldest)
}

impl Place {
    /// The handshake has shown that this is a member: its place is no longer among the unproven ones. A member's oldest
    /// connection is closed when it has too many.
    pub fn proven(&mut self, member: u64) {
        let mut places = self.connections.lock();
        let Some((_, task)) = places.unproven.remove(&self.number) else {
            return;
        };
        let mut own = places.proven.range((member, 0)..=(member, u64::MAX));
        let oldest = own.next().map(|(key, _)| *key);
        if let Some(key) = oldest.filter(|_| own.count() + 1 >= MOST_OF_MEMBER)
            && let Some(task) = places.proven.remove(&key)
        {
            task.abort();
        }
        places.proven.insert((member, self.number), task);
        self.member = Some(member);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.connections.lock();
        match self.member {
            Some(member) => drop(places.proven.remove(&(member, self.number))),
            None => drop(places.unproven.remove(&self.number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> tokio::task::JoinHandle<()> {
        tokio::spawn(std::future::pending())
    }

    /// Lets every task that was aborted end: each takes its turn on the one thread of the test.
    async fn settle() {
        for _ in 0..4 * MOST_UNPROVEN {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_flood_pushes_out_itself_only() {
        let connections = Connections::default();
        let (flooder, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let slow = task();
        let _slow = connections.admit(other, slow.abort_handle());
        let member = task();
        let mut proven = connections.admit(flooder, member.abort_handle());
        proven.proven(2);
        let mut flood = Vec::new();
        for _ in 0..3 * MOST_UNPROVEN {
            let task = task();
            let place = connections.admit(flooder, task.abort_handle());
            flood.push((task, place));
        }
        settle().await;
        assert!(!slow.is_finished(), "a connection from elsewhere stays");
        assert!(!member.is_finished(), "a member stays");
        let open = flood.iter().filter(|(task, _)| !task.is_finished()).count();
        assert_eq!(open, MOST_UNPROVEN - 1);
        assert!(
            flood.iter().rev().take(open).all(|(task, _)| !task.is_finished()),
            "the newest stay"
        );
        drop(flood);
        assert_eq!(connections.lock().unproven.len(), 1);
    }

    #[tokio::test]
    async fn a_member_has_places_of_its_own() {
        let connections = Connections::default();
        let from = IpAddr::from([192, 0, 2, 1]);
        let mut all = Vec::new();
        for number in 0..MOST_OF_MEMBER + 5 {
            let task = task();
            let mut place = connections.admit(from, task.abort_handle());
            place.proven(7);
            all.push((number, task, place));
        }
        let task = task();
        connections.admit(from, task.abort_handle()).proven(8);
        settle().await;
        let closed: Vec<usize> = all
            .iter()
            .filter(|(_, task, _)| task.is_finished())
            .map(|(number, _, _)| *number)
            .collect();
        assert_eq!(closed, [0, 1, 2, 3, 4], "its oldest go first");
    }
}
