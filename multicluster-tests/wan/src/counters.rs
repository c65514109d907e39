//! What became of the packets of one direction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Packets, and their bytes of IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub packets: u64,
    /// Their lengths together.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    pub(crate) fn remove(&mut self, bytes: usize) {
        self.packets = self.packets.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies
            .fold(Self::default(), |sum, one| Self { packets: sum.packets + one.packets, bytes: sum.bytes + one.bytes })
    }
}

/// Why a packet did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drop {
    /// It was no packet of IPv4 or IPv6.
    Malformed,
    /// `blackhole`.
    Blackhole,
    /// `block-udp`.
    BlockedUdp,
    /// `block-tcp`.
    BlockedTcp,
    /// It was larger than `mtu`.
    Mtu,
    /// The translation knows no way for it: no mapping, no free one, or a fragment.
    Nat,
    /// `loss`.
    Loss,
    /// `burst-loss`.
    BurstLoss,
    /// `queue` was full.
    Queue,
    /// More was on the way than the emulator holds ([`BACKLOG_MAX`](crate::BACKLOG_MAX)).
    Backlog,
    /// The device of the other side did not take it.
    Device,
}

impl Drop {
    /// Every cause.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Blackhole,
        Self::BlockedUdp,
        Self::BlockedTcp,
        Self::Mtu,
        Self::Nat,
        Self::Loss,
        Self::BurstLoss,
        Self::Queue,
        Self::Backlog,
        Self::Device,
    ];
}

/// Counters of one direction. At any time: received + duplicated + fragmented = delivered + dropped + queued.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counters {
    /// What came out of the device.
    pub received: Tally,
    /// What was added by `duplicate`.
    pub duplicated: Tally,
    /// What was added by cutting packets to the MTU: fragments but the first, and their headers.
    pub fragmented: Tally,
    /// What was written to the other side's device.
    pub delivered: Tally,
    /// What was not, by cause; a cause that did not occur may be missing.
    pub dropped: BTreeMap<Drop, Tally>,
    /// What waits for the rate or is on its way.
    pub queued: Tally,
    /// Packets that overtook others by `reorder`.
    pub reordered: u64,
    /// Messages "too big" that were sent back.
    pub icmp_sent: u64,
}

impl Counters {
    /// What was dropped for `cause`.
    pub fn dropped(&self, cause: Drop) -> Tally {
        self.dropped.get(&cause).copied().unwrap_or_default()
    }

    pub(crate) fn drop(&mut self, cause: Drop, bytes: usize) {
        self.dropped.entry(cause).or_default().add(bytes);
    }

    /// Whether they add up.
    pub fn add_up(&self) -> bool {
        let entered: Tally = [self.received, self.duplicated, self.fragmented].into_iter().sum();
        let dropped: Tally = self.dropped.values().copied().sum();
        let left: Tally = [self.delivered, dropped, self.queued].into_iter().sum();
        entered == left
    }
}
