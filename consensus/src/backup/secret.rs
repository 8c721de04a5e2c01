//! What a backup is locked with: a passphrase, or the content of a key file.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hkdf;

use super::BackupError;

/// Shortest content of a key file, in bytes.
const KEY_FILE_MIN: usize = 32;
/// Shortest passphrase for a new backup, in bytes.
const PASSPHRASE_MIN: usize = 8;
/// What Argon2id costs for a new backup: memory in KiB, passes, lanes (RFC 9106, second choice, one lane).
const COST: [u32; 3] = [64 << 10, 3, 1];
/// The most that a file may ask for.
const COST_MAX: [u32; 3] = [1 << 20, 16, 16];

/// Bytes of a salt.
pub(super) const SALT: usize = 16;

/// The kinds of secrets, and their numbers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The content of a key file.
    KeyFile = 1,
    /// A passphrase.
    Passphrase = 2,
}

impl Kind {
    pub(super) fn of(number: u8) -> Option<Kind> {
        [Kind::KeyFile, Kind::Passphrase]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::KeyFile => "key file",
            Kind::Passphrase => "passphrase",
        }
    }
}

/// A passphrase or a key.
pub enum Secret {
    /// Something that a person remembers.
    Passphrase(Vec<u8>),
    /// The content of a key file.
    KeyFile(Vec<u8>),
}

/// How a key is derived from a secret; part of a file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Derivation {
    pub kind: Kind,
    pub cost: [u32; 3],
    pub salt: [u8; SALT],
}

impl Secret {
    /// Why a new backup should not be locked with this.
    #[must_use]
    pub fn weakness(&self) -> Option<&'static str> {
        match self {
            Secret::Passphrase(text) if text.len() < PASSPHRASE_MIN => {
                Some("the passphrase is too short: it must have at least 8 characters")
            }
            Secret::KeyFile(bytes) if bytes.len() < KEY_FILE_MIN => {
                Some("the key file must hold at least 32 random bytes: `head -c 32 /dev/urandom > FILE` makes one")
            }
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Secret::KeyFile(_) => Kind::KeyFile,
            Secret::Passphrase(_) => Kind::Passphrase,
        }
    }

    /// How a new file's key is derived.
    pub(super) fn derivation(&self, salt: [u8; SALT]) -> Derivation {
        let kind = self.kind();
        let cost = if kind == Kind::Passphrase { COST } else { [0; 3] };
        Derivation { kind, cost, salt }
    }

    /// The key.
    pub(super) fn derive(&self, how: &Derivation) -> Result<[u8; 32], BackupError> {
        let mut key = [0; 32];
        match self {
            Secret::KeyFile(bytes) => {
                let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &how.salt);
                let derived = salt.extract(bytes);
                let derived = derived.expand(&[b"coxswain backup"], hkdf::HKDF_SHA256);
                let filled = derived.and_then(|derived| derived.fill(&mut key));
                filled.map_err(|_| BackupError::Cryptography("no key can be derived"))?;
            }
            Secret::Passphrase(text) => {
                let [memory_kib, passes, lanes] = how.cost;
                let params = Params::new(memory_kib, passes, lanes, Some(key.len()));
                let params = params.map_err(|_| BackupError::Cryptography("the cost makes no sense"))?;
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                let derived = argon2.hash_password_into(text, &how.salt, &mut key);
                derived.map_err(|_| BackupError::Cryptography("no key can be derived"))?;
            }
        }
        Ok(key)
    }
}

impl Derivation {
    /// Whether a file may say this: a hostile one must not cost more than it is worth.
    pub fn is_credible(&self) -> bool {
        self.cost.iter().zip(COST_MAX).all(|(cost, most)| *cost <= most)
    }
}
