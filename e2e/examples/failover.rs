//! `cargo run -p coxswain-e2e --example failover -- [kill|stop|pause|part|vanish] [rounds]`: three servers
//! under 500 writes a second whose leader goes again and again, the distribution of what that costs, and whether a watch
//! that goes on at other servers has seen each write once.
//! `COXSWAIN_BINARIES` names a folder with another build of `coxswain`.

use std::time::Duration;

use anyhow::{Result, ensure};
use coxswain_e2e::failover::{Round, Way, percentile, prepare, round, servers};
use coxswain_e2e::follow::Follower;
use coxswain_e2e::load::{CONFIG_MAPS, Load, Requests};

const CLIENTS: usize = 8;
const RATE: u32 = 500;
/// How long after the change gaps are looked for.
const LOOK_FOR: Duration = Duration::from_secs(2);

/// A name, and what of a round it is.
type Column = (&'static str, fn(&Round) -> Duration);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let way: Way = arguments.next().map_or(Ok(Way::Kill), |text| text.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(50), |text| text.parse())?;
    let mut servers = servers(way)?;
    prepare(&servers)?;
    let kubeconfigs: Vec<_> = (0..3).map(|number| servers.kubeconfig(number)).collect();
    let follower = Follower::start(&kubeconfigs, CONFIG_MAPS)?;
    let load = Load::start(kubeconfigs, "failover", CLIENTS, Some(RATE));
    let mut all = Vec::new();
    for number in 0..rounds {
        let one = round(&mut servers, &load, way, number, LOOK_FOR)?;
        println!("{number:3} {one:?}");
        all.push(one);
    }
    let (acknowledged, _) = load.finish()?;
    let there = Requests::to(&servers.kubeconfig(0))?.names(CONFIG_MAPS)?;
    let lost = acknowledged.difference(&there).count();
    println!("{} writes acknowledged, {lost} lost", acknowledged.len());
    let seen = follower.finish("failover-", &acknowledged)?;
    println!(
        "{} events seen in {} watches, none lost, repeated or out of order",
        seen.count(),
        seen.resumed + 1
    );
    let columns: [Column; 5] = [
        ("no write acknowledged", |round| round.gaps.all),
        ("a client of other servers", |round| round.gaps.others),
        ("a client of that server", |round| round.gaps.its_own),
        ("a controller has acted", |round| round.controllers),
        ("the scheduler has acted", |round| round.scheduler),
    ];
    println!("{way:?}, {rounds} rounds, ms: p50 p90 p99 max");
    for (name, of) in columns {
        let of_all = |percent| percentile(all.iter().map(of), percent).map(|value| value.as_millis());
        let shares = (of_all(50)?, of_all(90)?, of_all(99)?, of_all(100)?);
        println!("{name:26} {:5} {:5} {:5} {:5}", shares.0, shares.1, shares.2, shares.3);
    }
    ensure!(lost == 0, "{lost} acknowledged writes are lost");
    Ok(())
}
