//! Tables of consistent hashing: a hash of the request leads to a target, and a target that comes or goes moves few
//! requests. [`HashRing::build`] makes them, the proxy keeps them as long as the targets stay the same.

use std::collections::BTreeSet;

use crate::policy::HashTable;

/// No table is larger, whatever is configured (Envoy's `maximum_ring_size` is 8 Mi; a proxy has many tables).
const SIZE_MAX: u64 = 1 << 20;

/// One target of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashMember {
    /// What tells it from others, the same in every proxy.
    pub name: String,
    /// Its share.
    pub weight: u32,
}

/// A table of consistent hashing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashRing {
    /// Points on a ring (ketama), in order, with the index of their target.
    Ring(Vec<(u64, u32)>),
    /// Indices of targets (Maglev).
    Maglev(Vec<u32>),
}

impl HashRing {
    /// Builds the table for these targets.
    pub fn build(table: HashTable, members: &[HashMember]) -> Self {
        match table {
            HashTable::Ring { minimum_size } => Self::Ring(ring(u64::from(minimum_size), members)),
            HashTable::Maglev { size } => Self::Maglev(maglev(u64::from(size), members)),
        }
    }

    /// The index of the first usable target for a hash; `None` when none is.
    pub fn lookup(&self, hash: u64, usable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let (start, length) = match self {
            Self::Ring(points) => (points.partition_point(|(point, _)| *point < hash), points.len()),
            Self::Maglev(slots) if slots.is_empty() => return None,
            #[expect(clippy::cast_possible_truncation, reason = "less than the table's length")]
            Self::Maglev(slots) => ((hash % slots.len() as u64) as usize, slots.len()),
        };
        let mut refused = BTreeSet::new();
        for step in 0..length {
            let at = (start + step) % length;
            let index = match self {
                Self::Ring(points) => points.get(at)?.1,
                Self::Maglev(slots) => *slots.get(at)?,
            } as usize;
            if refused.contains(&index) {
                continue;
            }
            if usable(index) {
                return Some(index);
            }
            refused.insert(index);
        }
        None
    }
}

/// Every target gets points in proportion to its weight, at least one; together at least the minimum.
fn ring(minimum: u64, members: &[HashMember]) -> Vec<(u64, u32)> {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let least = members.iter().map(|member| u64::from(member.weight)).filter(|weight| *weight > 0).min().unwrap_or(1);
    // As in Envoy, the target with the least weight gets whole points, so the ring may grow beyond the minimum.
    let per_least = (minimum.clamp(1, SIZE_MAX) * least).div_ceil(total.max(1)).max(1);
    let mut points = Vec::new();
    for (index, member) in (0_u32..).zip(members) {
        let count = (per_least * u64::from(member.weight)).div_ceil(least).min(SIZE_MAX / members.len() as u64 + 1);
        points.extend((0..count).map(|point| (hash_of(&member.name, point), index)));
    }
    points.sort_unstable();
    points
}

/// Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", §3.4, with weights as Envoy has them.
fn maglev(size: u64, members: &[HashMember]) -> Vec<u32> {
    let heaviest = members.iter().map(|member| member.weight).max().unwrap_or(0);
    if heaviest == 0 {
        return Vec::new();
    }
    let size = prime_from(size.clamp(members.len() as u64, SIZE_MAX));
    let starts: Vec<(u64, u64)> = members
        .iter()
        .map(|member| (hash_of(&member.name, 0) % size, hash_of(&member.name, 1) % size.saturating_sub(1).max(1) + 1))
        .collect();
    #[expect(clippy::cast_possible_truncation, reason = "at most SIZE_MAX")]
    let mut slots = vec![u32::MAX; size as usize];
    let (mut next, mut turns) = (vec![0_u64; members.len()], vec![0_u64; members.len()]);
    let mut filled = 0;
    for round in 1_u64.. {
        for (index, member) in members.iter().enumerate() {
            // A light target takes a turn only every so many rounds.
            if round * u64::from(member.weight) < turns[index] {
                continue;
            }
            turns[index] += u64::from(heaviest);
            let (offset, skip) = starts[index];
            loop {
                #[expect(clippy::cast_possible_truncation, reason = "less than the table's length")]
                let slot = ((offset + next[index] * skip) % size) as usize;
                next[index] += 1;
                if slots[slot] == u32::MAX {
                    slots[slot] = u32::try_from(index).unwrap_or(u32::MAX);
                    break;
                }
            }
            filled += 1;
            if filled == size {
                return slots;
            }
        }
    }
    slots
}

