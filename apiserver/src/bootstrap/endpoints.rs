//! The endpoints of the `kubernetes` Service: every API server of the cluster that is alive, so that clients behind
//! that one address get over the loss of a server.
//!
//! A server that starts adds itself. The one that leads the store knows who is alive, and reads from the Leases
//! ([`super::identity`]) where these listen; it takes out who is not. Several servers listen on the same port: one that
//! listens on another than the leader is not among the endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coxswain_api::kinds::access;
use coxswain_store::Snapshot;
use http::Method;
use serde_json::{Value, json};

use super::{create_missing, identity, is_refused, refused, send};
use crate::StartError;
use crate::shared::Shared;

const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// How often the leader looks who is alive, where there are others.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// What the endpoints depend on and consist of.
const WATCHED: &[&str] = &["endpoints", "endpointslices.discovery.k8s.io", identity::LEASES];
/// How long changes are collected before the next look.
const SETTLE: Duration = Duration::from_millis(500);
/// One that is silent for so long is dead.
const SILENT_MAX: Duration = Duration::from_secs(5);

/// Since when each member that is not heard of is silent.
type Silent = BTreeMap<u64, Instant>;

/// Adds this server.
///
/// # Errors
/// When the objects cannot be made.
pub(super) async fn add(shared: &Arc<Shared>) -> Result<(), StartError> {
    let (own, _) = shared.config.advertise;
    if !is_usable(own) {
        return Ok(());
    }
    let mut addresses = BTreeSet::from([own]);
    if others(shared) {
        addresses.extend(published(&shared.store.snapshot()));
    }
    publish(shared, &addresses).await
}

/// Whether others could use the address; endpoints may not have it otherwise.
fn is_usable(own: IpAddr) -> bool {
    !own.is_loopback() && !own.is_unspecified()
}

/// Whether the cluster has more than one server.
fn others(shared: &Shared) -> bool {
    let cluster = shared.store.cluster();
    let cluster = cluster.borrow();
    cluster.voters.len() + cluster.learners.len() > 1
}

/// Keeps the endpoints right until the server stops: the leader does, whenever members come and go, and when somebody
/// else has changed or deleted them.
pub(super) async fn follow(shared: Arc<Shared>) {
    if !is_usable(shared.config.advertise.0) {
        return shared.stopping.cancelled().await;
    }
    let (mut leader, mut cluster) = (shared.store.leader(), shared.store.cluster());
    let mut silent = Silent::new();
    loop {
        let leads = *leader.borrow_and_update();
        cluster.borrow_and_update();
        let before = shared.store.snapshot();
        let mut again = others(&shared);
        if !leads {
            silent.clear();
        } else if let Err(error) = look(&shared, &mut silent).await {
            tracing::warn!(%error, "the kubernetes Service may point at servers that are gone");
            again = true;
        }
        let next_look = async {
            match leads && again {
                true => tokio::time::sleep(LOOK_EVERY).await,
                false => std::future::pending().await,
            }
        };
        let changed = async {
            match leads {
                true => changed(&shared, before).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            changed = leader.changed() => if changed.is_err() { return shared.stopping.cancelled().await },
            changed = cluster.changed() => if changed.is_err() { return shared.stopping.cancelled().await },
            () = next_look => {}
            () = changed => {}
        }
    }
}

/// Waits until something that matters differs from a snapshot: nodes renew Leases all the time.
async fn changed(shared: &Shared, before: Snapshot) {
    let (wanted, mut revision) = (versions(&before), before.revision());
    drop(before);
    loop {
        if !shared.changed(revision, WATCHED).await {
            // The store has stopped, and its own check says so.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(SETTLE).await;
        let now = shared.store.snapshot();
        if versions(&now) != wanted {
            return;
        }
        revision = now.revision();
    }
}

/// The versions of the endpoints and of the servers' Leases.
fn versions(snapshot: &Snapshot) -> Vec<(Arc<str>, u64)> {
    let own = [("endpoints", "default"), ("endpointslices.discovery.k8s.io", "default")];
    let own = own
        .into_iter()
        .filter_map(|(resource, namespace)| snapshot.find(resource, namespace, "kubernetes"));
    own.chain(snapshot.list(identity::LEASES, Some(identity::NAMESPACE), None))
        .map(|stored| (stored.key.name.clone(), stored.revision))
        .collect()
}

/// Brings the endpoints up to date.
async fn look(shared: &Arc<Shared>, silent: &mut Silent) -> Result<(), StartError> {
    let Ok(members) = shared.store.members().await else {
        // There is no leader; the next one looks.
        return Ok(());
    };
    let mut alive = BTreeSet::new();
    for member in &members {
        let heard = member.alive == Some(true) || member.applied.is_some();
        if heard {
            silent.remove(&member.id);
        }
        let lives = heard || silent.entry(member.id).or_insert_with(Instant::now).elapsed() < SILENT_MAX;
        if lives {
            alive.insert(member.id);
        }
    }
    silent.retain(|id, _| members.iter().any(|member| member.id == *id));
    let snapshot = shared.store.snapshot();
    let leases: Vec<Arc<Value>> = snapshot
        .list(identity::LEASES, Some(identity::NAMESPACE), None)
        .map(|stored| stored.value())
        .filter(|lease| identity::is_server(lease))
        .collect();
    let me = shared.store.cluster().borrow().me;
    let (own, port) = shared.config.advertise;
    let observed = Known {
        leases: leases.iter().map(|lease| &**lease).collect(),
        published: published(&snapshot),
        own: (me, own),
        port,
        alive,
    };
    let addresses = addresses(&observed);
    if is_published(&snapshot, shared, &addresses) {
        return Ok(());
    }
    publish(shared, &addresses).await
}

/// What the endpoints follow from.
struct Known<'a> {
    leases: Vec<&'a Value>,
    /// The addresses that are published.
    published: BTreeSet<IpAddr>,
    /// This server, which leads, and where it listens.
    own: (u64, IpAddr),
    port: u16,
    alive: BTreeSet<u64>,
}

/// Where the members listen that are alive, by the newest Lease of each. A member may live without a Lease, one that was
/// deleted a moment ago: as many published addresses stay that no Lease explains.
fn addresses(known: &Known<'_>) -> BTreeSet<IpAddr> {
    let mut newest: BTreeMap<u64, (&str, SocketAddr)> = BTreeMap::new();
    for lease in &known.leases {
        let Some((member, address)) = identity::place(lease) else {
            continue;
        };
        let renewed = access::text(lease, "/spec/renewTime");
        if newest.get(&member).is_none_or(|(other, _)| *other < renewed) {
            newest.insert(member, (renewed, address));
        }
    }
    let (me, own) = known.own;
    newest.insert(me, ("", SocketAddr::new(own, known.port)));
    let explained: BTreeSet<IpAddr> = known
        .leases
        .iter()
        .filter_map(|lease| Some(identity::place(lease)?.1.ip()))
        .chain([own])
        .collect();
    let without_lease = known.alive.iter().filter(|member| !newest.contains_key(member)).count();
    let unexplained = known.published.iter().copied().filter(|ip| !explained.contains(ip));
    let living = newest
        .iter()
        .filter(|(member, _)| known.alive.contains(member) || **member == me);
    let addresses = living.map(|(_, (_, address))| *address);
    addresses
        .filter(|address| address.port() == known.port)
        .map(|address| address.ip())
        .chain(unexplained.take(without_lease))
        .collect()
}

/// The addresses that the Service has.
fn published(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let slice = snapshot.find("endpointslices.discovery.k8s.io", "default", "kubernetes");
    let slice = slice.map(|stored| stored.value()).unwrap_or_default();
    let endpoints = access::list(&slice, "endpoints").iter();
    let addresses = endpoints.flat_map(|endpoint| access::list(endpoint, "addresses"));
    addresses.filter_map(|address| address.as_str()?.parse().ok()).collect()
}

/// Whether both objects say exactly that, whatever else is in them.
fn is_published(snapshot: &Snapshot, shared: &Shared, addresses: &BTreeSet<IpAddr>) -> bool {
    objects(shared, addresses).iter().all(|(path, wanted)| {
        let (resource, namespace) = super::place(path);
        let live = snapshot.find(&resource, &namespace, "kubernetes");
        live.is_some_and(|live| includes(&live.value(), wanted))
    })
}

/// Whether a value says everything that another does; lists are the same.
fn includes(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| live.get(key).is_some_and(|live| includes(live, wanted))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| includes(live, wanted))
        }
        _ => live == wanted,
    }
}

