//! The command line of the daemon.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Where the cluster's data is unless told otherwise.
pub const DATA_DIR: &str = "/var/lib/coxswain";

/// A node has a network of 256 addresses for its pods, some of which are not theirs.
const MAX_PODS_MAX: i64 = 250;

/// A Kubernetes-compatible cluster in one binary.
#[derive(Parser)]
#[command(name = "coxswain", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start a whole cluster on this machine: control plane and node
    Up(Up),
    /// Stop the cluster on this machine, its pods included
    Down(Down),
    /// Run the control plane alone
    Server(Server),
    /// Run the node alone, against a control plane that is already there
    Agent(Agent),
    /// Show the servers of the cluster, let another one join, or remove one
    Members(crate::peers::Members),
    /// Take a backup of the cluster, or one after the other
    Backup(crate::backup::Backup),
    /// Make a cluster of one server from a backup, on a machine that has none
    Restore(crate::backup::Restore),
    /// Encrypt everything that the server on this machine stores with a new key
    RotateKey(crate::backup::RotateKey),
    /// Make, list and delete the tokens that machines join with
    Token(Token),
    /// Say whether this machine can run a cluster, and what it lacks
    Doctor(Doctor),
}

/// Where this machine keeps the cluster's state.
#[derive(Args, Clone)]
pub struct Place {
    /// Everything the cluster stores on this machine
    #[arg(
        long,
        value_name = "DIR",
        default_value = DATA_DIR,
        env = "COXSWAIN_DATA_DIR"
    )]
    pub data_dir: PathBuf,
}

#[derive(Args, Clone)]
pub struct Serving {
    #[command(flatten)]
    pub place: Place,
    /// Address and port of the API server
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:6443", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// Write the administrator's kubeconfig here (mode 0600)
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub peers: crate::peers::PeerArgs,
    /// Where the audit trail goes, in parts of 16 MiB; `none` keeps none [default: audit/audit.log in the data directory]
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// What the audit trail contains: a Policy of audit.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// Other issuers of tokens (OIDC): an AuthenticationConfiguration of apiserver.config.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    #[command(flatten)]
    pub front_proxy: FrontProxyArgs,
    #[command(flatten)]
    pub node_lifecycle: NodeLifecycleArgs,
}

/// What happens when nodes stop reporting, with the names of kube-controller-manager.
#[derive(Args, Clone)]
#[command(next_help_heading = "Nodes that stop reporting")]
pub struct NodeLifecycleArgs {
    /// Part of a zone's nodes (0 to 1) that must be not ready for the zone to count as disrupted
    #[arg(long, value_name = "PART", default_value = "0.55", value_parser = part)]
    pub unhealthy_zone_threshold: f64,
    /// Nodes per second whose pods are moved away in a zone that is healthy
    #[arg(long, value_name = "RATE", default_value = "0.1", value_parser = nodes_per_second)]
    pub node_eviction_rate: f64,
    /// The same in a disrupted zone; 0 in one of at most --large-cluster-size-threshold nodes
    #[arg(long, value_name = "RATE", default_value = "0.01", value_parser = nodes_per_second)]
    pub secondary_node_eviction_rate: f64,
    /// A disrupted zone of at most so many nodes evicts nothing
    #[arg(long, value_name = "NODES", default_value_t = 50)]
    pub large_cluster_size_threshold: u32,
}

/// A proxy in front of the API server that names users in headers.
#[derive(Args, Clone)]
#[command(next_help_heading = "Front proxy")]
pub struct FrontProxyArgs {
    /// Believe the headers of whoever has a certificate of this authority (PEM), which signs for nobody else
    #[arg(long = "requestheader-client-ca-file", value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Common names that its certificate may have [default: any]
    #[arg(long = "requestheader-allowed-names", value_name = "NAMES", value_delimiter = ',')]
    pub allowed_names: Vec<String>,
    /// Headers that name the user, the first with a value counts
    #[arg(
        long = "requestheader-username-headers",
        value_name = "HEADERS",
        value_delimiter = ',',
        default_value = "X-Remote-User"
    )]
    pub username_headers: Vec<String>,
    /// Headers with the user's uid, the first with a value counts
    #[arg(
        long = "requestheader-uid-headers",
        value_name = "HEADERS",
        value_delimiter = ',',
        default_value = "X-Remote-Uid"
    )]
    pub uid_headers: Vec<String>,
    /// Headers with the user's groups
    #[arg(
        long = "requestheader-group-headers",
        value_name = "HEADERS",
        value_delimiter = ',',
        default_value = "X-Remote-Group"
    )]
    pub group_headers: Vec<String>,
    /// What the names of headers with extra attributes begin with
    #[arg(
        long = "requestheader-extra-headers-prefix",
        value_name = "PREFIXES",
        value_delimiter = ',',
        default_value = "X-Remote-Extra-"
    )]
    pub extra_header_prefixes: Vec<String>,
}

