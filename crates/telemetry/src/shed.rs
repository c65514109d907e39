//! What listeners refused to hold.

use std::sync::OnceLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Where and why; both are words of the code, so their number is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Labels {
    listener: &'static str,
    reason: &'static str,
}

/// One family for the whole process, as listeners are: whoever accepts connections needs no registry at hand.
pub(crate) fn family() -> &'static Family<Labels, Counter> {
    static FAMILY: OnceLock<Family<Labels, Counter>> = OnceLock::new();
    FAMILY.get_or_init(Family::default)
}

/// Counts a connection that a listener closed, or did not take, to protect the process: `isthmus_listener_shed_total`.
/// `reason` is one of `connections`, `per-source`, `handshake`, `slow-head`, `malformed-request`, `head-too-large`, `resets`,
/// `protocol`.
pub fn shed(listener: &'static str, reason: &'static str) {
    family().get_or_create(&Labels { listener, reason }).inc();
}
