//! The node: the agent with everything a pod needs on this machine.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use coxswain_client::k8s_openapi::api::core::v1::Node;
use coxswain_client::{Cache, Client, Scope};
use coxswain_node_agent::{Config, ServingIdentity, Step};
use coxswain_supervise::Supervisor;
use tokio::sync::mpsc;

use crate::pki::{self, Identity};
use crate::preflight::{Finding, Part, Wanted};
use crate::report::{Report, line};
use crate::tasks::{Tasks, runtime, stop_requested};
use crate::{cli, defaults, instance, join, logging, machine, preflight, secrets};

/// A node that is not Ready by then has a problem that its conditions tell.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What the agent serves with, and whom it lets in.
pub struct Credentials<'a> {
    pub serving: ServingIdentity,
    pub client_ca_pem: &'a str,
}

/// Whom the agent acts as.
pub struct Clients {
    /// The node itself.
    pub node: Client,
    /// The service controller, on the node whose address LoadBalancer Services get.
    pub services: Option<Client>,
    /// The administrator, on the node that keeps add-on objects.
    pub addons: Option<Client>,
    /// Whom the agent's tasks are kept by.
    pub supervisor: Supervisor,
}

/// The agent's configuration from the command line.
#[must_use]
pub fn config(
    data_dir: &Path,
    node: &cli::Node,
    name: &str,
    ip: IpAddr,
    clients: Clients,
    credentials: &Credentials<'_>,
) -> Config {
    Config {
        node_name: name.to_owned(),
        node_ip: ip,
        data_dir: data_dir.to_owned(),
        client: clients.node,
        balancer: clients.services,
        addons: clients.addons,
        listen: SocketAddr::new(ip, node.agent_port),
        serving: credentials.serving.clone(),
        client_ca_pem: credentials.client_ca_pem.to_owned(),
        cluster_dns: defaults::DNS_IP,
        cluster_domain: defaults::DOMAIN.to_owned(),
        service_cidr: format!("{}/{}", defaults::SERVICE_CIDR.0, defaults::SERVICE_CIDR.1),
        pod_cidr: defaults::POD_CIDR.to_owned(),
        cluster_cidr: defaults::CLUSTER_CIDR.to_owned(),
        containerd_socket: node.containerd_socket.clone(),
        max_pods: node.max_pods,
        zone: Some(node.zone.clone()).filter(|z| !z.is_empty()),
        supervisor: clients.supervisor,
    }
}

/// The certificate of the node's server, ready to be shown.
///
/// # Errors
/// When it cannot be used.
pub fn serving(identity: &Identity) -> Result<ServingIdentity> {
    let serving = ServingIdentity::default();
    serving
        .set(&identity.cert_pem, &identity.key_pem)
        .map_err(|error| anyhow::anyhow!("the node's {error}"))?;
    Ok(serving)
}

/// Starts the agent in `tasks`, reports its steps, and returns when the node is Ready.
///
/// # Errors
/// When the agent fails, or the node does not become Ready in a minute (with the node's own reason).
pub async fn start(config: Config, tasks: &mut Tasks, report: &Report) -> Result<()> {
    provide_sample(&config.data_dir)?;
    let (sender, mut steps) = mpsc::channel::<Step>(32);
    let nodes = Cache::<Node>::spawn(
        &config.client,
        Scope::fields(&format!("metadata.name={}", config.node_name)),
        tasks.token.clone(),
    );
    let name = config.node_name.clone();
    let token = tasks.token.clone();
    tasks.spawn("node agent", coxswain_node_agent::run(config, sender, token));
    // What an earlier run reported about the node says nothing about this one.
    let begin_s = jiff::Timestamp::now().as_second();
    let is_fresh = move |n: &Node| {
        let conditions = n.status.as_ref().and_then(|s| s.conditions.as_deref());
        let ready = conditions.unwrap_or_default().iter().find(|c| c.type_ == "Ready");
        ready
            .and_then(|c| c.last_heartbeat_time.as_ref())
            .is_some_and(|at| at.0.as_second() >= begin_s)
    };
    let ready = nodes.until(READY_WITHIN, move |c| {
        c.list().iter().any(|n| is_fresh(n) && ready_condition(n) == Ok(()))
    });
    tokio::pin!(ready);
    loop {
        tokio::select! {
            Some(step) = steps.recv() => report.step(step.name, &step.detail),
            error = tasks.failed() => return Err(error),
            is_ready = &mut ready => {
                if is_ready {
                    report.step("node", &format!("{name} is Ready"));
                    return Ok(());
                }
                let why = nodes.list().first().map_or(Err("it did not register".to_owned()), |n| ready_condition(n));
                why.map_err(|reason| anyhow::anyhow!("node {name} did not become Ready within {} s: {reason}", READY_WITHIN.as_secs()))?;
            }
        }
    }
}

