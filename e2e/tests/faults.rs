//! Servers as real processes whose disks and networks fail under a stream of writes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coxswain_e2e::eventually;
use coxswain_e2e::failover::{self, Way};
use coxswain_e2e::follow::Follower;
use coxswain_e2e::load::{CONFIG_MAPS, Load, Requests, all_have};
use coxswain_e2e::places::Volume;
use coxswain_e2e::servers::Servers;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn kubeconfigs(servers: &Servers, numbers: &[usize]) -> Vec<PathBuf> {
    numbers.iter().map(|number| servers.kubeconfig(*number)).collect()
}

/// Highest term of a member, as `/cluster/members` has it, and the leader's name.
fn term(servers: &Servers, asked: usize) -> Result<(u64, String)> {
    let mut requests = Requests::to(&servers.kubeconfig(asked))?;
    let (status, list) = requests.call("GET", "/cluster/members", &Value::Null)?;
    ensure!(status == 200, "{status}: {list}");
    let items = list["items"].as_array().context("no items")?;
    let terms = items.iter().filter_map(|item| item["term"].as_u64());
    let leader = items.iter().find(|item| item["role"] == "leader");
    let name = leader.and_then(|leader| leader["name"].as_str()).context("no leader")?;
    Ok((terms.max().context("no term")?, name.to_owned()))
}

