//! Every random decision of one direction, each from a stream of its own, so that turning one knob changes no other's draws.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::spec::{BurstLoss, Percent};

/// Random streams, and the state of the loss model of Gilbert and Elliott.
#[derive(Debug)]
pub(crate) struct Chance {
    loss: StdRng,
    burst: StdRng,
    in_burst: bool,
    duplicate: StdRng,
    reorder: StdRng,
    jitter: StdRng,
}

/// The generator of the stream `index` of `seed`.
pub(crate) fn stream(seed: u64, index: u64) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    StdRng::from_seed(bytes)
}

fn happens(generator: &mut StdRng, share: Percent) -> bool {
    !share.is_zero() && generator.random_range(0..Percent::ALL.parts()) < share.parts()
}

impl Chance {
    /// The streams of `seed` for the direction `index`.
    pub(crate) fn new(seed: u64, index: usize) -> Self {
        let stream = |purpose: u64| stream(seed, (index as u64 + 1) << 8 | purpose);
        Self {
            loss: stream(1),
            burst: stream(2),
            in_burst: false,
            duplicate: stream(3),
            reorder: stream(4),
            jitter: stream(5),
        }
    }

    pub(crate) fn loses(&mut self, share: Percent) -> bool {
        happens(&mut self.loss, share)
    }

    /// Whether the next packet is lost; the state that decides is the one before the packet, as with `netem`.
    pub(crate) fn loses_in_burst(&mut self, model: Option<BurstLoss>) -> bool {
        let Some(model) = model else {
            self.in_burst = false;
            return false;
        };
        let share = if self.in_burst { model.inside } else { model.outside };
        let lost = happens(&mut self.burst, share);
        let turn = if self.in_burst { model.leave } else { model.enter };
        self.in_burst ^= happens(&mut self.burst, turn);
        lost
    }

    pub(crate) fn duplicates(&mut self, share: Percent) -> bool {
        happens(&mut self.duplicate, share)
    }

    pub(crate) fn reorders(&mut self, share: Percent) -> bool {
        happens(&mut self.reorder, share)
    }

    /// A delay drawn evenly from `delay` ± `jitter`.
    pub(crate) fn delay(&mut self, delay: Duration, jitter: Duration) -> Duration {
        let span = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
        if span == 0 {
            return delay;
        }
        let drawn = self.jitter.random_range(0..=span.saturating_mul(2));
        (delay + Duration::from_nanos(drawn)).saturating_sub(jitter)
    }
}
