//! How much later than it should a packet was delivered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

const SUB_BITS: u32 = 3;
const BUCKETS: usize = 64 << SUB_BITS;

/// A histogram of nanoseconds with eight buckets to each power of two, so that quantiles are right within an eighth.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    max: Duration,
}

/// What the histogram says, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lateness {
    /// Half of the packets were later.
    pub p50_us: u64,
    /// One in a hundred was later.
    pub p99_us: u64,
    /// None was later.
    pub max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, late: Duration) {
        let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(late);
    }

    pub(crate) fn summary(&self) -> Lateness {
        let micros = |nanos: u64| nanos.div_ceil(1_000);
        let max_us = micros(u64::try_from(self.max.as_nanos()).unwrap_or(u64::MAX));
        let quantile = |percent| micros(self.quantile(percent)).min(max_us);
        Lateness { p50_us: quantile(50), p99_us: quantile(99), max_us }
    }

    /// The upper bound of the bucket that holds the quantile.
    fn quantile(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank && rank > 0 {
                return upper_bound(index);
            }
        }
        0
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < 1 << SUB_BITS {
        return usize::try_from(nanos).unwrap_or(0);
    }
    let power = nanos.ilog2();
    let sub = (nanos >> (power - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (((power - SUB_BITS + 1) as usize) << SUB_BITS) + usize::try_from(sub).unwrap_or(0)
}

fn upper_bound(index: usize) -> u64 {
    if index < 1 << SUB_BITS {
        return index as u64;
    }
    let power = (index >> SUB_BITS) - 1;
    let sub = (index & ((1 << SUB_BITS) - 1)) as u64;
    (((1 << SUB_BITS) + sub + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_is_an_eighth_wide(nanos in 0_u64..1 << 62) {
            let bound = upper_bound(bucket(nanos));
            prop_assert!(bound >= nanos && bound - nanos <= nanos / 8, "{nanos} is in the bucket up to {bound}");
        }
    }

    #[test]
    fn quantiles_come_out() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.summary(), Lateness::default());
        for micros in 1..=1_000 {
            histogram.record(Duration::from_micros(micros));
        }
        let Lateness { p50_us, p99_us, max_us } = histogram.summary();
        assert!((500..=563).contains(&p50_us) && (990..=1_000).contains(&p99_us), "{p50_us} {p99_us}");
        assert_eq!(max_us, 1_000);
    }
}
