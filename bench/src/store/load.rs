//! Clients of the store's protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use http::uri::PathAndQuery;
use prost::bytes::Bytes;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::cluster::Cluster;
use super::wire::{self, TxnAnswer, WatchAnswer};
use crate::figures::{Cost, Figures};
use crate::process::Process;

/// Clients that share a connection, as those of one API server do.
const SHARE: usize = 32;
/// A request that takes longer has failed; the client turns to another member.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// One client; clones share its connection.
#[derive(Clone)]
pub struct Client(Grpc<Channel>);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(address: SocketAddr) -> Result<Client> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        Ok(Client(Grpc::new(endpoint.connect().await?)))
    }

    /// Writes a key that is not there yet; false when it is.
    ///
    /// # Errors
    /// When the member refuses or is gone.
    pub async fn write(&mut self, txn: wire::Txn) -> Result<bool> {
        self.0.ready().await?;
        let codec = ProstCodec::<wire::Txn, TxnAnswer>::default();
        let path = PathAndQuery::from_static(wire::TXN);
        Ok(self
            .0
            .unary(Request::new(txn), path, codec)
            .await?
            .into_inner()
            .succeeded)
    }

    /// Calls `each` with every value written from now on, until it returns false; `begun` when the watch stands.
    async fn watch(&mut self, begun: impl FnOnce(), mut each: impl FnMut(&[u8]) -> bool) -> Result<()> {
        self.0.ready().await?;
        let create = wire::WatchCreate {
            key: Bytes::from_static(b"/registry/configmaps/"),
            range_end: Bytes::from_static(b"/registry/configmaps0"),
        };
        let request = wire::Watch { create: Some(create) };
        let requests = futures::stream::iter([request]).chain(futures::stream::pending());
        let codec = ProstCodec::<wire::Watch, WatchAnswer>::default();
        let path = PathAndQuery::from_static(wire::WATCH);
        let answers = self.0.streaming(Request::new(requests), path, codec).await?;
        let mut answers = answers.into_inner();
        let first = answers.message().await?.context("the watch ended")?;
        ensure!(first.created, "the watch is not created");
        begun();
        while let Some(answer) = answers.message().await? {
            for event in answer.events {
                if !event.kv.is_none_or(|kv| each(&kv.value)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Makes writes of ConfigMaps with about so many bytes, each with a name of its own.
#[derive(Clone)]
pub struct Writer {
    prefix: String,
    text: String,
    number: Arc<AtomicU64>,
}

impl Writer {
    /// Names begin with `prefix` and this moment.
    #[must_use]
    pub fn new(prefix: &str, bytes: usize) -> Writer {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Writer {
            prefix: format!("{prefix}-{}", now.map_or(0, |now| now.as_nanos())),
            text: "x".repeat(bytes.saturating_sub(150)),
            number: Arc::new(AtomicU64::new(0)),
        }
    }

    /// The next write, for any client.
    pub fn next(&self) -> wire::Txn {
        self.with(&self.text)
    }

    fn with(&self, text: &str) -> wire::Txn {
        let name = format!("{}-{}", self.prefix, self.number.fetch_add(1, Ordering::Relaxed));
        let value = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"default"}},"data":{{"text":"{text}"}}}}"#
        );
        wire::create(format!("/registry/configmaps/default/{name}").into(), value.into())
    }
}

/// CPU seconds of all members together, and their resident memory in MB.
fn used(processes: &[Process]) -> Result<(f64, f64)> {
    let mut sum = (0.0, 0.0);
    for process in processes {
        sum.0 += process.cpu_s()?;
        sum.1 += process.memory_mb()?.0;
    }
    Ok(sum)
}

/// Writes as fast as the clients can, until time is up or so many are done.
///
/// # Errors
/// When a member refuses.
pub async fn writes(cluster: &Cluster, clients: usize, lasting: Duration, most: u64, bytes: usize) -> Result<Figures> {
    let writer = Writer::new("w", bytes);
    let mut channels = Vec::new();
    for at in 0..clients.div_ceil(SHARE) {
        let addresses = cluster.addresses();
        channels.push(Client::connect(addresses[at % addresses.len()]).await?);
    }
    let processes = cluster.processes();
    let (before, began) = (used(&processes)?, Instant::now());
    let tasks = (0..clients).map(|at| {
        let (mut client, writer) = (channels[at % channels.len()].clone(), writer.clone());
        tokio::spawn(async move {
            let mut micros = Vec::new();
            while began.elapsed() < lasting && writer.number.load(Ordering::Relaxed) < most {
                let txn = writer.next();
                let asked = Instant::now();
                ensure!(client.write(txn).await?, "a write was refused");
                micros.push(u64::try_from(asked.elapsed().as_micros())?);
            }
            Ok(micros)
        })
    });
    let mut micros = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        micros.extend(task.await??);
    }
    let (elapsed, after) = (began.elapsed(), used(&processes)?);
    micros.sort_unstable();
    Ok(Figures {
        name: format!("{}: create {bytes} bytes, {clients} clients", cluster.name()),
        operations: micros.len(),
        failed: 0,
        elapsed,
        micros,
        cost: Some(cost(before, after)),
    })
}

