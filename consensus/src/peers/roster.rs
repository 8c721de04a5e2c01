//! Who is to belong to the cluster: one object of the store for each member.
//!
//! The leader brings raft's membership into line with the roster, one step at a time: learner first, a
//! vote when it has caught up, and a member whose machine has joined anew is replaced. A step that gets
//! lost is planned again.

use std::collections::BTreeMap;

use coxswain_store::{Draft, Head, Key, Op, Precondition, Snapshot, Txn};
use serde::{Deserialize, Serialize};

use crate::{Change, Status};

/// Storage name of the roster.
pub(crate) const ROSTER: &str = "members.coxswain";
/// Name of the object that remembers the highest id ever given.
const COUNTER: &str = "last";
/// Entries that a learner may lag behind and still get its vote.
const CAUGHT_UP: u64 = 100;

/// A row of the roster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Name of the machine.
    #[serde(default)]
    pub machine: String,
    /// Where it listens for other members.
    #[serde(default)]
    pub address: String,
    /// Whether it is to be removed.
    #[serde(default)]
    pub leaving: bool,
    /// Certificate of its CA, PEM. Empty for members of a cluster whose servers share one, as earlier builds had it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca_pem: String,
}

#[derive(Serialize, Deserialize)]
struct Counter {
    id: u64,
}

/// The roster by raft id.
pub(super) type Roster = BTreeMap<u64, Seat>;

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Change raft's membership.
    Change(Change),
    /// Take a row away whose member is gone.
    Forget(u64),
}

/// Reads the roster.
pub(super) fn roster(snapshot: &Snapshot) -> Roster {
    let rows = snapshot.list(ROSTER, None, None);
    rows.filter_map(|object| {
        let id = object.key.name.parse().ok()?;
        Some((id, serde_json::from_slice(&object.bytes).ok()?))
    })
    .collect()
}

fn draft(name: &str, content: &impl Serialize) -> Draft {
    let mut value = serde_json::to_value(content).unwrap_or_default();
    value["metadata"] = serde_json::json!({ "name": name });
    Draft::new(Key::new(ROSTER, "", name), value, Head::default())
}

/// The highest id ever given; 0 while nobody has joined.
pub(super) fn highest(snapshot: &Snapshot) -> u64 {
    let counter = snapshot.find(ROSTER, "", COUNTER);
    let last = counter.and_then(|object| serde_json::from_slice::<Counter>(&object.bytes).ok());
    last.map_or(0, |last| last.id)
}

/// Gives a new member the next id: never one that was used before. Returns the id and the write, which
/// is rejected when another was faster.
pub(super) fn enrol(snapshot: &Snapshot, highest_known: u64, seat: &Seat) -> (u64, Txn) {
    let counter = snapshot.find(ROSTER, "", COUNTER);
    let id = highest(snapshot).max(highest_known).saturating_add(1);
    let unchanged = counter.map_or(Precondition::Absent, |object| Precondition::Revision(object.revision));
    let put = |draft, when| Op::Put { draft, when };
    let ops = vec![
        put(draft(COUNTER, &Counter { id }), unchanged),
        put(draft(&id.to_string(), seat), Precondition::Absent),
    ];
    (id, Txn { ops })
}

/// Writes a row, if it isn't like that already.
pub(super) fn seat(snapshot: &Snapshot, id: u64, seat: &Seat) -> Option<Txn> {
    let name = id.to_string();
    let current = snapshot.find(ROSTER, "", &name);
    let known = current.and_then(|object| serde_json::from_slice::<Seat>(&object.bytes).ok());
    let when = current.map_or(Precondition::Absent, |object| Precondition::Revision(object.revision));
    (known.as_ref() != Some(seat)).then(|| Txn::put(draft(&name, seat), when))
}

/// Takes a row away.
pub(super) fn forget(id: u64) -> Txn {
    Txn::delete(Key::new(ROSTER, "", id.to_string()), Precondition::None)
}

