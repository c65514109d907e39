//! Which losses speak of a full queue, and how much may be under way because of them.

use std::time::Instant;

use super::rate::Round;

/// Loss that is taken for chance at most: beyond, it is congestion whatever its cause.
const CHANCE_MAX: f64 = 0.15;
/// Loss beyond chance that a round may have.
const EXCESS: f64 = 0.02;
/// Packets lost that say nothing.
const FEW: u64 = 2;
/// Packets that might have been lost by chance, beside those that were.
const UNKNOWN: u64 = 3;
/// Bytes, in packets, from which chance is known; then older ones count half.
const MEMORY: u64 = 2_000;
/// What a ceiling is held below the amount at which packets were lost.
const BELOW: f64 = 0.95;
/// By how much the first probe may exceed the ceiling; each one that goes well doubles it.
const STEP: f64 = 0.1;

/// Losses while little was under way are chance: nothing of ours waited then. What is lost beyond that is congestion.
#[derive(Debug, Clone, Default)]
pub(super) struct Losses {
    /// When little was under way: from, and until.
    low: Option<(Instant, Option<Instant>)>,
    low_acked: u64,
    low_lost: u64,
    /// The most that may be under way, in bytes.
    ceiling: Option<f64>,
    /// By how much the next probe may exceed the ceiling.
    step: f64,
}

impl Losses {
    /// From now on little is under way.
    pub(super) fn enter_low(&mut self, now: Instant) {
        self.low = Some((now, None));
    }

    pub(super) fn leave_low(&mut self, now: Instant) {
        if let Some((_, until @ None)) = &mut self.low {
            *until = Some(now);
        }
    }

    pub(super) fn acked(&mut self, sent: Instant, bytes: u64) {
        self.low_acked += if self.was_low(sent) { bytes } else { 0 };
    }

    pub(super) fn lost(&mut self, sent: Instant, bytes: u64) {
        self.low_lost += if self.was_low(sent) { bytes } else { 0 };
    }

    /// The share of packets that is lost whatever this connection does, 0 to 0.15.
    pub(super) fn chance(&self) -> f64 {
        let all = self.low_acked + self.low_lost;
        if all == 0 { 0.0 } else { (self.low_lost as f64 / all as f64).min(CHANCE_MAX) }
    }

    /// A round in which what was sent while little was under way was acknowledged or lost.
    pub(super) fn low_round(&mut self, round: &Round) {
        self.low_acked += round.acked;
        self.low_lost += round.lost;
    }

    /// What chance may be at most, for all that is known.
    fn chance_at_most(&self, packet: u64) -> f64 {
        let (unknown, all) = (UNKNOWN * packet, self.low_acked + self.low_lost);
        ((self.low_lost + unknown) as f64 / (all + unknown) as f64).min(CHANCE_MAX)
    }

    /// What a round has lost beyond chance, as a share, if that speaks of a full queue.
    pub(super) fn excess(&self, round: &Round, packet: u64) -> Option<f64> {
        let all = (round.acked + round.lost) as f64;
        let (lost, chance) = (round.lost as f64, self.chance_at_most(packet));
        if round.marked {
            return Some((lost / all.max(1.0) - chance).max(0.15));
        }
        let expected = all * (chance * 1.25 + EXCESS) + (FEW * packet) as f64;
        (lost > expected).then(|| lost / all - chance)
    }

    /// So much was under way when a queue overflowed by this share.
    pub(super) fn overflowed(&mut self, under_way: u64, excess: f64, least: f64) {
        let ceiling = (under_way as f64 * (1.0 - excess) * BELOW).max(least);
        self.ceiling = Some(self.ceiling.map_or(ceiling, |before| before.min(ceiling).max(least)));
        self.step = STEP;
    }

    /// A probe beyond the ceiling has gone well.
    pub(super) fn raise(&mut self, wanted: f64) {
        if let Some(ceiling) = self.ceiling {
            let raised = ceiling * (1.0 + self.step);
            self.ceiling = (raised < 2.0 * wanted).then_some(raised);
            self.step = (self.step * 2.0).min(1.0);
        }
    }

    /// By how much of itself a rate must grow in an ascent to say that there is more: half of what was tried.
    pub(super) fn growth(&self, wanted: f64, gain: f64) -> f64 {
        let tried = self.bound(wanted * gain, true) / self.bound(wanted, false).max(1.0);
        1.0 + (tried - 1.0).max(0.08) * 0.6
    }

    /// A window within what the queue holds, or a step beyond when that is tried.
    pub(super) fn bound(&self, window: f64, probing: bool) -> f64 {
        let step = if probing { 1.0 + self.step } else { 1.0 };
        self.ceiling.map_or(window, |ceiling| window.min(ceiling * step))
    }

    /// Whether probes are known to overflow a queue.
    pub(super) fn is_shallow(&self) -> bool {
        self.ceiling.is_some()
    }

    pub(super) fn forget_ceiling(&mut self) {
        self.ceiling = None;
    }

    /// Keeps the memory short.
    pub(super) fn fade(&mut self, packet: u64) {
        if self.low_acked + self.low_lost > MEMORY * packet {
            (self.low_acked, self.low_lost) = (self.low_acked / 2, self.low_lost / 2);
        }
    }

    fn was_low(&self, sent: Instant) -> bool {
        self.low.is_some_and(|(from, until)| sent >= from && until.is_none_or(|until| sent < until))
    }
}
