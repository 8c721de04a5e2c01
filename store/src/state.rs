//! The state machine.

use std::sync::Arc;

use crate::{Event, EventKind, Frames, Op, Outcome, Precondition, Snapshot, Stored, Txn};

/// All objects, and the one way to change them.
#[derive(Clone, Debug)]
pub struct State {
    view: Snapshot,
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

impl State {
    /// The empty store. It begins at revision 1, because 0 means "any" on the wire.
    pub fn new() -> State {
        State {
            view: Snapshot::empty(1),
        }
    }

    /// A state from the objects of a checkpoint, which showed `revision`.
    pub fn restore(revision: u64, objects: impl IntoIterator<Item = Stored>) -> State {
        let mut state = State {
            view: Snapshot::empty(revision),
        };
        for object in objects {
            state.restore_object(object);
        }
        state
    }

    /// Adds one object of a checkpoint.
    pub fn restore_object(&mut self, mut object: Stored) {
        object.key = self.view.interned(&object.key);
        self.view.insert(Arc::new(object));
    }

    /// Revision of the last write.
    pub fn revision(&self) -> u64 {
        self.view.revision()
    }

    /// The current state; cheap.
    pub fn snapshot(&self) -> Snapshot {
        self.view.clone()
    }

    /// The current state, borrowed.
    pub fn view(&self) -> &Snapshot {
        &self.view
    }

    /// Applies a transaction: the outcome for its proposer and the events for everybody, in the
    /// order of their revisions. Infallible and deterministic.
    pub fn apply(&mut self, txn: Txn) -> (Outcome, Vec<Arc<Event>>) {
        if let Some(op) = self.first_unmet(&txn) {
            // Writes of the same transaction never happened: what there is was there before it.
            let refused = txn.ops.get(op);
            let current = refused.and_then(|refused| self.view.get(refused.key()).cloned());
            return (Outcome::Rejected { op, current }, Vec::new());
        }
        let mut objects = Vec::with_capacity(txn.ops.len());
        let mut events = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            let revision = self.view.revision() + 1;
            let Some(event) = self.write(op, revision) else {
                continue;
            };
            self.view.set_revision(revision);
            objects.push(event.object.clone());
            events.push(Arc::new(event));
        }
        let revision = self.view.revision();
        (Outcome::Committed { revision, objects }, events)
    }

    /// Performs one operation whose condition holds.
    fn write(&mut self, op: Op, revision: u64) -> Option<Event> {
        match op {
            Op::Put { mut draft, .. } => {
                draft.key = self.view.interned(&draft.key);
                let object = Arc::new(Stored::from_draft(draft, revision));
                let previous = self.view.insert(object.clone());
                let kind = match previous {
                    None => EventKind::Added,
                    Some(_) => EventKind::Modified,
                };
                Some(Event {
                    revision,
                    kind,
                    object,
                    previous,
                    frames: Frames::default(),
                })
            }
            Op::Delete { key, .. } => {
                let previous = self.view.remove(&key)?;
                Some(Event {
                    revision,
                    kind: EventKind::Deleted,
                    object: Arc::new(previous.at_revision(revision)),
                    previous: Some(previous),
                    frames: Frames::default(),
                })
            }
        }
    }

    /// Index of the first operation whose condition does not hold.
    fn first_unmet(&self, txn: &Txn) -> Option<usize> {
        if let [op] = txn.ops.as_slice() {
            // The usual case, without the bookkeeping for operations that see each other.
            let current = self.view.get(op.key()).map(|object| object.revision);
            return (!holds(op, current)).then_some(0);
        }
        (0..txn.ops.len()).find(|&at| {
            let op = &txn.ops[at];
            !holds(op, self.revision_before(txn, at))
        })
    }

    /// Revision that the key of operation `at` would have just before that operation.
    fn revision_before(&self, txn: &Txn, at: usize) -> Option<u64> {
        let key = txn.ops[at].key();
        let earlier = txn.ops[..at].iter().enumerate().rev();
        for (index, op) in earlier {
            if op.key() == key {
                return match op {
                    Op::Put { .. } => Some(self.view.revision() + 1 + index as u64),
                    Op::Delete { .. } => None,
                };
            }
        }
        self.view.get(key).map(|object| object.revision)
    }
}

fn holds(op: &Op, current: Option<u64>) -> bool {
    let (when, is_delete) = match op {
        Op::Put { when, .. } => (*when, false),
        Op::Delete { when, .. } => (*when, true),
    };
    if is_delete && current.is_none() {
        return false;
    }
    match when {
        Precondition::None => true,
        Precondition::Absent => current.is_none(),
        Precondition::Exists => current.is_some(),
        Precondition::Revision(wanted) => current == Some(wanted),
    }
}