/// From what [`used`] told before and after.
fn cost(before: (f64, f64), after: (f64, f64)) -> Cost {
    Cost {
        cpu_s: after.0 - before.0,
        memory_mb: before.1,
        rise_mb: after.1 - before.1,
    }
}

/// How old writes are when a watcher at another member, where there is one, sees them; 100 writes a second.
///
/// # Errors
/// When a member refuses.
pub async fn delivery(cluster: &Cluster, count: usize) -> Result<Figures> {
    let clock = Instant::now();
    let last = cluster.addresses().last().context("no member")?;
    let mut watcher = Client::connect(*last).await?;
    let (begun, stands) = tokio::sync::oneshot::channel();
    let watch = tokio::spawn(async move {
        let mut micros = Vec::new();
        let see = |value: &[u8]| {
            let mark = b"sent:";
            let at = value.windows(mark.len()).position(|window| window == mark);
            let digits = at.and_then(|at| value.get(at + mark.len()..at + mark.len() + 16));
            let sent = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
            if let (Some(sent), Ok(now)) = (sent, u64::try_from(clock.elapsed().as_micros())) {
                micros.push(now.saturating_sub(sent));
            }
            micros.len() < count
        };
        let tell = || {
            // Without anybody who waits for it the run has failed already.
            let _ = begun.send(());
        };
        watcher.watch(tell, see).await?;
        anyhow::Ok(micros)
    });
    stands.await?;
    let mut client = Client::connect(cluster.addresses()[0]).await?;
    let (writer, processes) = (Writer::new("d", 0), cluster.processes());
    let (before, began) = (used(&processes)?, Instant::now());
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..count {
        tick.tick().await;
        let text = format!("sent:{:016}", clock.elapsed().as_micros());
        ensure!(client.write(writer.with(&text)).await?, "a write was refused");
    }
    let mut micros = tokio::time::timeout(Duration::from_secs(10), watch).await???;
    let (elapsed, after) = (began.elapsed(), used(&processes)?);
    micros.sort_unstable();
    Ok(Figures {
        name: format!("{}: from write to watcher, 100 writes/s", cluster.name()),
        operations: micros.len(),
        failed: count - micros.len(),
        elapsed,
        micros,
        cost: Some(cost(before, after)),
    })
}

/// Longest time without an acknowledged write, for four clients that turn to the next member when one fails, while
/// each member is killed and started again in turn: so the leader is among them. One figure for each kill.
///
/// # Errors
/// When the members do not come back.
pub async fn failover(cluster: &mut Cluster, rounds: usize) -> Result<Figures> {
    let began = Instant::now();
    let mut gaps = Vec::new();
    for round in 0..rounds {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let addresses = cluster.addresses().to_vec();
        let clients = (0..4).map(|at| {
            let (stop, addresses) = (stop.clone(), addresses.clone());
            tokio::spawn(async move { keep_writing(&addresses, at, &stop).await })
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let at = round % addresses.len();
        cluster.crash(at)?;
        tokio::time::sleep(Duration::from_millis(4000)).await;
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.await?);
        }
        all.sort_unstable();
        let gap = all.windows(2).map(|pair| pair[1] - pair[0]).max();
        gaps.push(u64::try_from(gap.context("nothing was written")?.as_micros())?);
        cluster.launch(at)?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    gaps.sort_unstable();
    Ok(Figures {
        name: format!("{}: longest pause of writes when one is killed", cluster.name()),
        operations: gaps.len(),
        failed: 0,
        elapsed: began.elapsed(),
        micros: gaps,
        cost: None,
    })
}

async fn keep_writing(addresses: &[SocketAddr], first: usize, stop: &std::sync::atomic::AtomicBool) -> Vec<Instant> {
    let writer = Writer::new(&format!("f{first}"), 1000);
    let (mut at, mut client, mut done) = (first, None, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let write = async {
            let mut connected = match client.take() {
                Some(connected) => connected,
                None => Client::connect(addresses[at % addresses.len()]).await?,
            };
            connected.write(writer.next()).await?;
            anyhow::Ok(connected)
        };
        match tokio::time::timeout(ANSWER_WITHIN, write).await {
            Ok(Ok(connected)) => {
                client = Some(connected);
                done.push(Instant::now());
            }
            _ => {
                at += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    done
}
