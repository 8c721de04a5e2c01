//! A client that follows a collection across servers that come and go, and what it must have seen at the end.
//!
//! It does as client-go's reflector does: lists once, watches from there, and whenever a watch ends, or says nothing for
//! a while, goes on from the last revision it knows, here always at the next server. It never lists again, so that
//! nothing can make up for an event that was left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use coxswain_bench::http::Connection;
use coxswain_bench::target::Target;
use serde_json::Value;

use crate::load::{Requests, targets};

/// A watch that says nothing for so long is taken for dead.
const SILENT_FOR: Duration = Duration::from_secs(2);
/// Watches end by themselves after this many seconds, so that many are gone on with.
const WATCH_SECONDS: u64 = 4;
/// For what has been written to be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
const TURN_AFTER: Duration = Duration::from_millis(20);

/// An event: revision, type and name.
type Event = (u64, String, String);

/// What a follower has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Revision of the list that it began with.
    from: u64,
    events: Vec<Event>,
    /// Bookmarks: revision, and how many events came before.
    bookmarks: Vec<(u64, usize)>,
    /// How often it went on with another watch.
    pub resumed: usize,
    /// Why a watch ended last, if not as it should.
    trouble: Option<String>,
}

/// A follower, ended with [`Follower::finish`].
pub struct Follower {
    /// The revision that is the last to be waited for, once that is known.
    last: Arc<AtomicU64>,
    path: String,
    asked: PathBuf,
    thread: std::thread::JoinHandle<Result<Seen>>,
}

impl Follower {
    /// Begins to follow what is at `path`.
    ///
    /// # Errors
    /// When the first server does not answer.
    pub fn start(kubeconfigs: &[PathBuf], path: &str) -> Result<Self> {
        let asked = kubeconfigs.first().context("no server")?.clone();
        let list = Requests::to(&asked)?.ask("GET", path, &Value::Null)?;
        let mut seen = Seen {
            from: revision(&list)?,
            ..Seen::default()
        };
        let last = Arc::new(AtomicU64::new(u64::MAX));
        let (until, targets, watched) = (last.clone(), targets(kubeconfigs)?, path.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(follow(&targets, &watched, &until, &mut seen))?;
            Ok(seen)
        });
        Ok(Self {
            last,
            path: path.to_owned(),
            asked,
            thread,
        })
    }

    /// Waits until the follower has seen everything that is there now, and compares: each object whose name begins with
    /// `prefix` must have been created once before its eyes. They may have been created only, neither changed nor deleted.
    ///
    /// # Errors
    /// What was lost, repeated or out of order, and what of the acknowledged is not there at all.
    pub fn finish(self, prefix: &str, acknowledged: &BTreeSet<String>) -> Result<Seen> {
        let list = Requests::to(&self.asked)?.ask("GET", &self.path, &Value::Null)?;
        let mut there = BTreeMap::new();
        for item in list["items"].as_array().context("no items")? {
            let name = item["metadata"]["name"].as_str().context("no name")?;
            if name.starts_with(prefix) {
                there.insert(name.to_owned(), revision(item)?);
            }
        }
        self.last
            .store(there.values().copied().max().unwrap_or(0), Ordering::Release);
        let seen = self.thread.join().ok().context("the follower failed")??;
        let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains_key(*name)).collect();
        ensure!(lost.is_empty(), "acknowledged and not there: {lost:?}");
        seen.check(prefix, &there)?;
        Ok(seen)
    }
}

async fn follow(targets: &[Target], path: &str, last: &AtomicU64, seen: &mut Seen) -> Result<()> {
    let (mut at, mut known, mut deadline) = (0, seen.from, None);
    loop {
        let until = last.load(Ordering::Acquire);
        if known >= until {
            return Ok(());
        }
        if until != u64::MAX {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + SEEN_WITHIN);
            let trouble = seen.trouble.as_deref().unwrap_or("nothing went wrong");
            ensure!(
                Instant::now() < deadline,
                "revision {until} is not seen after {known}: {trouble}"
            );
        }
        if let Err(error) = watch(&targets[at % targets.len()], path, last, seen, &mut known).await {
            seen.trouble = Some(format!("{error:#}"));
            tokio::time::sleep(TURN_AFTER).await;
        }
        (at, seen.resumed) = (at + 1, seen.resumed + 1);
    }
}

/// One watch from the revision known to its end.
async fn watch(target: &Target, path: &str, last: &AtomicU64, seen: &mut Seen, known: &mut u64) -> Result<()> {
    let request = format!(
        "GET {path}?watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={known} HTTP/1.1\r\n\
         Host: x\r\n{}Accept: application/json\r\n\r\n",
        target.authorization
    );
    let begin = async {
        let mut connection = Connection::open(target).await?;
        connection.watch(request.as_bytes()).await?;
        anyhow::Ok(connection)
    };
    let mut connection = tokio::time::timeout(SILENT_FOR, begin).await??;
    let mut pending = Vec::new();
    while *known < last.load(Ordering::Acquire) {
        let piece = connection.next(|bytes| pending.extend_from_slice(bytes));
        if tokio::time::timeout(SILENT_FOR, piece).await??.is_none() {
            return Ok(());
        }
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            *known = seen.take(&serde_json::from_slice(&line)?)?;
        }
    }
    Ok(())
}

