//! Checkpoints: the whole state in one plain file.
//!
//! Owns the files `state-<index>`. One is written from a structure-sharing snapshot while writes
//! go on, under a temporary name, synced, renamed, and the directory synced; so a file of that name
//! is complete. The newest two are kept, and the log behind the older of them, so that a damaged
//! newest one costs a longer replay and nothing else.
//!
//! ```text
//! checkpoint := header (512 bytes) block*
//! block      := length | nonce | check | sealed content
//! content    := kind | meta or objects or end
//! ```
//! The blocks' checks form a chain, and the last block says how many objects there were.

use std::io;

use coxswain_store::codec::{decode_objects, encode_object, put_number, take_number};
use coxswain_store::{Snapshot, State};
use raft::eraftpb::{ConfState, HardState};

use crate::OpenError;
use crate::crypt::{DataKey, Keyring, NONCE, TAG, WRAPPED, io_error};
use crate::disk::{Disk, DiskFile, read_range};

const MAGIC: &[u8; 8] = b"cxstate1";
const HEADER: usize = 512;
const BLOCK_HEADER: usize = 4 + NONCE + 4;
/// Plain bytes at which a block is closed.
const BLOCK: usize = 512 << 10;
/// Largest block that is believed when reading: one object may exceed the usual size.
const MOST_BLOCK: usize = 64 << 20;

const META: u8 = 1;
const OBJECTS: u8 = 2;
const END: u8 = 3;

/// What a checkpoint says besides the objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Meta {
    /// Index of the last entry it contains.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Members as of that entry.
    pub members: ConfState,
    /// Term and vote when it was written.
    pub hard: HardState,
    /// Revision of the last write it contains.
    pub revision: u64,
    /// Whether it came from another member: of the log before, nothing counts that no record of its own
    /// connects with it.
    pub installed: bool,
}

/// Name of the checkpoint at an index.
pub(crate) fn checkpoint_name(index: u64) -> String {
    format!("state-{index:016x}")
}

/// Indexes of the checkpoints in a directory, newest first.
pub(crate) fn checkpoint_indexes(disk: &dyn Disk) -> Result<Vec<u64>, OpenError> {
    let names = disk.list().map_err(io_error("list", disk.path("")))?;
    let mut indexes: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_prefix("state-"))
        .filter_map(|digits| u64::from_str_radix(digits, 16).ok())
        .collect();
    indexes.sort_unstable_by(|a, b| b.cmp(a));
    Ok(indexes)
}

/// Writes a checkpoint and makes it durable. Returns its size in bytes.
pub(crate) fn write(disk: &dyn Disk, keyring: &Keyring, meta: &Meta, snapshot: &Snapshot) -> Result<u64, OpenError> {
    let name = checkpoint_name(meta.index);
    let unfinished = format!("tmp-{name}");
    let path = disk.path(&name);
    let _making = keyring.making();
    let (key, key_id, wrapped) = keyring.new_data_key()?;
    let write = || -> io::Result<u64> {
        let mut writer = Writer {
            file: disk.create(&unfinished)?,
            key,
            offset: 0,
            chain: 0,
            number: 0,
            block: Vec::with_capacity(BLOCK + (64 << 10)),
        };
        writer.header(key_id, &wrapped)?;
        writer.meta(meta)?;
        writer.objects(snapshot)?;
        writer.end(snapshot.len() as u64)?;
        writer.file.sync()?;
        disk.rename(&unfinished, &name)?;
        disk.sync_dir()?;
        Ok(writer.offset)
    };
    write().map_err(|error| {
        let _ = disk.remove(&unfinished);
        io_error("write", path)(error)
    })
}

struct Writer {
    file: Box<dyn DiskFile>,
    key: DataKey,
    offset: u64,
    chain: u32,
    number: u64,
    /// Space for a block header, then the block's content.
    block: Vec<u8>,
}

