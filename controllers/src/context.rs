//! What every controller gets: configuration, client, shared caches, event recorder.

use std::time::Duration;

use coxswain_client::{Caches, Client, Recorder};
use tokio_util::sync::CancellationToken;

/// How long an executor waits for the caches to show its own writes.
pub(crate) const CATCH_UP: Duration = Duration::from_secs(5);

/// The field manager and event source of the controllers' writes, as in Kubernetes.
pub(crate) const MANAGER: &str = "kube-controller-manager";

/// Settings of the controllers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Published as `kube-root-ca.crt` in every namespace. Nothing is published when empty.
    pub root_ca_pem: String,
    /// Pod addresses of the whole cluster, for example `10.244.0.0/16`; empty: none are given out.
    pub cluster_cidr: String,
    /// Size of each node's part of it, as a prefix length.
    pub node_cidr_bits: u8,
    /// A node that has not renewed its Lease for so long counts as unreachable, in seconds.
    pub node_grace_s: u64,
    /// Finished pods that are kept in the whole cluster.
    pub finished_pods_max: usize,
    /// Parallel workers of each busy controller.
    pub workers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            root_ca_pem: String::new(),
            cluster_cidr: String::new(),
            node_cidr_bits: 24,
            node_grace_s: 50,
            finished_pods_max: 12_500,
            workers: 5,
        }
    }
}

/// Shared by all controllers of one run.
#[derive(Clone)]
pub(crate) struct Context {
    pub config: Config,
    pub client: Client,
    pub caches: Caches,
    pub recorder: Recorder,
    pub token: CancellationToken,
}
