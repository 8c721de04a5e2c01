//! What the command line says about members.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

use crate::cli::Place;

/// How a server takes part in a cluster of several.
#[derive(Args, Clone, Default)]
pub struct PeerArgs {
    /// Address and port for the other servers of the cluster [default: one port above the API server's]
    #[arg(long, value_name = "ADDR:PORT")]
    pub peer_listen: Option<SocketAddr>,
    /// Become a server of the cluster that has a server here (its address for other servers)
    #[arg(long, value_name = "ADDR:PORT", requires = "token")]
    pub join: Option<String>,
    /// What `coxswain members token` prints on a server of the cluster: good for one server, for a day
    #[arg(long, value_name = "TOKEN", env = "COXSWAIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Name of this server among its peers; one of the same name is replaced [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub member_name: Option<String>,
    /// Start although the end of the log is damaged, without the writes that were in it: the server's message says
    /// after which revision. Only for a cluster of one server; one of several gets everything back from the others
    #[arg(long)]
    pub accept_log_damage: bool,
}

/// Shows the servers of the cluster and how they stand.
#[derive(Args)]
pub struct Members {
    #[command(flatten)]
    pub place: Place,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Print a new token with which one other server can join, within a day
    Token,
    /// Remove a server from the cluster
    Remove {
        /// Its number
        id: u64,
    },
}
