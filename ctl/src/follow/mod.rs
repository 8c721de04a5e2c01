//! Following what was applied until it runs or certainly will not.
//!
//! Watches the applied objects, their pods and the warnings about them (nothing is polled), judges after
//! every change (see [`verdict`]) and shows a line per object: updated in place on a terminal, printed once
//! per change otherwise. Stops at the first definite failure and says its cause.

pub mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use anyhow::{Result, bail};
use futures::AsyncBufReadExt as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::context::{Ctx, with_query};
use verdict::{Failure, Scene, Verdict, judge};

/// A condition that may pass (no room on the nodes, a failing readiness probe) must last this long.
const STUCK_FOR: Duration = Duration::from_secs(5);
/// What just became ready must stay so for this long: programs that fail do it at once.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// Log lines shown of a crashed container.
const LOG_LINES: u32 = 10;
/// Watch events waiting to be looked at.
const PENDING_MAX: usize = 1024;

/// One object to follow.
#[derive(Clone, Debug)]
pub struct Followed {
    pub kind: String,
    pub namespace: String,
    pub uid: String,
    /// The path of its collection.
    pub collection: String,
    /// `deployment.apps/web`.
    pub label: String,
    /// `created`, `configured`, ...
    pub change: String,
}

/// Which part of a scene a watch feeds.
#[derive(Clone, Copy)]
enum Part {
    Objects,
    Pods,
    Events,
}

struct Seen {
    namespace: String,
    part: Part,
    kind: String,
    object: Value,
}

/// Follows the objects.
///
/// # Errors
/// The first definite failure with its cause, or that time ran out.
pub async fn follow(ctx: &Ctx, followed: &[Followed], timeout: Duration) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel(PENDING_MAX);
    let watches = start(ctx, followed, &sender).await?;
    drop(sender);
    let outcome = watch_until_done(ctx, followed, timeout, &mut receiver).await;
    for watch in watches {
        watch.abort();
    }
    outcome
}

async fn watch_until_done(
    ctx: &Ctx,
    followed: &[Followed],
    timeout: Duration,
    receiver: &mut mpsc::Receiver<Seen>,
) -> Result<()> {
    let mut scenes: BTreeMap<String, Scene> = BTreeMap::new();
    let mut screen = Screen::new(followed);
    let mut stuck_since: BTreeMap<usize, Instant> = BTreeMap::new();
    let mut done_since: BTreeMap<usize, Instant> = BTreeMap::new();
    let deadline = (!timeout.is_zero()).then(|| Instant::now() + timeout);
    loop {
        let mut done = 0;
        let mut wake = deadline;
        for (position, one) in followed.iter().enumerate() {
            let empty = Scene::default();
            let scene = scenes.get(&one.namespace).unwrap_or(&empty);
            let known = scene.objects.get(&one.uid).or_else(|| scene.pods.get(&one.uid));
            let verdict = judge(&one.kind, known, one.change == "created", scene);
            if !matches!(verdict, Verdict::Done(_)) {
                done_since.remove(&position);
            }
            match verdict {
                Verdict::Done(line) => {
                    let settled_at = *done_since.entry(position).or_insert_with(Instant::now) + SETTLED_AFTER;
                    if one.change == "unchanged" || settled_at <= Instant::now() {
                        done += 1;
                    } else {
                        wake = Some(wake.map_or(settled_at, |at| at.min(settled_at)));
                    }
                    screen.show(position, &line, true);
                }
                Verdict::Waiting(line) => {
                    stuck_since.remove(&position);
                    screen.show(position, &line, false);
                }
                Verdict::Failed(failure) => return fail(ctx, one, &failure, &mut screen, position).await,
                Verdict::Stuck(failure) => {
                    let since = *stuck_since.entry(position).or_insert_with(Instant::now);
                    if since.elapsed() >= STUCK_FOR {
                        return fail(ctx, one, &failure, &mut screen, position).await;
                    }
                    wake = Some(wake.map_or(since + STUCK_FOR, |at| at.min(since + STUCK_FOR)));
                    screen.show(position, &failure.cause, false);
                }
            }
        }
        if done == followed.len() {
            return Ok(());
        }
        let next = receiver.recv();
        let seen = match wake {
            None => next.await,
            Some(at) => match tokio::time::timeout_at(at, next).await {
                Ok(seen) => seen,
                Err(_) if deadline.is_some_and(|at| Instant::now() >= at) => {
                    let waiting: Vec<&str> = screen.unfinished().collect();
                    bail!(
                        "timed out after {timeout:?} waiting for {}; `ctl describe` says more",
                        waiting.join(", ")
                    );
                }
                Err(_) => continue,
            },
        };
        let Some(seen) = seen else {
            bail!("the server closed the connection; what was applied stays")
        };
        take_in(&mut scenes, seen);
        while let Ok(seen) = receiver.try_recv() {
            take_in(&mut scenes, seen);
        }
    }
}

async fn fail(ctx: &Ctx, one: &Followed, failure: &Failure, screen: &mut Screen<'_>, position: usize) -> Result<()> {
    screen.show(position, "failed", true);
    let mut message = format!("{} failed: {}", one.label, failure.cause);
    if let Some((pod, container, previous)) = &failure.log {
        match last_lines(ctx, one, pod, container, *previous).await {
            Some(log) => {
                message.push_str("\nits last log lines:");
                for line in log.lines() {
                    message.push_str("\n  | ");
                    message.push_str(line);
                }
            }
            None => message.push_str("\nit wrote nothing to its log"),
        }
    }
    bail!(message)
}

