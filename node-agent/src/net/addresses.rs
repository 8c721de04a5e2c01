//! The addresses and ranges of this node and its cluster, parsed and checked once.

use super::{NetConfig, NetError};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Addresses and ranges that every part of the network works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// This node.
    pub node: Ipv4Addr,
    /// Range of this node's pods.
    pub pods: Range,
    /// Range of all pods.
    pub cluster: Range,
    /// Range of ClusterIPs.
    pub services: Range,
    /// Where cluster DNS answers.
    pub dns: Ipv4Addr,
}

/// An IPv4 range in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The lowest address.
    pub base: Ipv4Addr,
    /// Prefix length, 0 to 32.
    pub prefix: u8,
}

impl Addresses {
    /// Takes them from the configuration.
    pub fn parse(config: &NetConfig) -> Result<Addresses, NetError> {
        let IpAddr::V4(node) = config.node_ip else {
            return Err(NetError::Config {
                what: "the node address",
                value: config.node_ip.to_string(),
                detail: "only IPv4 is supported".to_owned(),
            });
        };
        Ok(Addresses {
            node,
            pods: Range::parse("the pod range of the node", &config.pod_cidr)?,
            cluster: Range::parse("the pod range of the cluster", &config.cluster_cidr)?,
            services: Range::parse("the Service range", &config.service_cidr)?,
            dns: config.dns_ip,
        })
    }

    /// The gateway address of this node's pods: the first of their range.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pods.base).saturating_add(1))
    }
}

impl Range {
    /// Parses `address/prefix`; `what` names the setting in the error.
    pub fn parse(what: &'static str, text: &str) -> Result<Range, NetError> {
        let wrong = |detail: &str| NetError::Config {
            what,
            value: text.to_owned(),
            detail: detail.to_owned(),
        };
        let (base, prefix) = text.split_once('/').ok_or_else(|| wrong("it has no /prefix"))?;
        let base: Ipv4Addr = base.parse().map_err(|_| wrong("its address is not IPv4"))?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|prefix| *prefix <= 32)
            .ok_or_else(|| wrong("its prefix is not 0 to 32"))?;
        let base = Ipv4Addr::from(u32::from(base) & mask(prefix));
        Ok(Range { base, prefix })
    }

    /// The address lies in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.base)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Range;

    #[test]
    fn ranges() {
        let cases = [
            ("10.244.3.0/24", Ok("10.244.3.0/24")),
            ("10.244.3.7/24", Ok("10.244.3.0/24")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("10.0.0.0", Err("it has no /prefix")),
            ("10.0.0.0/33", Err("its prefix is not 0 to 32")),
            ("fd00::/64", Err("its address is not IPv4")),
        ];
        for (text, want) in cases {
            let got = Range::parse("the range", text);
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got.to_string(), want),
                (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{got}"),
                (got, want) => panic!("{text}: {got:?}, wanted {want:?}"),
            }
        }
        let range = Range::parse("the range", "10.244.0.0/16").expect("valid");
        assert!(range.contains([10, 244, 9, 1].into()));
        assert!(!range.contains([10, 245, 0, 1].into()));
    }
}
