//! Why a decision came out as it did: what logs record, `hubctl explain` prints and tests check.

use std::fmt;

use serde::Serialize;

use crate::names::ClusterName;
use crate::policy::{ObjectRef, Origin};

/// One step of a decision, in the order in which it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Reason {
    /// The host names no service, so the request goes where its address says.
    NotInMesh,
    /// The service is not known here: neither local nor imported.
    UnknownService,
    /// The service has no such port.
    UnknownPort {
        /// The port asked for.
        port: u16,
    },
    /// Ready endpoints of the own cluster come first.
    LocalFirst {
        /// How many there are.
        endpoints: usize,
    },
    /// The own cluster has no ready endpoint.
    NoLocalEndpoint,
    /// The name stays in the cluster: neither a clusterset name nor a global service.
    ClusterScope,
    /// Another cluster is a candidate.
    Remote {
        /// The cluster.
        cluster: ClusterName,
        /// Its healthy endpoints at its last announcement.
        healthy: u32,
        /// Its announcements are stale: its lease ran out.
        stale: bool,
    },
    /// Another cluster exports the service but cannot be used.
    RemoteUnusable {
        /// The cluster.
        cluster: ClusterName,
        /// Why.
        why: &'static str,
    },
    /// A ClusterTrafficPolicy divides requests between clusters.
    ClusterPolicy {
        /// Which one.
        object: ObjectRef,
        /// Its mode.
        mode: &'static str,
    },
    /// Another cluster drains, and this request spares it as long as others can serve.
    Draining {
        /// The cluster.
        cluster: ClusterName,
        /// The part of its usual share that it still gets.
        percent: u32,
    },
    /// No gateway of the own cluster is known, so no other cluster can be reached.
    NoGateway,
    /// A rule of an object decided.
    Rule {
        /// Which one.
        origin: Origin,
    },
    /// No rule of the object matches.
    NoRule {
        /// The object.
        object: ObjectRef,
    },
    /// Of the destinations of a rule this one was drawn.
    Weighted {
        /// Which one, as a user writes it.
        destination: String,
        /// Its weight.
        weight: u32,
        /// Of this sum.
        of: u32,
    },
    /// An object says how the destination is talked to.
    TrafficPolicy {
        /// The DestinationRule.
        object: ObjectRef,
        /// The subset, if one was chosen.
        subset: Option<String>,
    },
    /// A rule names a subset that no DestinationRule defines.
    UnknownSubset {
        /// Its name.
        subset: String,
    },
    /// A fault was put in.
    Fault {
        /// What.
        fault: &'static str,
    },
    /// No route of the listener is for the request.
    NoRoute,
    /// Something that was looked at and decided, in words.
    Note {
        /// The words.
        text: String,
    },
    /// Nothing is left to try.
    NoEndpoint,
    /// Denied, see the denial.
    Denied {
        /// Why.
        denial: Denial,
    },
    /// Allowed because no policy says otherwise.
    AllowedByDefault,
    /// The workload declares no such port; its application may have it all the same.
    UndeclaredPort {
        /// The port.
        port: u16,
    },
    /// Plain text was accepted in PERMISSIVE mode.
    PermissivePlain,
    /// The export allows the peer's cluster.
    ExportAllows {
        /// The peer's cluster.
        cluster: ClusterName,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInMesh => f.write_str("the host names no service of the mesh"),
            Self::UnknownService => f.write_str("no cluster exports such a service"),
            Self::UnknownPort { port } => write!(f, "the service has no port {port}"),
            Self::LocalFirst { endpoints } => write!(f, "{endpoints} ready endpoints in this cluster come first"),
            Self::NoLocalEndpoint => f.write_str("this cluster has no ready endpoint"),
            Self::ClusterScope => f.write_str("the name stays in this cluster"),
            Self::Remote { cluster, healthy, stale } => {
                let age = if *stale { ", announced before its lease ran out" } else { "" };
                write!(f, "{cluster} has {healthy} healthy endpoints{age}")
            }
            Self::RemoteUnusable { cluster, why } => write!(f, "{cluster} cannot be used: {why}"),
            Self::ClusterPolicy { object, mode } => write!(f, "{object} divides between clusters: {mode}"),
            Self::Draining { cluster, percent } => {
                write!(f, "{cluster} drains (it gets {percent} % of its share): it is the last resort of this request")
            }
            Self::NoGateway => f.write_str("this cluster has no gateway"),
            Self::Rule { origin } => write!(f, "{origin}"),
            Self::NoRule { object } => write!(f, "no rule of {object} matches"),
            Self::Weighted { destination, weight, of } => write!(f, "{destination} was drawn, weight {weight} of {of}"),
            Self::TrafficPolicy { object, subset: None } => write!(f, "{object} says how"),
            Self::TrafficPolicy { object, subset: Some(subset) } => write!(f, "{object} says how, subset {subset}"),
            Self::UnknownSubset { subset } => write!(f, "no DestinationRule defines the subset {subset}"),
            Self::Fault { fault } => write!(f, "a fault was put in: {fault}"),
            Self::NoRoute => f.write_str("no route is for this request"),
            Self::Note { text } => f.write_str(text),
            Self::NoEndpoint => f.write_str("no endpoint is left to try"),
            Self::Denied { denial } => write!(f, "denied: {denial}"),
            Self::AllowedByDefault => f.write_str("no policy says otherwise"),
            Self::UndeclaredPort { port } => write!(f, "port {port} is not declared, and open as the application's"),
            Self::PermissivePlain => f.write_str("plain text is accepted in permissive mode"),
            Self::ExportAllows { cluster } => write!(f, "the export allows {cluster}"),
        }
    }
}

