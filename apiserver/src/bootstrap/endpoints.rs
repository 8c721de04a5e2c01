//! The endpoints of the `kubernetes` Service: every API server of the cluster that is alive, so that clients behind
//! that one address get over the loss of a server.
//!
//! A server that starts adds itself. The one that leads the store knows who is alive, and reads from the Leases
//! ([`super::identity`]) where these listen; it takes out who is not. Several servers listen on the same port: one that
//! listens on another than the leader is not among the endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coxswain_api::kinds::access;
use http::Method;
use serde_json::{Value, json};

use super::{body_of, create_missing, identity, refused, send};
use crate::StartError;
use crate::shared::Shared;

const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// How often the leader looks who is alive, where there are others.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// One that is silent this often is dead.
const SILENT_MAX: u32 = 2;

/// Adds this server, and keeps the endpoints right whenever it leads.
///
/// # Errors
/// When the objects cannot be made.
pub(super) async fn keep(shared: &Arc<Shared>) -> Result<(), StartError> {
    let (own, _) = shared.config.advertise;
    if own.is_loopback() || own.is_unspecified() {
        // Nobody else could use it, and endpoints may not be there.
        return Ok(());
    }
    let mut addresses = BTreeSet::from([own]);
    if others(shared) {
        addresses.extend(published(shared).await);
    }
    publish(shared, &addresses).await?;
    tokio::spawn(follow(shared.clone()));
    Ok(())
}

/// Whether the cluster has more than one server.
fn others(shared: &Shared) -> bool {
    let cluster = shared.store.cluster();
    let cluster = cluster.borrow();
    cluster.voters.len() + cluster.learners.len() > 1
}

async fn follow(shared: Arc<Shared>) {
    let (mut leader, mut cluster) = (shared.store.leader(), shared.store.cluster());
    let mut silent = BTreeMap::new();
    loop {
        let leads = *leader.borrow_and_update();
        cluster.borrow_and_update();
        if !leads {
            silent.clear();
        } else if let Err(error) = look(&shared, &mut silent).await {
            tracing::warn!(%error, "the kubernetes Service may point at servers that are gone");
        }
        let next_look = async {
            match leads && others(&shared) {
                true => tokio::time::sleep(LOOK_EVERY).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            changed = leader.changed() => if changed.is_err() { return },
            changed = cluster.changed() => if changed.is_err() { return },
            () = next_look => {}
        }
    }
}

/// Brings the endpoints up to date. `silent` counts how often in a row each member was not heard of.
async fn look(shared: &Arc<Shared>, silent: &mut BTreeMap<u64, u32>) -> Result<(), StartError> {
    let Ok(members) = shared.store.members().await else {
        // There is no leader; the next one looks.
        return Ok(());
    };
    let mut alive = BTreeSet::new();
    for member in &members {
        let heard = member.alive == Some(true) || member.applied.is_some();
        let count = silent.entry(member.id).or_default();
        *count = if heard { 0 } else { count.saturating_add(1) };
        if *count < SILENT_MAX {
            alive.insert(member.id);
        }
    }
    silent.retain(|id, _| members.iter().any(|member| member.id == *id));
    let leases = body_of(send(shared, Method::GET, identity::ALL, &Value::Null).await).await;
    let addresses = addresses(access::list(&leases, "items"), shared.config.advertise.1, &alive);
    if addresses.is_empty() || addresses == published(shared).await {
        return Ok(());
    }
    publish(shared, &addresses).await
}

/// Where the members listen that are alive, by the newest Lease of each.
fn addresses(leases: &[Value], port: u16, alive: &BTreeSet<u64>) -> BTreeSet<IpAddr> {
    let mut newest: BTreeMap<u64, (&str, SocketAddr)> = BTreeMap::new();
    for lease in leases {
        let Some((member, address)) = identity::place(lease) else {
            continue;
        };
        let renewed = access::text(lease, "/spec/renewTime");
        if newest.get(&member).is_none_or(|(known, _)| *known < renewed) {
            newest.insert(member, (renewed, address));
        }
    }
    let living = newest.into_iter().filter(|(member, _)| alive.contains(member));
    let addresses = living.map(|(_, (_, address))| address);
    addresses
        .filter(|address| address.port() == port)
        .map(|a| a.ip())
        .collect()
}

/// The endpoints that the Service has.
async fn published(shared: &Arc<Shared>) -> BTreeSet<IpAddr> {
    let slice = body_of(send(shared, Method::GET, &format!("{SLICES}/kubernetes"), &Value::Null).await).await;
    let endpoints = access::list(&slice, "endpoints").iter();
    let addresses = endpoints.flat_map(|endpoint| access::list(endpoint, "addresses"));
    addresses.filter_map(|address| address.as_str()?.parse().ok()).collect()
}

async fn publish(shared: &Arc<Shared>, addresses: &BTreeSet<IpAddr>) -> Result<(), StartError> {
    let (own, port) = shared.config.advertise;
    // A slice has addresses of one family.
    let listed: Vec<String> = addresses
        .iter()
        .filter(|address| address.is_ipv4() == own.is_ipv4())
        .map(IpAddr::to_string)
        .collect();
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": listed.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
            "ports": ports,
        }],
    });
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if own.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": listed
            .iter()
            .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
            .collect::<Vec<_>>(),
        "ports": ports,
    });
    for (path, value) in [(ENDPOINTS, endpoints), (SLICES, slice)] {
        create_missing(shared, path, &value).await?;
        let reply = send(shared, Method::PUT, &format!("{path}/kubernetes"), &value).await;
        if !reply.status().is_success() {
            let error = refused(path, "kubernetes", reply).await;
            tracing::error!(%error, "the kubernetes Service does not point at every server");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_the_newest_places_of_the_living() {
        let lease = |member: &str, address: &str, renewed: &str| {
            json!({
                "metadata": {"annotations": {identity::MEMBER: member, identity::ADDRESS: address}},
                "spec": {"renewTime": renewed},
            })
        };
        let leases = [
            lease("1", "10.0.0.1:6443", "2026-01-01T00:00:02.000000Z"),
            // Its address before it moved.
            lease("1", "10.0.0.9:6443", "2026-01-01T00:00:01.000000Z"),
            lease("2", "10.0.0.2:6443", "2026-01-01T00:00:01.000000Z"),
            lease("3", "10.0.0.3:6443", "2026-01-01T00:00:01.000000Z"),
            lease("4", "10.0.0.4:7443", "2026-01-01T00:00:01.000000Z"),
            lease("five", "10.0.0.5:6443", "2026-01-01T00:00:01.000000Z"),
            lease("6", "nowhere", "2026-01-01T00:00:01.000000Z"),
            json!({"spec": {}}),
        ];
        for (alive, want) in [
            (vec![1, 2, 3, 4, 5, 6], vec!["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            (vec![1, 3], vec!["10.0.0.1", "10.0.0.3"]),
            (vec![7], vec![]),
        ] {
            let found = addresses(&leases, 6443, &alive.iter().copied().collect());
            let found: Vec<String> = found.iter().map(IpAddr::to_string).collect();
            assert_eq!(found, want, "{alive:?}");
        }
    }
}
