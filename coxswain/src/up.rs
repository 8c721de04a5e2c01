//! `coxswain up`: from a bare machine to a cluster with a Ready node.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::control_plane::{self, Settings};
use crate::listeners::Listener;
use crate::peers::{self, PeerArgs};
use crate::preflight::{self, Part};
use crate::report::{Report, line};
use crate::tasks::{Tasks, runtime, stop_requested};
use crate::{agent, cli, instance, kubeconfig, logging, machine};

/// Set in the background process of `up --detach`.
const DETACHED: &str = "COXSWAIN_DETACHED";
/// The last line of a start that worked: the waiting parent looks for it.
const READY: &str = "Cluster ready";

/// Starts the cluster and serves until told to stop, or returns when it is ready with `--detach`.
///
/// # Errors
/// The first thing that keeps the cluster from starting, or that fails while it runs.
pub fn run(args: &cli::Up) -> Result<()> {
    machine::need_root()?;
    let detached = std::env::var_os(DETACHED).is_some();
    kubeconfig::check(args.serving.kubeconfig.as_deref())?;
    if args.detach && !detached {
        return detach(&args.serving.place.data_dir);
    }
    logging::start();
    let name = args.node.node_name.clone().map_or_else(machine::name, Ok)?;
    let ip = args.node.node_ip.map_or_else(machine::address, Ok)?;
    let data_dir = &args.serving.place.data_dir;
    let _instance = instance::acquire(data_dir)?;
    let server = server_parts(data_dir, &args.serving.peers, args.serving.listen)?;
    let wanted = agent::wanted(&args.node, &name, ip, server);
    agent::prepare(&wanted, args.node.yes)?;
    runtime()?.block_on(serve(args, &name, ip, detached))
}

/// Where a server listens.
fn server_parts(data_dir: &Path, peers: &PeerArgs, api: SocketAddr) -> Result<Vec<(SocketAddr, Part)>> {
    let members = peers::listens(data_dir, peers, api)?.map(|address| (address, Part::Members));
    Ok([(api, Part::ApiServer)].into_iter().chain(members).collect())
}

