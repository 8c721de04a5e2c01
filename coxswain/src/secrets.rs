//! Who may read the files that hold keys.
//!
//! [`secure`] runs whenever a daemon takes its data directory, before anything in it is read: what other users could read
//! is made private again, with a warning; what they could have changed, or what is not a plain file of ours, is refused.
//! Does not: look at the store's data, which is encrypted, or at what a node's pods have.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What in a data directory holds keys: directories with everything in them, and files.
const PLACES: [&str; 6] = [
    "pki",
    "keys",
    "node",
    "node.kubeconfig",
    "admin.kubeconfig",
    "member.json",
];
/// Directories below one of them; ours have two levels.
const DEPTH_MAX: usize = 4;

/// Makes a directory that nobody else may enter, or makes it so.
///
/// # Errors
/// When it cannot be created, or is another user's.
pub fn create_dir(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("create {}", path.display()))?;
    secure_dir(path)
}

/// Makes everything in a data directory that holds keys private.
///
/// # Errors
/// Names a symbolic link, another user's file, or one that others could have changed, and says what to do.
pub fn secure(data_dir: &Path) -> Result<()> {
    secure_dir(data_dir)?;
    PLACES
        .iter()
        .try_for_each(|name| secure_tree(&data_dir.join(name), DEPTH_MAX))
}

fn secure_tree(path: &Path, depth: usize) -> Result<()> {
    let meta = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
    };
    if meta.is_symlink() {
        bail!(
            "{} is a symbolic link: keys must be in the data directory itself; move its target there",
            path.display()
        );
    }
    if meta.is_file() {
        return secure_file(path);
    }
    if !meta.is_dir() || depth == 0 {
        bail!(
            "{} is neither a file nor a directory of this program: move it away",
            path.display()
        );
    }
    secure_dir(path)?;
    let entries = fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", path.display()))?;
        secure_tree(&entry.path(), depth - 1)?;
    }
    Ok(())
}

fn secure_dir(path: &Path) -> Result<()> {
    let open = File::open(path).with_context(|| format!("open {}", path.display()))?;
    if open.metadata()?.permissions().mode() & 0o1000 != 0 {
        bail!(
            "{} is shared by all users, as its sticky bit says: choose a directory of its own",
            path.display()
        );
    }
    check_owner(path, &open)?;
    narrow(path, &open, 0o700)
}

fn secure_file(path: &Path) -> Result<()> {
    let no_link = nix::fcntl::OFlag::O_NOFOLLOW.bits() | nix::fcntl::OFlag::O_NONBLOCK.bits();
    let open = OpenOptions::new().read(true).custom_flags(no_link).open(path);
    let open = open.with_context(|| format!("open {}", path.display()))?;
    check_owner(path, &open)?;
    check_writers(path, &open)?;
    narrow(path, &open, 0o600)
}

/// Takes away what others may do with a file or directory.
fn narrow(path: &Path, open: &File, mode: u32) -> Result<()> {
    let now = open.metadata()?.permissions().mode() & 0o7777;
    if now & 0o077 == 0 {
        return Ok(());
    }
    let narrowed = open.set_permissions(Permissions::from_mode(mode));
    narrowed.with_context(|| format!("make {} private (it has mode {now:o})", path.display()))?;
    tracing::warn!(
        path = %path.display(),
        mode = format!("{now:o}"),
        "other users could read this; it is private now. Replace the keys in it if somebody may have"
    );
    Ok(())
}

fn check_owner(path: &Path, open: &File) -> Result<()> {
    let (owner, own) = (open.metadata()?.uid(), nix::unistd::geteuid().as_raw());
    if owner != own && owner != 0 {
        bail!(
            "{path} belongs to user {owner}, who could have put anything there: if it is yours, `chown {own} {path}`",
            path = path.display(),
        );
    }
    Ok(())
}

fn check_writers(path: &Path, open: &File) -> Result<()> {
    let mode = open.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        bail!(
            "{path} can be changed by other users (mode {mode:o}): if it is as it should be, `chmod 600 {path}`",
            path = path.display(),
        );
    }
    Ok(())
}

