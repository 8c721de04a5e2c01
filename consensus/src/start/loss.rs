//! What becomes of a log whose end is damaged.
//!
//! A member of several does not start with it: its data is put aside, and the others give it everything back
//! under a new number, so that nothing it may have promised counts any more. A member that is alone does not start
//! either, unless somebody demands that what is missing be given up. Then revisions move ahead, so that none of
//! those that are lost is given out twice, and whoever had seen one finds its place compacted.

use std::sync::Arc;

use coxswain_store::State;
use raft::eraftpb::EntryType;

use super::Replay;
use crate::OpenError;
use crate::backup::AHEAD;
use crate::checkpoint;
use crate::crypt::{Keyring, io_error};
use crate::disk::Disk;
use crate::member::{Member, apply_data};
use crate::wal::{self, Wal};

impl Replay<'_> {
    /// Gives up what is missing from the log if that is wanted and this member may, or says what can be done.
    pub(super) fn settle(&self, wal: &mut Wal, damage: OpenError, accept: bool) -> Result<(), OpenError> {
        let OpenError::Corrupted { file, offset, detail } = damage else {
            return Err(damage);
        };
        if !self.is_alone || self.has_membership {
            return Err(OpenError::Corrupted { file, offset, detail });
        }
        let revision = self.whole_revision();
        if !accept {
            return Err(OpenError::LogDamaged {
                file,
                offset,
                detail,
                revision,
            });
        }
        tracing::error!(
            file = %file.display(), offset, detail, revision,
            "the log is damaged: as demanded, every write after this revision is given up"
        );
        wal.give_up_rest()
    }

    /// Revision of the last write in the log.
    fn whole_revision(&self) -> u64 {
        let mut state: State = self.state.clone();
        for index in self.applied.0 + 1.. {
            let Some(entry) = self.log.get(index) else {
                break;
            };
            if entry.get_entry_type() == EntryType::EntryNormal
                && apply_data(&mut state, entry, &mut Vec::new()).is_err()
            {
                break;
            }
        }
        state.revision()
    }
}

/// Moves revisions ahead, in a checkpoint that takes the place of all earlier ones.
pub(super) fn move_ahead(
    member: &mut Member,
    disk: &Arc<dyn Disk>,
    keyring: &Keyring,
    segment_bytes: u64,
) -> Result<(), OpenError> {
    member.move_ahead(AHEAD);
    tracing::warn!(
        revision = member.snapshot().revision(),
        "writes were given up: the store goes on at a revision that none of them had"
    );
    if let Some((meta, snapshot)) = member.checkpoint_now() {
        checkpoint::write(&**disk, keyring, &meta, &snapshot)?;
        let unneeded = member.replaced_checkpoints(meta.index);
        wal::discard(&**disk, &unneeded, segment_bytes).map_err(io_error("tidy", disk.path("")))?;
    }
    member.moved_ahead()
}
