//! `cargo run -p coxswain-e2e --example failover -- [kill|stop|pause] [rounds]`: three servers under 500
//! writes a second whose leader goes again and again, and the distribution of what that costs.
//! `COXSWAIN_BINARIES` names a folder with another build of `coxswain`.

use std::time::Duration;

use anyhow::{Result, ensure};
use coxswain_e2e::failover::{Round, Way, percentile, prepare, round};
use coxswain_e2e::load::{CONFIG_MAPS, Load, Requests};
use coxswain_e2e::servers::Servers;

const CLIENTS: usize = 8;
const RATE: u32 = 500;

/// A name, and what of a round it is.
type Column = (&'static str, fn(&Round) -> Duration);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let way: Way = arguments.next().map_or(Ok(Way::Kill), |text| text.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(50), |text| text.parse())?;
    let mut servers = Servers::grown(3)?;
    prepare(&servers)?;
    let kubeconfigs = (0..3).map(|number| servers.kubeconfig(number)).collect();
    let load = Load::start(kubeconfigs, "failover", CLIENTS, Some(RATE));
    let mut all = Vec::new();
    for number in 0..rounds {
        let one = round(&mut servers, &load, way, number)?;
        println!("{number:3} {one:?}");
        all.push(one);
    }
    let (acknowledged, _) = load.finish()?;
    let there = Requests::to(&servers.kubeconfig(0))?.names(CONFIG_MAPS)?;
    let lost = acknowledged.difference(&there).count();
    println!("{} writes acknowledged, {lost} lost", acknowledged.len());
    let columns: [Column; 4] = [
        ("no write acknowledged", |round| round.gap),
        ("one client's wait", |round| round.client_gap),
        ("a controller has acted", |round| round.controllers),
        ("the scheduler has acted", |round| round.scheduler),
    ];
    println!("{way:?}, {rounds} rounds, ms: p50 p90 p99 max");
    for (name, of) in columns {
        let of_all = |percent| percentile(all.iter().map(of), percent).map(|value| value.as_millis());
        let shares = (of_all(50)?, of_all(90)?, of_all(99)?, of_all(100)?);
        println!("{name:24} {:5} {:5} {:5} {:5}", shares.0, shares.1, shares.2, shares.3);
    }
    ensure!(lost == 0, "{lost} acknowledged writes are lost");
    Ok(())
}