/// Refuses a file with a key that the user names, when others may read or change it. It may be a link, and a pipe.
///
/// # Errors
/// Names the file, and what makes it private.
pub fn check_private(path: &Path) -> Result<()> {
    let meta = fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
    if !meta.is_file() {
        return Ok(());
    }
    check_owner(
        path,
        &File::open(path).with_context(|| format!("read {}", path.display()))?,
    )?;
    if meta.permissions().mode() & 0o077 != 0 {
        bail!(
            "{} can be read by other users; make it private with chmod 600",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).map_or(0, |meta| meta.permissions().mode() & 0o777)
    }

    fn set(path: &Path, mode: u32) -> Result<()> {
        Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
    }

    /// A data directory as a daemon leaves it.
    fn living() -> Result<tempfile::TempDir> {
        let root = tempfile::tempdir()?;
        let data = root.path().join("data");
        for dir in ["pki/peers", "keys", "node"] {
            create_dir(&data.join(dir))?;
        }
        for file in FILES {
            fs::write(data.join(file), "key")?;
            set(&data.join(file), 0o600)?;
        }
        Ok(root)
    }

    const FILES: [&str; 9] = [
        "pki/ca.key",
        "pki/sa.key",
        "pki/admin.key",
        "pki/peers/ca.key",
        "keys/store.key",
        "node/client.key",
        "node.kubeconfig",
        "admin.kubeconfig",
        "member.json",
    ];

    #[test]
    fn what_others_could_read_is_made_private() -> Result<()> {
        for loose in [0o640, 0o604, 0o644, 0o440, 0o444, 0o655] {
            let root = living()?;
            let data = root.path().join("data");
            for file in FILES {
                set(&data.join(file), loose)?;
            }
            for dir in ["", "pki", "pki/peers", "keys", "node"] {
                set(&data.join(dir), 0o777)?;
            }
            secure(&data)?;
            for file in FILES {
                assert_eq!(mode(&data.join(file)), 0o600, "{file} {loose:o}");
            }
            for dir in ["", "pki", "pki/peers", "keys", "node"] {
                assert_eq!(mode(&data.join(dir)), 0o700, "{dir}");
            }
        }
        Ok(())
    }

    #[test]
    fn what_others_could_have_changed_is_refused() -> Result<()> {
        for file in FILES {
            for loose in [0o620, 0o602, 0o666] {
                let root = living()?;
                let path = root.path().join("data").join(file);
                set(&path, loose)?;
                let refusal = secure(&root.path().join("data"))
                    .err()
                    .map(|e| format!("{e:#}"))
                    .unwrap_or_default();
                assert!(refusal.contains("can be changed by other users"), "{file}: {refusal}");
                assert!(
                    refusal.contains(&format!("chmod 600 {}", path.display())),
                    "{file}: {refusal}"
                );
            }
            let root = living()?;
            let path = root.path().join("data").join(file);
            let elsewhere = root.path().join("elsewhere");
            fs::rename(&path, &elsewhere)?;
            symlink(&elsewhere, &path)?;
            let refusal = secure(&root.path().join("data"))
                .err()
                .map(|e| format!("{e:#}"))
                .unwrap_or_default();
            assert!(refusal.contains("is a symbolic link"), "{file}: {refusal}");
        }
        for dir in ["pki", "keys", "node", "pki/peers"] {
            let root = living()?;
            let path = root.path().join("data").join(dir);
            let elsewhere = root.path().join("elsewhere");
            fs::rename(&path, &elsewhere)?;
            symlink(&elsewhere, &path)?;
            let refusal = secure(&root.path().join("data"))
                .err()
                .map(|e| format!("{e:#}"))
                .unwrap_or_default();
            assert!(refusal.contains("is a symbolic link"), "{dir}: {refusal}");
        }
        Ok(())
    }

    #[test]
    fn a_directory_for_everybody_stays_as_it_is() -> Result<()> {
        let root = tempfile::tempdir()?;
        let shared = root.path().join("shared");
        create_dir(&shared)?;
        set(&shared, 0o1777)?;
        assert!(create_dir(&shared).is_err() && secure(&shared).is_err());
        assert_eq!(mode(&shared), 0o777);
        Ok(())
    }

    #[test]
    fn what_is_another_users_is_refused() -> Result<()> {
        // Only root can give files away.
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        for name in FILES.into_iter().chain(["", "pki", "keys", "node"]) {
            let root = living()?;
            let path = root.path().join("data").join(name);
            std::os::unix::fs::chown(&path, Some(12345), None)?;
            let refusal = secure(&root.path().join("data"))
                .err()
                .map(|e| format!("{e:#}"))
                .unwrap_or_default();
            assert!(refusal.contains("belongs to user 12345"), "{name}: {refusal}");
        }
        Ok(())
    }

    #[test]
    fn a_daemon_secures_what_it_takes() -> Result<()> {
        let root = living()?;
        let data = root.path().join("data");
        set(&data.join("pki/ca.key"), 0o644)?;
        drop(crate::instance::acquire(&data)?);
        assert_eq!(mode(&data.join("pki/ca.key")), 0o600);
        set(&data.join("pki/ca.key"), 0o666)?;
        assert!(crate::instance::acquire(&data).is_err());
        // It can be stopped and removed all the same.
        drop(crate::instance::lock(&data)?);
        Ok(())
    }

    #[test]
    fn a_planted_temporary_file_is_not_written_through() -> Result<()> {
        let root = tempfile::tempdir()?;
        let [victim, target, temporary] = ["victim", "secret", "secret.tmp"].map(|name| root.path().join(name));
        fs::write(&victim, "old")?;
        symlink(&victim, &temporary)?;
        crate::pki::write_secret(&target, "new")?;
        assert_eq!((fs::read_to_string(&victim)?.as_str(), mode(&target)), ("old", 0o600));
        fs::write(&temporary, "")?;
        set(&temporary, 0o666)?;
        crate::pki::write_secret(&target, "newer")?;
        assert_eq!((fs::read_to_string(&target)?.as_str(), mode(&target)), ("newer", 0o600));
        Ok(())
    }
}
