//! The administrator's kubeconfig: everything in one file, mode 0600.
//!
//! Its first line names the data directory of its cluster. That is how a default that belongs to another cluster is
//! told from our own: a foreign one is never replaced or removed.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::estate;
use crate::pki::{Identity, write_secret};

/// Where `ctl` looks when neither `--kubeconfig` nor `KUBECONFIG` is given.
pub const DEFAULT_PATH: &str = "/etc/coxswain/admin.kubeconfig";

/// How the first line begins; the data directory follows.
const OWNER: &str = "# Coxswain cluster in ";

/// The text of a kubeconfig for one cluster and one client certificate.
#[must_use]
pub fn render(server: &str, ca_pem: &str, identity: &Identity) -> String {
    let [ca, cert, key] = [ca_pem, &identity.cert_pem, &identity.key_pem].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: coxswain\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: admin\n  user:\n    client-certificate-data: {cert}\n    \
         client-key-data: {key}\ncontexts:\n- name: coxswain\n  context:\n    cluster: coxswain\n    user: admin\n\
         current-context: coxswain\npreferences: {{}}\n"
    )
}

/// Whose the default kubeconfig is.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    /// There is none, or its cluster is gone.
    Free,
    Ours,
    /// Another cluster's, with its data directory where that is known.
    Foreign(Option<PathBuf>),
}

/// Refuses, before anything is started, a place that no kubeconfig can be written to.
///
/// # Errors
/// When what should be its folder is a file.
pub fn check(path: Option<&Path>) -> Result<()> {
    let target = path.unwrap_or(Path::new(DEFAULT_PATH));
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty());
    folder.map_or(Ok(()), |folder| {
        let refused = estate::need_directory(folder, "choose another file with --kubeconfig");
        refused.with_context(|| format!("the kubeconfig {} cannot be written", target.display()))
    })
}

/// Where a kubeconfig was written.
pub struct Installed {
    pub path: PathBuf,
    /// What the user must know about the default, if anything.
    pub note: Option<String>,
}

/// Writes the kubeconfig of the cluster in `data_dir` to `path` and nowhere else, or without one to the default place, where
/// `ctl` finds it. A default that belongs to another cluster stays; ours then goes to the data directory.
///
/// # Errors
/// When a file or folder cannot be written.
pub fn install(path: Option<&Path>, text: &str, data_dir: &Path) -> Result<Installed> {
    install_beside(path, text, data_dir, Path::new(DEFAULT_PATH))
}

fn install_beside(path: Option<&Path>, text: &str, data_dir: &Path, default: &Path) -> Result<Installed> {
    let data_dir = std::path::absolute(data_dir)?;
    let owner = owner(default, &data_dir);
    let target = match (path, &owner) {
        (Some(path), _) => std::path::absolute(path)?,
        (None, Owner::Foreign(_)) => data_dir.join("admin.kubeconfig"),
        (None, _) => default.to_owned(),
    };
    if let Some(folder) = target.parent() {
        // Nobody else may put a file of his own there.
        let created = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        created.with_context(|| format!("create {}", folder.display()))?;
    }
    write_secret(&target, &format!("{OWNER}{}\n{text}", data_dir.display()))?;
    let note = match owner {
        _ if path.is_some() => Some("ctl needs --kubeconfig or KUBECONFIG to use it".to_owned()),
        Owner::Foreign(other) => {
            let whose = other.map_or("another cluster".to_owned(), |d| {
                format!("the cluster in {}", d.display())
            });
            Some(format!(
                "{} belongs to {whose} and stays; remove it if that is gone",
                default.display()
            ))
        }
        _ => None,
    };
    Ok(Installed { path: target, note })
}

/// Removes the default kubeconfig when it is that of the cluster in `data_dir`.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(data_dir: &Path) -> Result<()> {
    remove_at(data_dir, Path::new(DEFAULT_PATH))
}

fn remove_at(data_dir: &Path, default: &Path) -> Result<()> {
    let is_ours = owner(default, &std::path::absolute(data_dir)?) == Owner::Ours;
    let leads_nowhere = default.is_symlink() && !default.exists();
    if is_ours || leads_nowhere {
        std::fs::remove_file(default).with_context(|| format!("remove {}", default.display()))?;
    }
    Ok(())
}

