//! Routes to the pods of the other nodes.
//!
//! Watches Nodes; for each one that has a range of pod addresses and an address of its own, the kernel is told to
//! send that range there. Our routes carry a protocol number of their own, by which they are found again; what
//! no node stands behind any more is removed. Does not: reach nodes that are no neighbours (the kernel refuses a
//! gateway that it has no link to; that is told once a change).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use coxswain_client::Cache;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio_util::sync::CancellationToken;

use super::addresses::Range;

/// What our routes are marked with.
const PROTOCOL: u8 = 204;
/// Nodes come and go in groups.
const SETTLE: Duration = Duration::from_millis(50);

type Routes = BTreeMap<(Ipv4Addr, u8), Ipv4Addr>;

/// Follows the nodes until cancelled.
pub async fn run(nodes: Cache<Node>, own_name: String, token: CancellationToken) {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else {
        return tracing::warn!("no netlink socket: pods of other nodes cannot be reached");
    };
    let connection = tokio::spawn(connection);
    let follow = async {
        nodes.synced().await;
        let mut changes = nodes.changes();
        let mut set = Routes::new();
        loop {
            let wanted = plan(&nodes.list().iter().map(|node| &**node).collect::<Vec<_>>(), &own_name);
            if wanted != set {
                apply(&handle, &wanted).await;
                set = wanted;
            }
            if changes.recv().await.is_none() {
                return;
            }
            tokio::time::sleep(SETTLE).await;
            while changes.try_recv().is_some() {}
        }
    };
    token.run_until_cancelled(follow).await;
    connection.abort();
}

/// The ranges of the other nodes and their addresses.
fn plan(nodes: &[&Node], own_name: &str) -> Routes {
    let mut routes = Routes::new();
    for node in nodes
        .iter()
        .filter(|node| node.metadata.name.as_deref() != Some(own_name))
    {
        let cidr = node
            .spec
            .as_ref()
            .and_then(|spec| spec.pod_cidr.as_deref())
            .unwrap_or_default();
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let mut internal = addresses.filter(|address| address.type_ == "InternalIP");
        let gateway = internal.find_map(|address| address.address.parse::<Ipv4Addr>().ok());
        if let (Ok(range), Some(gateway)) = (Range::parse("a node's pod range", cidr), gateway) {
            routes.insert((range.base, range.prefix), gateway);
        }
    }
    routes
}

async fn apply(handle: &Handle, wanted: &Routes) {
    for ((base, prefix), gateway) in wanted {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(*base, *prefix)
            .gateway(*gateway)
            .build();
        route.header.protocol = RouteProtocol::Other(PROTOCOL);
        if let Err(error) = handle.route().add(route).replace().execute().await {
            tracing::warn!(%error, "pods in {base}/{prefix} cannot be reached by {gateway}");
        }
    }
    let asked = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let all: Vec<RouteMessage> = handle
        .route()
        .get(asked)
        .execute()
        .try_collect()
        .await
        .unwrap_or_default();
    for route in all {
        let stale = destination(&route).is_some_and(|place| !wanted.contains_key(&place));
        if route.header.protocol == RouteProtocol::Other(PROTOCOL) && stale {
            let _ = handle.route().del(route).execute().await;
        }
    }
}

fn destination(route: &RouteMessage) -> Option<(Ipv4Addr, u8)> {
    let prefix = route.header.destination_prefix_length;
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(base)) => Some((*base, prefix)),
        _ => None,
    })
}

/// Removes every route of ours.
pub async fn remove() {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else {
        return;
    };
    let connection = tokio::spawn(connection);
    apply(&handle, &Routes::new()).await;
    connection.abort();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn routes_lead_to_other_nodes() {
        let node = |name: &str, cidr: &str, ip: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr},
                "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]}}))
            .expect("a node")
        };
        let nodes = [
            node("own", "10.244.0.0/24", "192.0.2.1"),
            node("other", "10.244.1.0/24", "192.0.2.2"),
            node("new", "", "192.0.2.3"),
            node("six", "10.244.3.0/24", "2001:db8::1"),
        ];
        let found = plan(&nodes.iter().collect::<Vec<_>>(), "own");
        let want = ((Ipv4Addr::new(10, 244, 1, 0), 24), Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(found, Routes::from([want]));
    }
}
