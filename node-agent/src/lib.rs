//! The node agent: turns the pods bound to this node into real containers and reports what happened.
//!
//! It watches pods by `spec.nodeName`, runs one worker per pod over containerd's CRI, keeps the Node
//! object and its Lease alive, and serves the kubelet-style HTTPS endpoints that the API server
//! proxies logs, exec, attach and port-forward to. It starts and supervises its own containerd unless
//! it is given a socket.
//!
//! It guarantees that containers outlive the agent (they are re-adopted by their labels), that every
//! failure reaches the pod as a status reason or an event, and that it never deletes what it does not
//! own. It reaches the cluster only through `coxswain-client` and never sees the store.

pub mod containerd;
mod cri;
pub mod image;
mod logs;
pub mod net;
pub mod node;
pub mod pods;
pub mod runtime;
mod server;
pub mod volumes;
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use coxswain_client::Client;
use coxswain_client::supervise::Supervisor;
pub use server::tls::{API_SERVER_GROUP, API_SERVER_NAME, ServingIdentity, is_api_server};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Everything the agent needs to know before it starts.
#[derive(Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// The address other nodes and the API server reach this node by.
    pub node_ip: IpAddr,
    /// Root of all persistent files; the agent uses `agent/`, `containerd/` and `images/` below it.
    pub data_dir: PathBuf,
    /// Connection to the API server as `system:node:NAME`.
    pub client: Client,
    /// Who gives LoadBalancer Services this node's address; without it they stay pending.
    pub balancer: Option<Client>,
    /// Who keeps the `kube-system/kube-dns` Service; without it nobody does.
    pub addons: Option<Client>,
    /// Where the kubelet-style HTTPS server listens, usually port 10250.
    pub listen: SocketAddr,
    /// The certificate of that server.
    pub serving: ServingIdentity,
    /// Client certificates of this authority are let in, nobody else.
    pub client_ca_pem: String,
    /// The cluster DNS address that pods are given.
    pub cluster_dns: Ipv4Addr,
    /// The cluster's DNS domain, `cluster.local`.
    pub cluster_domain: String,
    /// The range Services take their addresses from.
    pub service_cidr: String,
    /// The range this node's pods take their addresses from; empty: the one the cluster assigns.
    pub pod_cidr: String,
    /// The range of all nodes' pods.
    pub cluster_cidr: String,
    /// Use this containerd instead of starting one.
    pub containerd_socket: Option<PathBuf>,
    /// Most pods the node accepts; 20 for each core when absent.
    pub max_pods: Option<u32>,
    /// Value of the `topology.kubernetes.io/zone` label.
    pub zone: Option<String>,
    /// Restarts the node's tasks when they panic, and knows which do not run.
    pub supervisor: Supervisor,
}

/// One line of start-up progress: a part of the node became ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What became ready, as a few words.
    pub name: &'static str,
    /// Facts worth printing beside it.
    pub detail: String,
}

/// Why the agent could not start or had to stop; one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// containerd could not be started or reached.
    #[error("containerd: {0}")]
    Containerd(String),
    /// The pod network could not be set up.
    #[error("pod network: {0}")]
    Network(String),
    /// The kubelet-style server could not listen.
    #[error("node server: {0}")]
    Server(String),
    /// The node object could not be registered.
    #[error("node registration: {0}")]
    Node(String),
    /// A file or directory of the agent could not be used.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: std::io::Error,
    },
    /// A task that must run for ever ended.
    #[error("the {0} task ended unexpectedly")]
    TaskEnded(&'static str),
}

/// What a node left on a machine, for stopping or removing it without running it.
#[derive(Clone, Debug)]
pub struct Remains {
    /// Root of the node's files.
    pub data_dir: PathBuf,
    /// Name of the Node object.
    pub node_name: String,
}

impl From<&Config> for Remains {
    fn from(config: &Config) -> Remains {
        Remains {
            data_dir: config.data_dir.clone(),
            node_name: config.node_name.clone(),
        }
    }
}

impl From<&Remains> for Remains {
    fn from(remains: &Remains) -> Remains {
        remains.clone()
    }
}

/// Runs the node until the token is cancelled; containers keep running when it returns.
pub async fn run(config: Config, progress: mpsc::Sender<Step>, token: CancellationToken) -> Result<(), AgentError> {
    // Boxed, so that the agent is compiled in this crate and not again in every caller.
    let run: futures::future::BoxFuture<'_, _> = Box::pin(wire::run(config, progress, token));
    run.await
}

/// Whether containers, or the containerd of this data directory, run: also when no agent does.
pub fn is_left_running(data_dir: &std::path::Path) -> bool {
    wire::is_left_running(data_dir)
}

/// Stops every pod of this node and the containerd that the agent started; the next `run` starts the
/// pods that are still bound to the node again. For a clean `down`.
pub async fn stop_everything(of: impl Into<Remains>) -> Result<(), AgentError> {
    wire::stop_everything(&of.into()).await
}

/// Stops everything and removes all that the agent made on the machine: pods, sandboxes, mounts,
/// cgroups, network namespaces, nftables tables, the interface. For `down --purge`.
pub async fn remove_everything(of: impl Into<Remains>) -> Result<(), AgentError> {
    wire::remove_everything(&of.into()).await
}
