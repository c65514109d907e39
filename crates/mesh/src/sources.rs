//! Who has how much of something that one source must not have all of.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one source has of something; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Sources(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of them; counts until it is dropped.
#[derive(Debug)]
pub struct OfSource {
    sources: Sources,
    address: IpAddr,
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the address (of IPv6: its /64) has as many as it may have.
    pub fn enter(&self, address: IpAddr, most: usize) -> Option<OfSource> {
        let address = source_network(address);
        let mut counts = self.lock();
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(OfSource { sources: self.clone(), address })
    }
}

impl Drop for OfSource {
    fn drop(&mut self) {
        let mut counts = self.sources.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// What counts as one source: an address; of IPv6 its /64, for who has one address of it has the rest.
pub fn source_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_so_many_connections_and_leaves_room_for_others() {
        let sources = Sources::default();
        let enter = |address: &str| sources.enter(address.parse().unwrap(), 2);
        let mut held = vec![enter("10.0.0.1").unwrap(), enter("::ffff:10.0.0.1").unwrap()];
        assert!(enter("10.0.0.1").is_none());
        assert!(enter("10.0.0.2").is_some());
        held.pop();
        assert!(enter("10.0.0.1").is_some());
        let _six = [enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap()];
        assert!(enter("2001:db8::3").is_none() && enter("2001:db8:0:1::3").is_some());
        drop(held);
        assert_eq!(sources.lock().len(), 1, "who has none is forgotten");
    }
}
