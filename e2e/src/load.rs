//! Clients that write without pause to a cluster whose servers come and go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coxswain_bench::http::Connection;
use coxswain_bench::target::Target;
use serde_json::Value;

use crate::eventually;
use crate::servers::Servers;

/// Where the clients write.
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// A request that takes longer has failed; the client turns to another server.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The same for a client that has only one server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before a client turns to another server.
const TURN_AFTER: Duration = Duration::from_millis(5);

/// A write that was acknowledged.
struct Acknowledged {
    client: usize,
    name: String,
    at: Instant,
}

/// Clients with several addresses each, connected with all servers from the start.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    failures: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<Result<()>>,
    /// The server that each client is with.
    places: Arc<[AtomicUsize]>,
    servers: usize,
}

/// Longest times without an acknowledged write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Of all clients together.
    pub all: Duration,
    /// For the one that had to wait longest of those that were with other servers than the one that went.
    pub others: Duration,
    /// The same of those that were with the one that went.
    pub its_own: Duration,
}

impl Load {
    /// Starts clients that write `rate` objects a second together, or as many as they can.
    #[must_use]
    pub fn start(kubeconfigs: Vec<PathBuf>, prefix: &'static str, clients: usize, rate: Option<u32>) -> Self {
        Self::start_patient(kubeconfigs, prefix, clients, rate, ANSWER_WITHIN)
    }

    /// The same with clients that wait so long for an answer before they turn to another server.
    #[must_use]
    pub fn start_patient(
        kubeconfigs: Vec<PathBuf>,
        prefix: &'static str,
        clients: usize,
        rate: Option<u32>,
        patience: Duration,
    ) -> Self {
        let servers = kubeconfigs.len();
        let places: Arc<[AtomicUsize]> = (0..clients).map(|client| AtomicUsize::new(client % servers)).collect();
        let shared = places.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let failures = Arc::new(AtomicUsize::new(0));
        let (stopped, written, failed) = (stop.clone(), acknowledged.clone(), failures.clone());
        let pause = rate.map(|rate| Duration::from_secs(1) * u32::try_from(clients).unwrap_or(1) / rate);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let mut tasks = tokio::task::JoinSet::new();
                for client in 0..clients {
                    let work = Client {
                        number: client,
                        prefix,
                        pause,
                        patience,
                        places: shared.clone(),
                        targets: targets(&kubeconfigs)?,
                        stop: stopped.clone(),
                        written: written.clone(),
                        failures: failed.clone(),
                    };
                    tasks.spawn(work.run());
                }
                while let Some(ended) = tasks.join_next().await {
                    ended.context("a client failed")?;
                }
                Ok(())
            })
        });
        Self {
            stop,
            acknowledged,
            failures,
            thread,
            places,
            servers,
        }
    }

    /// Sends the clients back to where they began, as many to each server: by and by all gather at the same.
    pub fn spread(&self) {
        for (client, place) in self.places.iter().enumerate() {
            place.store(client % self.servers, Ordering::Relaxed);
        }
    }

    /// The server that each client is with, by its place in the list that the clients were given.
    #[must_use]
    pub fn places(&self) -> Vec<usize> {
        self.places.iter().map(|place| place.load(Ordering::Relaxed)).collect()
    }

    fn with<T>(&self, look: impl FnOnce(&[Acknowledged]) -> T) -> T {
        look(&self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until this many more writes have been acknowledged.
    ///
    /// # Errors
    /// When they are not within half a minute.
    pub fn goes_on(&self, more: usize) -> Result<()> {
        let count = || self.with(<[Acknowledged]>::len);
        let wanted = count() + more;
        eventually(Duration::from_secs(30), "more writes", || {
            ensure!(count() >= wanted, "{} of {wanted}", count());
            Ok(())
        })
    }

    /// Requests that failed so far, or were not answered in time.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }

    /// The longest times after `from` without an acknowledged write, when `gone` went and the clients were at `places`.
    #[must_use]
    pub fn gaps(&self, from: Instant, gone: usize, places: &[usize]) -> Gaps {
        let gap = |of: &dyn Fn(&Acknowledged) -> bool| {
            self.with(|all| {
                let mut last = from;
                let mut longest = Duration::ZERO;
                for one in all.iter().filter(|one| one.at >= from && of(one)) {
                    longest = longest.max(one.at - last);
                    last = one.at;
                }
                longest.max(last.elapsed())
            })
        };
        let worst = |is_its_own: bool| {
            let clients = (0..places.len()).filter(|client| (places[*client] == gone) == is_its_own);
            let gaps = clients.map(|client| gap(&|one| one.client == client));
            gaps.max().unwrap_or_default()
        };
        Gaps {
            all: gap(&|_| true),
            others: worst(false),
            its_own: worst(true),
        }
    }

    /// Stops the clients. Returns the names of what was acknowledged, and the longest time without.
    ///
    /// # Errors
    /// When a client failed.
    pub fn finish(self) -> Result<(BTreeSet<String>, Duration)> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().ok().context("the clients failed")??;
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let gaps = acknowledged.windows(2).map(|pair| pair[1].at - pair[0].at);
        let gap = gaps.max().unwrap_or_default();
        Ok((acknowledged.iter().map(|one| one.name.clone()).collect(), gap))
    }
}

