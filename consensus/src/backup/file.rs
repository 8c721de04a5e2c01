//! The bytes of a backup.
//!
//! ```text
//! backup := header block* last block
//! header := magic | format | derivation (kind, cost, salt) | wrapped file key | check
//! block  := is last | length | sealed part
//! ```
//! Each file has a random key of its own, wrapped by the key that the secret gives. A block's nonce is its
//! number and whether it is the last, so that none can be lost, repeated, displaced or taken from another
//! file, and a file that was cut off has no end. AES-256-GCM.

use std::io::{self, Read, Write};

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use aws_lc_rs::rand;

use super::secret::{Derivation, Kind, SALT, Secret};
use super::{BackupError, Cluster, Head, MOST_PART, Sequence, cluster_part};
use crate::crypt::{NONCE, TAG, WRAPPED, cipher};

const MAGIC: &[u8; 8] = b"cxbackup";
/// The newest format this build reads, and the one it writes.
const FORMAT: u32 = 1;
/// Bytes of the header's part that the wrapping is bound to.
const BOUND: usize = MAGIC.len() + 4 + 1 + 12 + SALT;
const HEADER: usize = BOUND + WRAPPED + 4;
const BLOCK_HEADER: usize = 5;

const NO_RANDOM: BackupError = BackupError::Cryptography("no random numbers are available");
const UNUSABLE: BackupError = BackupError::Cryptography("the key is unusable");