fn owner(default: &Path, data_dir: &Path) -> Owner {
    let Ok(text) = std::fs::read_to_string(default) else {
        return match default.exists() {
            true => Owner::Foreign(None),
            false => Owner::Free,
        };
    };
    let named = text.lines().next().and_then(|line| line.strip_prefix(OWNER));
    match named.map(Path::new) {
        Some(dir) if dir == data_dir => Owner::Ours,
        // Whoever removed a data directory by hand has no use for its kubeconfig.
        Some(dir) if !estate::is_known(dir) => Owner::Free,
        other => Owner::Foreign(other.map(Path::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// What was at the default place before.
    #[derive(Debug, Clone, Copy)]
    enum Before {
        Nothing,
        OurFile,
        OurLink,
        DeadLink,
        /// Of a cluster whose data directory is there.
        Other,
        /// Of a cluster that was removed by hand.
        Removed,
        /// Written by nobody we know.
        Unmarked,
    }

    #[test]
    fn a_foreign_default_stays_and_every_default_does_when_a_file_is_given() -> Result<()> {
        use Before::{DeadLink, Nothing, Other, OurFile, OurLink, Removed, Unmarked};
        // Before, and whether the default is ours afterwards when no file is given.
        let cases = [
            (Nothing, true),
            (OurFile, true),
            (OurLink, true),
            (DeadLink, true),
            (Removed, true),
            (Other, false),
            (Unmarked, false),
        ];
        let cases = cases
            .iter()
            .flat_map(|(before, is_ours)| [(*before, false, *is_ours), (*before, true, false)]);
        for (before, is_given, is_ours) in cases {
            let root = tempfile::tempdir()?;
            let at = |name: &str| root.path().join(name);
            let (data, other, default, given) = (at("data"), at("other"), at("etc/default"), at("given"));
            for dir in [&data, &other, &at("etc")] {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::write(other.join("lock"), "1")?;
            let marked = |dir: &Path| format!("{OWNER}{}\nold", dir.display());
            match before {
                Nothing => {}
                OurFile => std::fs::write(&default, marked(&data))?,
                OurLink => {
                    std::fs::write(&given, marked(&data))?;
                    std::os::unix::fs::symlink(&given, &default)?;
                }
                DeadLink => std::os::unix::fs::symlink(at("nowhere"), &default)?,
                Other => std::fs::write(&default, marked(&other))?,
                Removed => std::fs::write(&default, marked(&at("removed")))?,
                Unmarked => std::fs::write(&default, "old")?,
            }
            let state = || {
                (
                    std::fs::read_link(&default).ok(),
                    default.symlink_metadata().map(|m| m.ino()).ok(),
                )
            };
            let earlier = state();
            let installed = install_beside(is_given.then_some(given.as_path()), "new", &data, &default)?;
            let label = format!("{before:?}, given: {is_given}");
            let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
            assert!(read(&installed.path).ends_with("\nnew"), "{label}");
            assert_eq!(state() != earlier, is_ours, "{label}");
            assert_eq!(
                read(&default).ends_with("\nnew"),
                is_ours || (is_given && matches!(before, OurLink)),
                "{label}"
            );
            assert_eq!(installed.note.is_none(), is_ours, "{label}");
            assert_eq!(installed.path == given, is_given, "{label}");
            if is_given {
                continue;
            }
            remove_at(&data, &default)?;
            assert_eq!(default.symlink_metadata().is_err(), is_ours, "{label}");
        }
        Ok(())
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let text = check(Some(Path::new("/dev/null/a/b"))).map_err(|e| format!("{e:#}"));
        assert_eq!(
            text,
            Err(
                "the kubeconfig /dev/null/a/b cannot be written: /dev/null/a cannot be a directory, since /dev/null \
                 is none: choose another file with --kubeconfig"
                    .to_owned()
            )
        );
        assert!(check(Some(Path::new("new/kubeconfig"))).is_ok());
    }
}