#[test]
fn a_stalled_disk_costs_no_election_and_a_dead_one_the_leadership() -> Result<()> {
    let mut servers = Servers::planned(3)?;
    let volume = Volume::ext4(&servers.disk(0), 200)?;
    servers.volumes.insert(0, volume);
    servers.grow()?;
    let volume = servers.volumes.get(&0).context("a volume")?;
    let load = Load::start(kubeconfigs(&servers, &[0, 1, 2]), "stall", 3, Some(100));
    load.goes_on(50)?;
    let before = term(&servers, 1)?;
    ensure!(before.1 == "s0", "the first server leads: {before:?}");
    for _ in 0..5 {
        volume.hold_up()?;
        std::thread::sleep(Duration::from_millis(200));
        volume.let_go()?;
        load.goes_on(20)?;
    }
    ensure!(term(&servers, 1)? == before, "there was an election");
    ensure!(load.failures() == 0, "{} requests failed", load.failures());
    volume.hold_up()?;
    eventually(SOON, "another leader", || {
        let (_, leader) = term(&servers, 1)?;
        ensure!(leader != "s0", "the server with the stalled disk leads");
        Ok(())
    })?;
    load.goes_on(50)?;
    volume.let_go()?;
    servers.settled()?;
    load.goes_on(50)?;
    let (acknowledged, _) = load.finish()?;
    all_have(&servers, &acknowledged)
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_by_itself() -> Result<()> {
    let mut servers = Servers::planned(1)?;
    let volume = Volume::memory(&servers.disk(0), 120)?;
    servers.volumes.insert(0, volume);
    servers.grow()?;
    let mut requests = Requests::to(&servers.kubeconfig(0))?;
    let map = |name: &str| json!({"metadata": {"name": name}, "data": {"x": "y".repeat(900_000)}});
    let (status, _) = requests.call("POST", CONFIG_MAPS, &map("first"))?;
    ensure!(status == 201, "{status}");
    // Somebody else fills the disk.
    let ballast = servers.disk(0).join("ballast");
    let full = std::fs::write(&ballast, vec![1; 200 << 20]);
    ensure!(full.is_err(), "the disk is larger than it should be");
    let (mut count, refusal) = (0, loop_until_refused(&mut requests, &map)?);
    ensure!(refusal.0 == 507, "{refusal:?}");
    ensure!(refusal.1["reason"] == "InsufficientStorage", "{refusal:?}");
    let message = refusal.1["message"].as_str().context("a message")?;
    let store = servers.data_dir(0).join("store");
    ensure!(message.contains(&*store.to_string_lossy()), "{message}");
    let there = requests.names(CONFIG_MAPS)?;
    for name in there.iter().filter(|name| name.starts_with("map-")) {
        let (status, answer) = requests.call("DELETE", &format!("{CONFIG_MAPS}/{name}"), &Value::Null)?;
        ensure!(status == 200, "{status}: {answer}");
        count += 1;
    }
    ensure!(count > 0, "nothing had been written");
    ensure!(requests.names(CONFIG_MAPS)?.contains("first"), "reads go on");
    std::fs::remove_file(&ballast)?;
    eventually(SOON, "writes", || {
        let (status, answer) = requests.call("POST", CONFIG_MAPS, &map("last"))?;
        ensure!(status == 201, "{status}: {answer}");
        Ok(())
    })
}

/// Writes until that is refused with the disk as the reason; the server may be busy in between.
fn loop_until_refused(requests: &mut Requests, map: &dyn Fn(&str) -> Value) -> Result<(u16, Value)> {
    for number in 0..200 {
        let (status, answer) = requests.call("POST", CONFIG_MAPS, &map(&format!("map-{number}")))?;
        if status != 201 {
            return Ok((status, answer));
        }
    }
    anyhow::bail!("200 writes of 900 KB found room")
}

#[test]
fn partitions_stop_no_majority_and_lose_nothing() -> Result<()> {
    let mut servers = Servers::apart(3)?;
    servers.grow()?;
    let load = Load::start(kubeconfigs(&servers, &[0, 1, 2]), "part", 3, Some(100));
    load.goes_on(50)?;
    let network = servers.network.as_ref().context("a network")?;
    let leader = servers.leader()?;
    let others: Vec<usize> = (0..3).filter(|other| *other != leader).collect();
    // The leader alone, without a word to anybody.
    network.cut(leader, &others)?;
    load.goes_on(50)?;
    network.mend()?;
    servers.settled()?;
    load.goes_on(50)?;
    // Two that don't see each other, and a third that sees both.
    network.cut(others[0], &others[1..])?;
    load.goes_on(50)?;
    network.mend()?;
    servers.settled()?;
    let (acknowledged, _) = load.finish()?;
    all_have(&servers, &acknowledged)
}

#[test]
fn what_two_dead_servers_stop_goes_on_with_one_of_them() -> Result<()> {
    let mut servers = Servers::grown(3)?;
    let load = Load::start(kubeconfigs(&servers, &[0, 1, 2]), "two", 2, None);
    load.goes_on(100)?;
    servers.crash(0)?;
    servers.crash(1)?;
    // The third is alive, and a balancer sends nobody there.
    eventually(SOON, "a server that says it is not ready", || {
        let mut requests = Requests::to(&servers.kubeconfig(2))?;
        let mut status = |path| Ok::<_, anyhow::Error>(requests.call("GET", path, &Value::Null)?.0);
        let statuses = ["/livez", "/readyz", "/readyz/etcd"].map(&mut status);
        let statuses = statuses.into_iter().collect::<Result<Vec<_>>>()?;
        ensure!(statuses == [200, 500, 500], "{statuses:?}");
        Ok(())
    })?;
    servers.launch(0)?;
    load.goes_on(50)?;
    servers.launch(1)?;
    servers.ready(1)?;
    // A log file that is gone is missed, and made up for by the others.
    let leader = servers.leader()?;
    let victim = (leader + 1) % 3;
    servers.crash(victim)?;
    std::fs::remove_file(servers.newest_log(victim)?)?;
    servers.start(victim)?;
    let rows = servers.settled()?;
    ensure!(rows.iter().any(|row| row.id > 3), "it has joined again: {rows:?}");
    load.goes_on(50)?;
    let (acknowledged, _) = load.finish()?;
    all_have(&servers, &acknowledged)
}

#[test]
fn a_leader_that_is_out_of_reach_holds_nobody_up() -> Result<()> {
    // Long after another has been elected on a busy machine, and long before a write is given up.
    const BOUND: Duration = Duration::from_secs(6);
    const PATIENCE: Duration = Duration::from_secs(9);
    let mut servers = failover::servers(Way::Part)?;
    failover::prepare(&servers)?;
    let all = kubeconfigs(&servers, &[0, 1, 2]);
    let follower = Follower::start(&all, CONFIG_MAPS)?;
    let load = Load::start_patient(all, "reach", 6, Some(100), PATIENCE);
    for (number, way) in [Way::Part, Way::Vanish, Way::Pause].into_iter().enumerate() {
        let gaps = failover::round(&mut servers, &load, way, number, PATIENCE)?.gaps;
        ensure!(gaps.others < BOUND, "{way:?}: {gaps:?}");
        // It answers its own clients that it cannot, if it can speak.
        ensure!(way != Way::Part || gaps.its_own < BOUND, "{way:?}: {gaps:?}");
    }
    let (acknowledged, _) = load.finish()?;
    follower.finish("reach-", &acknowledged)?;
    all_have(&servers, &acknowledged)
}