impl Writer {
    fn header(&mut self, key_id: u32, wrapped: &[u8; WRAPPED]) -> io::Result<()> {
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&key_id.to_le_bytes());
        header.extend_from_slice(wrapped);
        self.chain = crc32fast::hash(&header);
        header.extend_from_slice(&self.chain.to_le_bytes());
        header.resize(HEADER, 0);
        self.file.write_at(0, &header)?;
        self.offset = HEADER as u64;
        Ok(())
    }

    fn begin(&mut self, kind: u8) {
        self.block.clear();
        self.block.resize(BLOCK_HEADER, 0);
        self.block.push(kind);
    }

    /// Seals and writes the block begun last.
    fn finish(&mut self) -> io::Result<()> {
        let bound_to = self.number.to_le_bytes();
        let (nonce, tag) = self
            .key
            .seal(&mut self.block[BLOCK_HEADER..], &bound_to)
            .ok_or_else(|| io::Error::other("encryption failed"))?;
        self.block.extend_from_slice(&tag);
        let sealed = self.block.len() - BLOCK_HEADER;
        let check = block_check(&nonce, &self.block[BLOCK_HEADER..], self.chain);
        self.block[0..4].copy_from_slice(&(sealed as u32).to_le_bytes());
        self.block[4..4 + NONCE].copy_from_slice(&nonce);
        self.block[4 + NONCE..BLOCK_HEADER].copy_from_slice(&check.to_le_bytes());
        self.file.write_at(self.offset, &self.block)?;
        self.offset += self.block.len() as u64;
        self.chain = check;
        self.number += 1;
        Ok(())
    }

    fn meta(&mut self, meta: &Meta) -> io::Result<()> {
        self.begin(META);
        let numbers = [
            meta.index,
            meta.term,
            meta.revision,
            meta.hard.term,
            meta.hard.vote,
            meta.hard.commit,
            u64::from(meta.members.auto_leave) | u64::from(meta.installed) << 1,
        ];
        for number in numbers {
            put_number(&mut self.block, number);
        }
        let members = &meta.members;
        for list in [
            &members.voters,
            &members.learners,
            &members.voters_outgoing,
            &members.learners_next,
        ] {
            put_number(&mut self.block, list.len() as u64);
            for member in list {
                put_number(&mut self.block, *member);
            }
        }
        self.finish()
    }

    fn objects(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.begin(OBJECTS);
        for object in snapshot.all() {
            encode_object(object, &mut self.block);
            if self.block.len() >= BLOCK {
                self.finish()?;
                self.begin(OBJECTS);
            }
        }
        if self.block.len() > BLOCK_HEADER + 1 {
            self.finish()?;
        }
        Ok(())
    }

    fn end(&mut self, count: u64) -> io::Result<()> {
        self.begin(END);
        put_number(&mut self.block, count);
        self.finish()
    }
}

fn block_check(nonce: &[u8; NONCE], sealed: &[u8], chain: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chain.to_le_bytes());
    hasher.update(nonce);
    hasher.update(sealed);
    hasher.finalize()
}

/// Reads a checkpoint.
pub(crate) fn load(disk: &dyn Disk, keyring: &Keyring, index: u64) -> Result<(Meta, State), OpenError> {
    let name = checkpoint_name(index);
    let path = disk.path(&name);
    let file = disk.open(&name).map_err(io_error("open", path.clone()))?;
    let header = read_range(&*file, 0, HEADER).map_err(io_error("read", path.clone()))?;
    let damaged = |offset: u64, detail: &str| OpenError::Corrupted {
        file: path.clone(),
        offset,
        detail: detail.to_owned(),
    };
    let (key_id, wrapped, chain) = decode_header(&header).ok_or_else(|| damaged(0, "the header is invalid"))?;
    let mut reader = BlockReader {
        key: keyring.unwrap_data_key(key_id, &wrapped)?,
        file,
        offset: HEADER as u64,
        chain,
        number: 0,
        buffer: Vec::new(),
    };
    let mut meta = None;
    let mut state = State::new();
    let mut count = 0;
    loop {
        let at = reader.offset;
        let block = match reader.next() {
            Ok(Some(block)) => block,
            Ok(None) => return Err(damaged(at, "a block is invalid")),
            Err(error) => return Err(io_error("read", path)(error)),
        };
        let content = block.get(1..).unwrap_or_default();
        let understood = match (block.first(), &mut meta) {
            (Some(&META), None) => {
                let decoded = decode_meta(content).filter(|meta| meta.index == index);
                state = State::restore(decoded.as_ref().map_or(1, |meta| meta.revision), []);
                meta = decoded;
                meta.is_some()
            }
            (Some(&OBJECTS), Some(_)) => decode_objects(content, |object| {
                count += 1;
                state.restore_object(object);
            })
            .is_ok(),
            (Some(&END), Some(meta)) => {
                let mut content = content;
                if take_number(&mut content) == Some(count) {
                    return Ok((std::mem::take(meta), state));
                }
                false
            }
            _ => false,
        };
        if !understood {
            return Err(damaged(at, "a block holds something unexpected"));
        }
    }
}

