//! The driver thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use coxswain_store::State;

use crate::hub::Hub;
use crate::inbox::Request;
use crate::store::{Shared, Stats};
use crate::{Config, OpenError};

/// Something that ended in the background.
pub(crate) enum Background {}

#[derive(Default)]
pub(crate) struct Counters {
    alone: AtomicBool,
    proposals: AtomicU64,
}

impl Counters {
    pub fn alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }
    pub fn stats(&self) -> Stats {
        Stats {
            proposals: self.proposals.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
}

pub(crate) fn open(config: Config) -> Result<Arc<Shared>, OpenError> {
    let state = State::new();
    let shared = Arc::new(Shared::new(Hub::new(state.snapshot(), config.history)));
    shared.counters.alone.store(true, Ordering::Release);
    shared.leader.send_replace(true);
    let driver = shared.clone();
    std::thread::spawn(move || run(state, &driver));
    Ok(shared)
}

fn run(mut state: State, shared: &Shared) {
    loop {
        let taken = shared.inbox.take(None);
        let mut events = Vec::new();
        let mut answers = Vec::new();
        for proposal in taken.proposals {
            let (outcome, mut new) = state.apply(proposal.txn);
            events.append(&mut new);
            answers.push((proposal.answer, outcome));
        }
        shared.hub.publish(events, state.snapshot());
        for (answer, outcome) in answers {
            let _ = answer.send(Ok(outcome));
        }
        for request in taken.requests {
            match request {
                Request::Barrier(answer) => drop(answer.send(Ok(()))),
                Request::Background(done) => match done {},
            }
        }
        if taken.stop {
            let reason: Arc<str> = "it was shut down".into();
            shared.inbox.close(&reason);
            shared.hub.close();
            shared.ended.send_replace(Some(reason));
            return;
        }
    }
}