/// The leader's next step, if there is one.
pub(super) fn plan(roster: &Roster, status: &Status) -> Option<Step> {
    let cluster = &status.cluster;
    let (me, voters, learners) = (cluster.me, &cluster.voters, &cluster.learners);
    let is_member = |id: u64| voters.contains(&id) || learners.contains(&id);
    // A machine that has joined again with a vote leaves its earlier place.
    let is_replaced = |id: u64, seat: &Seat| {
        let newer = roster.range(id + 1..);
        newer
            .filter(|(other, _)| voters.contains(other))
            .any(|(_, other)| other.machine == seat.machine)
    };
    let leaves = |id: u64, seat: &Seat| seat.leaving || is_replaced(id, seat);
    let is_ready = |id: u64| {
        let progress = status.progress.get(&id);
        // One that has never answered has matched nothing, however short the log is: with a vote it would stop everybody.
        progress.is_some_and(|(matched, alive)| *alive && *matched > 0 && matched + CAUGHT_UP >= status.commit)
    };
    for (&id, seat) in roster {
        let step = match (is_member(id), leaves(id, seat)) {
            (false, false) => Some(Step::Change(Change::Learn(id))),
            (false, true) => Some(Step::Forget(id)),
            (true, true) if id == me => {
                let others = voters.iter().filter(|other| **other != me && is_ready(**other));
                others.copied().next().map(|other| Step::Change(Change::Lead(other)))
            }
            // The last one stays.
            (true, true) if voters == &[id] => None,
            (true, true) => Some(Step::Change(Change::Remove(id))),
            (true, false) if learners.contains(&id) && is_ready(id) => {
                let mut earlier = roster.range(..id);
                let old = earlier.find(|(old, other)| other.machine == seat.machine && voters.contains(old));
                Some(Step::Change(match old {
                    Some((&old, _)) if old != me => Change::Replace { old, new: id },
                    _ => Change::Promote(id),
                }))
            }
            (true, false) => None,
        };
        if step.is_some() {
            return step;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cluster;

    fn status(voters: &[u64], learners: &[u64], matched: &[(u64, u64)]) -> Status {
        Status {
            cluster: Cluster {
                me: 1,
                leader: Some(1),
                voters: voters.to_vec(),
                learners: learners.to_vec(),
            },
            commit: 1000,
            progress: matched.iter().map(|(id, matched)| (*id, (*matched, true))).collect(),
            ..Status::default()
        }
    }

    #[test]
    fn the_next_step_is_told() {
        let seat = |machine: &str, leaving| Seat {
            machine: machine.into(),
            leaving,
            ..Seat::default()
        };
        let rows = |rows: &[(u64, &str, bool)]| -> Roster {
            rows.iter()
                .map(|(id, machine, leaving)| (*id, seat(machine, *leaving)))
                .collect()
        };
        let change = |change| Some(Step::Change(change));
        let (a, ab) = (rows(&[(1, "a", false)]), rows(&[(1, "a", false), (2, "b", false)]));
        let again = rows(&[(1, "a", false), (2, "b", false), (3, "b", false)]);
        let table = [
            ("alone", &a, status(&[1], &[], &[]), None),
            ("new", &ab, status(&[1], &[], &[]), change(Change::Learn(2))),
            ("behind", &ab, status(&[1], &[2], &[(2, 10)]), None),
            (
                "never answered, short log",
                &ab,
                Status {
                    commit: 20,
                    ..status(&[1], &[2], &[(2, 0)])
                },
                None,
            ),
            (
                "caught up",
                &ab,
                status(&[1], &[2], &[(2, 950)]),
                change(Change::Promote(2)),
            ),
            ("settled", &ab, status(&[1, 2], &[], &[(2, 950)]), None),
            (
                "again",
                &again,
                status(&[1, 2], &[3], &[(3, 950)]),
                change(Change::Replace { old: 2, new: 3 }),
            ),
            ("replaced", &again, status(&[1, 3], &[], &[]), Some(Step::Forget(2))),
            (
                "half replaced",
                &again,
                status(&[1, 2, 3], &[], &[]),
                change(Change::Remove(2)),
            ),
            (
                "the leader leaves",
                &rows(&[(1, "a", true), (2, "b", false)]),
                status(&[1, 2], &[], &[(2, 1000)]),
                change(Change::Lead(2)),
            ),
            (
                "the last one stays",
                &rows(&[(1, "a", true)]),
                status(&[1], &[], &[]),
                None,
            ),
        ];
        for (name, roster, status, expected) in table {
            assert_eq!(plan(roster, &status), expected, "{name}");
        }
    }

    #[test]
    fn ids_are_never_given_twice() {
        let mut state = coxswain_store::State::new();
        for expected in 2..5 {
            let (id, txn) = enrol(&state.snapshot(), 1, &Seat::default());
            assert_eq!(id, expected);
            assert!(matches!(state.apply(txn.clone()).0, crate::Outcome::Committed { .. }));
            assert!(matches!(state.apply(txn).0, crate::Outcome::Rejected { .. }));
            state.apply(forget(id));
        }
        assert!(roster(&state.snapshot()).is_empty(), "the counter is no member");
    }
}
