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

/// The pause before all targets are tried again, or `None` when the flow has failed.
///
/// With every path to a cluster dead there is nothing better to do than to ask for them again, as Envoy does with hosts in its
/// panic mode: most holes are short, nothing of the flow has been sent, and the client's own timeout ends it when it must.
/// What can go elsewhere does so at once, and what is refused for another reason does not wait.
pub fn wait_for_a_way(flow: &Unreached) -> Option<Duration> {
    let may = flow.denial == Some(Denial::ClusterUnreachable) && !flow.untried && flow.since < flow.connect_timeout;
    may.then_some(PAUSE)
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
        let cases = [
            ("all paths are dead", FLOW, true),
            ("connecting has taken too long", Unreached { since: FLOW.connect_timeout, ..FLOW }, false),
            ("a rule says that it may take less", Unreached { connect_timeout: Duration::from_secs(1), ..FLOW }, false),
            ("another target is left", Unreached { untried: true, ..FLOW }, false),
            ("the cluster has no endpoint", Unreached { denial: Some(Denial::NoEndpoint), ..FLOW }, false),
            ("refused for ever", Unreached { denial: Some(Denial::Policy), ..FLOW }, false),
            ("it failed on the way", Unreached { denial: None, ..FLOW }, false),
        ];
        for (name, flow, waits) in cases {
            assert_eq!(wait_for_a_way(&flow).is_some(), waits, "{name}");
        }
    }
}
