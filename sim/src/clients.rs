//! Clients: each has one operation under way with one member, and goes to another when that fails.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use coxswain_consensus::{Draft, Head, Key, Outcome, Precondition, ProposeError, Snapshot, Store, Stored, Txn};

use crate::history::{Change, History, Name, Sight};
use crate::linear::{Answer, Call, Operation};
use crate::random::Random;

/// What is written to.
pub const RESOURCES: [&str; 2] = ["pods", "leases"];
/// Names in each resource.
const NAMES: u64 = 5;
/// How long a client waits before it takes an outcome for unknown, in microseconds.
const PATIENCE: u64 = 20_000_000;

type Pending<T> = Pin<Box<dyn Future<Output = Result<T, ProposeError>>>>;

enum Waiting {
    Write(Pending<Outcome>),
    Read(Pending<Snapshot>),
}

/// What has come back.
enum Came {
    Nothing,
    Unknown,
    /// The write of this value will not be done.
    Refused(u64),
    /// An answer, and the revision of a write that was done.
    Answer(Answer, Option<u64>),
}

struct UnderWay {
    machine: u64,
    life: u64,
    name: Name,
    call: Call,
    called: u64,
    until: u64,
    waiting: Waiting,
}

/// A client.
pub struct Client {
    /// The mutant that answers some writes that were done as refused.
    lies: bool,
    under_way: Option<UnderWay>,
    /// Value and revision of each key as it was seen last.
    known: BTreeMap<Name, (u64, u64)>,
}

/// How a mutant reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// Without asking the others.
    AtOnce,
    /// As soon as the member leads, if it does not yet.
    WhenElected,
}

async fn read(store: Store, shortcut: Option<Shortcut>) -> Result<Snapshot, ProposeError> {
    let mut leader = store.leader();
    match shortcut {
        Some(Shortcut::AtOnce) => Ok(store.snapshot()),
        Some(Shortcut::WhenElected) if !*leader.borrow() => {
            // An end without an election is no answer.
            leader
                .wait_for(|leads| *leads)
                .await
                .map_err(|_| ProposeError::Unknown)?;
            Ok(store.snapshot())
        }
        _ => store.read_barrier().await,
    }
}

