//! The network of one node: pod addresses, the Service proxy, cluster DNS, load balancer addresses.
//!
//! ```text
//!   pod ──veth── host routing ── nftables table `coxswain` ── pods, node, world
//!                    │                 ▲ one transaction per change
//!                    └─ cox0 (dummy): cluster DNS address, route of the Service range
//! ```
//!
//! Owns: the interface `cox0`, the CNI configuration, the nftables table `ip coxswain`, the
//! forwarding sysctls, the DNS sockets, and `status.loadBalancer` of LoadBalancer Services.
//! Every pod has its own veth pair and is routed, never bridged: all traffic between pods passes
//! the node's netfilter hooks, so neither a bridge nor `br_netfilter` nor iptables is needed.
//!
//! Guarantees: what is in the kernel follows Services, EndpointSlices and host ports of this
//! node's pods by watch; each change is one atomic transaction; a restart replaces the whole table
//! in one transaction, so there is never a moment without rules; a rule set that the kernel refuses
//! is replaced whole and reported, and one bad Service never stops the others.
//!
//! Reaches the pods of other nodes by host routes, where those nodes are neighbours.
//!
//! Does not: tunnel to nodes that are none, enforce NetworkPolicy, or speak IPv6 yet (plans carry the
//! address family; only IPv4 is started).

mod addresses;
mod balancer;
mod bootstrap;
mod cni;
mod dns;
mod endpoints;
mod links;
mod proxy;
mod routes;
#[cfg(test)]
mod tests;

use coxswain_client::supervise::Supervisor;
use coxswain_client::{Cache, Client, Scope};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the node's network needs to know before it starts.
#[derive(Clone)]
pub struct NetConfig {
    /// Connection to the API server.
    pub client: Client,
    /// Name of the Node object.
    pub node_name: String,
    /// The node's address; also the address that LoadBalancer Services get.
    pub node_ip: IpAddr,
    /// Range of this node's pods, e.g. `10.244.0.0/24`.
    pub pod_cidr: String,
    /// Range of all pods of the cluster.
    pub cluster_cidr: String,
    /// Range of ClusterIPs.
    pub service_cidr: String,
    /// Address at which pods find cluster DNS.
    pub dns_ip: Ipv4Addr,
    /// Cluster domain without a trailing dot, e.g. `cluster.local`.
    pub domain: String,
    /// Where CNI plugins may be; the first directory that has them wins.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Directory that containerd reads CNI configurations from.
    pub cni_conf_dir: PathBuf,
    /// The host's resolver configuration; names outside the cluster go to its name servers.
    pub upstream_resolv_conf: PathBuf,
    /// The pods of this node, when the caller has them already; a cache of its own otherwise.
    pub pods: Option<Cache<Pod>>,
    /// Who gives LoadBalancer Services this node's address, when this node is to do that.
    pub balancer: Option<Client>,
    /// Who keeps the `kube-system/kube-dns` Service and its EndpointSlice, when this node is to do that.
    pub addons: Option<Client>,
    /// Knows which of the network's tasks do not run.
    pub supervisor: Supervisor,
}

/// Why the network could not be set up; each says what to do where the user can do something.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A CIDR or address of the configuration cannot be used.
    #[error("{what} {value:?} cannot be used: {detail}")]
    Config {
        /// Which setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        detail: String,
    },
    /// The CNI plugins are not installed.
    #[error(
        "the CNI plugins `ptp` and `host-local` are in none of {searched}; install them with: \
         apt-get install containernetworking-plugins"
    )]
    PluginsMissing {
        /// Directories that were searched.
        searched: String,
    },
    /// The `nft` command is not installed.
    #[error("the `nft` command is missing; install it with: apt-get install nftables")]
    NftMissing,
    /// The kernel or `nft` refused a rule set.
    #[error("nftables refused the rules: {detail}")]
    Nft {
        /// The first line of what `nft` said.
        detail: String,
    },
    /// A network interface, address or route could not be made.
    #[error("{operation} failed: {detail}")]
    Link {
        /// What was tried.
        operation: String,
        /// What the kernel answered.
        detail: String,
    },
    /// A file could not be used.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
    /// Cluster DNS could not listen.
    #[error("cluster DNS cannot listen on {address}: {source}")]
    DnsListen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
}

