//! Automatic addresses of hosts and Services that have none: stable, and without two hosts of one address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where addresses come from: a /16 of class E, which no network uses, and a part of 2001:2::/48 (RFC 5180).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Range {
    /// Istio's ranges, for the hosts of ServiceEntries.
    Entries,
    /// For Services of a source in which no API server gives out cluster IPs.
    Services,
}

/// The last usable slot of a /16; the first address and the last are none.
const LAST: u16 = u16::MAX - 1;

/// An address of each family for every host. The host says where to look for a free slot, and hosts take their turns by
/// name, so that the order of the manifests does not matter and a host keeps its address as long as nobody collides.
pub(crate) fn allocate(
    range: Range,
    hosts: &BTreeSet<&str>,
    taken: &BTreeSet<IpAddr>,
) -> BTreeMap<String, [IpAddr; 2]> {
    let mut used: BTreeSet<u16> = BTreeSet::new();
    let mut found = BTreeMap::new();
    for host in hosts {
        let mut slot = first_slot(host);
        let mut tries = 0;
        while used.contains(&slot) || addresses(range, slot).iter().any(|address| taken.contains(address)) {
            slot = if slot >= LAST { 1 } else { slot + 1 };
            tries += 1;
            // All are in use; such a host is reached by its name in requests only.
            if tries >= u32::from(LAST) {
                return found;
            }
        }
        used.insert(slot);
        found.insert((*host).to_owned(), addresses(range, slot));
    }
    found
}

fn addresses(range: Range, slot: u16) -> [IpAddr; 2] {
    let [high, low] = slot.to_be_bytes();
    let (v4, v6) = match range {
        Range::Entries => (240, 0xf0f0),
        Range::Services => (241, 0xf1f1),
    };
    [Ipv4Addr::new(240, v4, high, low).into(), Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, v6, slot).into()]
}

/// FNV-1a, folded to 1 to [`LAST`].
fn first_slot(host: &str) -> u16 {
    let hash = host
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    u16::try_from(hash % u64::from(LAST)).unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_addresses_of_its_own() {
        let hosts: Vec<String> = (0..3000).map(|number| format!("host-{number}.example.com")).collect();
        let hosts: BTreeSet<&str> = hosts.iter().map(String::as_str).collect();
        let found = allocate(Range::Entries, &hosts, &BTreeSet::new());
        let unique: BTreeSet<_> = found.values().flatten().collect();
        assert_eq!((found.len(), unique.len()), (3000, 6000));
        assert!(unique.iter().all(|address| match address {
            IpAddr::V4(address) => address.octets()[..2] == [240, 240],
            IpAddr::V6(address) => address.segments()[..3] == [0x2001, 2, 0],
        }));
    }

    #[test]
    fn an_address_that_somebody_wrote_is_not_given_again() {
        let hosts = BTreeSet::from(["a.example.com"]);
        let free = allocate(Range::Entries, &hosts, &BTreeSet::new())["a.example.com"];
        let other = allocate(Range::Entries, &hosts, &BTreeSet::from([free[0]]))["a.example.com"];
        assert_ne!(free, other);
    }
}
