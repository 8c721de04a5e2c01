//! Three members in one thread, with messages that get lost, members that are cut off and disks that
//! lose power. What was acknowledged is everywhere in the end; what was refused is nowhere.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coxswain_store::codec::encode_txn;
use coxswain_store::{Draft, Head, Key, Outcome, Precondition, RingLimit, Txn};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::crypt::Keyring;
use crate::disk::MemoryDisk;
use crate::inbox::Proposal;
use crate::member::Member;
use crate::start::{Parts, start};
use crate::{ProposeError, Transport};

const IDS: [u64; 3] = [1, 2, 3];

type Mail = Arc<Mutex<VecDeque<(u64, u64, Vec<u8>)>>>;

struct Post {
    from: u64,
    mail: Mail,
}

impl Transport for Post {
    fn send(&mut self, to: u64, message: Vec<u8>) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.push_back((self.from, to, message));
    }
}

type Heard = oneshot::Receiver<Result<Outcome, ProposeError>>;

struct Cluster {
    disks: Vec<MemoryDisk>,
    members: Vec<Member>,
    mail: Mail,
    /// The member whose messages get lost.
    cut_off: Option<u64>,
    waiting: Vec<(String, Heard)>,
    acknowledged: BTreeSet<String>,
    refused: BTreeSet<String>,
    barriers: Vec<(u64, oneshot::Receiver<Result<(), ProposeError>>)>,
}

impl Cluster {
    fn new() -> Cluster {
        let mut cluster = Cluster {
            disks: IDS.map(|_| MemoryDisk::new()).to_vec(),
            members: Vec::new(),
            mail: Mail::default(),
            cut_off: None,
            waiting: Vec::new(),
            acknowledged: BTreeSet::new(),
            refused: BTreeSet::new(),
            barriers: Vec::new(),
        };
        cluster.members = IDS.map(|id| cluster.raise(id)).into_iter().collect();
        cluster
    }

    fn raise(&self, id: u64) -> Member {
        let started = start(Parts {
            id,
            disk: Arc::new(self.disks[id as usize - 1].clone()),
            keyring: Arc::new(Keyring::in_memory(1)),
            segment_bytes: 32 << 10,
            history: RingLimit::default(),
            transport: Box::new(Post {
                from: id,
                mail: self.mail.clone(),
            }),
            voters: IDS.to_vec(),
            // Raft's own random choice would make runs differ.
            election_ticks: Some(10 + 3 * id as usize),
        });
        match started {
            Ok(started) => started.member,
            Err(error) => panic!("member {id} does not start: {error}"),
        }
    }

    /// The power of one member fails and comes back.
    fn crash(&mut self, id: u64, seed: u64) {
        self.disks[id as usize - 1].reboot(seed);
        self.members[id as usize - 1] = self.raise(id);
    }

    fn propose(&mut self, id: u64, name: String) {
        let value = serde_json::json!({"metadata": {"name": name}});
        let key = Key::new("pods", "default", name.as_str());
        let draft = Draft::new(key, value, Head::default());
        let txn = Txn::put(draft, Precondition::Absent);
        let mut encoded = Vec::new();
        encode_txn(&txn, &mut encoded);
        let (answer, heard) = oneshot::channel();
        self.waiting.push((name, heard));
        let proposal = Proposal { txn, encoded, answer };
        self.turn(id, VecDeque::from([proposal]));
    }

    /// Asks a member to confirm that it leads; its answer must not be older than what had been
    /// acknowledged by then.
    fn read(&mut self, id: u64) {
        let (answer, confirmed) = oneshot::channel();
        self.barriers.push((id, confirmed));
        let member = &mut self.members[id as usize - 1];
        let turn = member.turn(&mut VecDeque::new(), vec![answer], Duration::ZERO);
        finish(turn.expect("the disk works"));
    }

    fn turn(&mut self, id: u64, mut pending: VecDeque<Proposal>) {
        let member = &mut self.members[id as usize - 1];
        let turn = member.turn(&mut pending, Vec::new(), Duration::ZERO);
        finish(turn.expect("the disk works"));
    }

    /// Delivers messages until there are none.
    fn settle(&mut self) {
        loop {
            let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((from, to, message)) = mail.pop_front() else {
                break;
            };
            drop(mail);
            if self.cut_off == Some(from) || self.cut_off == Some(to) {
                continue;
            }
            self.members[to as usize - 1].receive(&message);
            self.turn(to, VecDeque::new());
        }
        self.listen();
    }

    fn tick(&mut self) {
        for id in IDS {
            self.members[id as usize - 1].tick();
            self.turn(id, VecDeque::new());
        }
        self.settle();
    }

    fn listen(&mut self) {
        let mut waiting = Vec::new();
        for (name, mut heard) in std::mem::take(&mut self.waiting) {
            match heard.try_recv() {
                Ok(Ok(Outcome::Committed { .. })) => drop(self.acknowledged.insert(name)),
                Ok(Ok(Outcome::Rejected { .. })) => panic!("{name} was written twice"),
                Ok(Err(_)) => drop(self.refused.insert(name)),
                Err(TryRecvError::Empty) => waiting.push((name, heard)),
                // The member crashed; the outcome is unknown.
                Err(TryRecvError::Closed) => {}
            }
        }
        self.waiting = waiting;
        for (id, mut confirmed) in std::mem::take(&mut self.barriers) {
            match confirmed.try_recv() {
                Ok(Ok(())) => assert!(self.cut_off != Some(id), "confirmed while cut off"),
                Err(TryRecvError::Empty) => self.barriers.push((id, confirmed)),
                _ => {}
            }
        }
    }

    fn names(&self, id: u64) -> BTreeSet<String> {
        let snapshot = self.members[id as usize - 1].snapshot();
        let name = |object: &Arc<coxswain_store::Stored>| object.key.name.to_string();
        snapshot.all().map(name).collect()
    }
}

fn finish(turn: crate::member::Turn) {
    for (answer, outcome) in turn.answers {
        let _ = answer.send(outcome);
    }
    for (answer, confirmed) in turn.barriers {
        let _ = answer.send(confirmed);
    }
}

fn run(seed: u64) -> usize {
    let mut cluster = Cluster::new();
    let mut random = StdRng::seed_from_u64(seed);
    for step in 0..300 {
        let id = IDS[random.random_range(0..3)];
        match random.random_range(0..20) {
            0 => cluster.cut_off = Some(id),
            1 | 2 => cluster.cut_off = None,
            3 => cluster.crash(id, random.random()),
            4 => cluster.read(id),
            5..10 => cluster.propose(id, format!("{step}")),
            10..12 => cluster.settle(),
            _ => cluster.tick(),
        }
    }
    cluster.cut_off = None;
    for _ in 0..120 {
        cluster.tick();
    }
    let leaders = cluster.members.iter().filter(|member| member.leads()).count();
    assert_eq!(leaders, 1, "seed {seed}");
    let names = cluster.names(1);
    for id in IDS {
        assert_eq!(cluster.names(id), names, "seed {seed}: member {id} differs");
    }
    let lost: Vec<_> = cluster.acknowledged.difference(&names).collect();
    assert!(lost.is_empty(), "seed {seed}: acknowledged and lost: {lost:?}");
    let undead: Vec<_> = cluster.refused.intersection(&names).collect();
    assert!(undead.is_empty(), "seed {seed}: refused and there: {undead:?}");
    cluster.acknowledged.len()
}

#[test]
fn three_members_agree_and_lose_nothing() {
    let acknowledged: usize = (0..40).map(run).sum();
    assert!(acknowledged > 400, "only {acknowledged} writes got through");
}
