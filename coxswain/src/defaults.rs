//! The addresses and names a cluster has unless it is told otherwise.

use std::net::Ipv4Addr;

/// Services take their addresses from here.
pub const SERVICE_CIDR: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);
/// The `kubernetes` Service: the first address of the range.
pub const API_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The cluster DNS.
pub const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// All pods of the cluster.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// The pods of the first node.
pub const POD_CIDR: &str = "10.244.0.0/24";
pub const DOMAIN: &str = "cluster.local";
/// Ports that a Service of type NodePort may be given.
pub const NODE_PORTS: (u16, u16) = (30000, 32767);
