//! Rate limits (RateLimitPolicy, ours: Istio has none), and how durations are written.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HttpMatch, Origin};

/// One limit of a workload or gateway: a token bucket per value of its descriptors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Where it comes from; its name is the policy's in the `RateLimit` header fields.
    pub origin: Origin,
    /// Requests that it is about, any of them; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
    /// Each combination of values has a bucket of its own; empty = one for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Descriptor>,
    /// Requests allowed in [`Self::per`].
    pub requests: u32,
    /// The window.
    #[serde(with = "millis")]
    pub per: Duration,
    /// The bucket's size; at least [`Self::requests`] unless written otherwise.
    pub burst: u32,
}

/// A limit of what a request's body may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyLimit {
    /// Where it comes from.
    pub origin: Origin,
    /// The most bytes.
    pub max_bytes: u64,
}

/// A property of a request that buckets are told apart by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Descriptor {
    /// The path without its query.
    Path,
    /// The method.
    Method,
    /// The authority.
    Host,
    /// A header by lower-case name; absent = the empty value.
    Header(String),
    /// A query parameter.
    QueryParameter(String),
    /// The SPIFFE id proven by mTLS.
    Identity,
    /// A claim of the verified token, nested by `.`.
    Claim(String),
    /// The client's address, behind trusted hops.
    RemoteIp,
}

/// Whole milliseconds.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Whole milliseconds, or nothing.
pub(crate) mod optional_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(|value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<u64>::deserialize(deserializer).map(|value| value.map(Duration::from_millis))
    }
}
