//! The interface `cox0` and the kernel's forwarding switches.
//!
//! `cox0` is a dummy (or a bridge without ports, where the kernel has no dummies): it carries the address of cluster DNS and the gateway address of the pods, and
//! the route of the Service range points at it, so that a ClusterIP is routable (and then
//! translated or refused) also on a machine without a default route.
//!
//! Does not: touch any other interface. The switches stay on when the node is removed: others may
//! need them by then.

use super::NetError;
use super::addresses::Addresses;
use futures::TryStreamExt as _;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkDummy, LinkUnspec, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr};

/// Name of the interface.
pub const INTERFACE: &str = "cox0";

const SWITCHES: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_forward", "1"),
    // Node ports on loopback addresses; the rules keep everybody else out of 127.0.0.0/8.
    ("/proc/sys/net/ipv4/conf/all/route_localnet", "1"),
];

/// Makes interface, addresses, route and switches what they should be.
pub async fn ensure(addresses: &Addresses) -> Result<(), NetError> {
    for (path, value) in SWITCHES {
        if std::fs::read_to_string(path).is_ok_and(|old| old.trim() == value) {
            continue;
        }
        std::fs::write(path, value).map_err(|source| NetError::File {
            path: path.into(),
            source,
        })?;
    }
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| NetError::Link {
        operation: "opening a netlink socket".to_owned(),
        detail: error.to_string(),
    })?;
    let connection = tokio::spawn(connection);
    let done = ensure_interface(&handle, addresses).await;
    connection.abort();
    done
}

async fn ensure_interface(handle: &Handle, addresses: &Addresses) -> Result<(), NetError> {
    if index_of(handle).await?.is_none() {
        let dummy = LinkDummy::new(INTERFACE).build();
        let made = match handle.link().add(dummy).execute().await {
            // "Operation not supported": a kernel without dummies. A bridge without ports will do.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -95 => {
                let bridge = LinkBridge::new(INTERFACE).build();
                handle.link().add(bridge).execute().await
            }
            other => other,
        };
        said("creating the interface cox0", made)?;
    }
    let Some(index) = index_of(handle).await? else {
        return Err(NetError::Link {
            operation: "creating the interface cox0".to_owned(),
            detail: "it is not there afterwards".to_owned(),
        });
    };
    let up = LinkUnspec::new_with_index(index).up().build();
    said("starting the interface cox0", handle.link().set(up).execute().await)?;
    for address in [addresses.dns, addresses.gateway()] {
        let add = handle.address().add(index, IpAddr::V4(address), 32).replace();
        said(&format!("adding {address} to cox0"), add.execute().await)?;
    }
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(addresses.services.base, addresses.services.prefix)
        .output_interface(index)
        .pref_source(addresses.node)
        .scope(RouteScope::Link)
        .build();
    let operation = format!("routing {} to cox0", addresses.services);
    said(&operation, handle.route().add(route).replace().execute().await)
}

/// Deletes the interface, if it is there, and with it its addresses and routes.
pub async fn remove() -> Result<(), NetError> {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else {
        return Ok(());
    };
    let connection = tokio::spawn(connection);
    let done = match index_of(&handle).await {
        Ok(Some(index)) => said("deleting the interface cox0", handle.link().del(index).execute().await),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    connection.abort();
    done
}

async fn index_of(handle: &Handle) -> Result<Option<u32>, NetError> {
    let mut links = handle.link().get().match_name(INTERFACE.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        // "No such device".
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -19 => Ok(None),
        Err(error) => said("looking for the interface cox0", Err(error)).map(|()| None),
    }
}

fn said(operation: &str, result: Result<(), rtnetlink::Error>) -> Result<(), NetError> {
    match result {
        // "File exists".
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -17 => Ok(()),
        Err(error) => Err(NetError::Link {
            operation: operation.to_owned(),
            detail: error.to_string(),
        }),
        Ok(()) => Ok(()),
    }
}
