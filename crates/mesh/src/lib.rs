//! The pure heart of Isthmus: what the mesh looks like, and every decision about a request.
//!
//! What it is: the neutral model ([`View`] and what it holds) and one function per decision. [`route`] and [`pick`]
//! say where a request goes, [`retry`] whether it may go again, [`admit_source`] and [`admit_destination`] what a
//! gateway carries, [`authorize_inbound`] what a sidecar lets in, [`PathHealth`] which tunnels take streams, and
//! [`resolve`] what DNS answers. Each returns a value with its reasons, and that value has four readers: the proxy that
//! acts on it, the access log, `hubctl explain`, and the tests.
//!
//! What it is not: there is no clock, no randomness, no runtime and no socket here; they are arguments.
//!
//! **Invariant:** equal arguments give equal decisions.
//!
//! Start reading at [`View`], then [`route`].

mod names;
pub use names::*;

mod host;
mod model;
mod policy;
mod reason;
mod request;
pub use host::{CLUSTER_ZONE, CLUSTERSET_ZONE, Host};
pub use model::*;
pub use policy::*;
pub use reason::{Denial, Reason};
pub use request::{Claims, ConnectionFacts, HttpRequest};

mod admit;
mod authorize;
mod balance;
mod batching;
mod bounds;
mod cluster;
mod export;
mod format;
mod hash;
mod head;
mod health;
mod limit;
mod outlier;
mod path;
mod patience;
mod remote_ip;
mod resolve;
mod retry;
mod ride;
mod route;
mod sources;
mod spread;
mod stand_in;
mod topology;
mod tunnel;
mod virtual_port;
pub use admit::{
    Candidate, DestinationDecision, SourceDecision, TunnelMode, TunnelRequest, admit_destination, admit_source,
};
pub use authorize::{
    AccessDecision, AccessRequest, InboundDecision, InboundPeer, PortScope, authorize, authorize_inbound,
    authorize_inbound_udp,
};
pub use balance::{Draw, Load, Pick, Tables, hash_ring, pick};
pub use batching::{Batching, ShortestTrip};
pub use bounds::{GIVEN_UP_WITHIN, HTTP2_BOUNDS, Http2Bounds, gives_up_too_often};
pub use cluster::{ClusterState, cluster_state, drain_share};
pub use export::{Conflict, Constituent, Merged, merge_exports};
pub use format::{FormatFacts, render, rfc3339, unsupported};
pub use hash::{HashMember, HashRing};
pub use head::{
    AdmittedRequest, HEADERS_MAX, HeadRefusal, HeadRules, MESH_HEADERS_MAX, RequestHead, TARGET_MAX, admit_request,
    checked_authority,
};
pub use health::{EJECT_MIN, Observation, PROBE_BUSY, PROBE_IDLE, PROBE_IN_USE, PathAction, PathHealth, SLOW_START};
pub use limit::{Allowance, Applied, Bucket, Buckets, body_limit, limits};
pub use outlier::{Detector, EJECTION_MAX, Outcome, Outliers};
pub use path::{PathNormalization, normalize_path, normalize_target};
pub use patience::{Patience, Unreached, wait_for_a_way};
pub use remote_ip::remote_ip;
pub use resolve::{
    ALIASES_MAX, DNS_TTL, DnsData, DnsDecision, DnsOutcome, DnsReason, DnsRecord, Question, QuestionKind, Zone, Zones,
    resolve,
};
pub use retry::{
    Answer, Attempt, FailedAttempt, Failure, RETRY_BODY_MAX, RetryCondition, RetryDecision, RetryPolicy,
    counts_as_attempt, is_unreachable, retry,
};
pub use ride::{BriefHead, Rider, RiderBounds, RiderStep, Rides, dials_ahead, is_brief, ride};
pub use route::{
    Across, Affinity, CONNECT_TIMEOUT, CorsDecision, Entry, InjectedFault, LocalPart, MTLS_PORT, Memo, PROXIES_HEADERS,
    RequestEdits, RouteDecision, RouteOutcome, RouteRequest, STEERING_HEADERS, SetCookie, Target, Tier, apply_headers,
    cors, rewrite, route, route_to,
};
pub use sources::{OfSource, Sources, source_network};
pub use spread::{LocalHealth, LocalShare, Spread, spread};
pub use stand_in::StandIn;
pub use topology::Placed;

pub use tunnel::{
    BULK_BYTES, Carried, ClassHints, CongestionSeen, ConnectionLoad, FlowClass, KNOCK_EVERY, Knocks, RETURN_AFTER,
    RETURN_AFTER_MAX, SETTLE, STALL_MIN, STALL_URGENT, StalledFlow, TCP_DELAY, Transport, TransportChoice,
    TransportSeen, WanCongestion, datagrams_may_wait, pick_connection, stalled_to_reset, window_share,
};
pub use virtual_port::{VirtualPort, virtual_ports};

#[cfg(test)]
mod fixture;
