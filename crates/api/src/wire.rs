//! Conversions between wire messages and `mesh` types; nothing else.
//!
//! From the wire is `TryFrom` and names the field that is wrong; to the wire is `From`.

mod hosts;
mod places;
mod services;
mod trust;
mod tunnel;

use std::str::FromStr;
use std::sync::Arc;

use mesh::{Namespace, Protocol, ServiceName};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a message is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {why}")]
pub struct WireError {
    /// The field, as in the `.proto` file.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

fn error(field: &'static str, why: impl ToString) -> WireError {
    WireError { field, why: why.to_string() }
}

fn parse<T: FromStr<Err: ToString>>(field: &'static str, value: &str) -> Result<T, WireError> {
    value.parse().map_err(|why: T::Err| error(field, why.to_string()))
}

fn parse_all<T: FromStr<Err: ToString>>(field: &'static str, values: &[String]) -> Result<Vec<T>, WireError> {
    values.iter().map(|value| parse(field, value)).collect()
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

fn port_number(field: &'static str, number: u32) -> Result<u16, WireError> {
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| error(field, "a port is 1 to 65535"))
}

fn service_name(namespace: &str, name: &str) -> Result<ServiceName, WireError> {
    let namespace: Namespace = parse("namespace", namespace)?;
    parse("name", &format!("{namespace}/{name}"))
}

fn protocol(value: &str) -> Result<Protocol, WireError> {
    Protocol::from_wire(value).ok_or_else(|| error("protocol", format!("{value:?} is not known")))
}

/// Reads a configuration document. An unknown field is an error, so that a rule is never half applied.
fn document<T: DeserializeOwned + Default>(field: &'static str, bytes: &[u8]) -> Result<Arc<T>, WireError> {
    if bytes.is_empty() {
        return Ok(Arc::default());
    }
    serde_json::from_slice(bytes).map(Arc::new).map_err(|why| error(field, why))
}

/// Writes a configuration document; the default is empty.
fn to_document<T: Serialize + Default + PartialEq>(value: &T) -> Vec<u8> {
    if *value == T::default() {
        return Vec::new();
    }
    // The keys of all maps are texts or numbers, so that nothing can fail; a document that is no document is refused
    // by the reader.
    serde_json::to_vec(value).unwrap_or_else(|error| format!("not written: {error}").into_bytes())
}

fn convert_all<'a, T, U>(values: &'a [T]) -> Result<Vec<U>, WireError>
where
    U: TryFrom<&'a T, Error = WireError>,
{
    values.iter().map(U::try_from).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use mesh::{
        ClusterName, Endpoint, ExportPolicy, Group, GroupKey, Import, Service, ServicePort, SpiffeId, TrustDomain,
        TunnelRequest,
    };

    use super::*;
    use crate::{discovery, tunnel};

    fn service(
        name: String,
        ports: BTreeMap<u16, u16>,
        labels: BTreeMap<String, String>,
        clusters: Vec<String>,
    ) -> Service {
        let namespace = Namespace::new("default").unwrap();
        let account = SpiffeId::new(TrustDomain::new("east.demo").unwrap(), namespace.clone(), "a").unwrap();
        let key = GroupKey { service_account: "a".into(), labels: labels.clone(), locality: "r/z".into() };
        let pod = mesh::ImportPod {
            name: "pod-0".into(),
            hostname: Some("pod-0".into()),
            addresses: vec!["242.0.0.1".parse().unwrap()],
            group: key.clone(),
        };
        let groups = vec![Group { key, meshed: true, healthy: 2 }];
        let import = Import { serial: 3, ports: Vec::new(), groups, pods: vec![pod] };
        let clusters: Vec<ClusterName> = clusters.into_iter().map(|name| ClusterName::new(name).unwrap()).collect();
        let endpoint = Endpoint {
            name: "pod".into(),
            address: [127, 0, 0, 1].into(),
            ports,
            identity: Some(account),
            labels,
            locality: String::new(),
            ready: true,
            other_addresses: vec!["fd00::1".parse().unwrap()],
            plain_ports: BTreeSet::from([9090]),
            stand_in: None,
            weight: 1,
        };
        Service {
            name: ServiceName::new(namespace, name).unwrap(),
            global: true,
            headless: false,
            clusterset_addresses: vec!["243.0.0.1".parse().unwrap()],
            listeners: Default::default(),
            cluster_addresses: Vec::new(),
            ports: vec![ServicePort { name: "http".into(), number: 80, protocol: Protocol::Grpc }],
            endpoints: vec![endpoint],
            export: Some(ExportPolicy::Only(clusters.iter().cloned().collect())).filter(|_| !clusters.is_empty()),
            config: Arc::default(),
            imports: clusters.into_iter().map(|name| (name, import.clone())).collect(),
        }
    }

    proptest! {
        #[test]
        fn a_service_survives_the_wire(
            name in "[a-z]{1,9}",
            ports in prop::collection::btree_map(1..u16::MAX, 1..u16::MAX, 0..3),
            labels in prop::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 0..3),
            clusters in prop::collection::vec("[a-z]{1,5}", 0..3),
        ) {
            let service = service(name, ports, labels, clusters);
            prop_assert_eq!(Service::try_from(&discovery::Service::from(&service)), Ok(service));
        }
    }

    #[test]
    fn an_error_names_the_field() {
        let good = tunnel::Header {
            version: 1,
            namespace: "default".into(),
            service: "reviews".into(),
            port: 80,
            cluster: "west".into(),
            mode: tunnel::Mode::Mesh.into(),
            source: "spiffe://east.demo/ns/default/sa/web".into(),
            ..Default::default()
        };
        assert!(TunnelRequest::try_from(&good).is_ok());
        let cases = [
            ("port", tunnel::Header { port: 70_000, ..good.clone() }),
            ("cluster", tunnel::Header { cluster: "West".into(), ..good.clone() }),
            ("source", tunnel::Header { source: "web".into(), ..good.clone() }),
            ("mode", tunnel::Header { mode: 0, ..good.clone() }),
            ("namespace", tunnel::Header { namespace: String::new(), ..good }),
        ];
        for (field, header) in cases {
            assert_eq!(TunnelRequest::try_from(&header).unwrap_err().field, field);
        }
    }
}
