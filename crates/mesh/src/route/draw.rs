//! Draws: everything random about a decision, made of one number.

use crate::policy::{Share, WeightedDestination};

/// What is drawn for. Each has a draw of its own, so that a fault says nothing about the destination.
#[derive(Clone, Copy)]
pub(super) enum Lot {
    Destination,
    Delay,
    Abort,
    Cookie,
    Mirror(usize),
    /// Of the clusters of a tier, by its number.
    Cluster(usize),
    /// Whether a cluster that drains takes part, by its place among all.
    Draining(usize),
}

/// A number that depends on the entropy and the lot only, evenly distributed (splitmix64).
pub(super) fn draw(entropy: u64, lot: Lot) -> u64 {
    let position = match lot {
        Lot::Destination => 1,
        Lot::Delay => 2,
        Lot::Abort => 3,
        Lot::Cookie => 4,
        Lot::Mirror(index) => 5_u64.wrapping_add(index as u64),
        Lot::Cluster(tier) => (1_u64 << 32).wrapping_add(tier as u64),
        Lot::Draining(index) => (1_u64 << 33).wrapping_add(index as u64),
    };
    let state = entropy.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Whether a share of the requests has this one.
pub(super) fn hits(share: Share, entropy: u64, lot: Lot) -> bool {
    share.hits((draw(entropy, lot) >> 32) as u32)
}

/// One of several destinations by weight: its index, and the sum. Without any weight the first one counts.
pub(super) fn destination(destinations: &[WeightedDestination], entropy: u64) -> Option<(usize, u64)> {
    let total: u64 = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    if total == 0 {
        return (!destinations.is_empty()).then_some((0, 0));
    }
    let point = (u128::from(draw(entropy, Lot::Destination)) * u128::from(total)) >> 64;
    let mut left = u64::try_from(point).unwrap_or_default();
    let index = destinations.iter().position(|destination| {
        let hit = left < u64::from(destination.weight);
        left = left.saturating_sub(u64::from(destination.weight));
        hit
    });
    index.map(|index| (index, total))
}
