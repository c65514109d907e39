//! What [`super::route`] answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::Serialize;

use super::{CONNECT_TIMEOUT, RouteRequest};
use crate::model::{GroupKey, Protocol, View};
use crate::names::{ClusterName, ServiceName, SpiffeId};
use crate::policy::{AbortWith, ClusterTraffic, Destination, HttpRule, ObjectRef, TrafficPolicy};
use crate::reason::{Denial, Reason};
use crate::retry::RetryPolicy;

/// Where a request may go. The proxy acts on it, the access log records it, `hubctl explain` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteDecision {
    /// The revision of the view it was made on.
    pub revision: u64,
    /// The service, when the host names one.
    pub service: Option<ServiceName>,
    /// The service port.
    pub port: u16,
    /// How the port speaks.
    pub protocol: Protocol,
    /// The subset that a rule chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<String>,
    /// What to do.
    pub outcome: RouteOutcome,
    /// The HTTP rule that matched; its rewrites, header operations and cross-origin rules are to be applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<HttpRule>>,
    /// Index of the rule's match that was met; `None` when the rule has none. [`super::rewrite`] needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched: Option<usize>,
    /// Index of the rule's destination that was drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<usize>,
    /// How the destination is talked to.
    pub policy: Arc<TrafficPolicy>,
    /// The DestinationRule that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_origin: Option<ObjectRef>,
    /// How long connecting to one target may take.
    #[serde(serialize_with = "crate::retry::as_millis")]
    pub connect_timeout: Duration,
    /// Of the whole request, retries included.
    #[serde(with = "crate::policy::optional_millis", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// Faults that were drawn for this request.
    pub fault: InjectedFault,
    /// Where copies go that were drawn for this request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Destination>,
    /// Set when equal requests meet the same endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// What divides requests between clusters; `None` when no other cluster is to be considered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub across: Option<Across>,
    /// A service that the decision needs and the view lacks: whoever decides asks for it and decides again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wants: Option<ServiceName>,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// How requests are divided between the own cluster and others; [`crate::spread`] decides for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Across {
    /// What is configured.
    pub rules: Arc<ClusterTraffic>,
    /// What stands first and may spill over; `None` where the tiers say all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalPart>,
}

/// The own cluster's part of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LocalPart {
    /// So many tiers, from the first.
    pub tiers: usize,
    /// Endpoints that there are, whether they are ready or not.
    pub endpoints: usize,
}

/// Faults for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct InjectedFault {
    /// Wait so long first.
    #[serde(with = "crate::policy::optional_millis", skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// Answer with this instead of forwarding, after the delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<AbortWith>,
}

/// The hash that decides which endpoint equal requests meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Affinity {
    /// Of the request.
    pub hash: u64,
    /// A cookie that the answer sets, so that the next request has the same hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_cookie: Option<SetCookie>,
}

/// A cookie made for affinity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetCookie {
    /// The whole value of `Set-Cookie`.
    pub value: String,
}

/// What holds where no DestinationRule says otherwise.
static DEFAULT_POLICY: LazyLock<Arc<TrafficPolicy>> = LazyLock::new(Arc::default);

impl RouteDecision {
    /// Before anything is known: refused.
    pub(super) fn undecided(view: &View, request: &RouteRequest<'_>) -> Self {
        Self {
            revision: view.revision,
            service: request.host.service().cloned(),
            port: request.port,
            protocol: if request.connection.udp { Protocol::Udp } else { Protocol::Auto },
            subset: None,
            outcome: RouteOutcome::Refuse,
            rule: None,
            matched: None,
            destination: None,
            policy: Arc::clone(&DEFAULT_POLICY),
            policy_origin: None,
            connect_timeout: CONNECT_TIMEOUT,
            timeout: None,
            retry: RetryPolicy::default(),
            fault: InjectedFault::default(),
            mirrors: Vec::new(),
            affinity: None,
            across: None,
            wants: None,
            reasons: Vec::new(),
        }
    }

    /// Refuses, for this reason.
    pub(super) fn refuse(&mut self, reason: Reason) {
        self.outcome = RouteOutcome::Refuse;
        self.reasons.push(reason);
    }

