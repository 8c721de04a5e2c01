//! Encryption at rest.
//!
//! The key file, kept apart from the data, holds numbered master keys; the last one is used for
//! new files, earlier ones for reading. Each log segment and checkpoint has a data key of its own,
//! wrapped by a master key in its header, so that rotating the master key rewrites nothing: old
//! files go away with the next checkpoints, and then the old key does ([`crate::rotation`]).
//! AES-256-GCM throughout.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;

use crate::OpenError;
use crate::disk::RealDisk;

/// Bytes that sealing adds.
pub(crate) const TAG: usize = 16;
/// Bytes of a nonce.
pub(crate) const NONCE: usize = NONCE_LEN;
/// Bytes of a wrapped data key.
pub(crate) const WRAPPED: usize = NONCE + 32 + TAG;

/// Number and bytes of a master key.
type Key = (u32, [u8; 32]);

/// The master keys.
pub struct Keyring {
    /// Where they are kept; in memory only without it.
    file: Option<PathBuf>,
    keys: RwLock<Vec<Key>>,
    /// Held by whoever changes the keys.
    changing: Mutex<()>,
    /// Shared by those who are making files, which need their key without being in the directory yet.
    making: RwLock<()>,
}

impl Keyring {
    /// Reads the key file.
    pub fn load(file: &Path) -> Result<Keyring, OpenError> {
        let failed = |detail: String| OpenError::Key {
            key_file: file.to_owned(),
            detail,
        };
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(failed("the store's key file is missing".into()));
            }
            Err(error) => return Err(failed(format!("the key file cannot be read: {error}"))),
        };
        let mode = fs::metadata(file).map(|meta| meta.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            return Err(failed(
                "the key file can be read by other users; make it private with chmod 600".into(),
            ));
        }
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = parse(line).ok_or_else(|| failed(format!("line {} of the key file is not a key", number + 1)))?;
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(failed("the key file holds no key".into()));
        }
        // What a change left that did not come about: it may hold a key that is to be destroyed.
        let _ = fs::remove_file(unfinished(file));
        Ok(Keyring {
            file: Some(file.to_owned()),
            keys: RwLock::new(keys),
            changing: Mutex::default(),
            making: RwLock::default(),
        })
    }

    /// Creates the key file with one generated key, unless it exists, and reads it.
    pub fn load_or_create(file: &Path) -> Result<Keyring, OpenError> {
        if !file.exists() {
            if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                fs::create_dir_all(dir).map_err(io_error("create", dir))?;
            }
            let key = generate(file)?;
            write_keys(file, &[(1, key)]).map_err(io_error("write", file))?;
            crate::datadir::sync_ancestors(file);
        }
        Keyring::load(file)
    }

    /// Keys that live in memory only, for tests: `seed` names the key.
    pub fn in_memory(seed: u8) -> Keyring {
        Keyring {
            file: None,
            keys: RwLock::new(vec![(1, [seed; 32])]),
            changing: Mutex::default(),
            making: RwLock::default(),
        }
    }

    /// Adds a generated key, which the files begun from now on use. While an earlier rotation has not
    /// ended there is a new key already, and nothing is added. Waits for the disk.
    pub fn rotate(&self) -> Result<(), OpenError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_old() {
            return Ok(());
        }
        let key = (self.current() + 1, generate(&self.name())?);
        let mut keys = self.keys();
        keys.push(key);
        self.change(keys)
    }

    /// To be held from before a file's data key is made until the file has its name.
    pub(crate) fn making(&self) -> RwLockReadGuard<'_, ()> {
        self.making.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held, no file is being made: the directory shows every key in use.
    pub(crate) fn at_rest(&self) -> RwLockWriteGuard<'_, ()> {
        self.making.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Destroys every key that is neither the current one nor in use. Waits for the disk.
    pub(crate) fn retire(&self, in_use: &BTreeSet<u32>) -> Result<(), OpenError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut keys, current) = (self.keys(), self.current());
        let before = keys.len();
        keys.retain(|(id, _)| *id == current || in_use.contains(id));
        if keys.len() == before {
            Ok(())
        } else {
            self.change(keys)
        }
    }

    /// Whether there are keys besides the current one.
    pub fn has_old(&self) -> bool {
        self.keys().len() > 1
    }

    /// Id of the key that new files use.
    pub fn current(&self) -> u32 {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.last().map_or(0, |(id, _)| *id)
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is on disk changes first: nothing is ever encrypted with a key that a crash could lose.
    fn change(&self, keys: Vec<Key>) -> Result<(), OpenError> {
        if let Some(file) = &self.file {
            write_keys(file, &keys).map_err(io_error("write", file))?;
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// The file, for messages.
    fn name(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| PathBuf::from("/memory/store.key"))
    }

    /// A random number.
    pub(crate) fn random(&self) -> Result<u64, OpenError> {
        let mut bytes = [0u8; 8];
        rand::fill(&mut bytes).map_err(|_| self.error("no random numbers are available".into()))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn error(&self, detail: String) -> OpenError {
        OpenError::Key {
            key_file: self.name(),
            detail,
        }
    }

    fn master(&self, id: u32) -> Result<LessSafeKey, OpenError> {
        let key = self.keys().into_iter().find(|(known, _)| *known == id);
        let (_, key) = key.ok_or_else(|| {
            self.error(format!(
                "the data is encrypted with key {id}, which the key file doesn't hold"
            ))
        })?;
        cipher(&key).ok_or_else(|| self.error("the key is unusable".into()))
    }

    /// A fresh data key and its wrapping for a file header.
    pub(crate) fn new_data_key(&self) -> Result<(DataKey, u32, [u8; WRAPPED]), OpenError> {
        let id = self.current();
        let no_random = |_| self.error("no random numbers are available".into());
        let mut key = [0u8; 32];
        rand::fill(&mut key).map_err(no_random)?;
        let mut nonce = [0u8; NONCE];
        rand::fill(&mut nonce).map_err(no_random)?;
        let mut wrapped = [0u8; WRAPPED];
        wrapped[..NONCE].copy_from_slice(&nonce);
        wrapped[NONCE..NONCE + 32].copy_from_slice(&key);
        let tag = self
            .master(id)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut wrapped[NONCE..NONCE + 32],
            )
            .map_err(|_| self.error("encryption failed".into()))?;
        wrapped[NONCE + 32..].copy_from_slice(tag.as_ref());
        Ok((self.data_key(&key)?, id, wrapped))
    }

    /// The data key of a file header.
    pub(crate) fn unwrap_data_key(&self, id: u32, wrapped: &[u8; WRAPPED]) -> Result<DataKey, OpenError> {
        let mut nonce = [0u8; NONCE];
        nonce.copy_from_slice(&wrapped[..NONCE]);
        let mut sealed = [0u8; 32 + TAG];
        sealed.copy_from_slice(&wrapped[NONCE..]);
        let opened = self
            .master(id)?
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed);
        let mut key = [0u8; 32];
        match opened {
            Ok(opened) if opened.len() == 32 => key.copy_from_slice(opened),
            _ => {
                return Err(self.error(format!(
                    "key {id} of the key file is not the one that the data is encrypted with"
                )));
            }
        }
        self.data_key(&key)
    }

    fn data_key(&self, key: &[u8; 32]) -> Result<DataKey, OpenError> {
        let mut base = [0u8; NONCE];
        rand::fill(&mut base).map_err(|_| self.error("no random numbers are available".into()))?;
        let cipher = cipher(key).ok_or_else(|| self.error("the key is unusable".into()))?;
        Ok(DataKey { cipher, base, used: 0 })
    }
}

