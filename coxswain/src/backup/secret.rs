//! Where a passphrase or a key comes from.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use coxswain_consensus::backup::{Kind, Secret};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use super::args::Lock;
use crate::secrets;

/// The most that is read of a file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// What a new backup is to be locked with.
///
/// # Errors
/// When it cannot be had, others can read its file, or it is weak.
pub fn for_backup(lock: &Lock) -> Result<Secret> {
    let secret = match from_file(lock)? {
        Some(secret) => secret,
        None => {
            let passphrase = ask("Passphrase for the backup: ")?;
            if passphrase != ask("The same again: ")? {
                bail!("the two passphrases differ");
            }
            Secret::Passphrase(passphrase.into())
        }
    };
    match secret.weakness() {
        Some(weakness) => bail!("{weakness}"),
        None => Ok(secret),
    }
}

/// What an existing backup is locked with, as far as the user knows.
///
/// # Errors
/// When it cannot be had, or others can read its file.
pub fn for_restore(lock: &Lock) -> Result<Secret> {
    match from_file(lock)? {
        Some(secret) => Ok(secret),
        None => Ok(Secret::Passphrase(ask("Passphrase of the backup: ")?.into())),
    }
}

/// Of which kind a secret will be.
pub fn kind(lock: &Lock) -> Kind {
    match lock.key_file {
        Some(_) => Kind::KeyFile,
        None => Kind::Passphrase,
    }
}

fn from_file(lock: &Lock) -> Result<Option<Secret>> {
    for file in [&lock.passphrase_file, &lock.key_file].into_iter().flatten() {
        secrets::check_private(file)?;
    }
    Ok(match (&lock.passphrase_file, &lock.key_file) {
        (Some(file), _) => {
            let mut text = read(file)?;
            // An editor leaves a line end that is no part of it.
            while text.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                text.pop();
            }
            Some(Secret::Passphrase(text))
        }
        (None, Some(file)) => Some(Secret::KeyFile(read(file)?)),
        (None, None) => None,
    })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = File::open(file).and_then(|open| open.take(FILE_MAX + 1).read_to_end(&mut content));
    read.with_context(|| format!("read {}", file.display()))?;
    if content.len() as u64 > FILE_MAX {
        bail!("{} is larger than 1 MiB: is it the right file?", file.display());
    }
    Ok(content)
}

/// Asks on the terminal, without showing what is typed.
fn ask(prompt: &str) -> Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("there is no terminal to ask for the passphrase on: give --passphrase-file or --key-file");
    }
    eprint!("{prompt}");
    std::io::stderr().flush()?;
    let shown = tcgetattr(&stdin).context("read the terminal's settings")?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSANOW, &hidden).context("hide what is typed")?;
    let mut typed = String::new();
    let read = stdin.read_line(&mut typed);
    tcsetattr(&stdin, SetArg::TCSANOW, &shown).context("restore the terminal's settings")?;
    eprintln!();
    read.context("read the passphrase")?;
    Ok(typed.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn files_that_will_not_do_are_refused() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = |name: &str, content: &[u8], mode: u32| -> Result<PathBuf> {
            let path = dir.path().join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            Ok(path)
        };
        let passphrase = |path| Lock {
            passphrase_file: Some(path),
            key_file: None,
        };
        let key = |path| Lock {
            passphrase_file: None,
            key_file: Some(path),
        };
        let table = [
            (passphrase(file("good", b"long enough\n", 0o600)?), ""),
            (
                passphrase(file("open", b"long enough\n", 0o644)?),
                "can be read by other users",
            ),
            (
                passphrase(file("short", b"short\n\n", 0o600)?),
                "the passphrase is too short",
            ),
            (passphrase(dir.path().join("none")), "read "),
            (key(file("key", &[1; 32], 0o400)?), ""),
            (
                key(file("weak", &[1; 31], 0o400)?),
                "must hold at least 32 random bytes",
            ),
            (key(file("huge", &vec![0; 2 << 20], 0o600)?), "is larger than 1 MiB"),
        ];
        for (lock, expected) in table {
            let told = for_backup(&lock)
                .err()
                .map(|error| format!("{error:#}"))
                .unwrap_or_default();
            assert_eq!(told.is_empty(), expected.is_empty(), "{told}");
            assert!(told.contains(expected), "{told}");
        }
        assert!(for_restore(&passphrase(file("open", b"long enough\r\n", 0o644)?)).is_err());
        let read = for_restore(&passphrase(file("private", b"long enough\r\n", 0o600)?))?;
        assert!(matches!(read, Secret::Passphrase(text) if text == b"long enough"));
        Ok(())
    }
}
