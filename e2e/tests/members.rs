//! Three servers as real processes, killed, stopped and damaged under a stream of writes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use coxswain_e2e::follow::Follower;
use coxswain_e2e::load::{CONFIG_MAPS, Load, Requests, all_have};
use coxswain_e2e::servers::Servers;
use coxswain_e2e::{Agent, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn kubeconfigs(servers: &Servers) -> Vec<PathBuf> {
    servers
        .running()
        .into_iter()
        .map(|number| servers.kubeconfig(number))
        .collect()
}

/// What one server acknowledged, every other one knows.
fn writes_are_seen_everywhere(servers: &Servers) -> Result<()> {
    let mut clients = Vec::new();
    for kubeconfig in kubeconfigs(servers) {
        clients.push(Requests::to(&kubeconfig)?);
    }
    let mut ask = |server: usize, method: &str, path: &str, body: &Value| {
        let count = clients.len();
        clients[server % count].call(method, path, body)
    };
    for number in 0..150 {
        let name = format!("seen-{number}");
        let path = format!("{CONFIG_MAPS}/{name}");
        let body = json!({"metadata": {"name": name}});
        let steps = [
            ("POST", CONFIG_MAPS, &body, 201),
            ("GET", &path, &Value::Null, 200),
            ("DELETE", &path, &Value::Null, 200),
        ];
        for (step, (method, path, body, expected)) in steps.into_iter().enumerate() {
            let (status, answer) = ask(number + step, method, path, body)?;
            ensure!(status == expected, "{method} {path}: {status}: {answer}");
        }
    }
    Ok(())
}

#[test]
fn nothing_is_lost_when_servers_die() -> Result<()> {
    let mut servers = Servers::grown(3)?;
    writes_are_seen_everywhere(&servers)?;
    let follower = Follower::start(&kubeconfigs(&servers), CONFIG_MAPS)?;
    let load = Load::start(kubeconfigs(&servers), "die", 2, None);
    for _ in 0..5 {
        load.goes_on(100)?;
        let leader = servers.leader()?;
        servers.crash(leader)?;
        load.goes_on(100)?;
        servers.start(leader)?;
    }
    // A leader that is held up, and comes back believing that it leads.
    let leader = servers.leader()?;
    servers.signal(leader, Signal::SIGSTOP)?;
    load.goes_on(50)?;
    servers.signal(leader, Signal::SIGCONT)?;
    load.goes_on(50)?;
    // One that goes in good order hands over before.
    let leader = servers.leader()?;
    servers.stop(leader)?;
    load.goes_on(50)?;
    servers.start(leader)?;
    let (acknowledged, gap) = load.finish()?;
    println!("{} writes, longest gap {gap:?}", acknowledged.len());
    all_have(&servers, &acknowledged)?;
    let seen = follower.finish("die-", &acknowledged)?;
    ensure!(seen.resumed > 0, "the watch never went on elsewhere");
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
    let load = Load::start(kubeconfigs(&servers), "disk", 2, None);
    load.goes_on(200)?;
    servers.crash(2)?;
    servers.lose(2)?;
    servers.start(2)?;
    servers.settled()?;
    load.goes_on(100)?;
    servers.crash(1)?;
    servers.damage(1)?;
    servers.start(1)?;
    let rows = servers.settled()?;
    load.goes_on(100)?;
    let (acknowledged, _) = load.finish()?;
    let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
    ensure!(ids == [1, 4, 5], "each has a number of its own: {rows:?}");
    all_have(&servers, &acknowledged)?;
    // The very last record, at rest.
    servers.crash(0)?;
    servers.damage_end(0, None)?;
    servers.start(0)?;
    let rows = servers.settled()?;
    let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
    ensure!(ids == [4, 5, 6], "each has a number of its own: {rows:?}");
    all_have(&servers, &acknowledged)
}

#[test]
fn a_lone_server_with_a_damaged_last_record_gives_up_nothing_unless_told() -> Result<()> {
    let mut servers = Servers::grown(1)?;
    let load = Load::start(kubeconfigs(&servers), "alone", 2, None);
    load.goes_on(200)?;
    servers.crash(0)?;
    let damage = servers.damage_end(0, None)?;
    servers.launch(0)?;
    let refused = servers.ended(0).expect_err("it refuses").to_string();
    let (name, byte) = (damage.0.display(), damage.1 / 512 * 512);
    ensure!(
        refused.contains(&format!("{name} is damaged at byte {byte}: ")),
        "{refused}"
    );
    ensure!(refused.contains("--accept-log-damage"), "{refused}");
    servers.damage_end(0, Some(damage))?;
    servers.start(0)?;
    load.goes_on(50)?;
    let (acknowledged, _) = load.finish()?;
    all_have(&servers, &acknowledged)?;
    servers.crash(0)?;
    servers.damage_end(0, None)?;
    servers.launch_with(0, &["--accept-log-damage"])?;
    servers.ready(0)?;
    servers.stop(0)?;
    servers.start(0)
}

#[test]
fn a_node_goes_on_with_another_server() -> Result<()> {
    let mut servers = Servers::apart(3)?;
    servers.bare = false;
    servers.grow()?;
    let agent = Agent::join(&servers, 0, "goes-on")?;
    let known = agent.data_dir().join("node/server");
    eventually(Duration::from_secs(30), "a node that knows all servers", || {
        let known = fs::read_to_string(&known)?;
        ensure!(known.lines().count() == 3, "{known}");
        Ok(())
    })?;
    servers.crash(0)?;
    let mut requests = Requests::to(&servers.kubeconfig(1))?;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "metadata": {"name": "after"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "coxswain/sample:v1"}]},
    });
    let made = requests.call("POST", pods, &pod)?;
    ensure!(made.0 == 201, "{made:?}");
    eventually(
        Duration::from_secs(40),
        "a pod made after the node's server died",
        || {
            let (_, pod) = requests.call("GET", &format!("{pods}/after"), &Value::Null)?;
            ensure!(pod["status"]["phase"] == "Running", "{pod}");
            Ok(())
        },
    )?;
    // Whoever asks for the Service gets to servers that live.
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    eventually(Duration::from_secs(30), "endpoints without the dead server", || {
        let (_, slice) = requests.call("GET", slice, &Value::Null)?;
        let endpoints = slice["endpoints"].as_array().map(Vec::len);
        ensure!(endpoints == Some(2), "{slice}");
        Ok(())
    })
}
