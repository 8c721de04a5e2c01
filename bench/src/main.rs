//! `coxswain-bench`: measures a Kubernetes API server and prints one table.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use coxswain_bench::churn::{self, Churn};
use coxswain_bench::figures::{Figures, table};
use coxswain_bench::lists::{self, JSON, List, PROTOBUF};
use coxswain_bench::objects::{Kind, namespace, remove_namespace};
use coxswain_bench::process::Process;
use coxswain_bench::store::{self, serve};
use coxswain_bench::target::Target;
use coxswain_bench::watches::{self, Fan};
use coxswain_bench::writes::{self, Load};

#[derive(Parser)]
#[command(name = "coxswain-bench", about = "Measures any Kubernetes API server")]
struct Cli {
    /// Address and credentials of the server
    #[arg(long, env = "KUBECONFIG", default_value = "kubeconfig")]
    kubeconfig: PathBuf,
    /// Process id of the server on this machine: its CPU time and memory are measured too
    #[arg(long)]
    pid: Option<u32>,
    /// Namespace of the load, another one for every run unless named; it is made, and removed at the end
    #[arg(long, default_value_t = format!("bench-{}", std::process::id()))]
    namespace: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Creates and updates of ConfigMaps and Pods, with one client and with many
    Writes {
        /// Seconds for each
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        #[arg(long, default_values_t = [1, 64])]
        clients: Vec<usize>,
    },
    /// LISTs of many pods: JSON and protobuf, whole and in pages, alone and in parallel
    Lists {
        #[arg(long, default_value_t = 10_000)]
        pods: usize,
        #[arg(long, default_values_t = [1, 16])]
        parallel: Vec<usize>,
        #[arg(long, default_value_t = 5)]
        times: usize,
    },
    /// LIST with a selector that matches nothing
    Selector {
        #[arg(long, default_value_t = 100_000)]
        objects: usize,
        #[arg(long, default_value_t = 20)]
        times: usize,
    },
    /// Our store beside etcd, without an API server
    Store(store::Settings),
    /// Serve our store by etcd's protocol, for `store`
    #[command(hide = true)]
    ServeStore(serve::Serve),
    /// Memory and disk of what is stored, while it is deleted, and after it; needs --pid
    Churn {
        /// Numbers of Pods whose memory is measured
        #[arg(long, default_values_t = [10_000])]
        pods: Vec<usize>,
        /// Writes of the suite of tests
        #[arg(long, default_value_t = 740_000)]
        suite: usize,
        /// ConfigMaps of the large namespace
        #[arg(long, default_value_t = 44_000)]
        maps: usize,
        /// Pods of the large namespace
        #[arg(long, default_value_t = 8_000)]
        large_pods: usize,
        /// The server's data directory, whose size is measured too
        #[arg(long)]
        data_dir: Option<PathBuf>,
        /// Seconds until the last look
        #[arg(long, default_value_t = 600)]
        settle: u64,
    },
    /// Many watchers of one resource; one in a hundred reads nothing
    Watches {
        #[arg(long, default_value_t = 1000)]
        watchers: usize,
        /// Updates a second
        #[arg(long, default_value_t = 50)]
        rate: u32,
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.what {
        What::Store(settings) => {
            print!("{}", table(&store::run(&settings).await?));
            return Ok(());
        }
        What::ServeStore(settings) => return serve::serve(settings).await,
        _ => {}
    }
    let target = Target::from_kubeconfig(&cli.kubeconfig)?;
    if let Some(load) = churn_of(&cli) {
        let process = cli.pid.map(Process).context("--pid names the server's process")?;
        print!("{}", churn::table(&churn::run(&target, &load, process).await?));
        return Ok(());
    }
    namespace(&target, &cli.namespace).await?;
    let figures = run(&cli, &target).await;
    remove_namespace(&target, &cli.namespace).await?;
    print!("{}", table(&figures?));
    Ok(())
}

/// The load of `churn`, if that is asked for.
fn churn_of(cli: &Cli) -> Option<Churn> {
    let What::Churn {
        pods,
        suite,
        maps,
        large_pods,
        data_dir,
        settle,
    } = &cli.what
    else {
        return None;
    };
    Some(Churn {
        namespace: cli.namespace.clone(),
        data_dir: data_dir.clone(),
        pods: pods.clone(),
        suite: *suite,
        large: (*maps, *large_pods),
        settle: Duration::from_secs(*settle),
    })
}

async fn run(cli: &Cli, target: &Target) -> Result<Vec<Figures>> {
    let process = cli.pid.map(Process);
    let load = |kind, clients, seconds, operations_max| Load {
        namespace: cli.namespace.clone(),
        kind,
        clients,
        lasting: Duration::from_secs(seconds),
        operations_max,
    };
    let mut all = Vec::new();
    match &cli.what {
        What::Store(_) | What::ServeStore(_) | What::Churn { .. } => {}
        What::Writes { seconds, clients } => {
            for kind in [Kind::ConfigMap, Kind::Pod] {
                for clients in clients {
                    let load = load(kind, *clients, *seconds, usize::MAX);
                    let prefix = format!("w{clients}");
                    let created = writes::create(target, &load, &prefix, process).await?;
                    let objects = created.operations.min(1000);
                    all.push(created);
                    all.push(writes::update(target, &load, &prefix, objects, process).await?);
                }
            }
        }
        What::Lists { pods, parallel, times } => {
            all.push(writes::create(target, &load(Kind::Pod, 16, 3600, *pods), "l", process).await?);
            for parallel in parallel {
                for list in ways(&cli.namespace, *pods, *parallel, *times) {
                    all.push(lists::run(target, &list, process).await?);
                }
            }
        }
        What::Selector { objects, times } => {
            let filled = writes::create(target, &load(Kind::ConfigMap, 64, 3600, *objects), "s", process).await?;
            ensure!(filled.failed == 0, "{} creates failed", filled.failed);
            all.push(filled);
            for (name, query) in [
                ("a label that none has", "labelSelector=no%3Done"),
                (
                    "a name that none has, in all namespaces",
                    "fieldSelector=metadata.name%3Dnone",
                ),
            ] {
                let list = List {
                    name: format!("LIST of {objects} by {name}"),
                    path: format!("/api/v1/configmaps?{query}"),
                    accept: JSON,
                    parallel: 1,
                    times: *times,
                    pages: false,
                };
                all.push(lists::run(target, &list, process).await?);
            }
        }
        What::Watches {
            watchers,
            rate,
            seconds,
        } => {
            let fan = Fan {
                namespace: cli.namespace.clone(),
                watchers: *watchers,
                stalled: watchers / 100,
                rate: *rate,
                lasting: Duration::from_secs(*seconds),
            };
            all.push(watches::run(target, &fan, process).await?);
        }
    }
    Ok(all)
}

fn ways(namespace: &str, pods: usize, parallel: usize, times: usize) -> Vec<List> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let list = |name: &str, query: &str, accept, pages| List {
        name: format!("LIST {pods} pods, {name}, {parallel} at once"),
        path: format!("{path}?{query}"),
        accept,
        parallel,
        times,
        pages,
    };
    vec![
        list("JSON", "", JSON, false),
        list("JSON, resourceVersion=0", "resourceVersion=0", JSON, false),
        list("JSON, pages of 500", "limit=500", JSON, true),
        list("protobuf", "", PROTOBUF, false),
        list("protobuf, resourceVersion=0", "resourceVersion=0", PROTOBUF, false),
    ]
}