fn revision(object: &Value) -> Result<u64> {
    let text = object["metadata"]["resourceVersion"].as_str();
    Ok(text.with_context(|| format!("no revision: {object}"))?.parse()?)
}

impl Seen {
    /// Takes in an event and returns the revision to go on from.
    fn take(&mut self, event: &Value) -> Result<u64> {
        let (kind, object) = (event["type"].as_str().context("no type")?, &event["object"]);
        match kind {
            "ERROR" => bail!("{object}"),
            "BOOKMARK" => self.bookmarks.push((revision(object)?, self.events.len())),
            _ => {
                let name = object["metadata"]["name"].as_str().context("no name")?;
                self.events.push((revision(object)?, kind.to_owned(), name.to_owned()));
            }
        }
        revision(object)
    }

    /// Compares with the names and revisions of what is there.
    fn check(&self, prefix: &str, there: &BTreeMap<String, u64>) -> Result<()> {
        let mut last = self.from;
        for (number, kind, name) in &self.events {
            ensure!(*number > last, "{kind} {name} at {number} came after {last}");
            last = *number;
        }
        for &(bookmark, before) in &self.bookmarks {
            let next = self.events.get(before);
            ensure!(
                next.is_none_or(|(number, ..)| *number > bookmark),
                "{next:?} came after a bookmark at {bookmark}"
            );
        }
        let ours = self.events.iter().filter(|(.., name)| name.starts_with(prefix));
        let ours: BTreeSet<_> = ours.map(|(number, kind, name)| (*number, &**kind, &**name)).collect();
        let after = there.iter().filter(|(_, number)| **number > self.from);
        let expected: BTreeSet<_> = after.map(|(name, number)| (*number, "ADDED", &**name)).collect();
        let missed: Vec<_> = expected.difference(&ours).collect();
        ensure!(missed.is_empty(), "events were missed: {missed:?}");
        let strange: Vec<_> = ours.difference(&expected).collect();
        ensure!(strange.is_empty(), "events of what is not there: {strange:?}");
        Ok(())
    }

    /// Events seen.
    #[must_use]
    pub fn count(&self) -> usize {
        self.events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events, bookmarks, and what is told of them.
    type Case = (
        &'static [(u64, &'static str, &'static str)],
        &'static [(u64, usize)],
        &'static str,
    );

    #[test]
    fn every_broken_promise_is_told() {
        let cases: [Case; 8] = [
            (&[(5, "ADDED", "x-a"), (7, "ADDED", "x-b")], &[(6, 1), (7, 2)], ""),
            (
                &[(5, "ADDED", "x-a"), (6, "MODIFIED", "other"), (7, "ADDED", "x-b")],
                &[],
                "",
            ),
            (
                &[(5, "ADDED", "x-a")],
                &[],
                "events were missed: [(7, \"ADDED\", \"x-b\")]",
            ),
            (
                &[(5, "ADDED", "x-a"), (5, "ADDED", "x-a"), (7, "ADDED", "x-b")],
                &[],
                "ADDED x-a at 5 came after 5",
            ),
            (
                &[(7, "ADDED", "x-b"), (5, "ADDED", "x-a")],
                &[],
                "ADDED x-a at 5 came after 7",
            ),
            (&[(2, "ADDED", "x-0")], &[], "ADDED x-0 at 2 came after 3"),
            (
                &[(5, "ADDED", "x-a"), (6, "ADDED", "x-c"), (7, "ADDED", "x-b")],
                &[],
                "events of what is not there: [(6, \"ADDED\", \"x-c\")]",
            ),
            (
                &[(5, "ADDED", "x-a"), (7, "ADDED", "x-b")],
                &[(7, 1)],
                "came after a bookmark at 7",
            ),
        ];
        let there = [("x-0", 2), ("x-a", 5), ("x-b", 7)];
        let there = there.map(|(name, number)| (name.to_owned(), number)).into();
        for (events, bookmarks, expected) in cases {
            let owned = |&(number, kind, name): &(u64, &str, &str)| (number, kind.to_owned(), name.to_owned());
            let seen = Seen {
                from: 3,
                events: events.iter().map(owned).collect(),
                bookmarks: bookmarks.to_vec(),
                ..Seen::default()
            };
            let found = seen.check("x-", &there).err().map(|error| error.to_string());
            let found = found.unwrap_or_default();
            assert!(found.contains(expected), "{events:?} {bookmarks:?}: {found:?}");
            assert_eq!(
                found.is_empty(),
                expected.is_empty(),
                "{events:?} {bookmarks:?}: {found:?}"
            );
        }
    }
}
