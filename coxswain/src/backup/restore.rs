//! `coxswain restore`: a data directory from a backup.
//!
//! The backup is read to its end before anything is made. Then the mark `restoring` comes first and goes last: as long
//! as it is there no server starts, and another attempt removes what the first one left.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use coxswain_consensus::Config;
use coxswain_consensus::backup::{self, Cluster};

use super::{FILES, Restore, secret};
use crate::report::line;
use crate::{cli, estate, instance, pki};

/// What may be in a directory that a backup is restored to.
const HARMLESS: [&str; 3] = ["lock", "images", "lost+found"];
/// Says that a restore has begun.
const MARK: &str = "restoring";
/// What a restore makes.
const MADE: [&str; 3] = ["store", "keys", "pki"];

/// Whether a restore into the directory was interrupted.
#[must_use]
pub fn is_unfinished(data_dir: &Path) -> bool {
    data_dir.join(MARK).exists()
}

/// Makes the data directory of a cluster of one server.
///
/// # Errors
/// When there is something already, or the backup is not to be used. Nothing has changed then.
pub fn run(args: &Restore) -> Result<()> {
    let data_dir = &args.place.data_dir;
    check(data_dir)?;
    if !args.file.is_file() {
        bail!("there is no backup {}", args.file.display());
    }
    let told = || format!("{} cannot be restored", args.file.display());
    backup::check(&args.file, secret::kind(&args.lock)).with_context(told)?;
    let secret = secret::for_restore(&args.lock)?;
    let (cluster, head) = backup::verify(&args.file, &secret).with_context(told)?;
    check_files(&cluster).with_context(told)?;
    let _instance = instance::acquire(data_dir)?;
    check(data_dir)?;
    begin(data_dir)?;
    let made = backup::restore(&args.file, &secret, head, &Config::new(data_dir.join("store")))
        .with_context(told)
        .and_then(|revision| {
            finish(data_dir, &cluster)?;
            Ok(revision)
        });
    let revision = match made {
        Ok(revision) => revision,
        Err(error) => {
            abandon(data_dir)?;
            return Err(error);
        }
    };
    let place = if data_dir == Path::new(cli::DATA_DIR) {
        String::new()
    } else {
        format!(" --data-dir {}", data_dir.display())
    };
    line(&format!(
        "Restored what was stored at revision {} ({} objects, backup of {}). It goes on after revision {revision}.",
        head.revision, head.objects, cluster.taken
    ));
    line("No server of the old cluster may run any more: this one takes its place, with the same authority.");
    line(&format!(
        "Start it with: coxswain up{place}   (or coxswain server{place}; others then join it anew)"
    ));
    Ok(())
}

/// Refuses a directory with data of others in it.
fn check(data_dir: &Path) -> Result<()> {
    estate::need_directory(data_dir, "choose another place with --data-dir")?;
    if is_unfinished(data_dir) {
        return Ok(());
    }
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}", data_dir.display())),
    };
    for entry in entries {
        let name = entry
            .with_context(|| format!("read {}", data_dir.display()))?
            .file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            bail!(
                "{} is not empty ({} is in it), and nothing in it was changed: choose another --data-dir, or remove the \
                 cluster in it with `coxswain down --purge`",
                data_dir.display(),
                name.display()
            );
        }
    }
    Ok(())
}

/// A backup must hold every file that a server needs, and no others.
fn check_files(cluster: &Cluster) -> Result<()> {
    if cluster.files.keys().map(String::as_str).eq(FILES) {
        return Ok(());
    }
    bail!("it does not hold the cluster's keys")
}

fn begin(data_dir: &Path) -> Result<()> {
    pki::write_secret(&data_dir.join(MARK), "A restore has begun and not ended.\n")?;
    remove(data_dir)
}

fn finish(data_dir: &Path, cluster: &Cluster) -> Result<()> {
    for (name, content) in &cluster.files {
        let path = data_dir.join(name);
        if let Some(folder) = path.parent() {
            instance::create(folder)?;
        }
        pki::write_secret(&path, content)?;
    }
    estate::mark(data_dir)?;
    unmark(data_dir)
}

fn unmark(data_dir: &Path) -> Result<()> {
    let path = data_dir.join(MARK);
    let removed = fs::remove_file(&path).and_then(|()| fs::File::open(data_dir)?.sync_all());
    removed.with_context(|| format!("remove {}", path.display()))
}

/// Removes what this attempt, or one before it, has made.
fn remove(data_dir: &Path) -> Result<()> {
    let made = MADE.map(|name| data_dir.join(name));
    for path in made.into_iter().filter(|path| path.exists()) {
        fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    let mark = estate::mark_path(data_dir);
    if mark.exists() {
        fs::remove_file(&mark).with_context(|| format!("remove {}", mark.display()))?;
    }
    Ok(())
}

fn abandon(data_dir: &Path) -> Result<()> {
    remove(data_dir)?;
    unmark(data_dir)
}
