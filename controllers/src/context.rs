//! What every controller gets: configuration, client, shared caches, event recorder.

use std::sync::Arc;
use std::time::Duration;

use coxswain_client::{Caches, Client, Recorder};
use tokio_util::sync::CancellationToken;

use crate::node::EvictionLimits;

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
    /// How fast pods are moved away from nodes that stopped reporting.
    pub evictions: EvictionLimits,
    /// Finished pods that are kept in the whole cluster.
    pub finished_pods_max: usize,
    /// Parallel workers of each busy controller.
    pub workers: usize,
    /// What certificates are signed with; none are signed without it.
    pub signer: Option<Authority>,
}

/// A certificate authority, both PEM.
#[derive(Clone)]
pub struct Authority {
    /// Its certificate.
    pub cert_pem: String,
    /// Its private key (P-256).
    pub key_pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            root_ca_pem: String::new(),
            cluster_cidr: String::new(),
            node_cidr_bits: 24,
            node_grace_s: 50,
            evictions: EvictionLimits::default(),
            finished_pods_max: 12_500,
            workers: 5,
            signer: None,
        }
    }
}

/// Whom the controllers act as: each has a service account of its own in `kube-system`, with only the rights
/// it needs; what they share (caches, events) is the controller manager's.
#[derive(Clone)]
pub struct Clients {
    /// `system:kube-controller-manager`.
    pub manager: Client,
    /// A client of the service account with the given name in `kube-system`.
    pub account: Arc<dyn Fn(&str) -> Client + Send + Sync>,
}

/// The service account of the controller that reports events as `component`.
pub(crate) fn account_of(component: &str) -> &str {
    match component {
        "serviceaccount-controller" => "service-account-controller",
        "endpoint-slice-controller" => "endpointslice-controller",
        "garbage-collector-controller" => "generic-garbage-collector",
        "controllermanager" => "disruption-controller",
        "daemonset-controller" => "daemon-set-controller",
        "endpoint-slice-mirroring-controller" => "endpointslicemirroring-controller",
        other => other,
    }
}

/// Shared by all controllers of one run.
#[derive(Clone)]
pub(crate) struct Context {
    pub config: Config,
    /// The controller's own identity.
    pub client: Client,
    pub clients: Clients,
    pub caches: Caches,
    pub recorder: Recorder,
    pub token: CancellationToken,
}

impl Context {
    /// The same for another controller: its name in events, its service account.
    pub fn named(&self, component: &str) -> Context {
        Context {
            recorder: self.recorder.named(component),
            client: self.account(account_of(component)),
            ..self.clone()
        }
    }

    /// A client of another service account, for a controller that does the work of two.
    pub fn account(&self, name: &str) -> Client {
        (self.clients.account)(name)
    }
}