/// Why a gateway or a sidecar refused a flow; travels back to the client's log and to `hubctl explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Denial {
    /// The header could not be read or breaks a rule.
    BadHeader,
    /// No common protocol version.
    VersionUnsupported,
    /// The header names a source that the TLS peer may not speak for.
    SourceMismatch,
    /// The destination cluster is not known, or nothing is imported from it.
    ClusterUnknown,
    /// No usable path to the destination cluster.
    ClusterUnreachable,
    /// The service is not exported to the peer's cluster (or does not exist: a peer cannot tell).
    NotExported,
    /// The export has no such port.
    UnknownPort,
    /// No ready endpoint matches the group.
    NoEndpoint,
    /// Endpoints exist but none could be connected to.
    EndpointUnreachable,
    /// A policy denies the peer.
    Policy,
    /// mTLS is required and the peer spoke plain text.
    MtlsRequired,
    /// The port takes plain text only and the peer spoke mTLS.
    MtlsDisabled,
    /// The process is going away.
    Draining,
    /// A limit was reached.
    Overloaded,
    /// No route is for the request.
    NoRoute,
    /// The request's token is not valid.
    TokenInvalid,
    /// A rate limit was reached.
    RateLimited,
    /// The body is larger than it may be.
    PayloadTooLarge,
    /// The workload may reach only hosts that the mesh knows (REGISTRY_ONLY), and this is none.
    UnknownHost,
}

impl Denial {
    const ALL: [Self; 19] = [
        Self::BadHeader,
        Self::VersionUnsupported,
        Self::SourceMismatch,
        Self::ClusterUnknown,
        Self::ClusterUnreachable,
        Self::NotExported,
        Self::UnknownPort,
        Self::NoEndpoint,
        Self::EndpointUnreachable,
        Self::Policy,
        Self::MtlsRequired,
        Self::MtlsDisabled,
        Self::Draining,
        Self::Overloaded,
        Self::NoRoute,
        Self::TokenInvalid,
        Self::RateLimited,
        Self::PayloadTooLarge,
        Self::UnknownHost,
    ];

    /// The kebab-case name, on the wire, in logs and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadHeader => "bad-header",
            Self::VersionUnsupported => "version-unsupported",
            Self::SourceMismatch => "source-mismatch",
            Self::ClusterUnknown => "cluster-unknown",
            Self::ClusterUnreachable => "cluster-unreachable",
            Self::NotExported => "not-exported",
            Self::UnknownPort => "unknown-port",
            Self::NoEndpoint => "no-endpoint",
            Self::EndpointUnreachable => "endpoint-unreachable",
            Self::Policy => "policy",
            Self::MtlsRequired => "mtls-required",
            Self::MtlsDisabled => "mtls-disabled",
            Self::Draining => "draining",
            Self::Overloaded => "overloaded",
            Self::NoRoute => "no-route",
            Self::TokenInvalid => "token-invalid",
            Self::RateLimited => "rate-limited",
            Self::PayloadTooLarge => "payload-too-large",
            Self::UnknownHost => "unknown-host",
        }
    }

    /// Reads what [`Denial::as_str`] wrote.
    pub fn from_wire(value: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|denial| denial.as_str() == value)
    }

    /// Whether another target, gateway or cluster may do better. No byte of the flow reached an application, so a
    /// retry is always safe.
    pub fn is_retriable(self) -> bool {
        matches!(
            self,
            Self::ClusterUnreachable | Self::NoEndpoint | Self::EndpointUnreachable | Self::Draining | Self::Overloaded
        )
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_denial_survives_the_wire() {
        for denial in Denial::ALL {
            assert_eq!(Denial::from_wire(denial.as_str()), Some(denial));
            assert_eq!(serde_json::to_value(denial).unwrap(), denial.as_str());
        }
    }
}
