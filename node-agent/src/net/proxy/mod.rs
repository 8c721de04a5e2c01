//! The Service proxy: ClusterIP, NodePort, LoadBalancer and external addresses, and the host ports
//! of this node's pods, in one nftables table.
//!
//! Watches Services, EndpointSlices and this node's pods. `plan` decides what one of them needs,
//! `ruleset` merges that and gives the difference as one transaction, `nft` applies it,
//! `conntrack` ends UDP flows to endpoints that went away. What came in while a transaction ran
//! goes into the next one, so a burst of changes costs a few transactions.
//!
//! When the kernel refuses a transaction the whole table is replaced; when it refuses that too the
//! failure is reported and tried again with growing pauses, or at the next change.

mod conntrack;
mod nft;
mod plan;
mod ruleset;
#[cfg(test)]
mod tests;

use super::NetError;
pub use super::addresses::Addresses;
use super::endpoints::Slices;
use coxswain_client::Cache;
use coxswain_client::supervise::catch_now;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use ruleset::{Owner, Ruleset};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
#[cfg(test)]
pub use tests::{apply, rules_of_one_service};
use tokio_util::sync::CancellationToken;

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The proxy of this node.
pub struct Proxy {
    node_name: String,
    addresses: Addresses,
    rules: Ruleset,
    slices: Slices,
    /// The kernel may hold something else than `rules`: replace everything.
    stale: bool,
}

impl Proxy {
    /// Makes sure that the table exists. What an earlier run left serves until the first full state
    /// is known and then replaced in one transaction.
    pub async fn open(node_name: &str, addresses: Addresses) -> Result<Proxy, NetError> {
        let rules = Ruleset::default();
        if !nft::exists().await? {
            nft::apply(&rules.full(&addresses)).await?;
        }
        let node_name = node_name.to_owned();
        Ok(Proxy {
            node_name,
            addresses,
            rules,
            slices: Slices::default(),
            stale: true,
        })
    }

    /// Follows the caches until the token is cancelled.
    pub async fn run(
        mut self,
        services: Cache<Service>,
        slices: Cache<EndpointSlice>,
        pods: Cache<Pod>,
        token: CancellationToken,
    ) {
        let synced = async {
            services.synced().await;
            slices.synced().await;
            pods.synced().await;
        };
        if token.run_until_cancelled(synced).await.is_none() {
            return;
        }
        let mut service_changes = services.changes();
        let mut slice_changes = slices.changes();
        let mut pod_changes = pods.changes();
        let mut dirty: BTreeSet<Owner> = BTreeSet::new();
        let mut retry: Option<Duration> = None;
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = pause(retry), if retry.is_some() => {}
                Some(change) = service_changes.recv() => { dirty.insert(Owner::Service(change.key)); }
                Some(change) = pod_changes.recv() => { dirty.insert(Owner::Pod(change.key)); }
                Some(change) = slice_changes.recv() => {
                    dirty.extend(self.slices.change(change).into_iter().map(Owner::Service));
                }
                else => return,
            }
            while let Some(change) = service_changes.try_recv() {
                dirty.insert(Owner::Service(change.key));
            }
            while let Some(change) = pod_changes.try_recv() {
                dirty.insert(Owner::Pod(change.key));
            }
            while let Some(change) = slice_changes.try_recv() {
                dirty.extend(self.slices.change(change).into_iter().map(Owner::Service));
            }
            let dirty = std::mem::take(&mut dirty);
            let fragments = dirty.into_iter().map(|owner| {
                // A Service or pod whose rules cannot be made has none; the others keep theirs.
                let fragment = catch_now("node/proxy", &owner, || self.plan(&owner, &services, &pods));
                (owner, fragment.unwrap_or_default())
            });
            let fragments: BTreeMap<_, _> = fragments.collect();
            retry = match self.step(fragments).await {
                Ok(()) => None,
                Err(error) => {
                    tracing::error!(%error, "Service rules could not be applied; trying again");
                    Some(retry.map_or(RETRY_FIRST, |last| last.saturating_mul(2).min(RETRY_MAX)))
                }
            };
        }
    }

    fn plan(&self, owner: &Owner, services: &Cache<Service>, pods: &Cache<Pod>) -> plan::Fragment {
        match owner {
            Owner::Service(key) => services
                .by_key(key)
                .map(|service| plan::service(&service, &self.slices.of(key), &self.node_name, &self.addresses)),
            Owner::Pod(key) => pods.by_key(key).map(|pod| plan::host_ports(&pod)),
        }
        .unwrap_or_default()
    }

    async fn step(&mut self, fragments: BTreeMap<Owner, plan::Fragment>) -> Result<(), NetError> {
        let change = self.rules.replace(fragments);
        if !self.stale
            && let Err(error) = nft::apply(&change.script).await
        {
            tracing::warn!(%error, "a change of the Service rules was refused; replacing all of them");
            self.stale = true;
        }
        if self.stale {
            nft::apply(&self.rules.full(&self.addresses)).await?;
            self.stale = false;
            tracing::debug!(owners = self.rules.len(), "Service rules replaced");
        }
        if !change.gone.is_empty() {
            conntrack::forget(change.gone).await;
        }
        Ok(())
    }
}

/// Removes the table from the kernel.
pub async fn remove() -> Result<(), NetError> {
    nft::remove().await
}

async fn pause(time: Option<Duration>) {
    tokio::time::sleep(time.unwrap_or_default()).await;
}
