//! Splits the cluster's pod network into equal parts, one for each node.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The pod network and the size of a node's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidrs {
    base: u32,
    bits: u8,
    node_bits: u8,
}

fn parse(text: &str) -> Option<(u32, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok().filter(|b| *b <= 32)?;
    Some((u32::from(address), bits))
}

impl Cidrs {
    /// `None` when the network is empty: no addresses are given out.
    pub fn parse(network: &str, node_bits: u8) -> Result<Option<Cidrs>, String> {
        if network.is_empty() {
            return Ok(None);
        }
        let parsed = parse(network).filter(|(_, bits)| *bits >= 1 && *bits <= node_bits && node_bits <= 30);
        let Some((address, bits)) = parsed else {
            return Err(format!(
                "the pod network {network:?} is not an IPv4 network that can be split into /{node_bits} parts"
            ));
        };
        let mask = u32::MAX.unbounded_shl(32_u32.saturating_sub(bits.into()));
        Ok(Some(Cidrs {
            base: address & mask,
            bits,
            node_bits,
        }))
    }

    /// The first part that no node has.
    pub fn first_free(&self, used: &[String]) -> Option<String> {
        let shift = 32_u32.saturating_sub(self.node_bits.into());
        let taken: BTreeSet<u32> = used
            .iter()
            .filter_map(|text| parse(text))
            .filter_map(|(address, _)| address.checked_sub(self.base))
            .map(|offset| offset.unbounded_shr(shift))
            .collect();
        let parts = 1_u32.unbounded_shl(self.node_bits.saturating_sub(self.bits).into());
        let free = (0..parts).find(|part| !taken.contains(part))?;
        let address = Ipv4Addr::from(self.base.saturating_add(free.unbounded_shl(shift)));
        Some(format!("{address}/{}", self.node_bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let cidrs = Cidrs::parse("10.244.0.0/16", 24).expect("valid").expect("given");
        let free = |used: &[&str]| {
            let used: Vec<String> = used.iter().map(ToString::to_string).collect();
            cidrs.first_free(&used)
        };
        assert_eq!(free(&[]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(
            free(&["10.244.0.0/24", "10.244.2.0/24"]).as_deref(),
            Some("10.244.1.0/24")
        );
        let all: Vec<String> = (0..256).map(|i| format!("10.244.{i}.0/24")).collect();
        assert_eq!(cidrs.first_free(&all), None);
        assert_eq!(Cidrs::parse("", 24), Ok(None));
        assert!(Cidrs::parse("10.0.0.0/28", 24).is_err());
        assert!(Cidrs::parse("nonsense", 24).is_err());
    }
}