/// How to reach each server.
pub(crate) fn targets(kubeconfigs: &[PathBuf]) -> Result<Vec<Target>> {
    kubeconfigs.iter().map(|path| Target::from_kubeconfig(path)).collect()
}

struct Client {
    number: usize,
    prefix: &'static str,
    pause: Option<Duration>,
    patience: Duration,
    places: Arc<[AtomicUsize]>,
    targets: Vec<Target>,
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<Vec<Acknowledged>>>,
    failures: Arc<AtomicUsize>,
}

impl Client {
    async fn run(self) {
        let mut connections = Vec::new();
        for target in &self.targets {
            connections.push(Connection::open(target).await.ok());
        }
        let (place, mut count) = (&self.places[self.number], 0);
        while !self.stop.load(Ordering::Acquire) {
            let at = place.load(Ordering::Relaxed);
            let began = Instant::now();
            let name = format!("{}-{}-{count}", self.prefix, self.number);
            let body = format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"x":"y"}}}}"#);
            match call(
                &self.targets[at],
                &mut connections[at],
                "POST",
                CONFIG_MAPS,
                &body,
                self.patience,
            )
            .await
            {
                // One that had no answer, and was done nevertheless, is there already.
                Ok((201 | 409, _)) => {
                    self.note(name);
                    count += 1;
                    if let Some(pause) = self.pause {
                        tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
                    }
                }
                _ => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    place.store((at + 1) % self.targets.len(), Ordering::Relaxed);
                    tokio::time::sleep(TURN_AFTER).await;
                }
            }
        }
    }

    fn note(&self, name: String) {
        let (client, at) = (self.number, Instant::now());
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.push(Acknowledged { client, name, at });
    }
}

/// One request on a connection that is kept if it goes well. Returns status and body.
async fn call(
    target: &Target,
    connection: &mut Option<Connection>,
    method: &str,
    path: &str,
    body: &str,
    within: Duration,
) -> Result<(u16, String)> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        target.authorization,
        body.len()
    );
    let exchange = async {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(target).await?,
        };
        let mut answer = Vec::new();
        let head = open
            .call(request.as_bytes(), |bytes| answer.extend_from_slice(bytes))
            .await?;
        *connection = Some(open);
        anyhow::Ok((head.status, String::from_utf8(answer)?))
    };
    tokio::time::timeout(within, exchange).await?
}

/// A client that makes one request at a time, and waits for its answer.
pub struct Requests {
    runtime: tokio::runtime::Runtime,
    target: Target,
    connection: Option<Connection>,
}

impl Requests {
    /// To one server.
    ///
    /// # Errors
    /// When the kubeconfig is unusable.
    pub fn to(kubeconfig: &Path) -> Result<Self> {
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            target: Target::from_kubeconfig(kubeconfig)?,
            connection: None,
        })
    }

    /// Makes a request; returns status and body.
    ///
    /// # Errors
    /// When there is no answer within ten seconds.
    pub fn call(&mut self, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answered = call(&self.target, &mut self.connection, method, path, &body, PATIENCE);
        let (status, text) = self.runtime.block_on(answered)?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// A request that must succeed; returns the body.
    ///
    /// # Errors
    /// When there is another answer, or none.
    pub fn ask(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.call(method, path, body)?;
        ensure!(matches!(status, 200 | 201), "{method} {path}: {status} {answer}");
        Ok(answer)
    }

    /// Names of the objects of a list, by a linearizable read.
    ///
    /// # Errors
    /// When it is refused.
    pub fn names(&mut self, path: &str) -> Result<BTreeSet<String>> {
        let list = self.ask("GET", path, &Value::Null)?;
        let items = list["items"].as_array().context("no items")?;
        let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
        Ok(items.iter().filter_map(name).collect())
    }
}

/// Asks every running server for all ConfigMaps. One that was cut off gets a moment to answer at all.
///
/// # Errors
/// When it does not, or knows less than was acknowledged.
pub fn all_have(servers: &Servers, acknowledged: &BTreeSet<String>) -> Result<()> {
    for number in servers.running() {
        let kubeconfig = servers.kubeconfig(number);
        let there = eventually(Duration::from_secs(20), "an answer", || {
            Requests::to(&kubeconfig)?.names(CONFIG_MAPS)
        })?;
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        ensure!(lost.is_empty(), "server {number} has lost {lost:?}");
    }
    Ok(())
}
