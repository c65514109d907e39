//! Stable clusterset addresses: allocated once per service name, by a counter, and never handed out again.

use std::net::{Ipv4Addr, Ipv6Addr};

use mesh::ClusterName;
use serde::{Deserialize, Serialize};

/// Addresses in 243.0.0.0/8, less the all-zero one.
pub(crate) const ADDRESSES_MAX: u32 = (1 << 24) - 1;

/// The first 96 bits of every IPv6 address: fd49:5354:484d::/96 ("ISTHM" in a unique local prefix).
const IPV6_PREFIX: [u16; 6] = [0xfd49, 0x5354, 0x484d, 0, 0, 0];

/// The address of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRecord {
    /// The position in both ranges; from 1.
    pub number: u32,
    /// Whose export first needed the address; it counts against that cluster's quota.
    pub first_exporter: ClusterName,
}

impl AddressRecord {
    /// In 243.0.0.0/8, which is reserved (class E) and therefore never in use on a cluster's network.
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::from(0xf300_0000 | (self.number & ADDRESSES_MAX))
    }

    /// In fd49:5354:484d::/96.
    pub fn ipv6(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = IPV6_PREFIX;
        let [g, h, i, j] = self.number.to_be_bytes();
        Ipv6Addr::new(a, b, c, d, e, f, u16::from_be_bytes([g, h]), u16::from_be_bytes([i, j]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_gives_one_address_of_each_family() {
        let record = AddressRecord { number: 0x01_02_03, first_exporter: ClusterName::new("east").unwrap() };
        assert_eq!(record.ipv4().to_string(), "243.1.2.3");
        assert_eq!(record.ipv6().to_string(), "fd49:5354:484d::1:203");
    }
}