/// The end of the log of the run that failed. It may have been restarted in the meantime, or not yet: the
/// other run is tried when the expected one has nothing.
async fn last_lines(ctx: &Ctx, one: &Followed, pod: &str, container: &str, previous: bool) -> Option<String> {
    let lines = LOG_LINES.to_string();
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/log", one.namespace);
    for previous in [previous, !previous] {
        let pairs = [
            ("container", Some(container)),
            ("tailLines", Some(lines.as_str())),
            ("previous", previous.then_some("true")),
        ];
        let log = ctx
            .text(http::Method::GET, &with_query(&path, &pairs), &[], Vec::new())
            .await;
        if let Some(log) = log.ok().filter(|log| !log.trim().is_empty()) {
            return Some(log);
        }
    }
    None
}

fn take_in(scenes: &mut BTreeMap<String, Scene>, seen: Seen) {
    let scene = scenes.entry(seen.namespace).or_default();
    let part = match seen.part {
        Part::Objects => &mut scene.objects,
        Part::Pods => &mut scene.pods,
        Part::Events => &mut scene.events,
    };
    let Some(uid) = seen
        .object
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .map(str::to_owned)
    else {
        return;
    };
    if seen.kind == "DELETED" {
        part.remove(&uid);
    } else {
        part.insert(uid, seen.object);
    }
}

/// One watch per collection.
async fn start(
    ctx: &Ctx,
    followed: &[Followed],
    sender: &mpsc::Sender<Seen>,
) -> Result<Vec<tokio::task::JoinHandle<()>>> {
    let mut paths: BTreeMap<String, (String, Part)> = BTreeMap::new();
    let namespaces: BTreeSet<&str> = followed.iter().map(|one| one.namespace.as_str()).collect();
    for namespace in namespaces {
        let root = format!("/api/v1/namespaces/{namespace}");
        paths.insert(format!("{root}/pods?watch=true"), (namespace.to_owned(), Part::Pods));
        let events = with_query(
            &format!("{root}/events"),
            &[("watch", Some("true")), ("fieldSelector", Some("type=Warning"))],
        );
        paths.insert(events, (namespace.to_owned(), Part::Events));
    }
    for one in followed.iter().filter(|one| one.kind != "Pod") {
        paths.insert(
            format!("{}?watch=true", one.collection),
            (one.namespace.clone(), Part::Objects),
        );
        if one.kind == "Deployment" {
            let sets = format!("/apis/apps/v1/namespaces/{}/replicasets?watch=true", one.namespace);
            paths.insert(sets, (one.namespace.clone(), Part::Objects));
        }
    }
    let mut tasks = Vec::new();
    for (path, (namespace, part)) in paths {
        let stream = ctx.stream(&path, false).await?;
        let sender = sender.clone();
        tasks.push(tokio::spawn(async move {
            let mut lines = stream.lines();
            while let Some(Ok(line)) = futures::StreamExt::next(&mut lines).await {
                let Ok(mut event) = serde_json::from_str::<Value>(&line) else {
                    return;
                };
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                let seen = Seen {
                    namespace: namespace.clone(),
                    part,
                    kind,
                    object: event["object"].take(),
                };
                if seen.kind == "ERROR" || sender.send(seen).await.is_err() {
                    return;
                }
            }
        }));
    }
    Ok(tasks)
}

/// The lines that the user sees.
struct Screen<'f> {
    followed: &'f [Followed],
    lines: Vec<(String, bool)>,
    width: usize,
    terminal: bool,
    drawn: bool,
}

impl<'f> Screen<'f> {
    fn new(followed: &'f [Followed]) -> Self {
        let lines = followed.iter().map(|_| (String::new(), false)).collect();
        let width = followed
            .iter()
            .map(|one| one.label.len() + one.change.len() + 1)
            .max()
            .unwrap_or(0);
        Self {
            followed,
            lines,
            width,
            terminal: std::io::stdout().is_terminal(),
            drawn: false,
        }
    }

    fn unfinished(&self) -> impl Iterator<Item = &str> {
        self.followed
            .iter()
            .zip(&self.lines)
            .filter(|(_, (_, done))| !done)
            .map(|(one, _)| one.label.as_str())
    }

    fn show(&mut self, position: usize, line: &str, done: bool) {
        let (Some(shown), Some(one)) = (self.lines.get_mut(position), self.followed.get(position)) else {
            return;
        };
        if shown.0 == line && shown.1 == done {
            return;
        }
        *shown = (line.to_owned(), done);
        let mut out = std::io::stdout().lock();
        // A closed terminal is noticed by the next request.
        let _ = if self.terminal {
            self.drawn = draw(&mut out, self.followed, &self.lines, self.width, self.drawn).is_ok();
            out.flush()
        } else {
            writeln!(out, "{} {}: {line}", one.label, one.change)
        };
    }
}

fn draw(
    out: &mut impl std::io::Write,
    followed: &[Followed],
    lines: &[(String, bool)],
    width: usize,
    again: bool,
) -> std::io::Result<()> {
    let columns = crate::terminal::size().map_or(usize::MAX, |(columns, _)| usize::from(columns.max(20)));
    if again {
        write!(out, "\x1b[{}A", lines.len())?;
    }
    for (one, (line, done)) in followed.iter().zip(lines) {
        let mark = if *done { "*" } else { " " };
        let head = format!("{} {}", one.label, one.change);
        // A line that wraps would spoil the counting of lines.
        let text: String = format!("{mark} {head:width$}  {line}").chars().take(columns).collect();
        writeln!(out, "\r\x1b[2K{text}")?;
    }
    Ok(())
}
