//! How a member comes up: newest good checkpoint, replay of the log, election.
//!
//! Everything is read and checked before anything is changed.

use std::sync::Arc;

use coxswain_store::{RingLimit, State};
use raft::eraftpb::{ConfState, EntryType, HardState};
use raft::{Config as RaftConfig, RawNode};

use crate::checkpoint::{self, Meta, checkpoint_indexes};
use crate::crypt::{Keyring, io_error};
use crate::disk::Disk;
use crate::hub::Hub;
use crate::member::{KEPT_FOR_OTHERS, Member, Turn, apply_data};
use crate::raft_log::RaftLog;
use crate::transport::Transport;
use crate::wal::{self, Payload, Wal, segment_numbers};
use crate::{OpenError, raft_logger};

/// Index and term at which a cluster begins. Not 0, so that a member that joins with nothing sees
/// that it has to be given a checkpoint.
const FIRST: (u64, u64) = (1, 1);

/// What a member needs to come up.
pub(crate) struct Parts {
    pub id: u64,
    pub disk: Arc<dyn Disk>,
    pub keyring: Arc<Keyring>,
    pub segment_bytes: u64,
    pub history: RingLimit,
    pub transport: Box<dyn Transport>,
    /// Members of the cluster, should this be a new one.
    pub voters: Vec<u64>,
    /// Ticks without a leader after which an election begins; raft chooses at random from one to
    /// two times this when it is not given exactly.
    pub election_ticks: Option<usize>,
}

/// Ticks of raft's clock without a leader after which an election may begin.
const ELECTION_TICKS: usize = 10;

/// A member that has come up, and the hub with its history.
pub(crate) struct Started {
    pub member: Member,
    pub hub: Hub,
    /// Files that an earlier run left unfinished.
    pub leftovers: Vec<String>,
}

/// Brings a member up on its disk.
pub(crate) fn start(parts: Parts) -> Result<Started, OpenError> {
    if !holds_data(&parts)? {
        bootstrap(&parts)?;
    }
    let (meta, state, checkpoints, skipped) = newest_checkpoint(&parts)?;
    if !meta.members.voters.contains(&parts.id) {
        return Err(OpenError::Raft(format!(
            "the data belongs to members {:?}, and this is member {}",
            meta.members.voters, parts.id
        )));
    }
    let hub = Hub::new(state.snapshot(), parts.history);
    let mut replay = Replay {
        log: raft_log(&meta),
        applied: (meta.index, meta.term),
        is_alone: meta.members.voters == [parts.id] && meta.members.learners.is_empty(),
        state,
        hub: &hub,
        bytes: 0,
        has_membership: false,
    };
    let recovered = wal::recover(
        parts.disk.clone(),
        parts.keyring.clone(),
        parts.segment_bytes,
        meta.index,
        |payload| replay.record(payload),
    );
    // When a damaged checkpoint was passed over and the log doesn't make up for it, the damage is
    // the news.
    let wal = match (recovered, skipped) {
        (Ok(wal), _) => wal,
        (Err(_), Some(damage)) => return Err(damage),
        (Err(error), None) => return Err(error),
    };
    let (log, state, bytes) = (replay.log, replay.state, replay.bytes);
    let applied = replay.applied;
    let leftovers = leftovers(&parts)?;
    let mut member = raise(parts, log, applied, state, wal)?;
    member.since_checkpoint = bytes;
    member.checkpoints = checkpoints;
    let mut turn = Turn::default();
    if member.is_alone() {
        let elected = member.raw.campaign();
        elected.map_err(|error| OpenError::Raft(error.to_string()))?;
    }
    member.drain(&mut turn)?;
    hub.publish(turn.events, member.snapshot());
    Ok(Started { member, hub, leftovers })
}

/// Whether there is data. The leavings of a bootstrap that did not finish are none.
fn holds_data(parts: &Parts) -> Result<bool, OpenError> {
    if !checkpoint_indexes(&*parts.disk)?.is_empty() {
        return Ok(true);
    }
    let segments = segment_numbers(&*parts.disk)?;
    if segments.is_empty() {
        return Ok(false);
    }
    let mut records = 0;
    wal::recover(
        parts.disk.clone(),
        parts.keyring.clone(),
        parts.segment_bytes,
        0,
        |_| {
            records += 1;
            Ok(())
        },
    )?;
    if segments != [1] || records > 0 {
        return Err(OpenError::Corrupted {
            file: parts.disk.path("state-*"),
            offset: 0,
            detail: "there is a log, but no checkpoint that it could continue".into(),
        });
    }
    Ok(false)
}

/// Writes what a new cluster of one member begins with. The checkpoint comes last: without it the
/// rest counts for nothing.
fn bootstrap(parts: &Parts) -> Result<(), OpenError> {
    let created = Wal::create(parts.disk.clone(), parts.keyring.clone(), parts.segment_bytes);
    created.map_err(|error| no_space(parts, error))?;
    let (index, term) = FIRST;
    let state = State::new();
    let meta = Meta {
        index,
        term,
        members: ConfState {
            voters: parts.voters.clone(),
            ..ConfState::default()
        },
        hard: HardState {
            term,
            commit: index,
            ..HardState::default()
        },
        revision: state.revision(),
    };
    let written = checkpoint::write(&*parts.disk, &parts.keyring, &meta, &state.snapshot());
    written.map(drop).map_err(|error| no_space(parts, error))
}