async fn serve(args: &cli::Up, name: &str, ip: IpAddr, detached: bool) -> Result<()> {
    let report = Report::new();
    let mut plane_tasks = Tasks::default();
    let mut node_tasks = Tasks::default();
    let data_dir = &args.serving.place.data_dir;
    let settings = Settings {
        data_dir,
        listen: args.serving.listen,
        node_name: name,
        node_ip: ip,
        agent: Some(SocketAddr::new(ip, args.node.agent_port)),
        bare: false,
        peers: &args.serving.peers,
        audit: control_plane::audit(&args.serving)?,
        authentication: control_plane::authentication(&args.serving)?,
        front_proxy: control_plane::front_proxy(&args.serving.front_proxy)?,
        evictions: control_plane::evictions(&args.serving.node_lifecycle),
    };
    let plane = tokio::select! {
        plane = control_plane::start(&settings, &mut plane_tasks, &report) => plane?,
        requested = stop_requested() => return requested.and_then(|()| bail!("stopped while starting")),
    };
    let credentials = agent::Credentials {
        serving: agent::serving(&plane.pki.node_serving)?,
        client_ca_pem: &plane.pki.ca_pem,
    };
    let clients = agent::Clients {
        node: plane.client(&format!("system:node:{name}"), &["system:nodes"]),
        services: Some(plane.account("service-controller")),
        addons: Some(plane.client("kubernetes-admin", &["system:masters"])),
        supervisor: plane.api.supervisor().clone(),
    };
    let config = agent::config(data_dir, &args.node, name, ip, clients, &credentials);
    let started = tokio::select! {
        started = agent::start(config.clone(), &mut node_tasks, &report) => started,
        error = plane_tasks.failed() => Err(error),
        requested = stop_requested() => requested.and_then(|()| bail!("stopped while starting")),
    };
    // Only a cluster that is ready may become the one that `ctl` talks to.
    let installed = started.and_then(|()| {
        let text = kubeconfig::render(&plane.url, &plane.pki.ca_pem, &plane.pki.admin);
        kubeconfig::install(args.serving.kubeconfig.as_deref(), &text, data_dir)
    });
    let result = match installed {
        Ok(file) => {
            welcome(&report, &plane.url, &file, data_dir);
            if detached {
                leave_terminal()?;
            }
            tokio::select! {
                requested = stop_requested() => requested,
                error = plane_tasks.failed() => Err(error),
                error = node_tasks.failed() => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    if result.is_ok() {
        line("Stopping: pods, then the node, then the control plane");
    }
    node_tasks.stop().await;
    // Pods stop with the cluster; after a crash they go on and are adopted again.
    let stopped = if result.is_ok() {
        coxswain_node_agent::stop_everything(&config).await
    } else {
        Ok(())
    };
    plane_tasks.stop().await;
    plane.store.shutdown().await;
    stopped?;
    result
}

fn welcome(report: &Report, url: &str, kubeconfig: &kubeconfig::Installed, data_dir: &Path) {
    line(&format!("{READY} in {} ms: {url}", report.elapsed().as_millis()));
    line("");
    let file = kubeconfig.path.display();
    let hint = match &kubeconfig.note {
        None => format!("ctl uses it by itself; for others: export KUBECONFIG={file}"),
        Some(note) => format!("{note}; for this one: export KUBECONFIG={file}"),
    };
    line(&format!("  kubeconfig: {file}  ({hint})"));
    line("  try it:     ctl apply -f manifests/sample/");
    if data_dir == Path::new(cli::DATA_DIR) {
        line("  stop it:    coxswain down");
    } else {
        line(&format!(
            "  stop it:    coxswain down --data-dir {}",
            data_dir.display()
        ));
    }
}

/// The background process lets go of the terminal it reported to.
fn leave_terminal() -> Result<()> {
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null).context("leave the terminal")?;
    Ok(())
}

/// Starts this program again in a session of its own and waits until it is ready.
fn detach(data_dir: &Path) -> Result<()> {
    instance::create(data_dir)?;
    let log_dir = data_dir.join("log");
    std::fs::create_dir_all(&log_dir).with_context(|| format!("create {}", log_dir.display()))?;
    let log_path = log_dir.join("coxswain.log");
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("open {}", log_path.display()))?;
    let log_start = log.metadata()?.len();
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("start the background process")?;
    let stdout = child.stdout.take().context("the background process has no output")?;
    let mut ready = false;
    for text in BufReader::new(stdout).lines() {
        let text = text?;
        ready |= text.starts_with(READY);
        line(&text);
    }
    if ready {
        return Ok(());
    }
    let status = child.wait()?;
    let logged = std::fs::read(&log_path)?;
    let since = logged.get(usize::try_from(log_start)?..).unwrap_or_default();
    let text = String::from_utf8_lossy(since).into_owned();
    let last = text.lines().rev().find_map(|l| l.strip_prefix("error: "));
    match last {
        Some(error) => bail!("{error}"),
        None => bail!(
            "the cluster ended while starting ({status}); its log is {}",
            log_path.display()
        ),
    }
}

/// `coxswain doctor`: what `up` would find, without starting anything. A cluster that runs already is no obstacle.
///
/// # Errors
/// Everything that is missing.
pub fn doctor(args: &cli::Doctor) -> Result<()> {
    let node = cli::Node::default();
    let holder = instance::holder(&args.place.data_dir)?;
    let name = machine::name()?;
    // A running cluster may have been given an address that this machine would not choose by itself.
    let ip = machine::address().or_else(|e| holder.map(|_| Ipv4Addr::LOCALHOST.into()).ok_or(e))?;
    let listen = SocketAddr::from(([0, 0, 0, 0], 6443));
    let server = server_parts(&args.place.data_dir, &PeerArgs::default(), listen)?;
    let facts = preflight::gather(&agent::wanted(&node, &name, ip, server));
    let mut findings = preflight::check(&facts);
    let is_cluster = |l: &&Listener| {
        l.name == env!("CARGO_PKG_NAME") || holder.is_some_and(|pid| u32::try_from(pid.as_raw()) == Ok(l.pid))
    };
    let other = findings
        .iter()
        .find_map(|f| f.listener().filter(is_cluster).map(|l| l.pid));
    findings.retain(|f| f.listener().filter(is_cluster).is_none());
    match (holder, other) {
        (Some(pid), _) => line(&format!(
            "A cluster runs on {} (process {pid}).",
            args.place.data_dir.display()
        )),
        (None, Some(pid)) => line(&format!("A cluster runs on this machine (process {pid}).")),
        (None, None) => {}
    }
    agent::refuse(&findings)?;
    if holder.is_none() && other.is_none() {
        line("This machine can run a cluster.");
    }
    Ok(())
}
