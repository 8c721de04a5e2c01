//! Connections that have not proved yet who they are: bounded in all and for each address, so that pods, which reach the
//! node's port like everybody, cannot keep the API server from it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Of one address at a time.
const PER_ADDRESS_MAX: usize = 32;
/// Of all addresses together.
const ALL_MAX: usize = 2048;

/// The connections that are open.
#[derive(Clone, Debug, Default)]
pub struct Newcomers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place; dropping it gives it back.
#[derive(Debug)]
pub struct Newcomer {
    all: Newcomers,
    address: IpAddr,
}

impl Newcomers {
    /// A place for a connection from this address; `None` when there are too many.
    pub fn admit(&self, address: IpAddr) -> Option<Newcomer> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let own = open.entry(address).or_default();
        if *own >= PER_ADDRESS_MAX || all >= ALL_MAX {
            if *own == 0 {
                open.remove(&address);
            }
            return None;
        }
        *own += 1;
        Some(Newcomer {
            all: self.clone(),
            address,
        })
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut open = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places() {
        let newcomers = Newcomers::default();
        let address = |last: u8, third: u8| IpAddr::from([10, 0, third, last]);
        let greedy: Vec<_> = (0..100).filter_map(|_| newcomers.admit(address(1, 0))).collect();
        assert_eq!(greedy.len(), PER_ADDRESS_MAX);
        assert!(newcomers.admit(address(2, 0)).is_some());
        drop(greedy);
        assert!(newcomers.admit(address(1, 0)).is_some());
        let many: Vec<_> = (0..=255)
            .flat_map(|last| (0..20).map(move |third| address(last, third)))
            .filter_map(|address| newcomers.admit(address))
            .collect();
        assert_eq!(many.len(), ALL_MAX);
        drop(many);
        assert!(newcomers.0.lock().expect("open").is_empty());
    }
}
