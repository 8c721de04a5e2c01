//! Which members this member believes, and by which certificate authority it knows each of them.
//!
//! Every member has a certificate authority (CA) of its own, whose key never leaves its machine. The roster holds the CA's
//! certificate of each member, so whoever is taken out of the roster is believed by nobody any more, whatever keys it keeps.
//!
//! A member that was away may not know the newest members yet: it believes those that it knows, and asks them for the rest
//! ([`Trust::unknown_seen`]). Ids are never given twice, so one that is not above the highest id ever given, and stands neither
//! in the roster nor in raft's membership, is that of a removed member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::roster::Roster;
use crate::Cluster;

/// What is known of another member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownMember {
    /// Where it listens for other members, as `host:port`.
    pub address: String,
    /// Certificate of its CA, PEM. Empty for one that shares the CA of this member.
    pub ca_pem: String,
}

#[derive(Clone, Default)]
struct Known {
    members: BTreeMap<u64, KnownMember>,
    /// In the roster or in raft's membership, as this member has applied them.
    current: BTreeSet<u64>,
    /// Highest id ever given, as far as this member knows.
    highest: u64,
}

/// The members that are believed, shared by all connections.
pub(crate) struct Trust {
    own_ca_pem: String,
    known: ArcSwap<Known>,
    unknown: Notify,
}

impl Trust {
    /// Starts from what was known at the end of the last run.
    pub fn new(own_ca_pem: String, members: BTreeMap<u64, KnownMember>) -> Trust {
        let known = Known {
            members,
            ..Known::default()
        };
        Trust {
            own_ca_pem,
            known: ArcSwap::from_pointee(known),
            unknown: Notify::new(),
        }
    }

    /// Takes in the roster and raft's membership, both as this member has applied them.
    pub fn update(&self, rows: &Roster, highest: u64, cluster: &Cluster) {
        let mut known = Known::clone(&self.known.load());
        let raft = cluster.voters.iter().chain(&cluster.learners).copied();
        known.current = raft.chain(rows.keys().copied()).chain([cluster.me]).collect();
        known.highest = known.highest.max(highest);
        // Commands on this machine come as this member, whose own row may not be written yet.
        known.members.entry(cluster.me).or_default();
        for (id, seat) in rows {
            let member = known.members.entry(*id).or_default();
            member.address.clone_from(&seat.address);
            member.ca_pem.clone_from(&seat.ca_pem);
        }
        let Known {
            members,
            current,
            highest,
        } = &mut known;
        members.retain(|id, _| current.contains(id) || *id > *highest);
        self.known.store(Arc::new(known));
    }

    /// Takes in what a believed member says about members that this one does not know yet.
    pub fn learn(&self, members: impl IntoIterator<Item = (u64, KnownMember)>) {
        let mut known = Known::clone(&self.known.load());
        for (id, member) in members {
            if is_believed(&known, id) {
                known.members.entry(id).or_insert(member);
            }
        }
        self.known.store(Arc::new(known));
    }

    /// Whether messages of this member count: false for one that was removed.
    pub fn believes(&self, id: u64) -> bool {
        is_believed(&self.known.load(), id)
    }

    /// The CA certificate (PEM) that a member's certificate must be signed by; none for a removed or unknown member.
    pub fn ca_pem(&self, id: u64) -> Option<String> {
        let known = self.known.load();
        if !is_believed(&known, id) {
            return None;
        }
        match known.members.get(&id) {
            Some(member) if !member.ca_pem.is_empty() => Some(member.ca_pem.clone()),
            Some(_) => Some(self.own_ca_pem.clone()),
            None => None,
        }
    }

    /// Somebody came whose CA is not known: the others may know it.
    pub fn note_unknown(&self) {
        self.unknown.notify_one();
    }

    /// Waits until [`Trust::note_unknown`] was called.
    pub async fn unknown_seen(&self) {
        self.unknown.notified().await;
    }

    /// The members known by now.
    pub fn members(&self) -> BTreeMap<u64, KnownMember> {
        self.known.load().members.clone()
    }
}

fn is_believed(known: &Known, id: u64) -> bool {
    known.current.contains(&id) || id > known.highest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::roster::Seat;

    fn rows(ids: &[u64]) -> Roster {
        let seat = |id: &u64| Seat {
            address: format!("host{id}:1"),
            ca_pem: format!("ca {id}"),
            ..Seat::default()
        };
        ids.iter().map(|id| (*id, seat(id))).collect()
    }

    fn cluster(voters: &[u64]) -> Cluster {
        Cluster {
            me: 1,
            voters: voters.to_vec(),
            ..Cluster::default()
        }
    }

    #[test]
    fn a_removed_member_is_believed_by_nobody() {
        let trust = Trust::new("own".into(), BTreeMap::new());
        // Roster, highest id given, raft's voters; then who is believed and by which CA.
        type Row<'a> = (&'a str, &'a [u64], u64, &'a [u64], &'a [(u64, bool)]);
        let table: [Row<'_>; 4] = [
            ("all there", &[1, 2, 3], 3, &[1, 2, 3], &[(2, true), (3, true)]),
            ("removed from both", &[1, 3], 3, &[1, 3], &[(2, false), (3, true)]),
            (
                "still in raft's membership",
                &[1, 3],
                4,
                &[1, 3, 4],
                &[(4, true), (2, false)],
            ),
            ("gone for good", &[1, 3], 4, &[1, 3], &[(4, false), (2, false)]),
        ];
        for (name, roster, highest, voters, expected) in table {
            trust.update(&rows(roster), highest, &cluster(voters));
            for (id, believed) in expected {
                assert_eq!(trust.believes(*id), *believed, "{name}: {id}");
                let is_known = roster.contains(id);
                assert_eq!(trust.ca_pem(*id), is_known.then(|| format!("ca {id}")), "{name}: {id}");
            }
        }
    }

    #[test]
    fn newer_members_are_learned_from_others_and_removed_ones_are_not() {
        let trust = Trust::new("own".into(), BTreeMap::new());
        trust.update(&rows(&[1, 3]), 3, &cluster(&[1, 3]));
        let named = |id: u64| {
            let member = KnownMember {
                address: "elsewhere:1".into(),
                ca_pem: format!("other ca {id}"),
            };
            (id, member)
        };
        trust.learn([named(2), named(3), named(5)]);
        assert_eq!(trust.ca_pem(2), None, "a removed member does not come back by hearsay");
        assert_eq!(
            trust.ca_pem(3).as_deref(),
            Some("ca 3"),
            "the roster counts, not hearsay"
        );
        assert_eq!(trust.ca_pem(5).as_deref(), Some("other ca 5"));
        trust.update(&rows(&[1, 3]), 5, &cluster(&[1, 3]));
        assert_eq!(trust.ca_pem(5), None, "it has been removed meanwhile");
    }

    #[test]
    fn a_member_without_a_ca_of_its_own_shares_ours() {
        let known = BTreeMap::from([(2, KnownMember::default())]);
        let trust = Trust::new("own".into(), known);
        assert_eq!(trust.ca_pem(2).as_deref(), Some("own"));
        assert_eq!(trust.ca_pem(3), None);
    }
}
