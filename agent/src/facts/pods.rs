//! Addresses at which the cluster's workloads reach single pods of other clusters: given out here, kept on disk, and the
//! same for a pod as long as it is known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh::{ClusterName, ServiceName};

use crate::imports::Accepted;

/// Numbers of 242.0.0.0/8, less the all-zero one.
const LAST: u32 = (1 << 24) - 1;
/// Pods that are remembered; beyond, those that are gone are forgotten.
const REMEMBERED: usize = 65_536;

/// The numbers that pods have, by [`key`].
pub(crate) type PodNumbers = BTreeMap<String, u32>;

/// Who a pod is.
pub(crate) fn key(cluster: &ClusterName, service: &ServiceName, pod: &str) -> String {
    format!("{cluster}/{service}/{pod}")
}

/// The addresses of a number, in 242.0.0.0/8 (class E, like the clusterset's) and fd49:5354:484d:0:0:1::/96.
pub(crate) fn addresses(number: u32) -> Vec<IpAddr> {
    let [high, low] = [number >> 16, number & 0xffff].map(|part| u16::try_from(part).unwrap_or(0));
    vec![
        Ipv4Addr::from(0xf200_0000 | (number & LAST)).into(),
        Ipv6Addr::new(0xfd49, 0x5354, 0x484d, 0, 0, 1, high, low).into(),
    ]
}

/// Gives every pod of the believed exports a number. The pod says where to look for a free one, so that a cluster which
/// lost its state gives out mostly the same again.
pub(crate) fn number(numbers: &PodNumbers, accepted: &Accepted) -> PodNumbers {
    let mut present = BTreeSet::new();
    for (cluster, member) in &accepted.members {
        for (service, fact) in member.exports.iter().filter(|(_, fact)| fact.present) {
            present.extend(fact.value.pods.iter().map(|pod| key(cluster, service, &pod.name)));
        }
    }
    let mut numbers = numbers.clone();
    if numbers.len() + present.len() > REMEMBERED {
        numbers.retain(|key, _| present.contains(key));
    }
    let mut taken: BTreeSet<u32> = numbers.values().copied().collect();
    for key in present {
        if numbers.contains_key(&key) || taken.len() >= LAST as usize {
            continue;
        }
        let mut number = first(&key);
        while !taken.insert(number) {
            number = if number >= LAST { 1 } else { number + 1 };
        }
        numbers.insert(key, number);
    }
    numbers
}

/// FNV-1a, folded to 1 to [`LAST`].
fn first(key: &str) -> u32 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, step);
    u32::try_from(hash % u64::from(LAST)).unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_gives_one_address_of_each_family_outside_of_the_clustersets() {
        let texts: Vec<String> = addresses(0x01_02_03).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["242.1.2.3", "fd49:5354:484d::1:1:203"]);
        for index in 0..1000 {
            assert!((1..=LAST).contains(&first(&format!("west/shop/db/db-{index}"))));
        }
    }
}