    /// Refuses because no route is for the request (Istio: 404 with the flag NR).
    pub(super) fn no_route(&mut self, object: Option<&ObjectRef>) {
        self.reasons.extend(object.map(|object| Reason::NoRule { object: object.clone() }));
        self.refuse(Reason::NoRoute);
    }

    /// A service that is needed and is not in the view; the first one counts.
    pub(super) fn want(&mut self, view: &View, service: Option<&ServiceName>) {
        let missing = service.filter(|name| !name.is_entry() && !view.services.contains_key(name));
        if self.wants.is_none() {
            self.wants = missing.cloned();
        }
    }

    /// What a refusal is called in the answer and in the records; `None` when there is something to try.
    pub fn denial(&self) -> Option<Denial> {
        if self.outcome != RouteOutcome::Refuse {
            return None;
        }
        let named = self.reasons.iter().find_map(|reason| match reason {
            Reason::UnknownService => Some(Denial::NotExported),
            Reason::UnknownPort { .. } => Some(Denial::UnknownPort),
            Reason::NoGateway => Some(Denial::ClusterUnreachable),
            Reason::NoRoute => Some(Denial::NoRoute),
            Reason::Denied { denial } => Some(*denial),
            _ => None,
        });
        Some(named.unwrap_or(Denial::NoEndpoint))
    }
}

/// The answer of [`super::route`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum RouteOutcome {
    /// Send it to a target of the first tier that has a usable one.
    Forward {
        /// Best first.
        tiers: Arc<[Tier]>,
    },
    /// Not a service of the mesh: dial what the client named (Istio's ALLOW_ANY).
    Passthrough,
    /// Answer with a redirect.
    Redirect {
        /// 3xx.
        status: u16,
        /// The value of `Location`.
        location: String,
    },
    /// Answer with the rule's direct response.
    Direct,
    /// Nothing can serve it; the last reason says why.
    Refuse,
}

/// Targets of equal preference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tier {
    /// At least one.
    pub targets: Vec<Target>,
}

/// One place to send to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "target")]
pub enum Target {
    /// An endpoint of the own cluster.
    Local {
        /// The pod.
        endpoint: String,
        /// Pod address and the port that serves the service port.
        address: SocketAddr,
        /// The identity that its sidecar must prove on [`super::MTLS_PORT`]; `None`: dial `address` itself.
        expected: Option<SpiffeId>,
        /// Share of the traffic of the tier.
        weight: u32,
    },
    /// A host outside the mesh, whose addresses DNS knows.
    Named {
        /// What DNS is asked for.
        host: String,
        /// The port to dial.
        port: u16,
        /// Share of the traffic of the tier.
        weight: u32,
        /// One address at a time, a new answer for new connections (`DNS_ROUND_ROBIN`).
        one_address: bool,
    },
    /// A group of endpoints in another cluster, reached through the own gateways.
    Remote {
        /// The cluster.
        cluster: ClusterName,
        /// The group.
        group: GroupKey,
        /// Only this pod of the group.
        #[serde(skip_serializing_if = "Option::is_none")]
        pod: Option<String>,
        /// The identities of which the server must prove one.
        expected: BTreeSet<SpiffeId>,
        /// Its servers have no sidecars: a gateway there proves the identity, and the last hop is plain.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        unmeshed: bool,
        /// Share of the traffic of the tier: its healthy endpoints.
        weight: u32,
    },
}

impl Target {
    /// The cluster that a target is in; `None` = the own.
    pub fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Self::Local { .. } | Self::Named { .. } => None,
            Self::Remote { cluster, .. } => Some(cluster),
        }
    }

    /// Its share of the traffic of its tier.
    pub fn weight(&self) -> u32 {
        match self {
            Self::Local { weight, .. } | Self::Named { weight, .. } | Self::Remote { weight, .. } => *weight,
        }
    }

    pub(super) fn set_weight(&mut self, new: u32) {
        match self {
            Self::Local { weight, .. } | Self::Named { weight, .. } | Self::Remote { weight, .. } => *weight = new,
        }
    }
}