/// The Endpoints and the EndpointSlice, with the paths of their collections.
fn objects(shared: &Shared, addresses: &BTreeSet<IpAddr>) -> [(&'static str, Value); 2] {
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
    [(ENDPOINTS, endpoints), (SLICES, slice)]
}

async fn publish(shared: &Arc<Shared>, addresses: &BTreeSet<IpAddr>) -> Result<(), StartError> {
    for (path, value) in objects(shared, addresses) {
        create_missing(shared, path, &value).await?;
        let reply = send(shared, Method::PUT, &format!("{path}/kubernetes"), &value).await;
        if is_refused(&reply) {
            return Err(refused(path, "kubernetes", reply).await);
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
        let known = |alive: &[u64], published: &[&str]| Known {
            leases: leases.iter().collect(),
            published: published.iter().map(|ip| ip.parse().expect("an address")).collect(),
            own: (1, "10.0.0.1".parse().expect("an address")),
            port: 6443,
            alive: alive.iter().copied().collect(),
        };
        for (alive, published, want) in [
            (
                &[1, 2, 3, 4, 5, 6][..],
                &[][..],
                vec!["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            ),
            (&[1, 3], &["10.0.0.2"], vec!["10.0.0.1", "10.0.0.3"]),
            // The leader itself lives, whatever is said of it.
            (&[8], &[], vec!["10.0.0.1"]),
            // Member 8 lives and has no Lease; one of two addresses that nobody explains may be its.
            (&[1, 8], &["10.0.0.1", "10.0.0.8"], vec!["10.0.0.1", "10.0.0.8"]),
            (
                &[1, 8],
                &["10.0.0.2", "10.0.0.8", "10.0.0.88"],
                vec!["10.0.0.1", "10.0.0.8"],
            ),
            (&[1], &["10.0.0.8"], vec!["10.0.0.1"]),
        ] {
            let found = addresses(&known(alive, published));
            let found: Vec<String> = found.iter().map(IpAddr::to_string).collect();
            assert_eq!(found, want, "{alive:?} {published:?}");
        }
    }
}
