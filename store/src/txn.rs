//! What is asked of the store and what it answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::object::CountedForm;
use crate::{Draft, FormBudget, Key, Stored};

/// What must be true of the current object for an operation to go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing is asked. A delete of an absent object is then a rejected operation nevertheless,
    /// because there is nothing to answer with.
    None,
    /// No object with this key exists.
    Absent,
    /// Some object with this key exists.
    Exists,
    /// The object exists and was last written at this revision.
    Revision(u64),
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Create or replace an object.
    Put {
        /// The new object without its revision.
        draft: Draft,
        /// Condition on the object it replaces.
        when: Precondition,
    },
    /// Remove an object.
    Delete {
        /// Which object.
        key: Key,
        /// Condition on the object.
        when: Precondition,
    },
}

impl Op {
    /// The key that this operation writes.
    pub fn key(&self) -> &Key {
        match self {
            Op::Put { draft, .. } => &draft.key,
            Op::Delete { key, .. } => key,
        }
    }
}

/// A list of writes that happen as a whole or not at all. Conditions are checked in order, each
/// against the state left by the operations before it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Txn {
    /// The writes, in order.
    pub ops: Vec<Op>,
}

impl Txn {
    /// A transaction with a single put.
    pub fn put(draft: Draft, when: Precondition) -> Txn {
        Txn {
            ops: vec![Op::Put { draft, when }],
        }
    }

    /// A transaction with a single delete.
    pub fn delete(key: Key, when: Precondition) -> Txn {
        Txn {
            ops: vec![Op::Delete { key, when }],
        }
    }
}

/// What became of a transaction. A failed condition is an outcome, not an error.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Everything was written.
    Committed {
        /// Revision of the last write of the transaction.
        revision: u64,
        /// For each operation, in order: the object as stored, or for a delete its last state
        /// carrying the revision of the delete.
        objects: Vec<Arc<Stored>>,
    },
    /// Nothing was written.
    Rejected {
        /// Index of the operation whose condition failed.
        op: usize,
        /// What is stored under the key of that operation.
        current: Option<Arc<Stored>>,
    },
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The object did not exist before.
    Added,
    /// The object replaced an earlier one.
    Modified,
    /// The object was removed.
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// Revision of the change.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The object after the change; for a delete its last state carrying the delete's revision.
    pub object: Arc<Stored>,
    /// The object before the change, if there was one.
    pub previous: Option<Arc<Stored>>,
    /// What watchers were sent of it.
    pub frames: Frames,
}

/// The forms in which an event goes to watchers, made once and shared by them while the event is new and the budget that
/// it was given has room.
#[derive(Debug, Default)]
pub struct Frames(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    frames: Vec<Frame>,
    /// Where kept frames are counted; none are kept without it.
    budget: Option<Arc<FormBudget>>,
}

#[derive(Debug)]
struct Frame {
    kind: &'static str,
    form: Arc<str>,
    bytes: CountedForm,
}

/// Forms kept of one event.
const FORMS_MAX: usize = 4;

impl Frames {
    /// Keeps frames from now on, as far as the budget has room.
    pub fn keep_within(&self, budget: &Arc<FormBudget>) {
        self.lock().budget = Some(budget.clone());
    }

    /// The event as `kind` in a form, which tells one encoding from all others; from `make` on first use.
    pub fn get(&self, kind: &'static str, form: &Arc<str>, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut kept = self.lock();
        let Some(budget) = kept.budget.clone() else {
            drop(kept);
            return make();
        };
        let is_this = |frame: &&Frame| frame.kind == kind && frame.form == *form;
        if let Some(frame) = kept.frames.iter().find(is_this) {
            return frame.bytes.bytes();
        }
        let bytes = make();
        if kept.frames.len() < FORMS_MAX
            && let Some(counted) = CountedForm::within(&budget, &bytes)
        {
            kept.frames.push(Frame {
                kind,
                form: form.clone(),
                bytes: counted,
            });
        }
        bytes
    }

    /// Keeps none from now on: the event is old, whoever still wants it is alone.
    pub fn forget(&self) {
        *self.lock() = Kept::default();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