/// The master key of a checkpoint on disk; `None` when its header is invalid.
pub(crate) fn master_key(file: &dyn DiskFile) -> io::Result<Option<u32>> {
    let header = read_range(file, 0, HEADER)?;
    Ok(decode_header(&header).map(|(key_id, ..)| key_id))
}

fn decode_header(bytes: &[u8]) -> Option<(u32, [u8; WRAPPED], u32)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let key_id = u32::from_le_bytes(rest.get(0..4)?.try_into().ok()?);
    let wrapped = rest.get(4..4 + WRAPPED)?.try_into().ok()?;
    let check = u32::from_le_bytes(rest.get(4 + WRAPPED..8 + WRAPPED)?.try_into().ok()?);
    let covered = bytes.get(..MAGIC.len() + 4 + WRAPPED)?;
    (crc32fast::hash(covered) == check).then_some((key_id, wrapped, check))
}

struct BlockReader {
    file: Box<dyn DiskFile>,
    key: DataKey,
    offset: u64,
    chain: u32,
    number: u64,
    buffer: Vec<u8>,
}

impl BlockReader {
    /// The next block's content, or `None` when there is no valid one.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let mut header = [0u8; BLOCK_HEADER];
        if self.file.read_at(self.offset, &mut header)? < BLOCK_HEADER {
            return Ok(None);
        }
        let mut word = [0u8; 4];
        word.copy_from_slice(&header[0..4]);
        let sealed = u32::from_le_bytes(word) as usize;
        word.copy_from_slice(&header[4 + NONCE..]);
        let check = u32::from_le_bytes(word);
        let mut nonce = [0u8; NONCE];
        nonce.copy_from_slice(&header[4..4 + NONCE]);
        if !(TAG..=MOST_BLOCK).contains(&sealed) {
            return Ok(None);
        }
        self.buffer.resize(sealed, 0);
        let from = self.offset + BLOCK_HEADER as u64;
        let read = self.file.read_at(from, &mut self.buffer)?;
        if read < sealed || block_check(&nonce, &self.buffer, self.chain) != check {
            return Ok(None);
        }
        self.offset = from + sealed as u64;
        self.chain = check;
        let bound_to = self.number.to_le_bytes();
        self.number += 1;
        Ok(self.key.open(nonce, &mut self.buffer, &bound_to))
    }
}

fn decode_meta(mut input: &[u8]) -> Option<Meta> {
    let mut number = || take_number(&mut input);
    let mut meta = Meta {
        index: number()?,
        term: number()?,
        revision: number()?,
        ..Meta::default()
    };
    meta.hard.term = number()?;
    meta.hard.vote = number()?;
    meta.hard.commit = number()?;
    let flags = number()?;
    meta.members.auto_leave = flags & 1 != 0;
    meta.installed = flags & 2 != 0;
    let mut list = || -> Option<Vec<u64>> {
        let count = number()?;
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(number()?);
        }
        Some(members)
    };
    meta.members.voters = list()?;
    meta.members.learners = list()?;
    meta.members.voters_outgoing = list()?;
    meta.members.learners_next = list()?;
    input.is_empty().then_some(meta)
}