fn nonce(number: u64, is_last: bool) -> Nonce {
    let mut nonce = [0; NONCE];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce[8] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

/// Writes a backup. It is one only when [`Writer::finish`] has returned.
pub struct Writer<W> {
    out: W,
    key: LessSafeKey,
    number: u64,
    sequence: Sequence,
    /// The part that came last: it may be the last of all.
    waiting: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins with the cluster's files.
    ///
    /// # Errors
    /// When it cannot be written or encrypted.
    pub fn begin(mut out: W, secret: &Secret, cluster: &Cluster) -> Result<Writer<W>, BackupError> {
        let mut salt = [0; SALT];
        let mut file_key = [0; 32];
        let mut wrapping_nonce = [0; NONCE];
        for random in [&mut salt[..], &mut file_key, &mut wrapping_nonce] {
            rand::fill(random).map_err(|_| NO_RANDOM)?;
        }
        let how = secret.derivation(salt);
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.push(how.kind as u8);
        how.cost
            .iter()
            .for_each(|cost| header.extend_from_slice(&cost.to_le_bytes()));
        header.extend_from_slice(&salt);
        let mut wrapped = file_key;
        let wrapping = cipher(&secret.derive(&how)?).ok_or(UNUSABLE)?;
        let unique = Nonce::assume_unique_for_key(wrapping_nonce);
        let tag = wrapping.seal_in_place_separate_tag(unique, Aad::from(&header), &mut wrapped);
        let tag = tag.map_err(|_| UNUSABLE)?;
        header.extend_from_slice(&wrapping_nonce);
        header.extend_from_slice(&wrapped);
        header.extend_from_slice(tag.as_ref());
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        out.write_all(&header)?;
        let mut writer = Writer {
            out,
            key: cipher(&file_key).ok_or(UNUSABLE)?,
            number: 0,
            sequence: Sequence::default(),
            waiting: Vec::new(),
        };
        writer.part(&cluster_part(cluster))?;
        Ok(writer)
    }

    /// Adds the next part of a snapshot.
    ///
    /// # Errors
    /// When it cannot be the next part, or cannot be written.
    pub fn part(&mut self, part: &[u8]) -> Result<(), BackupError> {
        self.sequence.take(part, drop).ok_or(BackupError::Incomplete)?;
        if !self.waiting.is_empty() {
            self.block(false)?;
        }
        self.waiting.extend_from_slice(part);
        Ok(())
    }

    /// Seals and writes the waiting part.
    fn block(&mut self, is_last: bool) -> Result<(), BackupError> {
        let length = (self.waiting.len() + TAG) as u32;
        let mut header = [u8::from(is_last); BLOCK_HEADER];
        header[1..].copy_from_slice(&length.to_le_bytes());
        let unique = nonce(self.number, is_last);
        let sealed = self
            .key
            .seal_in_place_separate_tag(unique, Aad::from(&header), &mut self.waiting);
        let tag = sealed.map_err(|_| UNUSABLE)?;
        self.out.write_all(&header)?;
        self.out.write_all(&self.waiting)?;
        self.out.write_all(tag.as_ref())?;
        self.number += 1;
        self.waiting.clear();
        Ok(())
    }

    /// Ends the file, which is still to be flushed, and tells what it holds.
    ///
    /// # Errors
    /// When parts are missing, or it cannot be written.
    pub fn finish(mut self) -> Result<(W, Head), BackupError> {
        let sequence = std::mem::take(&mut self.sequence);
        let (_, head) = sequence.whole().ok_or(BackupError::Incomplete)?;
        self.block(true)?;
        Ok((self.out, head))
    }
}

/// Reads a backup.
pub struct Reader<R> {
    input: R,
    key: LessSafeKey,
    number: u64,
    offset: u64,
    ended: bool,
    buffer: Vec<u8>,
}

/// What stands in front of the blocks.
pub(super) struct Header {
    how: Derivation,
    /// What the wrapping is bound to, and the wrapped file key.
    covered: Vec<u8>,
}

impl Header {
    /// Reads it off the front of a file.
    ///
    /// # Errors
    /// When it is no backup, of a newer format, or damaged.
    pub fn read(input: &mut impl Read) -> Result<Header, BackupError> {
        let mut header = Vec::with_capacity(HEADER);
        input.take(HEADER as u64).read_to_end(&mut header)?;
        let version = header.strip_prefix(MAGIC).ok_or(BackupError::Foreign)?;
        let damaged = |detail| BackupError::Damaged { offset: 0, detail };
        let (version, _) = version.split_first_chunk().ok_or(damaged("it was cut off"))?;
        let found = u32::from_le_bytes(*version);
        if found > FORMAT {
            return Err(BackupError::NewerFormat { found, known: FORMAT });
        }
        let (covered, check) = header.split_at_checked(HEADER - 4).ok_or(damaged("it was cut off"))?;
        if check != crc32fast::hash(covered).to_le_bytes() {
            return Err(damaged("its header is invalid"));
        }
        let how = decode_derivation(covered).filter(Derivation::is_credible);
        Ok(Header {
            how: how.ok_or(damaged("its header is invalid"))?,
            covered: covered.to_vec(),
        })
    }

    /// Refuses a secret of another kind than the file was made with.
    ///
    /// # Errors
    /// Names the right kind.
    pub fn check(&self, kind: Kind) -> Result<(), BackupError> {
        if self.how.kind == kind {
            Ok(())
        } else {
            Err(BackupError::OtherSecret(self.how.kind.name()))
        }
    }

    fn unlock(&self, secret: &Secret) -> Result<LessSafeKey, BackupError> {
        self.check(secret.kind())?;
        let wrapping = cipher(&secret.derive(&self.how)?).ok_or(UNUSABLE)?;
        let (bound, wrapped) = self.covered.split_at(BOUND);
        let (unique, sealed) = wrapped.split_first_chunk::<NONCE>().ok_or(UNUSABLE)?;
        let mut sealed = sealed.to_vec();
        let unique = Nonce::assume_unique_for_key(*unique);
        let opened = wrapping.open_in_place(unique, Aad::from(bound), &mut sealed);
        let opened = opened.map_err(|_| BackupError::WrongSecret(secret.kind().name()))?;
        let file_key: &[u8; 32] = (&*opened).try_into().map_err(|_| UNUSABLE)?;
        cipher(file_key).ok_or(UNUSABLE)
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header and unlocks the file.
    ///
    /// # Errors
    /// When it is no backup, of a newer format, damaged, or locked with something else.
    pub fn open(mut input: R, secret: &Secret) -> Result<Reader<R>, BackupError> {
        let key = Header::read(&mut input)?.unlock(secret)?;
        Ok(Reader {
            key,
            input,
            number: 0,
            offset: HEADER as u64,
            ended: false,
            buffer: Vec::new(),
        })
    }

    /// The next part; none when the last one was read and nothing follows it.
    fn next(&mut self) -> Result<Option<&[u8]>, BackupError> {
        let damaged = |offset, detail| Err(BackupError::Damaged { offset, detail });
        let at = self.offset;
        let mut header = [0; BLOCK_HEADER];
        let read = read_up_to(&mut self.input, &mut header)?;
        match (read, self.ended) {
            (0, true) => return Ok(None),
            (_, true) => return damaged(at, "something follows its end"),
            (BLOCK_HEADER, false) => {}
            _ => return damaged(at, "it was cut off"),
        }
        let [is_last, length @ ..] = header;
        let length = u32::from_le_bytes(length) as usize;
        if is_last > 1 || !(TAG..=MOST_PART + TAG).contains(&length) {
            return damaged(at, "a block is invalid");
        }
        self.buffer.clear();
        let read = self.input.by_ref().take(length as u64).read_to_end(&mut self.buffer)?;
        if read < length {
            return damaged(at, "it was cut off");
        }
        self.ended = is_last == 1;
        let unique = nonce(self.number, self.ended);
        self.number += 1;
        self.offset += (BLOCK_HEADER + length) as u64;
        let opened = self.key.open_in_place(unique, Aad::from(&header), &mut self.buffer);
        match opened {
            Ok(part) => Ok(Some(part)),
            Err(_) => damaged(at, "a block is invalid"),
        }
    }

    /// Reads everything, handing each object to `each`.
    ///
    /// # Errors
    /// When it is damaged or cut off.
    pub(super) fn read(mut self, mut each: impl FnMut(coxswain_store::Stored)) -> Result<(Cluster, Head), BackupError> {
        let mut sequence = Sequence::default();
        loop {
            let offset = self.offset;
            let strange = BackupError::Damaged {
                offset,
                detail: "a block holds something unexpected",
            };
            match self.next()? {
                Some(part) => sequence.take(part, &mut each).ok_or(strange)?,
                None => return sequence.whole().ok_or(strange),
            }
        }
    }
}

fn decode_derivation(bound: &[u8]) -> Option<Derivation> {
    let (kind, rest) = bound.get(MAGIC.len() + 4..)?.split_first()?;
    let word = |at: usize| Some(u32::from_le_bytes(*rest.get(at * 4..)?.first_chunk()?));
    Some(Derivation {
        kind: Kind::of(*kind)?,
        cost: [word(0)?, word(1)?, word(2)?],
        salt: *rest.get(12..)?.first_chunk()?,
    })
}

/// Fills the buffer, or less at the end of the input.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
