//! How pools grow and shrink: by default, and as a destination says.

use std::time::Duration;

use mesh::ConnectionPool;

use crate::hbone::{ACROSS_ANSWERS_WINDOW, ACROSS_STREAM_WINDOW};

/// How a pool grows and shrinks.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Connections per destination.
    pub connections: usize,
    /// What a connection carries before another one is dialled.
    pub per_connection: usize,
    /// Dials at once per destination.
    pub dials: usize,
    /// A connection takes nothing new after this age, shortened by up to a third at random.
    pub lifetime: Option<Duration>,
    /// An unused connection is closed after this time.
    pub idle: Duration,
    /// A connection takes nothing new after it carried so much; `None` = no limit.
    pub carries: Option<u32>,
    /// What a connection never carries more of at once; `None` = a full one is shared when no other may be dialled.
    pub at_once: Option<usize>,
    /// For long ways: connections are dialled before they are needed; `None` = when they are.
    pub ahead: Option<Ahead>,
}

/// How connections are dialled before they are needed.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    /// How many brief requests may share a connection while others are dialled, the first one included.
    pub brief: usize,
    /// How many dials brief requests begin while there is no connection; all wait for the first that succeeds.
    pub first: usize,
}

/// No connection is kept unused for longer, whatever a policy says.
const IDLE_LONGEST: Duration = Duration::from_secs(3600);

impl Policy {
    /// To a sidecar of the own cluster or a gateway: few connections, everything multiplexed.
    pub const SHARED: Self = Self {
        connections: 4,
        per_connection: 100,
        dials: 1,
        lifetime: None,
        idle: Duration::from_secs(300),
        carries: None,
        at_once: None,
        ahead: None,
    };
    /// To another cluster: a connection carries one request at a time, so that each rides its own QUIC stream, and
    /// lives briefly, so that load follows endpoints (design: remote balancing). A new one costs two round trips, so one
    /// that is unused is kept ready, and brief requests share one rather than wait for another.
    pub const REMOTE: Self = Self {
        connections: 64,
        per_connection: 1,
        dials: 64,
        lifetime: Some(Duration::from_secs(30)),
        idle: Duration::from_secs(30),
        carries: None,
        at_once: None,
        ahead: Some(Ahead { brief: BRIEF_AT_ONCE, first: 2 }),
    };
}

/// One less than the streams whose whole windows fit into a connection's: readers that are slow never stop the others.
const BRIEF_AT_ONCE: usize = (ACROSS_ANSWERS_WINDOW / ACROSS_STREAM_WINDOW) as usize - 1;

impl Policy {
    /// The same within a destination's `connectionPool`: how long connections live, idle and altogether, and what one
    /// carries, at once (`maxConcurrentStreams`) and altogether (`maxRequestsPerConnection`).
    pub fn within(self, pool: &ConnectionPool) -> Self {
        let mut policy = self;
        policy.idle = idle_of(pool, policy.idle);
        if let Some(most) = pool.max_connection_duration {
            policy.lifetime = Some(policy.lifetime.map_or(most, |lifetime| lifetime.min(most)));
        }
        if pool.max_requests_per_connection.is_some() {
            // Connections end often then, so that several may be dialled at once.
            policy.carries = pool.max_requests_per_connection;
            policy.ahead = None;
            policy.dials = policy.dials.max(16);
            policy.connections = policy.connections.max(64);
        }
        // A limit of streams is kept by further connections, as Envoy does.
        if let Some(most) = pool.max_concurrent_streams.and_then(|most| usize::try_from(most).ok()) {
            policy.at_once = Some(most.max(1));
            policy.per_connection = policy.per_connection.min(most.max(1));
            policy.dials = policy.dials.max(16);
            policy.ahead = policy.ahead.map(|ahead| Ahead { brief: ahead.brief.min(most.max(1)), ..ahead });
        }
        policy
    }
}

/// How long a connection may be unused; zero is Envoy's word for no limit.
pub(super) fn idle_of(pool: &ConnectionPool, default: Duration) -> Duration {
    match pool.http_idle_timeout {
        None => default,
        Some(Duration::ZERO) => IDLE_LONGEST,
        Some(idle) => idle.min(IDLE_LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_the_shorter_of_both() {
        let limits = |millis| ConnectionPool {
            max_connection_duration: Some(Duration::from_millis(millis)),
            ..ConnectionPool::default()
        };
        let lifetime = |policy: Policy, millis| policy.within(&limits(millis)).lifetime.map(|it| it.as_millis());
        assert_eq!(lifetime(Policy::SHARED, 5), Some(5));
        assert_eq!(lifetime(Policy::REMOTE, 5), Some(5));
        assert_eq!(lifetime(Policy::REMOTE, 60_000), Some(30_000));
    }
}
