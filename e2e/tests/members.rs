//! Three servers as real processes, killed, stopped and damaged under a stream of writes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coxswain_bench::http::Connection;
use coxswain_bench::target::Target;
use coxswain_e2e::servers::Servers;
use nix::sys::signal::Signal;

const PATH: &str = "/api/v1/namespaces/default/configmaps";
/// A request that takes longer has failed; the client turns to another server.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A client with several addresses, writing without pause.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(String, Instant)>>>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Writer {
    fn start(kubeconfigs: Vec<PathBuf>, prefix: &'static str) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (stopped, written) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(write(&kubeconfigs, prefix, &stopped, &written))
        });
        Writer {
            stop,
            acknowledged,
            thread,
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until this many more writes have been acknowledged.
    fn goes_on(&self, more: usize) -> Result<()> {
        let wanted = self.count() + more;
        coxswain_e2e::eventually(Duration::from_secs(30), "more writes", || {
            ensure!(self.count() >= wanted, "{} of {wanted}", self.count());
            Ok(())
        })
    }

    /// Names of what was acknowledged, and the longest time without.
    fn finish(self) -> Result<(BTreeSet<String>, Duration)> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().ok().context("the writer failed")??;
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let gaps = acknowledged.windows(2).map(|pair| pair[1].1 - pair[0].1);
        let gap = gaps.max().unwrap_or_default();
        Ok((acknowledged.iter().map(|(name, _)| name.clone()).collect(), gap))
    }
}

async fn write(
    kubeconfigs: &[PathBuf],
    prefix: &str,
    stop: &AtomicBool,
    written: &Mutex<Vec<(String, Instant)>>,
) -> Result<()> {
    let targets = kubeconfigs
        .iter()
        .map(|path| Target::from_kubeconfig(path))
        .collect::<Result<Vec<_>>>()?;
    let mut connections: Vec<Option<Connection>> = targets.iter().map(|_| None).collect();
    let (mut at, mut number) = (0, 0);
    while !stop.load(Ordering::Acquire) {
        let name = format!("{prefix}-{number}");
        let body = format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"x":"y"}}}}"#);
        let target = &targets[at];
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nHost: x\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            target.authorization,
            body.len()
        );
        let call = async {
            let mut connection = match connections[at].take() {
                Some(connection) => connection,
                None => Connection::open(target).await?,
            };
            let answer = connection.call(request.as_bytes(), |_| {}).await?;
            connections[at] = Some(connection);
            anyhow::Ok(answer.status)
        };
        match tokio::time::timeout(ANSWER_WITHIN, call).await {
            // One that had no answer, and was done nevertheless, is there already.
            Ok(Ok(201 | 409)) => {
                let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
                written.push((name, Instant::now()));
                number += 1;
            }
            _ => {
                at = (at + 1) % targets.len();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    Ok(())
}

/// Names of the ConfigMaps that a server has, by a linearizable read.
fn names(servers: &Servers, number: usize) -> Result<BTreeSet<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let target = Target::from_kubeconfig(&servers.kubeconfig(number))?;
        let mut connection = Connection::open(&target).await?;
        let mut body = Vec::new();
        let request = format!("GET {PATH} HTTP/1.1\r\nHost: x\r\n{}\r\n", target.authorization);
        let answer = connection
            .call(request.as_bytes(), |bytes| body.extend_from_slice(bytes))
            .await?;
        ensure!(answer.status == 200, "{}", String::from_utf8_lossy(&body));
        let list: serde_json::Value = serde_json::from_slice(&body)?;
        let items = list["items"].as_array().context("no items")?;
        Ok(items
            .iter()
            .filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned))
            .collect())
    })
}

fn kubeconfigs(servers: &Servers) -> Vec<PathBuf> {
    servers
        .running()
        .into_iter()
        .map(|number| servers.kubeconfig(number))
        .collect()
}

fn all_have(servers: &Servers, acknowledged: &BTreeSet<String>) -> Result<()> {
    for number in servers.running() {
        let there = names(servers, number)?;
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        ensure!(lost.is_empty(), "server {number} has lost {lost:?}");
    }
    Ok(())
}

#[test]
fn nothing_is_lost_when_servers_die() -> Result<()> {
    let mut servers = Servers::grown(3)?;
    let writer = Writer::start(kubeconfigs(&servers), "die");
    for _ in 0..5 {
        writer.goes_on(100)?;
        let leader = servers.leader()?;
        servers.crash(leader)?;
        writer.goes_on(100)?;
        servers.start(leader)?;
    }
    // A leader that is held up, and comes back believing that it leads.
    let leader = servers.leader()?;
    servers.signal(leader, Signal::SIGSTOP)?;
    writer.goes_on(50)?;
    servers.signal(leader, Signal::SIGCONT)?;
    writer.goes_on(50)?;
    // One that goes in good order hands over before.
    let leader = servers.leader()?;
    servers.stop(leader)?;
    writer.goes_on(50)?;
    servers.start(leader)?;
    let (acknowledged, gap) = writer.finish()?;
    println!("{} writes, longest gap {gap:?}", acknowledged.len());
    all_have(&servers, &acknowledged)?;
    // All at once.
    for number in 0..3 {
        servers.crash(number)?;
    }
    for number in 0..3 {
        servers.launch(number)?;
    }
    for number in 0..3 {
        servers.ready(number)?;
    }
    all_have(&servers, &acknowledged)
}

#[test]
fn a_server_that_lost_its_disk_or_has_a_damaged_one_is_made_whole() -> Result<()> {
    let mut servers = Servers::grown(3)?;
    let writer = Writer::start(kubeconfigs(&servers), "disk");
    writer.goes_on(200)?;
    servers.crash(2)?;
    servers.lose(2)?;
    servers.start(2)?;
    servers.settled()?;
    writer.goes_on(100)?;
    servers.crash(1)?;
    servers.damage(1)?;
    servers.start(1)?;
    let rows = servers.settled()?;
    writer.goes_on(100)?;
    let (acknowledged, _) = writer.finish()?;
    let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
    ensure!(ids == [1, 4, 5], "each has a number of its own: {rows:?}");
    all_have(&servers, &acknowledged)
}