/// Puts the sample's image where the agent imports images from, unless it is there already.
fn provide_sample(data_dir: &Path) -> Result<()> {
    let archive = coxswain_sample::archive().context("building the sample image")?;
    let dir = data_dir.join("images");
    let path = dir.join("coxswain-sample.tar");
    if std::fs::read(&path).is_ok_and(|old| old == archive) {
        return Ok(());
    }
    let temporary = dir.join(".coxswain-sample.tar.new");
    let write = || {
        std::fs::create_dir_all(&dir)?;
        std::fs::write(&temporary, &archive)?;
        std::fs::rename(&temporary, &path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

fn ready_condition(node: &Node) -> Result<(), String> {
    let conditions = node
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    match conditions.iter().find(|c| c.type_ == "Ready") {
        Some(c) if c.status == "True" => Ok(()),
        Some(c) => Err(c.message.clone().unwrap_or_else(|| "no reason given".to_owned())),
        None => Err("it has not reported its condition".to_owned()),
    }
}

/// What a node wants of this machine, and a server that runs here too.
#[must_use]
pub fn wanted<'a>(node: &'a cli::Node, name: &'a str, ip: IpAddr, server: Vec<(SocketAddr, Part)>) -> Wanted<'a> {
    let mut addresses = server;
    addresses.push((SocketAddr::new(ip, node.agent_port), Part::NodeAgent));
    addresses.push((SocketAddr::from((defaults::DNS_IP, 53)), Part::ClusterDns));
    Wanted {
        node_name: name,
        addresses,
        containerd_socket: node.containerd_socket.as_deref(),
    }
}

/// Checks the machine; with `--yes` installs what it lacks.
///
/// # Errors
/// Everything that is missing, a line each.
pub fn prepare(wanted: &Wanted<'_>, may_install: bool) -> Result<()> {
    let mut facts = preflight::gather(wanted);
    if may_install {
        preflight::install(&facts)?;
        facts = preflight::gather(wanted);
    }
    refuse(&preflight::check(&facts))
}

/// Makes an error of what keeps a cluster from running here, if anything.
///
/// # Errors
/// The one finding, or their number after a line each.
pub fn refuse(findings: &[Finding]) -> Result<()> {
    match findings {
        [] => Ok(()),
        [only] => Err(anyhow::anyhow!("{only}")),
        several => {
            for finding in several {
                line(&format!("  - {finding}"));
            }
            Err(anyhow::anyhow!(
                "{} things keep this machine from running a cluster",
                several.len()
            ))
        }
    }
}

/// `coxswain agent`: this machine as a node of a control plane elsewhere.
///
/// # Errors
/// Whatever keeps the node from starting, or the first part that fails.
pub fn run(args: &cli::Agent) -> Result<()> {
    machine::need_root()?;
    logging::start();
    let name = args.node.node_name.clone().map_or_else(machine::name, Ok)?;
    let ip = args.node.node_ip.map_or_else(machine::address, Ok)?;
    prepare(&wanted(&args.node, &name, ip, Vec::new()), args.node.yes)?;
    let data_dir = &args.place.data_dir;
    let _instance = instance::acquire(data_dir)?;
    runtime()?.block_on(async {
        let report = Report::new();
        let mut tasks = Tasks::default();
        let (client, serving, client_ca_pem) = match &args.kubeconfig {
            Some(kubeconfig) => {
                secrets::check_private(kubeconfig)?;
                let client = Client::from_kubeconfig(Some(kubeconfig))
                    .await
                    .with_context(|| format!("kubeconfig {}", kubeconfig.display()))?;
                let names = pki::Names {
                    node_name: &name,
                    node_ips: &[ip],
                    service_ip: defaults::API_SERVICE_IP.into(),
                    domain: defaults::DOMAIN,
                };
                let pki = pki::ensure(&data_dir.join("pki"), &names)?;
                (client, serving(&pki.node_serving)?, pki.ca_pem)
            }
            None => {
                let joined = join::join(args, &name, ip).await?;
                report.step("joined", &joined.url);
                let parts = (joined.client.clone(), joined.serving.clone(), joined.ca_pem.clone());
                let token = tasks.token.clone();
                tasks.spawn("ties to the cluster", joined.keep(token));
                parts
            }
        };
        let credentials = Credentials {
            serving,
            client_ca_pem: &client_ca_pem,
        };
        let clients = Clients {
            node: client,
            services: None,
            addons: None,
            supervisor: Supervisor::default(),
        };
        let mut config = config(data_dir, &args.node, &name, ip, clients, &credentials);
        // The cluster decides which addresses the pods of this machine get.
        config.pod_cidr = String::new();
        start(config.clone(), &mut tasks, &report).await?;
        line(&format!("Node {name} ready in {} ms", report.elapsed().as_millis()));
        let result = tokio::select! {
            requested = stop_requested() => requested,
            error = tasks.failed() => Err(error),
        };
        tasks.stop().await;
        coxswain_node_agent::stop_everything(&config).await?;
        result
    })
}
