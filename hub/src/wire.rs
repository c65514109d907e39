//! Conversions between the API's messages and the state's types; nothing else.

use api::hub as pb;
use hub_state::{Compare, Key, Kind, Refusal, Resource, Value};
use mesh::{ClusterName, NameError};
use prost::Message as _;
use tonic::{Code, Status};

/// Reads a key. The error names what is wrong.
pub(crate) fn key(key: Option<pb::Key>) -> Result<Key, Status> {
    let key = key.ok_or_else(|| Status::invalid_argument("key is missing"))?;
    let kind = kind(key.kind)?.ok_or_else(|| Status::invalid_argument("key.kind is missing"))?;
    let cluster = || ClusterName::new(key.cluster.clone()).map_err(invalid);
    let service = || key.name.parse().map_err(|error: NameError| invalid(error));
    let has_service = matches!(kind, Kind::Export | Kind::Address);
    if (!has_service && !key.name.is_empty()) || (kind == Kind::Address && !key.cluster.is_empty()) {
        return Err(Status::invalid_argument("key has a part that its kind does not have"));
    }
    Ok(match kind {
        Kind::Cluster => Key::Cluster(cluster()?),
        Kind::Bundle => Key::Bundle(cluster()?),
        Kind::Gateways => Key::Gateways(cluster()?),
        Kind::Export => Key::Export(cluster()?, service()?),
        Kind::Address => Key::Address(service()?),
        Kind::Lease => Key::Lease(cluster()?),
        Kind::Drain => Key::Drain(cluster()?),
    })
}

/// Reads a kind; `None` if it is unspecified.
pub(crate) fn kind(kind: i32) -> Result<Option<Kind>, Status> {
    let kind = pb::Kind::try_from(kind).map_err(|_| Status::invalid_argument("kind is not known here"))?;
    Ok(match kind {
        pb::Kind::Unspecified => None,
        pb::Kind::Cluster => Some(Kind::Cluster),
        pb::Kind::Bundle => Some(Kind::Bundle),
        pb::Kind::Gateways => Some(Kind::Gateways),
        pb::Kind::Export => Some(Kind::Export),
        pb::Kind::Address => Some(Kind::Address),
        pb::Kind::Lease => Some(Kind::Lease),
        pb::Kind::Drain => Some(Kind::Drain),
    })
}

pub(crate) fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    Ok(Compare { key: key(compare.key)?, revision: compare.revision })
}

pub(crate) fn to_key(key: &Key) -> pb::Key {
    let kind = match key.kind() {
        Kind::Cluster => pb::Kind::Cluster,
        Kind::Bundle => pb::Kind::Bundle,
        Kind::Gateways => pb::Kind::Gateways,
        Kind::Export => pb::Kind::Export,
        Kind::Address => pb::Kind::Address,
        Kind::Lease => pb::Kind::Lease,
        Kind::Drain => pb::Kind::Drain,
    };
    pb::Key {
        kind: kind.into(),
        cluster: key.cluster().map(ToString::to_string).unwrap_or_default(),
        name: key.service().map(ToString::to_string).unwrap_or_default(),
    }
}

pub(crate) fn to_resource(key: &Key, resource: &Resource) -> pb::Resource {
    let cluster = || key.cluster().map(ToString::to_string).unwrap_or_default();
    let value = match &resource.value {
        Value::Signed(fact) => fact.bytes.clone(),
        Value::Cluster(record) => pb::Cluster {
            name: cluster(),
            trust_domain: record.trust_domain.to_string(),
            joined_at_ms: record.joined_at_ms,
        }
        .encode_to_vec(),
        Value::Address(address) => {
            pb::Address { ipv4: address.ipv4().to_string(), ipv6: address.ipv6().to_string() }.encode_to_vec()
        }
        Value::Lease(lease) => {
            pb::Lease { cluster: cluster(), live: lease.live, changed_at_ms: lease.changed_at_ms }.encode_to_vec()
        }
        Value::Drain(drain) => pb::Drain {
            cluster: cluster(),
            started_at_ms: drain.started_at_ms,
            over_ms: drain.over_ms,
            leaving: drain.leaving,
        }
        .encode_to_vec(),
    };
    pb::Resource { key: Some(to_key(key)), revision: resource.revision, value }
}

/// The class of a refusal, with its reason in words and, for machines, in the metadata `isthmus-reason`.
pub(crate) fn refused(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Conflict { .. } => Code::Aborted,
        Refusal::Forbidden { .. }
        | Refusal::TokenUnknown
        | Refusal::TokenUsed
        | Refusal::TokenExpired
        | Refusal::TokenRevoked
        | Refusal::TokenElsewhere { .. } => Code::PermissionDenied,
        Refusal::Serial { .. } | Refusal::NotMember { .. } | Refusal::Leaving { .. } | Refusal::LastExporter { .. } => {
            Code::FailedPrecondition
        }
        Refusal::Quota { .. } | Refusal::AddressesExhausted => Code::ResourceExhausted,
        Refusal::Mismatch { .. } | Refusal::Invalid { .. } | Refusal::Reserved { .. } => Code::InvalidArgument,
        Refusal::AlreadyMember { .. } | Refusal::TrustDomainTaken { .. } => Code::AlreadyExists,
    };
    let mut status = Status::new(code, refusal.to_string());
    if let Ok(reason) = refusal.code().parse() {
        status.metadata_mut().insert("isthmus-reason", reason);
    }
    status
}

pub(crate) fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_wire_and_odd_ones_are_refused() {
        let east = ClusterName::new("east").unwrap();
        let service: mesh::ServiceName = "default/web".parse().unwrap();
        for expected in [Key::Cluster(east.clone()), Key::Export(east, service.clone()), Key::Address(service)] {
            assert_eq!(key(Some(to_key(&expected))).unwrap(), expected);
        }
        let odd = |kind: pb::Kind, cluster: &str, name: &str| {
            key(Some(pb::Key { kind: kind.into(), cluster: cluster.to_owned(), name: name.to_owned() })).is_err()
        };
        assert!(odd(pb::Kind::Unspecified, "east", ""));
        assert!(odd(pb::Kind::Cluster, "east", "x"));
        assert!(odd(pb::Kind::Cluster, "", ""));
        assert!(odd(pb::Kind::Export, "east", "web"));
        assert!(odd(pb::Kind::Address, "east", "default/web"));
        assert!(key(Some(pb::Key { kind: 99, cluster: "east".to_owned(), name: String::new() })).is_err());
    }
}
