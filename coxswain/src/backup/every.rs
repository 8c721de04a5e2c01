//! Backups one after the other, as a service in the foreground.
//!
//! Owns the files `coxswain-<cluster>-<time>.backup` in its directory and no others: of those it keeps the latest, of a
//! number that is given. A round that fails is told, and tried again sooner.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use coxswain_consensus::backup::Secret;
use jiff::{SignedDuration, Timestamp};

use super::args::Backup;
use super::take;
use crate::join::hash_of_pem;
use crate::report::{self, line};
use crate::tasks::stop_requested;

/// Time until a failed round is tried again; doubled each time, up to the usual distance.
const RETRY: Duration = Duration::from_secs(60);
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// What the service does.
pub struct Plan {
    data_dir: PathBuf,
    secret: Secret,
    every: Duration,
    keep: usize,
    to: PathBuf,
    /// Tells this cluster's backups from those of others.
    cluster: String,
}

impl Plan {
    /// From the command line.
    ///
    /// # Errors
    /// When the directory is not there, or the cluster's authority cannot be read.
    pub fn of(args: &Backup, secret: Secret) -> Result<Plan> {
        let to = args.to.clone().context("--every needs --to")?;
        if !to.is_dir() {
            bail!("there is no directory {}: make it, or mount it", to.display());
        }
        let authority = args.place.data_dir.join("pki/ca.crt");
        let pem = fs::read_to_string(&authority).with_context(|| format!("read {}", authority.display()))?;
        let hash = hash_of_pem(&pem).with_context(|| format!("{} is damaged", authority.display()))?;
        let digits = hash.rsplit(':').next().unwrap_or(&hash);
        Ok(Plan {
            data_dir: args.place.data_dir.clone(),
            secret,
            every: args.every.context("--every is missing")?,
            keep: args.keep as usize,
            to,
            cluster: digits.chars().take(8).collect(),
        })
    }
}

/// Takes backups until told to stop.
///
/// # Errors
/// When signals cannot be listened for.
pub async fn run(plan: &Plan) -> Result<()> {
    line(&format!(
        "Backups go to {}, every {} s, and the latest {} are kept.",
        plan.to.display(),
        plan.every.as_secs(),
        plan.keep
    ));
    let stop = stop_requested();
    tokio::pin!(stop);
    let mut failures = 0;
    loop {
        let wait = match failures {
            0 => until_due(newest(&names(&plan.to), &plan.cluster), plan.every, Timestamp::now()),
            failures => retry_after(failures, plan.every),
        };
        let work = async {
            tokio::time::sleep(wait).await;
            round(plan).await
        };
        let done = tokio::select! {
            requested = &mut stop => return requested,
            done = work => done,
        };
        match done {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                let again = retry_after(failures, plan.every).as_secs();
                report::error(&error.context(format!("no backup was taken; the next attempt is in {again} s")));
            }
        }
    }
}

async fn round(plan: &Plan) -> Result<()> {
    let name = name_of(&plan.cluster, Timestamp::now());
    let file = plan.to.join(name);
    let taken = take::take(&plan.data_dir, &plan.secret, &file).await?;
    line(&format!("{taken}: {}", file.display()));
    for name in surplus(&names(&plan.to), &plan.cluster, plan.keep) {
        let path = plan.to.join(name);
        if let Err(error) = fs::remove_file(&path) {
            report::error(&anyhow::Error::from(error).context(format!("remove {}", path.display())));
        }
    }
    Ok(())
}

/// Names in a directory; none when it cannot be read, which the round will tell.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn name_of(cluster: &str, time: Timestamp) -> String {
    format!("coxswain-{cluster}-{}.backup", time.strftime(TIME))
}

/// When a file of this name was taken, if it is one of this cluster's backups.
fn taken_at(name: &str, cluster: &str) -> Option<Timestamp> {
    let time = name
        .strip_prefix("coxswain-")?
        .strip_prefix(cluster)?
        .strip_prefix('-')?;
    let time = time.strip_suffix(".backup")?;
    let taken = jiff::civil::DateTime::strptime(TIME, time).ok()?;
    let taken = taken.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    // Only the very form that we write.
    (name_of(cluster, taken) == name).then_some(taken)
}

fn newest(names: &[String], cluster: &str) -> Option<Timestamp> {
    names.iter().filter_map(|name| taken_at(name, cluster)).max()
}

fn until_due(newest: Option<Timestamp>, every: Duration, now: Timestamp) -> Duration {
    let Some(newest) = newest else {
        return Duration::ZERO;
    };
    let age = now.duration_since(newest).max(SignedDuration::ZERO).unsigned_abs();
    every.saturating_sub(age)
}

fn retry_after(failures: u32, every: Duration) -> Duration {
    RETRY.saturating_mul(1 << (failures - 1).min(16)).min(every)
}

/// Backups beyond the latest, and unfinished ones that nobody will finish.
fn surplus(names: &[String], cluster: &str, keep: usize) -> Vec<String> {
    let of_cluster = |name: &&String| taken_at(name, cluster).is_some();
    let mut whole: Vec<String> = names.iter().filter(of_cluster).cloned().collect();
    whole.sort_unstable();
    whole.truncate(whole.len().saturating_sub(keep));
    let unfinished = names.iter().filter(|name| {
        let stem = name.strip_suffix(take::UNFINISHED);
        stem.is_some_and(|stem| taken_at(stem, cluster).is_some())
    });
    whole.into_iter().chain(unfinished.cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_surplus_is_removed() {
        let names: Vec<String> = [
            "coxswain-0123abcd-20260101T000000Z.backup",
            "coxswain-0123abcd-20260103T000000Z.backup",
            "coxswain-0123abcd-20260102T000000Z.backup",
            "coxswain-0123abcd-20260102T000000Z.backup.partial",
            "coxswain-ffffffff-20250101T000000Z.backup",
            "coxswain-0123abcd-20250101T000000Z.backup.old",
            "coxswain-0123abcd-2025-01-01.backup",
            "coxswain-0123abcd-20259901T000000Z.backup",
            "coxswain-0123abcd-.backup",
            "coxswain-0123abcd",
            "important.backup",
        ]
        .map(str::to_owned)
        .into();
        let table = [(1, vec![0, 2, 3]), (2, vec![0, 3]), (3, vec![3]), (10, vec![3])];
        for (keep, removed) in table {
            let expected: Vec<&String> = removed.iter().map(|at| &names[*at]).collect();
            let found = surplus(&names, "0123abcd", keep);
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "keep {keep}");
        }
    }

    #[test]
    fn the_next_one_is_due_after_the_last() -> Result<()> {
        let second = |second: i64| Timestamp::from_second(1_800_000_000 + second);
        let every = Duration::from_secs(100);
        // The newest backup, now, and what is waited for.
        let table = [
            (None, 0, 0),
            (Some(0), 0, 100),
            (Some(0), 60, 40),
            (Some(0), 1000, 0),
            // The clock was set back.
            (Some(500), 0, 100),
        ];
        for (newest, now, wait) in table {
            let newest = newest.map(second).transpose()?;
            assert_eq!(until_due(newest, every, second(now)?).as_secs(), wait, "{newest:?}");
        }
        let name = name_of("0123abcd", second(7)?);
        assert_eq!(taken_at(&name, "0123abcd"), Some(second(7)?));
        let waits = [1, 2, 3, 400].map(|failures| retry_after(failures, Duration::from_secs(200)).as_secs());
        assert_eq!(waits, [60, 120, 200, 200]);
        Ok(())
    }
}
