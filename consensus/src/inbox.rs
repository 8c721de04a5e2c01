//! The queue in front of the driver's threads: bounded, one lock. A thread is woken only when none is awake
//! that will look here.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coxswain_store::{Outcome, Txn, codec};
use tokio::sync::oneshot;

use crate::engine::Background;
use crate::member::{Change, Origin, Status};
use crate::rotation::Asker;
use crate::{Message, ProposeError};

/// Most writes that may wait.
const MOST_WAITING: usize = 16 * 1024;
/// Most requests besides writes that may wait.
const MOST_REQUESTS: usize = 64 * 1024;
/// How much longer than the first the second thread that waits does: it is there for when the first is held
/// up by the disk.
const RESERVE_PATIENCE: Duration = Duration::from_millis(60);
/// Most bytes that may wait.
const MOST_WAITING_BYTES: usize = 64 << 20;

pub(crate) type Answer = oneshot::Sender<Result<Outcome, ProposeError>>;

/// A write on its way, encoded by its proposer's own thread.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub txn: Txn,
    pub encoded: Vec<u8>,
    pub origin: Origin,
    /// When, on the member's clock, its proposer is told that it takes too long.
    pub deadline: Duration,
}

impl Proposal {
    /// A write that is encoded here.
    pub fn new(txn: Txn, origin: Origin, deadline: Duration) -> Proposal {
        let mut encoded = Vec::with_capacity(codec::txn_size_hint(&txn));
        codec::encode_txn(&txn, &mut encoded);
        Proposal {
            txn,
            encoded,
            origin,
            deadline,
        }
    }
}

/// What the driver is asked for besides writes.
pub(crate) enum Request {
    /// Confirm that nothing newer is committed anywhere; answered once everything before is applied.
    Barrier(oneshot::Sender<Result<(), ProposeError>>),
    /// A message of another member.
    Message(u64, Message),
    /// The process of another member is known to have ended.
    Gone(u64),
    /// Change who belongs to the cluster; done when it shows.
    Change(Change),
    /// Tell how this member stands.
    Status(oneshot::Sender<Status>),
    /// Make the files no larger than need be.
    Tidy,
    /// Write a checkpoint, and destroy the keys that no file needs then.
    Renew(Asker),
    /// Something in the background has ended.
    Background(Background),
}

#[derive(Default)]
struct Queue {
    proposals: Vec<Proposal>,
    bytes: usize,
    requests: Vec<Request>,
    /// Threads that will look here before they wait for anything.
    attendants: usize,
    sleepers: usize,
    /// One of the sleepers has been called.
    called: bool,
    stop: bool,
    stopped: Option<Arc<str>>,
}

impl Queue {
    fn is_empty(&self, writes: bool) -> bool {
        let has_writes = writes && !self.proposals.is_empty();
        !has_writes && self.requests.is_empty() && !self.stop && self.stopped.is_none()
    }
}

/// Everything that was waiting.
pub(crate) struct Taken {
    pub proposals: Vec<Proposal>,
    pub requests: Vec<Request>,
    pub stop: bool,
}

#[derive(Default)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a write, or says why it can't be.
    pub fn propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        let mut queue = self.lock();
        if let Some(reason) = &queue.stopped {
            return Err(ProposeError::Stopped(reason.clone()));
        }
        let bytes = queue.bytes + proposal.encoded.len();
        if queue.proposals.len() >= MOST_WAITING || bytes > MOST_WAITING_BYTES {
            return Err(ProposeError::Overloaded);
        }
        queue.bytes = bytes;
        queue.proposals.push(proposal);
        self.wake(queue);
        Ok(())
    }

    /// Adds something else.
    pub fn request(&self, request: Request) -> Result<(), ProposeError> {
        let mut queue = self.lock();
        if let Some(reason) = &queue.stopped {
            return Err(ProposeError::Stopped(reason.clone()));
        }
        let droppable = !matches!(request, Request::Background(_));
        if droppable && queue.requests.len() >= MOST_REQUESTS {
            return Err(ProposeError::Overloaded);
        }
        queue.requests.push(request);
        self.wake(queue);
        Ok(())
    }

    /// Asks the driver to finish what is queued and to end.
    pub fn stop(&self) {
        let mut queue = self.lock();
        queue.stop = true;
        self.wake(queue);
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        let is_needed = queue.attendants == 0 && queue.sleepers > 0 && !queue.called;
        queue.called |= is_needed;
        drop(queue);
        if is_needed {
            self.wake.notify_one();
        }
    }

    /// The calling thread looks here from now on.
    pub fn attend(&self) {
        self.lock().attendants += 1;
    }

    /// The calling thread will not look here for a while.
    pub fn leave(&self) {
        let mut queue = self.lock();
        queue.attendants -= 1;
        if !queue.is_empty(true) {
            self.wake(queue);
        }
    }

    /// Waits until there is something to take, at most for `timeout` when given.
    pub fn wait(&self, timeout: Option<Duration>, writes: bool) {
        let mut queue = self.lock();
        if !queue.is_empty(writes) {
            return;
        }
        let reserve = if queue.sleepers > 0 {
            RESERVE_PATIENCE
        } else {
            Duration::ZERO
        };
        queue.attendants -= 1;
        queue.sleepers += 1;
        let is_idle = |queue: &mut Queue| !queue.called && queue.stopped.is_none();
        queue = match timeout {
            None => self
                .wake
                .wait_while(queue, is_idle)
                .unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                let waited = self.wake.wait_timeout_while(queue, timeout + reserve, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        queue.sleepers -= 1;
        queue.attendants += 1;
        queue.called = false;
    }

    /// Takes what is there; the writes only when they are wanted.
    pub fn take(&self, writes: bool) -> Taken {
        let mut queue = self.lock();
        let proposals = match writes {
            true => {
                queue.bytes = 0;
                std::mem::take(&mut queue.proposals)
            }
            false => Vec::new(),
        };
        Taken {
            proposals,
            requests: std::mem::take(&mut queue.requests),
            stop: queue.stop,
        }
    }

    /// Refuses everything from now on, and what is waiting.
    pub fn close(&self, reason: &Arc<str>) {
        let mut queue = self.lock();
        queue.stopped = Some(reason.clone());
        let proposals = std::mem::take(&mut queue.proposals);
        let requests = std::mem::take(&mut queue.requests);
        drop(queue);
        self.wake.notify_all();
        for proposal in proposals {
            if let Origin::Local(answer) = proposal.origin {
                let _ = answer.send(Err(ProposeError::Stopped(reason.clone())));
            }
        }
        for request in requests {
            if let Request::Barrier(answer) = request {
                let _ = answer.send(Err(ProposeError::Stopped(reason.clone())));
            }
        }
    }
}