/// The running network; dropping it leaves everything in place.
pub struct Net {
    cni_conf_dir: PathBuf,
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Net {
    /// Stops the tasks; pods keep their network, Services their last state.
    pub async fn stop(&self) {
        self.token.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Stops the tasks and removes what [`start`] made on the machine.
    pub async fn remove(&self) -> Result<(), NetError> {
        self.stop().await;
        remove(&self.cni_conf_dir).await
    }
}

/// Sets the node's network up and keeps it current until the token is cancelled.
///
/// When it returns, pods can be started: CNI configuration, forwarding, masquerading and DNS
/// sockets exist. The proxy's and DNS's first full state follows as soon as the API server has
/// answered the lists; it is not waited for.
pub async fn start(config: NetConfig, token: CancellationToken) -> Result<Net, NetError> {
    let token = token.child_token();
    let tasks = TaskTracker::new();
    let addresses = proxy::Addresses::parse(&config)?;
    let plugins = cni::find_plugins(&config.cni_bin_dirs)?;
    links::ensure(&addresses).await?;
    cni::ensure(&config.cni_conf_dir, &addresses)?;
    tracing::debug!(plugins = %plugins.display(), "CNI configuration written");

    let services: Cache<Service> = Cache::spawn(&config.client, Scope::all(), token.clone());
    let slices: Cache<EndpointSlice> = Cache::spawn(&config.client, Scope::all(), token.clone());
    let pods = config.pods.clone().unwrap_or_else(|| {
        let scope = Scope::fields(&format!("spec.nodeName={}", config.node_name));
        Cache::spawn(&config.client, scope, token.clone())
    });

    let proxy = proxy::Proxy::open(&config.node_name, addresses.clone()).await?;
    let once = |name: &'static str, task: Pin<Box<dyn Future<Output = ()> + Send>>| {
        let (supervisor, token) = (config.supervisor.clone(), token.clone());
        tasks.spawn(async move { supervisor.once(name, &token, task).await });
    };
    let task = proxy.run(services.clone(), slices.clone(), pods, token.clone());
    once("node/proxy", Box::pin(task));
    let dns = dns::Dns::open(&config, &addresses).await?;
    once(
        "node/dns",
        Box::pin(dns.run(services.clone(), slices.clone(), token.clone())),
    );
    let nodes = Cache::spawn(&config.client, Scope::all(), token.clone());
    let task = routes::run(nodes, config.node_name.clone(), token.clone());
    once("node/routes", Box::pin(task));
    if let Some(client) = config.balancer.clone() {
        let task = balancer::run(client, config.node_ip, services.clone(), token.clone());
        once("node/balancer", Box::pin(task));
    }
    if let Some(client) = config.addons.clone() {
        let task = bootstrap::run(client, addresses, services, slices, token.clone());
        once("node/cluster-dns-service", Box::pin(task));
    }
    Ok(Net {
        cni_conf_dir: config.cni_conf_dir,
        token,
        tasks,
    })
}

/// Removes what [`start`] made on this machine, whether or not a network is running: the nftables
/// table, the interface, the CNI configuration and its address reservations.
pub async fn remove(cni_conf_dir: &Path) -> Result<(), NetError> {
    cni::remove(cni_conf_dir)?;
    take_down().await
}

/// Takes away what only serves running pods, the nftables table and the interface: [`start`] makes them again.
pub async fn take_down() -> Result<(), NetError> {
    proxy::remove().await?;
    routes::remove().await;
    links::remove().await
}