/// The key of one file. Nonces count on from a random start, new each time a file is opened, so
/// that rewriting a torn tail never uses one twice.
pub(crate) struct DataKey {
    cipher: LessSafeKey,
    base: [u8; NONCE],
    used: u64,
}

impl DataKey {
    /// Encrypts in place and returns nonce and tag; `None` when the library refuses.
    pub fn seal(&mut self, data: &mut [u8], bound_to: &[u8]) -> Option<([u8; NONCE], [u8; TAG])> {
        let mut nonce = self.base;
        let low = u64::from_le_bytes(nonce[..8].try_into().ok()?).wrapping_add(self.used);
        nonce[..8].copy_from_slice(&low.to_le_bytes());
        self.used += 1;
        let sealed = self
            .cipher
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to), data)
            .ok()?;
        let mut tag = [0u8; TAG];
        tag.copy_from_slice(sealed.as_ref());
        Some((nonce, tag))
    }

    /// Decrypts in place what ends with its tag; `None` when it isn't what was sealed.
    pub fn open<'a>(&self, nonce: [u8; NONCE], data: &'a mut [u8], bound_to: &[u8]) -> Option<&'a [u8]> {
        self.cipher
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to), data)
            .ok()
            .map(|opened| &*opened)
    }
}

/// The cipher of a key; `None` when the library refuses.
pub(crate) fn cipher(key: &[u8; 32]) -> Option<LessSafeKey> {
    let unbound = UnboundKey::new(&AES_256_GCM, key).ok()?;
    Some(LessSafeKey::new(unbound))
}