/// The first prime that is not less.
fn prime_from(number: u64) -> u64 {
    let is_prime = |n: u64| n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
    (number..).find(|n| is_prime(*n)).unwrap_or(number)
}

/// FNV-1a with a final mix (MurmurHash3's), so that names that differ in one digit spread.
fn hash_of(name: &str, number: u64) -> u64 {
    let bytes = name.bytes().chain(number.to_le_bytes());
    let mut hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RING: HashTable = HashTable::Ring { minimum_size: 1024 };
    const MAGLEV: HashTable = HashTable::Maglev { size: 65537 };

    fn members(weights: &[u32]) -> Vec<HashMember> {
        weights
            .iter()
            .enumerate()
            .map(|(number, weight)| HashMember { name: format!("10.0.0.{number}:80"), weight: *weight })
            .collect()
    }

    fn spread(table: HashTable, weights: &[u32]) -> Vec<usize> {
        let ring = HashRing::build(table, &members(weights));
        let mut counts = vec![0; weights.len()];
        for request in 0..20_000 {
            counts[ring.lookup(hash_of("request", request), &|_| true).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn requests_spread_by_weight() {
        for (table, tolerance) in [(RING, 0.25), (MAGLEV, 0.05)] {
            for weights in [&[1, 1, 1, 1][..], &[1, 3], &[100, 100, 50]] {
                let total: u32 = weights.iter().sum();
                for (count, weight) in spread(table, weights).into_iter().zip(weights) {
                    let expected = 20_000.0 * f64::from(*weight) / f64::from(total);
                    let off = (count as f64 - expected).abs() / expected;
                    assert!(off < tolerance, "{table:?} {weights:?}: {count} instead of {expected}");
                }
            }
        }
    }

    #[test]
    fn a_ring_has_its_minimum_and_maglev_a_prime() {
        assert!(matches!(HashRing::build(RING, &members(&[1, 1, 1])), HashRing::Ring(points) if points.len() >= 1024));
        assert!(
            matches!(HashRing::build(HashTable::Maglev { size: 100 }, &members(&[1])), HashRing::Maglev(slots) if slots.len() == 101)
        );
        for table in [RING, MAGLEV] {
            assert_eq!(HashRing::build(table, &[]).lookup(7, &|_| true), None);
        }
    }

    proptest! {
        /// The requests of a target that goes are spread; all others stay.
        #[test]
        fn only_the_requests_of_a_target_that_is_out_move(out in 0_usize..5, hash: u64, maglev: bool) {
            let ring = HashRing::build(if maglev { HashTable::Maglev { size: 1009 } } else { RING }, &members(&[1; 5]));
            let before = ring.lookup(hash, &|_| true).unwrap();
            let after = ring.lookup(hash, &|index| index != out).unwrap();
            prop_assert!(after != out && (before == out || after == before));
        }

        #[test]
        fn no_table_panics(weights in proptest::collection::vec(0_u32..5, 0..8), size in 0_u32..3000, hash: u64, maglev: bool) {
            let table = if maglev { HashTable::Maglev { size } } else { HashTable::Ring { minimum_size: size } };
            HashRing::build(table, &members(&weights)).lookup(hash, &|_| true);
        }
    }
}