fn no_space(parts: &Parts, error: OpenError) -> OpenError {
    match error {
        OpenError::Io { source, .. } if crate::disk::is_full(&source) => OpenError::NoSpace {
            dir: parts.disk.path(""),
            needed_mib: (parts.segment_bytes * 3).div_ceil(1 << 20) + 1,
        },
        other => other,
    }
}

type Loaded = (Meta, State, Vec<u64>, Option<OpenError>);

/// Loads the newest checkpoint that is whole. Returns the indexes of the good ones, oldest first,
/// and what was wrong with a newer one.
fn newest_checkpoint(parts: &Parts) -> Result<Loaded, OpenError> {
    let indexes = checkpoint_indexes(&*parts.disk)?;
    let mut damage = None;
    for (at, &index) in indexes.iter().enumerate() {
        match checkpoint::load(&*parts.disk, &parts.keyring, index) {
            Ok((meta, state)) => {
                let mut good = indexes[at..].to_vec();
                good.reverse();
                return Ok((meta, state, good, damage));
            }
            Err(error @ OpenError::Corrupted { .. }) => {
                tracing::error!(%error, "passing over a damaged checkpoint");
                damage.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(damage.unwrap_or_else(|| OpenError::Corrupted {
        file: parts.disk.path("state-*"),
        offset: 0,
        detail: "there is no checkpoint".into(),
    }))
}

/// Raft's view of the log behind a checkpoint. The commit index on disk may trail what is applied:
/// raft wants it not to.
fn raft_log(meta: &Meta) -> RaftLog {
    let mut hard = meta.hard.clone();
    hard.commit = hard.commit.max(meta.index);
    RaftLog::new(meta.index, meta.term, hard, meta.members.clone())
}

/// Entries on their way from the log to the state.
struct Replay<'a> {
    log: RaftLog,
    /// Index and term of the last entry applied.
    applied: (u64, u64),
    /// Whether nobody else may ask for entries that are applied.
    is_alone: bool,
    state: State,
    hub: &'a Hub,
    bytes: u64,
    /// From the first change of membership on, entries are left to raft, which has to see it.
    has_membership: bool,
}

impl Replay<'_> {
    /// Takes in a record, and applies what it shows to be committed.
    fn record(&mut self, payload: Payload) -> Result<(), String> {
        let Payload::Append { mut hard, entries } = payload else {
            return Ok(());
        };
        self.log.append(&entries)?;
        hard.commit = hard.commit.max(self.log.hard().commit);
        let commit = hard.commit;
        self.log.set_hard(hard);
        let mut events = Vec::new();
        while self.applied.0 < commit {
            let Some(entry) = self.log.get(self.applied.0 + 1) else {
                break;
            };
            self.has_membership |= entry.get_entry_type() != EntryType::EntryNormal;
            if self.has_membership {
                break;
            }
            self.bytes += entry.data.len() as u64 + 64;
            apply_data(&mut self.state, entry, &mut events).map_err(|error| error.to_string())?;
            self.applied = (entry.index, entry.term);
        }
        let kept = if self.is_alone { 0 } else { KEPT_FOR_OTHERS };
        self.log.drop_beyond(kept, self.applied.0);
        if !events.is_empty() {
            self.hub.publish(events, self.state.snapshot());
        }
        Ok(())
    }
}

/// Puts a member together around the recovered log.
fn raise(parts: Parts, log: RaftLog, applied: (u64, u64), state: State, wal: Wal) -> Result<Member, OpenError> {
    let config = RaftConfig {
        id: parts.id,
        applied: applied.0,
        election_tick: ELECTION_TICKS,
        min_election_tick: parts.election_ticks.unwrap_or(ELECTION_TICKS),
        max_election_tick: parts.election_ticks.map_or(2 * ELECTION_TICKS, |ticks| ticks + 1),
        heartbeat_tick: 2,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 256,
        check_quorum: true,
        pre_vote: true,
        ..RaftConfig::default()
    };
    let raw = RawNode::new(&config, log, &raft_logger::logger()).map_err(|error| OpenError::Raft(error.to_string()))?;
    Ok(Member {
        id: parts.id,
        raw,
        wal,
        state,
        applied,
        transport: parts.transport,
        in_flight: Default::default(),
        reads: Default::default(),
        full_until: None,
        since_checkpoint: 0,
        checkpoints: Vec::new(),
        checkpoint_running: false,
    })
}

/// Files under temporary names.
fn leftovers(parts: &Parts) -> Result<Vec<String>, OpenError> {
    let mut names = parts.disk.list().map_err(io_error("list", parts.disk.path("")))?;
    names.retain(|name| name.starts_with("tmp-"));
    Ok(names)
}