#[derive(Args, Clone)]
pub struct Node {
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address other machines reach this one at [default: the address of the default route]
    #[arg(long, value_name = "ADDR")]
    pub node_ip: Option<IpAddr>,
    /// Port of the node agent's HTTPS server
    #[arg(long, value_name = "PORT", default_value_t = 10250, value_parser = clap::value_parser!(u16).range(1..))]
    pub agent_port: u16,
    /// Use this containerd instead of starting an own one
    #[arg(long, value_name = "SOCKET")]
    pub containerd_socket: Option<PathBuf>,
    /// Most pods this node takes [default: 20 for each core, 110 at most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_PODS_MAX))]
    pub max_pods: Option<u32>,
    /// Zone of this node, its `topology.kubernetes.io/zone` label: manifests that spread over zones need one
    #[arg(long, value_name = "ZONE", default_value = "local")]
    pub zone: String,
    /// Install missing packages with the system's package manager, without asking
    #[arg(long)]
    pub yes: bool,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            node_name: None,
            node_ip: None,
            agent_port: 10250,
            containerd_socket: None,
            max_pods: None,
            zone: "local".to_owned(),
            yes: false,
        }
    }
}

#[derive(Args, Clone)]
pub struct Up {
    #[command(flatten)]
    pub serving: Serving,
    #[command(flatten)]
    pub node: Node,
    /// Return as soon as the cluster is ready and leave it running in the background
    #[arg(long)]
    pub detach: bool,
}

#[derive(Args)]
pub struct Down {
    #[command(flatten)]
    pub place: Place,
    /// Remove all data as well
    #[arg(long)]
    pub purge: bool,
}

#[derive(Args, Clone)]
pub struct Server {
    #[command(flatten)]
    pub serving: Serving,
    /// Leave out add-on objects: a freshly started control plane without nodes
    #[arg(long)]
    pub bare: bool,
}

#[derive(Args, Clone)]
pub struct Agent {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub node: Node,
    /// How to reach the control plane, for a node that has its credentials already
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    pub kubeconfig: Option<PathBuf>,
    /// Join the cluster whose API server is here; only needed the first time
    #[arg(long, value_name = "ADDR:PORT", requires = "token")]
    pub join: Option<String>,
    /// The token to join with, as `coxswain token create` prints it
    #[arg(
        long,
        value_name = "TOKEN",
        requires = "join",
        env = "COXSWAIN_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// Hash of the cluster's authority, when the token does not carry it
    #[arg(long, value_name = "sha256:HEX", requires = "token")]
    pub ca_hash: Option<String>,
}

#[derive(Args)]
pub struct Token {
    #[command(subcommand)]
    pub command: TokenCommand,
    /// The administrator's kubeconfig
    #[arg(long, value_name = "FILE", global = true, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token and print the command that joins a machine with it
    Create {
        /// Hours that it is good for; 0: until it is deleted
        #[arg(long, value_name = "N", default_value_t = 24)]
        hours: u32,
        /// A few words to recognise it by
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// Show the tokens there are
    List,
    /// Delete a token
    Delete {
        /// The token, or the part before its dot
        #[arg(value_name = "TOKEN")]
        token: String,
    },
}

#[derive(Args)]
pub struct Doctor {
    #[command(flatten)]
    pub place: Place,
}

fn part(text: &str) -> Result<f64, &'static str> {
    let number = text.parse().ok().filter(|part: &f64| (0.0..=1.0).contains(part));
    number.ok_or("give a number from 0 to 1, for example 0.55")
}

fn nodes_per_second(text: &str) -> Result<f64, &'static str> {
    let number = text.parse().ok();
    let number = number.filter(|rate: &f64| rate.is_finite() && (0.0..=1000.0).contains(rate));
    number.ok_or("give a number of nodes per second from 0 to 1000, for example 0.1")
}

fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    let address = text.parse().ok().filter(|a: &SocketAddr| a.port() != 0);
    address.ok_or("give an address and a port, for example 0.0.0.0:6443, 127.0.0.1:7443 or [::]:6443")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_refused() {
        let cases: [(&[&str], Option<&str>); 13] = [
            (&["--listen", "127.0.0.1:7443"], None),
            (&["--listen", "[::]:6443"], None),
            (
                &["--listen", "6443"],
                Some("give an address and a port, for example 0.0.0.0:6443"),
            ),
            (&["--listen", "127.0.0.1:0"], Some("give an address and a port")),
            (&["--listen", "localhost:6443"], Some("give an address and a port")),
            (&["--max-pods", "250"], None),
            (&["--max-pods", "0"], Some("0 is not in 1..=250")),
            (&["--agent-port", "0"], Some("0 is not in 1..=65535")),
            (&["--agent-port", "10251"], None),
            (
                &["--unhealthy-zone-threshold", "1.5"],
                Some("give a number from 0 to 1"),
            ),
            (
                &["--node-eviction-rate", "NaN"],
                Some("give a number of nodes per second"),
            ),
            (
                &["--secondary-node-eviction-rate=-1"],
                Some("give a number of nodes per second"),
            ),
            (
                &["--large-cluster-size-threshold", "10", "--node-eviction-rate", "0"],
                None,
            ),
        ];
        for (flags, want) in cases {
            let parsed = Cli::try_parse_from(["coxswain", "up"].iter().chain(flags));
            let text = parsed.err().map(|e| e.to_string());
            assert_eq!(text.is_some(), want.is_some(), "{flags:?}: {text:?}");
            assert!(text.unwrap_or_default().contains(want.unwrap_or_default()), "{flags:?}");
        }
    }
}