/// The value of a stored object.
fn value_of(object: &Stored) -> u64 {
    let text = &object.bytes;
    let mark = b"\"v\":";
    let at = text.windows(mark.len()).position(|window| window == mark);
    let digits = at.and_then(|at| text.get(at + mark.len()..)).unwrap_or_default();
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// The name of a stored object.
pub fn name_of(object: &Stored) -> Name {
    let resource = RESOURCES.iter().find(|known| **known == &*object.key.resource);
    (
        resource.copied().unwrap_or_default(),
        object.key.name.parse().unwrap_or(u64::MAX),
    )
}

/// The change that an object shows.
pub fn change_of(object: &Stored, is_deleted: bool) -> Change {
    Change {
        name: name_of(object),
        value: (!is_deleted).then(|| value_of(object)),
    }
}

/// A number that differs between states that differ.
pub fn hash_of(snapshot: &Snapshot) -> u64 {
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    snapshot.all().fold(snapshot.revision(), |hash, object| {
        let (words, rest) = object.bytes.as_chunks::<8>();
        let hash = words.iter().fold(mix(hash, object.revision), |hash, word| {
            mix(hash, u64::from_le_bytes(*word))
        });
        rest.iter()
            .fold(mix(hash, rest.len() as u64), |hash, byte| mix(hash, u64::from(*byte)))
    })
}

/// Everything in a snapshot.
pub fn values_of(snapshot: &Snapshot) -> BTreeMap<Name, u64> {
    snapshot
        .all()
        .map(|object| (name_of(object), value_of(object)))
        .collect()
}

/// The key of a name.
pub fn key_of(name: Name) -> Key {
    Key::new(name.0, "default", name.1.to_string())
}

/// An object of so many bytes, and some more.
pub fn draft_of(name: Name, value: u64, size: u64) -> Draft {
    let content =
        serde_json::json!({"metadata": {"name": name.1.to_string()}, "v": value, "x": "x".repeat(size as usize)});
    Draft::new(key_of(name), content, Head::default())
}

impl Client {
    /// A client that has seen nothing.
    pub fn new(lies: bool) -> Client {
        Client {
            lies,
            under_way: None,
            known: BTreeMap::new(),
        }
    }

    /// Whether it waits for a member.
    pub fn asked(&self, id: u64) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.machine == id)
    }

    /// Whether it has nothing under way.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }

    /// Begins an operation; `shortcut` is what a mutant does in the place of a read.
    pub fn begin(
        &mut self,
        at: (u64, u64),
        store: &Store,
        now: u64,
        shortcut: Option<Shortcut>,
        random: &mut Random,
        history: &mut History,
    ) {
        let name = (RESOURCES[random.below(2) as usize], random.below(NAMES));
        let called = history.now();
        // Values are unique in a run: the place of their call.
        let value = called;
        let size = if random.chance(30) { 3000 } else { random.below(200) };
        let put = |when| Txn::put(draft_of(name, value, size), when);
        let known = self.known.get(&name).copied();
        let (call, txn) = match (random.below(10), known) {
            (0, _) => (Call::Create(value), put(Precondition::Absent)),
            (1, _) => (Call::Delete, Txn::delete(key_of(name), Precondition::None)),
            (2..=4, Some((old, revision))) => {
                let swap = Call::Swap { old, new: value };
                (swap, put(Precondition::Revision(revision)))
            }
            (2..=5, _) => (Call::Put(value), put(Precondition::None)),
            _ => (Call::Read, Txn::default()),
        };
        let store = store.clone();
        let waiting = match call {
            Call::Read => Waiting::Read(Box::pin(read(store, shortcut))),
            _ => Waiting::Write(Box::pin(async move { store.propose(txn).await })),
        };
        self.under_way = Some(UnderWay {
            machine: at.0,
            life: at.1,
            name,
            call,
            called,
            until: now + PATIENCE,
            waiting,
        });
    }

    /// Looks whether an answer has come. `alive` tells whether a member still lives the life it was asked in.
    pub fn poll(&mut self, now: u64, alive: impl Fn(u64, u64) -> bool, history: &mut History) {
        let Some(mut asked) = self.under_way.take() else {
            return;
        };
        let mut context = Context::from_waker(Waker::noop());
        let lost = now >= asked.until || !alive(asked.machine, asked.life);
        let came = match &mut asked.waiting {
            Waiting::Write(waiting) => match waiting.as_mut().poll(&mut context) {
                Poll::Ready(outcome) => self.written(asked.name, asked.call, outcome),
                Poll::Pending => Came::Nothing,
            },
            Waiting::Read(waiting) => match waiting.as_mut().poll(&mut context) {
                Poll::Ready(Ok(snapshot)) => self.read(&asked, &snapshot, history),
                Poll::Ready(Err(_)) => Came::Unknown,
                Poll::Pending => Came::Nothing,
            },
        };
        let (answer, revision) = match came {
            Came::Nothing if !lost => {
                self.under_way = Some(asked);
                return;
            }
            Came::Nothing | Came::Unknown => (Answer::Unknown, None),
            Came::Refused(value) => return history.refused(value),
            Came::Answer(answer, revision) => (answer, revision),
        };
        let operation = Operation {
            call: asked.call,
            answer,
            called: asked.called,
            returned: history.now(),
        };
        history.operation(asked.name, operation, revision);
    }

    /// Takes in the outcome of a write.
    fn written(&mut self, name: Name, call: Call, outcome: Result<Outcome, ProposeError>) -> Came {
        let value = match call {
            Call::Put(value) | Call::Create(value) | Call::Swap { new: value, .. } => Some(value),
            Call::Delete | Call::Read => None,
        };
        match outcome {
            Ok(Outcome::Committed { revision, .. }) if self.lies && revision % 64 == 0 => {
                value.map_or(Came::Unknown, Came::Refused)
            }
            Ok(Outcome::Committed { revision, .. }) => {
                self.learn(name, value.map(|value| (value, revision)));
                Came::Answer(Answer::Done, Some(revision))
            }
            Ok(Outcome::Rejected { current, .. }) => {
                self.learn(name, current.as_ref().map(|object| (value_of(object), object.revision)));
                Came::Answer(Answer::Refused(current.as_ref().map(|object| value_of(object))), None)
            }
            Err(ProposeError::Unknown | ProposeError::Stopped(_)) => Came::Unknown,
            // A delete that was refused leaves nothing to look for.
            Err(_) => value.map_or(Came::Unknown, Came::Refused),
        }
    }

    fn learn(&mut self, name: Name, known: Option<(u64, u64)>) {
        match known {
            Some(known) => drop(self.known.insert(name, known)),
            None => drop(self.known.remove(&name)),
        }
    }

    fn read(&mut self, asked: &UnderWay, snapshot: &Snapshot, history: &mut History) -> Came {
        let found = snapshot.get(&key_of(asked.name));
        self.learn(asked.name, found.map(|object| (value_of(object), object.revision)));
        let returned = history.now();
        history.sight(Sight {
            revision: snapshot.revision(),
            values: values_of(snapshot),
            called: Some(asked.called),
            returned,
        });
        Came::Answer(Answer::Seen(found.map(|object| value_of(object))), None)
    }
}
