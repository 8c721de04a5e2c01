//! How a member comes up: newest good checkpoint, replay of the log, election.
//!
//! Everything is read and checked before anything is changed.

mod loss;

use std::sync::Arc;
use std::time::Duration;

use coxswain_store::{RingLimit, State};
use raft::eraftpb::{ConfState, EntryType, HardState};

use crate::OpenError;
use crate::checkpoint::{self, Meta, checkpoint_indexes};
use crate::crypt::{Keyring, io_error};
use crate::disk::Disk;
use crate::hub::Hub;
use crate::member::{Beginning, Member, Turn, apply_data};
use crate::raft_log::RaftLog;
use crate::transport::Transport;
use crate::wal::{self, Payload, Recovered, Wal, segment_numbers};

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
    /// Members of the cluster, should this be a new one; none for a member that joins one.
    pub voters: Vec<u64>,
    /// Different each time a member starts.
    pub session: u64,
    /// Bytes of the log kept in memory for members that lag.
    pub lag_bytes: usize,
    /// Size of the parts of a snapshot for another member.
    pub chunk_bytes: usize,
    /// Whether a member that is alone gives up what is missing from a damaged log.
    pub accept_log_damage: bool,
}

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
    let members = &meta.members;
    let known = [&members.voters, &members.learners, &members.voters_outgoing];
    if !members.voters.is_empty() && known.iter().all(|ids| !ids.contains(&parts.id)) {
        return Err(OpenError::Raft(format!(
            "the data belongs to members {:?}, and this is member {}",
            members.voters, parts.id
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
        awaited: meta.installed.then_some(meta.index),
        lag_bytes: parts.lag_bytes,
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
    let (mut wal, missing) = match (recovered, skipped) {
        (Ok(Recovered { wal, damage }), _) => (wal, damage),
        (Err(_), Some(damage)) => return Err(damage),
        (Err(error), None) => return Err(error),
    };
    wal.belongs_to(parts.id).map_err(|owner| {
        let (dir, id) = (parts.disk.path(""), parts.id);
        OpenError::Raft(format!(
            "{} is the data of member {owner}, and this server takes itself for member {id}: put the id in its \
             member.json right",
            dir.display()
        ))
    })?;
    if let Some(missing) = missing {
        replay.settle(&mut wal, missing, parts.accept_log_damage)?;
    }
    if replay.awaited.is_some() && replay.log.hard().commit == meta.index {
        // The snapshot came, and the record that connects the log with it did not: it is made up for. Had anything after
        // it been committed, the log would connect.
        replay.log.truncate();
        replay.log.set_commit(meta.index);
        wal.reset(replay.log.hard(), meta.index, meta.term)?;
    }
    let leftovers = leftovers(&parts)?;
    let gave_up = wal.gave_up();
    let mut member = Member::new(Beginning {
        id: parts.id,
        session: parts.session,
        log: replay.log,
        applied: replay.applied,
        state: replay.state,
        wal,
        place: parts.disk.path("").display().to_string().trim_end_matches('/').into(),
        transport: parts.transport,
        since_checkpoint: replay.bytes,
        checkpoints,
        lag_bytes: parts.lag_bytes,
        chunk_bytes: parts.chunk_bytes,
    })?;
    let mut turn = Turn::default();
    member.drain(Duration::ZERO, &mut turn)?;
    if member.is_alone() {
        member.campaign()?;
        member.drain(Duration::ZERO, &mut turn)?;
    }
    hub.publish(turn.events, member.snapshot());
    if gave_up {
        loss::move_ahead(&mut member, &parts.disk, &parts.keyring, parts.segment_bytes)?;
        hub.reset(member.snapshot());
    }
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
    let recovered = wal::recover(
        parts.disk.clone(),
        parts.keyring.clone(),
        parts.segment_bytes,
        0,
        |_| {
            records += 1;
            Ok(())
        },
    )?;
    if let Some(damage) = recovered.damage {
        return Err(damage);
    }
    if segments != [1] || records > 0 {
        return Err(OpenError::Corrupted {
            file: parts.disk.path("state-*"),
            offset: 0,
            detail: "there is a log, but no checkpoint that it could continue".into(),
        });
    }
    Ok(false)
}

/// Writes what a new cluster, or a member that joins one, begins with.
fn bootstrap(parts: &Parts) -> Result<(), OpenError> {
    let laid_out = lay_out(
        &parts.disk,
        &parts.keyring,
        parts.segment_bytes,
        &parts.voters,
        &State::new(),
    );
    laid_out.map_err(|error| no_space(parts, error))
}

/// Writes a log with nothing in it, and a checkpoint of the state that a cluster of these voters begins with. The
/// checkpoint comes last: without it the rest counts for nothing.
pub(crate) fn lay_out(
    disk: &Arc<dyn Disk>,
    keyring: &Arc<Keyring>,
    segment_bytes: u64,
    voters: &[u64],
    state: &State,
) -> Result<(), OpenError> {
    Wal::create(disk.clone(), keyring.clone(), segment_bytes)?;
    let (index, term) = if voters.is_empty() { (0, 0) } else { FIRST };
    let meta = Meta {
        index,
        term,
        members: ConfState {
            voters: voters.to_vec(),
            ..ConfState::default()
        },
        hard: HardState {
            term,
            commit: index,
            ..HardState::default()
        },
        revision: state.revision(),
        installed: false,
    };
    checkpoint::write(&**disk, keyring, &meta, &state.snapshot()).map(drop)
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
                if let Some(damage) = &damage {
                    tracing::error!(error = %damage, "passed over a damaged checkpoint");
                }
                let mut good = indexes[at..].to_vec();
                good.reverse();
                return Ok((meta, state, good, damage));
            }
            Err(error @ OpenError::Corrupted { .. }) => {
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

/// Raft's view of the log behind a checkpoint. What is committed beyond it, the log's own records say:
/// an earlier record may hold entries that were replaced later.
fn raft_log(meta: &Meta) -> RaftLog {
    let mut hard = meta.hard.clone();
    hard.commit = meta.index;
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
    /// Index of another member's snapshot, until the record is found that connects the log with it.
    awaited: Option<u64>,
    lag_bytes: usize,
}

impl Replay<'_> {
    /// Takes in a record, and applies what it shows to be committed.
    fn record(&mut self, payload: Payload) -> Result<(), String> {
        let (hard, entries) = match payload {
            Payload::Append { hard, entries } => (hard, entries),
            Payload::Reset { hard, index, .. } => return self.reset(hard, index),
            Payload::Seal => return Ok(()),
        };
        self.log.append(&entries)?;
        let commit = self.promise(hard);
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
        let kept = if self.is_alone { 0 } else { self.lag_bytes };
        self.log.drop_beyond(kept, self.applied.0);
        if !events.is_empty() {
            self.hub.publish(events, self.state.snapshot());
        }
        Ok(())
    }
}

impl Replay<'_> {
    /// Another member's snapshot took the place of the entries before.
    fn reset(&mut self, hard: HardState, index: u64) -> Result<(), String> {
        if index > self.applied.0 {
            return Err(format!("the checkpoint at {index} that the log continues is missing"));
        }
        // One for an earlier snapshot says nothing about this one.
        self.awaited = self.awaited.filter(|awaited| *awaited != index);
        self.log.truncate();
        self.log.begin_at(self.applied.0, self.applied.1);
        self.promise(hard);
        Ok(())
    }

    /// Takes in a record's hard state, which may be older than the checkpoint's: nothing promised is
    /// taken back. Returns the commit index.
    fn promise(&mut self, mut hard: HardState) -> u64 {
        let known = self.log.hard();
        if hard.term < known.term || (hard.term == known.term && hard.vote == 0) {
            hard.term = known.term;
            hard.vote = known.vote;
        }
        hard.commit = hard.commit.max(known.commit);
        let commit = hard.commit;
        self.log.set_hard(hard);
        commit
    }
}

/// Files under temporary names.
fn leftovers(parts: &Parts) -> Result<Vec<String>, OpenError> {
    let mut names = parts.disk.list().map_err(io_error("list", parts.disk.path("")))?;
    names.retain(|name| name.starts_with("tmp-"));
    Ok(names)
}
