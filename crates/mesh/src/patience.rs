//! `wait_for_a_way()`: how long a flow waits while no gateway can reach the cluster it is for.

use std::time::Duration;

use crate::Denial;

/// The pause before gateways are asked again. They wait a second and more for a path themselves before they say no.
const PAUSE: Duration = Duration::from_millis(100);

/// A flow that no target took.
#[derive(Debug, Clone, Copy)]
pub struct Unreached {
    /// Why the last target did not take it.
    pub denial: Option<Denial>,
    /// Another target has not been tried yet.
    pub untried: bool,
    /// How long it has been tried so far.
    pub since: Duration,
    /// How long connecting may take altogether (`connectionPool.tcp.connectTimeout`, 10 s by default).
    pub connect_timeout: Duration,
}

/// What becomes of a flow that no target took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It does not wait: it can go elsewhere, or failed for another reason.
    None,
    /// All targets are tried again after a pause.
    Again {
        /// The pause.
        pause: Duration,
        /// What is left of the time from now on: the next round ends with it, for each gateway waits for a path itself.
        left: Duration,
    },
    /// It has waited as long as it may, and has failed. Nothing of it is repeated: that would wait anew.
    Over,
}

/// Whether a flow waits for a way.
///
/// With every path to a cluster dead there is nothing better to do than to ask for them again, as Envoy does with hosts in its
/// panic mode: most holes are short, nothing of the flow has been sent, and the client's own timeout ends it when it must.
/// What can go elsewhere does so at once, and what is refused for another reason does not wait.
pub fn wait_for_a_way(flow: &Unreached) -> Patience {
    if flow.denial != Some(Denial::ClusterUnreachable) || flow.untried {
        return Patience::None;
    }
    match flow.connect_timeout.saturating_sub(flow.since) {
        Duration::ZERO => Patience::Over,
        left => Patience::Again { pause: PAUSE.min(left), left },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: Unreached = Unreached {
        denial: Some(Denial::ClusterUnreachable),
        untried: false,
        since: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(10),
    };

    #[test]
    fn a_flow_waits_for_a_cluster_out_of_reach_as_long_as_connecting_may_take() {
        let again = |pause, left| Patience::Again { pause, left };
        let (second, brief) = (Duration::from_secs(1), Duration::from_millis(30));
        let nearly = FLOW.connect_timeout - brief;
        let cases = [
            ("all paths are dead", FLOW, again(PAUSE, FLOW.connect_timeout - FLOW.since)),
            ("the time is almost over", Unreached { since: nearly, ..FLOW }, again(brief, brief)),
            ("connecting has taken too long", Unreached { since: FLOW.connect_timeout, ..FLOW }, Patience::Over),
            ("a rule says that it may take less", Unreached { connect_timeout: second, ..FLOW }, Patience::Over),
            ("another target is left", Unreached { untried: true, ..FLOW }, Patience::None),
            (
                "another target is left at the end",
                Unreached { untried: true, since: FLOW.connect_timeout, ..FLOW },
                Patience::None,
            ),
            ("the cluster has no endpoint", Unreached { denial: Some(Denial::NoEndpoint), ..FLOW }, Patience::None),
            ("refused for ever", Unreached { denial: Some(Denial::Policy), ..FLOW }, Patience::None),
            ("it failed on the way", Unreached { denial: None, ..FLOW }, Patience::None),
        ];
        for (name, flow, expected) in cases {
            assert_eq!(wait_for_a_way(&flow), expected, "{name}");
        }
    }
}