fn generate(file: &Path) -> Result<[u8; 32], OpenError> {
    let mut key = [0u8; 32];
    rand::fill(&mut key).map_err(|_| OpenError::Key {
        key_file: file.to_owned(),
        detail: "no random numbers are available".into(),
    })?;
    Ok(key)
}

/// A line is a number and 64 hexadecimal digits.
fn parse(line: &str) -> Option<(u32, [u8; 32])> {
    let (id, digits) = line.split_once(' ')?;
    let digits = digits.trim();
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut key = [0u8; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some((id.parse().ok()?, key))
}

/// Name of a key file that is not complete.
fn unfinished(file: &Path) -> PathBuf {
    file.with_extension("new")
}

/// Replaces the key file. What the old one held is overwritten with zeros where it was: on a disk that writes in
/// place its keys are gone then, on one that does not this can do no more.
fn write_keys(file: &Path, keys: &[Key]) -> io::Result<()> {
    let mut text = String::from("# Encryption keys of the store. Without this file its data cannot be read.\n");
    for (id, key) in keys {
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&format!("{id} {digits}\n"));
    }
    let new = unfinished(file);
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    let before = OpenOptions::new().write(true).open(file).ok();
    fs::rename(&new, file)?;
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        RealDisk::sync_path(dir)?;
    }
    before.map_or(Ok(()), erase)
}

fn erase(file: File) -> io::Result<()> {
    let bytes = file.metadata()?.len();
    file.write_all_at(&vec![0; bytes as usize], 0)?;
    file.sync_data()
}

/// Turns an operating system error into an [`OpenError`].
pub(crate) fn io_error(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.into();
    move |source| OpenError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_private_rotated_and_checked() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("keys/store.key");
        assert!(matches!(Keyring::load(&file), Err(OpenError::Key { .. })));
        let first = Keyring::load_or_create(&file).expect("created");
        assert_eq!(first.current(), 1);
        let (_, id, wrapped) = first.new_data_key().expect("data key");
        let link = dir.path().join("link");
        fs::hard_link(&file, &link).expect("linked");
        first.rotate().expect("rotated");
        assert!(fs::read(&link).expect("read").iter().all(|byte| *byte == 0), "erased");
        // Written, and not renamed: as if it had not been.
        let unfinished = file.with_extension("new");
        fs::write(&unfinished, "3 nonsense").expect("written");
        let second = Keyring::load(&file).expect("read");
        assert!(!unfinished.exists());
        assert_eq!((first.current(), second.current()), (2, 2));
        assert!(second.unwrap_data_key(id, &wrapped).is_ok(), "old files stay readable");
        second.rotate().expect("one rotation at a time");
        second.retire(&BTreeSet::from([1, 2])).expect("in use");
        assert_eq!((second.current(), second.has_old()), (2, true));
        second.retire(&BTreeSet::from([2])).expect("retired");
        let third = Keyring::load(&file).expect("read");
        assert_eq!((third.current(), third.has_old()), (2, false));
        assert!(third.unwrap_data_key(id, &wrapped).is_err(), "old files are unreadable");
        let other = Keyring::in_memory(7);
        assert!(other.unwrap_data_key(id, &wrapped).is_err(), "another key is refused");
        assert!(other.unwrap_data_key(9, &wrapped).is_err(), "an unknown id is refused");
        let mode = fs::metadata(&file).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(Keyring::load(&file).is_err(), "a readable key file is refused");
    }

    #[test]
    fn sealing_binds_the_place() {
        let ring = Keyring::in_memory(1);
        let (mut key, ..) = ring.new_data_key().expect("data key");
        let mut data = b"something".to_vec();
        let (nonce, tag) = key.seal(&mut data, b"here").expect("sealed");
        let (other, _) = key.seal(&mut [0u8; 4], b"here").expect("sealed");
        assert_ne!(nonce, other, "nonces differ");
        data.extend_from_slice(&tag);
        assert!(key.open(nonce, &mut data.clone(), b"there").is_none());
        assert_eq!(key.open(nonce, &mut data, b"here"), Some(&b"something"[..]));
    }
}
