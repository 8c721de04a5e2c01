//! Our store beside etcd, in one run: the same client, the same protocol, the same durability.
//!
//! Both are processes of their own, so that their CPU time is theirs alone. Ours is the consensus crate behind as much
//! of etcd's protocol as is measured ([`serve`]); what the API server adds is measured by the other commands.

pub mod cluster;
pub mod load;
pub mod serve;
pub mod wire;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::figures::Figures;
use cluster::{Cluster, Kind};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// The etcd program; without it only our store is measured
    #[arg(long)]
    pub etcd: Option<PathBuf>,
    /// Directory for the data, which is removed at the end: on the disk that is to be measured
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long, default_values_t = [1, 64, 256])]
    pub clients: Vec<usize>,
    #[arg(long, default_values_t = [1, 3])]
    pub members: Vec<usize>,
    /// Seconds for each
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Kills, for the time of failing over; 0 for none
    #[arg(long, default_value_t = 6)]
    pub kills: usize,
    /// Objects of 3 KB, for the time of coming up again; 0 for none
    #[arg(long, default_value_t = 100_000)]
    pub objects: u64,
}

/// Runs everything.
///
/// # Errors
/// When members do not come up or refuse.
pub async fn run(settings: &Settings) -> Result<Vec<Figures>> {
    let kinds: Vec<Kind> = settings
        .etcd
        .clone()
        .map(Kind::Etcd)
        .into_iter()
        .chain([Kind::Ours])
        .collect();
    let mut all = Vec::new();
    for &members in &settings.members {
        for kind in &kinds {
            let dir = settings.dir.join(format!("{}-{members}", kind.name()));
            let mut cluster = Cluster::start(kind.clone(), &dir, members).await?;
            for &clients in &settings.clients {
                let lasting = Duration::from_secs(settings.seconds);
                all.push(load::writes(&cluster, clients, lasting, u64::MAX, 1000).await?);
            }
            all.push(load::delivery(&cluster, 300).await?);
            if members > 1 && settings.kills > 0 {
                all.push(load::failover(&mut cluster, settings.kills).await?);
            }
            drop(cluster);
            std::fs::remove_dir_all(&dir)?;
        }
    }
    if settings.objects > 0 {
        for kind in &kinds {
            all.extend(recovery(settings, kind).await?);
        }
    }
    Ok(all)
}

/// Fills a member with objects of 3 KB, kills it, and takes the time until it writes again.
async fn recovery(settings: &Settings, kind: &Kind) -> Result<[Figures; 2]> {
    let dir = settings.dir.join(format!("{}-recovery", kind.name()));
    let mut cluster = Cluster::start(kind.clone(), &dir, 1).await?;
    let filled = load::writes(&cluster, 64, Duration::from_secs(600), settings.objects, 3000).await?;
    cluster.crash(0)?;
    let began = Instant::now();
    cluster.launch(0)?;
    cluster.ready().await?;
    let elapsed = began.elapsed();
    let mut cost = None;
    if let Some(process) = cluster.processes().first() {
        let (memory_mb, _) = process.memory_mb()?;
        cost = Some(crate::figures::Cost {
            cpu_s: process.cpu_s()?,
            memory_mb,
            rise_mb: 0.0,
        });
    }
    let came_up = Figures {
        name: format!(
            "{}: first write after kill -9, {} objects of 3 KB",
            cluster.name(),
            settings.objects
        ),
        operations: 1,
        failed: 0,
        elapsed,
        micros: vec![u64::try_from(elapsed.as_micros())?],
        cost,
    };
    drop(cluster);
    std::fs::remove_dir_all(&dir)?;
    Ok([filled, came_up])
}
