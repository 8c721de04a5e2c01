//! What a change of leader costs: the time without an acknowledged write, and until controllers and
//! scheduler act again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::eventually;
use crate::load::{Gaps, Load, Requests};
use crate::places::Network;
use crate::servers::Servers;

const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const ACT_WITHIN: Duration = Duration::from_secs(20);

/// How the leader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `kill -9`.
    Kill,
    /// In good order.
    Stop,
    /// Held up, its connections open.
    Pause,
    /// Cut off from the other servers, not from its clients; without a word to anybody.
    Part,
    /// Cut off from everybody, without a word.
    Vanish,
}

impl std::str::FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "kill" => Self::Kill,
            "stop" => Self::Stop,
            "pause" => Self::Pause,
            "part" => Self::Part,
            "vanish" => Self::Vanish,
            _ => bail!("{text}: the ways are kill, stop, pause, part and vanish"),
        })
    }
}

/// What one change of leader took.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Longest times without an acknowledged write.
    pub gaps: Gaps,
    /// From the leader's end until the ReplicaSet controller had made a pod for a set made meanwhile.
    pub controllers: Duration,
    /// Until the scheduler had bound it.
    pub scheduler: Duration,
}

/// Three servers, in a network of their own if the leader is to go in this way only there.
///
/// # Errors
/// When they don't come together.
pub fn servers(way: Way) -> Result<Servers> {
    let mut servers = match way {
        Way::Part | Way::Vanish => Servers::apart(3)?,
        _ => Servers::planned(3)?,
    };
    servers.grow()?;
    Ok(servers)
}

/// Makes what the rounds need: a node that pods can be bound to.
///
/// # Errors
/// When it is refused.
pub fn prepare(servers: &Servers) -> Result<()> {
    let mut requests = Requests::to(&servers.kubeconfig(0))?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "paper"}});
    let room = json!({"cpu": "64", "memory": "64Gi", "pods": "10000"});
    let status = json!({"metadata": {"name": "paper"}, "apiVersion": "v1", "kind": "Node",
        "status": {"capacity": room, "allocatable": room}});
    expect(requests.call("POST", "/api/v1/nodes", &node)?)?;
    expect(requests.call("PUT", "/api/v1/nodes/paper/status", &status)?)
}

fn expect((status, answer): (u16, Value)) -> Result<()> {
    ensure!((200..300).contains(&status), "{status}: {answer}");
    Ok(())
}

fn replica_set(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"set": name}},
        "template": {"metadata": {"labels": {"set": name}}, "spec": {
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "none"}]}}}})
}

/// Has the leader go under load, and come back; gaps are looked for at least `look_for` after it went.
///
/// # Errors
/// When the cluster doesn't go on.
pub fn round(servers: &mut Servers, load: &Load, way: Way, number: usize, look_for: Duration) -> Result<Round> {
    load.spread();
    load.goes_on(200)?;
    let leader = servers.leader()?;
    let others: Vec<usize> = servers.running().into_iter().filter(|other| *other != leader).collect();
    let mut requests = Requests::to(&servers.kubeconfig(others[number % others.len()]))?;
    let name = format!("set-{}-{number}", std::process::id());
    // Who was out of reach in the round before may still look for the leader.
    eventually(ACT_WITHIN, "a server that can be read from", || {
        expect(requests.call("GET", REPLICA_SETS, &Value::Null)?)
    })?;
    let places = load.places();
    let from = Instant::now();
    match way {
        Way::Kill => servers.crash(leader)?,
        Way::Stop => servers.signal(leader, Signal::SIGTERM)?,
        Way::Pause => servers.signal(leader, Signal::SIGSTOP)?,
        Way::Part => network(servers)?.cut(leader, &others)?,
        Way::Vanish => network(servers)?.isolate(leader)?,
    }
    let (controllers, scheduler) = acts(&mut requests, &name, from)?;
    std::thread::sleep(look_for.saturating_sub(from.elapsed()));
    let gaps = load.gaps(from, leader, &places);
    match way {
        Way::Kill => servers.start(leader)?,
        Way::Stop => {
            servers.ended(leader)?;
            servers.start(leader)?;
        }
        Way::Pause => servers.signal(leader, Signal::SIGCONT)?,
        Way::Part | Way::Vanish => network(servers)?.mend()?,
    }
    servers.settled()?;
    Ok(Round {
        gaps,
        controllers,
        scheduler,
    })
}

fn network(servers: &Servers) -> Result<&Network> {
    servers
        .network
        .as_ref()
        .context("the servers have no network of their own")
}

/// Makes a ReplicaSet and waits for its pod, and for that to have a node.
fn acts(requests: &mut Requests, name: &str, from: Instant) -> Result<(Duration, Duration)> {
    let deadline = from + ACT_WITHIN;
    while !matches!(
        requests.call("POST", REPLICA_SETS, &replica_set(name)),
        Ok((201 | 409, _))
    ) {
        ensure!(Instant::now() < deadline, "no write is acknowledged");
    }
    let path = format!("/api/v1/namespaces/default/pods?resourceVersion=0&labelSelector=set%3D{name}");
    let mut made = None;
    loop {
        ensure!(
            Instant::now() < deadline,
            "nobody acts on {name}; its pod was made after {made:?}"
        );
        let (_, pods) = requests.call("GET", &path, &Value::Null)?;
        if let Some(pod) = pods["items"].as_array().and_then(|pods| pods.first()) {
            let made = *made.get_or_insert(from.elapsed());
            if pod["spec"]["nodeName"].is_string() {
                return Ok((made, from.elapsed()));
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The value that `percent` of the values don't exceed.
///
/// # Errors
/// When there are none.
pub fn percentile(values: impl Iterator<Item = Duration>, percent: usize) -> Result<Duration> {
    let mut sorted: Vec<Duration> = values.collect();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().context("no values")
}
