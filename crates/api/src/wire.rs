//! Conversions between wire messages and `mesh` types; nothing else.
//!
//! From the wire is `TryFrom` and names the field that is wrong; to the wire is `From`.

use std::collections::BTreeSet;
use std::str::FromStr;

use mesh::{
    ClusterName, Endpoint, ExportPolicy, Group, GroupKey, HostEntry, Import, LocalGateway, MeshId, MeshInfo, MtlsMode,
    Namespace, Protocol, RemoteCluster, RemoteGateway, Service, ServiceName, ServicePort, SpiffeId, TrustDomain,
    TunnelMode, TunnelRequest, Workload, WorkloadPort,
};

use crate::{discovery, trust, tunnel};

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
    ServiceName::new(namespace, name).map_err(|why| error("name", why))
}

fn protocol(value: &str) -> Result<Protocol, WireError> {
    Protocol::from_wire(value).ok_or_else(|| error("protocol", format!("{value:?} is not known")))
}

fn convert_all<'a, T, U>(values: &'a [T]) -> Result<Vec<U>, WireError>
where
    U: TryFrom<&'a T, Error = WireError>,
{
    values.iter().map(U::try_from).collect()
}

impl TryFrom<&trust::Port> for ServicePort {
    type Error = WireError;
    fn try_from(port: &trust::Port) -> Result<Self, WireError> {
        let number = port_number("number", port.number)?;
        Ok(Self { name: port.name.clone(), number, protocol: protocol(&port.protocol)? })
    }
}

impl From<&ServicePort> for trust::Port {
    fn from(port: &ServicePort) -> Self {
        Self { name: port.name.clone(), number: port.number.into(), protocol: port.protocol.as_str().into() }
    }
}

impl TryFrom<&trust::Group> for Group {
    type Error = WireError;
    fn try_from(group: &trust::Group) -> Result<Self, WireError> {
        let key = GroupKey {
            service_account: group.service_account.clone(),
            labels: group.labels.clone(),
            locality: group.locality.clone(),
        };
        Ok(Self { key, meshed: group.meshed, healthy: group.healthy })
    }
}

impl From<&Group> for trust::Group {
    fn from(group: &Group) -> Self {
        let GroupKey { service_account, labels, locality } = group.key.clone();
        Self { service_account, labels, locality, meshed: group.meshed, healthy: group.healthy }
    }
}

impl TryFrom<&discovery::Mesh> for MeshInfo {
    type Error = WireError;
    fn try_from(mesh: &discovery::Mesh) -> Result<Self, WireError> {
        Ok(Self {
            mesh_id: parse::<MeshId>("mesh_id", &mesh.mesh_id)?,
            cluster: parse("cluster", &mesh.cluster)?,
            trust_domain: parse("trust_domain", &mesh.trust_domain)?,
            roots: mesh.roots.clone(),
            bundle_serial: mesh.bundle_serial,
        })
    }
}

impl From<&MeshInfo> for discovery::Mesh {
    fn from(mesh: &MeshInfo) -> Self {
        Self {
            mesh_id: mesh.mesh_id.to_string(),
            cluster: mesh.cluster.to_string(),
            trust_domain: mesh.trust_domain.to_string(),
            roots: mesh.roots.clone(),
            bundle_serial: mesh.bundle_serial,
        }
    }
}

impl TryFrom<&discovery::Endpoint> for Endpoint {
    type Error = WireError;
    fn try_from(endpoint: &discovery::Endpoint) -> Result<Self, WireError> {
        let ports =
            endpoint.ports.iter().map(|(from, to)| Ok((port_number("ports", *from)?, port_number("ports", *to)?)));
        let identity = match endpoint.identity.as_str() {
            "" => None,
            identity => Some(parse::<SpiffeId>("identity", identity)?),
        };
        Ok(Self {
            name: endpoint.name.clone(),
            address: parse("address", &endpoint.address)?,
            ports: ports.collect::<Result<_, WireError>>()?,
            identity,
            labels: endpoint.labels.clone(),
            locality: endpoint.locality.clone(),
            ready: endpoint.ready,
        })
    }
}

impl From<&Endpoint> for discovery::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            name: endpoint.name.clone(),
            address: endpoint.address.to_string(),
            ports: endpoint.ports.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect(),
            identity: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            labels: endpoint.labels.clone(),
            locality: endpoint.locality.clone(),
            ready: endpoint.ready,
        }
    }
}

impl TryFrom<&discovery::ExportPolicy> for ExportPolicy {
    type Error = WireError;
    fn try_from(policy: &discovery::ExportPolicy) -> Result<Self, WireError> {
        if policy.to_clusters.is_empty() {
            return Ok(Self::Everyone);
        }
        let clusters: Vec<ClusterName> = parse_all("to_clusters", &policy.to_clusters)?;
        Ok(Self::Only(clusters.into_iter().collect()))
    }
}

impl From<&ExportPolicy> for discovery::ExportPolicy {
    fn from(policy: &ExportPolicy) -> Self {
        let to_clusters = match policy {
            ExportPolicy::Everyone => Vec::new(),
            ExportPolicy::Only(clusters) => clusters.iter().map(ToString::to_string).collect(),
        };
        Self { to_clusters }
    }
}

impl TryFrom<&discovery::Service> for Service {
    type Error = WireError;
    fn try_from(service: &discovery::Service) -> Result<Self, WireError> {
        let import = |import: &discovery::Import| {
            let cluster: ClusterName = parse("imports.cluster", &import.cluster)?;
            let ports = convert_all(&import.ports)?;
            Ok((cluster, Import { serial: import.serial, ports, groups: convert_all(&import.groups)? }))
        };
        Ok(Self {
            name: service_name(&service.namespace, &service.name)?,
            global: service.global,
            headless: service.headless,
            clusterset_addresses: parse_all("clusterset_addresses", &service.clusterset_addresses)?,
            cluster_addresses: parse_all("cluster_addresses", &service.cluster_addresses)?,
            ports: convert_all(&service.ports)?,
            endpoints: convert_all(&service.endpoints)?,
            export: service.export.as_ref().map(ExportPolicy::try_from).transpose()?,
            imports: service.imports.iter().map(import).collect::<Result<_, WireError>>()?,
        })
    }
}

impl From<&Service> for discovery::Service {
    fn from(service: &Service) -> Self {
        let import = |(cluster, import): (&ClusterName, &Import)| discovery::Import {
            cluster: cluster.to_string(),
            serial: import.serial,
            ports: import.ports.iter().map(Into::into).collect(),
            groups: import.groups.iter().map(Into::into).collect(),
        };
        Self {
            namespace: service.name.namespace().to_string(),
            name: service.name.name().to_owned(),
            global: service.global,
            clusterset_addresses: texts(&service.clusterset_addresses),
            cluster_addresses: texts(&service.cluster_addresses),
            ports: service.ports.iter().map(Into::into).collect(),
            endpoints: service.endpoints.iter().map(Into::into).collect(),
            export: service.export.as_ref().map(Into::into),
            imports: service.imports.iter().map(import).collect(),
            headless: service.headless,
        }
    }
}

impl TryFrom<&discovery::Cluster> for RemoteCluster {
    type Error = WireError;
    fn try_from(cluster: &discovery::Cluster) -> Result<Self, WireError> {
        let gateway = |gateway: &trust::Gateway| RemoteGateway {
            name: gateway.name.clone(),
            quic_address: gateway.quic_address.clone(),
        };
        Ok(Self {
            name: parse("name", &cluster.name)?,
            trust_domain: parse::<TrustDomain>("trust_domain", &cluster.trust_domain)?,
            roots: cluster.roots.clone(),
            bundle_serial: cluster.bundle_serial,
            gateways: cluster.gateways.iter().map(gateway).collect(),
            imported: cluster.imported,
            stale_since_ms: (cluster.stale_since_ms > 0).then_some(cluster.stale_since_ms),
        })
    }
}

impl From<&RemoteCluster> for discovery::Cluster {
    fn from(cluster: &RemoteCluster) -> Self {
        let gateway = |gateway: &RemoteGateway| trust::Gateway {
            name: gateway.name.clone(),
            quic_address: gateway.quic_address.clone(),
        };
        Self {
            name: cluster.name.to_string(),
            trust_domain: cluster.trust_domain.to_string(),
            roots: cluster.roots.clone(),
            bundle_serial: cluster.bundle_serial,
            gateways: cluster.gateways.iter().map(gateway).collect(),
            imported: cluster.imported,
            stale_since_ms: cluster.stale_since_ms.unwrap_or(0),
        }
    }
}

impl TryFrom<&discovery::LocalGateway> for LocalGateway {
    type Error = WireError;
    fn try_from(gateway: &discovery::LocalGateway) -> Result<Self, WireError> {
        Ok(Self {
            name: gateway.name.clone(),
            hbone_address: parse("hbone_address", &gateway.hbone_address)?,
            identity: parse("identity", &gateway.identity)?,
        })
    }
}

impl From<&LocalGateway> for discovery::LocalGateway {
    fn from(gateway: &LocalGateway) -> Self {
        Self {
            name: gateway.name.clone(),
            hbone_address: gateway.hbone_address.to_string(),
            identity: gateway.identity.to_string(),
        }
    }
}

impl TryFrom<&discovery::Workload> for Workload {
    type Error = WireError;
    fn try_from(workload: &discovery::Workload) -> Result<Self, WireError> {
        let port = |port: &discovery::WorkloadPort| {
            let service_ports = port.service_ports.iter().map(|number| port_number("service_ports", *number));
            Ok(WorkloadPort {
                number: port_number("number", port.number)?,
                name: port.name.clone(),
                protocol: protocol(&port.protocol)?,
                service_ports: service_ports.collect::<Result<BTreeSet<u16>, WireError>>()?,
            })
        };
        let mtls = match workload.mtls.as_str() {
            "" | "permissive" => MtlsMode::Permissive,
            "strict" => MtlsMode::Strict,
            other => return Err(error("mtls", format!("{other:?} is not known"))),
        };
        Ok(Self {
            namespace: parse("namespace", &workload.namespace)?,
            name: workload.name.clone(),
            service_account: workload.service_account.clone(),
            labels: workload.labels.clone(),
            ports: workload.ports.iter().map(port).collect::<Result<_, WireError>>()?,
            mtls,
        })
    }
}

impl From<&Workload> for discovery::Workload {
    fn from(workload: &Workload) -> Self {
        let port = |port: &WorkloadPort| discovery::WorkloadPort {
            number: port.number.into(),
            protocol: port.protocol.as_str().into(),
            service_ports: port.service_ports.iter().map(|number| (*number).into()).collect(),
            name: port.name.clone(),
        };
        let mtls = match workload.mtls {
            MtlsMode::Permissive => "permissive",
            MtlsMode::Strict => "strict",
        };
        Self {
            namespace: workload.namespace.to_string(),
            name: workload.name.clone(),
            service_account: workload.service_account.clone(),
            labels: workload.labels.clone(),
            ports: workload.ports.iter().map(port).collect(),
            mtls: mtls.into(),
        }
    }
}

impl TryFrom<&discovery::HostEntry> for HostEntry {
    type Error = WireError;
    fn try_from(host: &discovery::HostEntry) -> Result<Self, WireError> {
        Ok(Self {
            name: service_name(&host.namespace, &host.name)?,
            addresses: parse_all("addresses", &host.addresses)?,
            ports: convert_all(&host.ports)?,
            clusterset: host.clusterset,
        })
    }
}

impl From<&HostEntry> for discovery::HostEntry {
    fn from(host: &HostEntry) -> Self {
        Self {
            namespace: host.name.namespace().to_string(),
            name: host.name.name().to_owned(),
            addresses: texts(&host.addresses),
            ports: host.ports.iter().map(Into::into).collect(),
            clusterset: host.clusterset,
        }
    }
}

impl TryFrom<&tunnel::Header> for TunnelRequest {
    type Error = WireError;
    fn try_from(header: &tunnel::Header) -> Result<Self, WireError> {
        let group = header.group.as_ref().map(|group| GroupKey {
            service_account: group.service_account.clone(),
            labels: group.labels.clone(),
            locality: group.locality.clone(),
        });
        let mode = match header.mode() {
            tunnel::Mode::Mesh => TunnelMode::Mesh,
            tunnel::Mode::Plain => TunnelMode::Plain,
            tunnel::Mode::Probe => TunnelMode::Probe,
            tunnel::Mode::Unspecified => return Err(error("mode", "it must be set")),
        };
        Ok(Self {
            service: service_name(&header.namespace, &header.service)?,
            port: port_number("port", header.port)?,
            cluster: parse("cluster", &header.cluster)?,
            group,
            pod: (!header.pod.is_empty()).then(|| header.pod.clone()),
            mode,
            source: parse("source", &header.source)?,
        })
    }
}

impl From<&TunnelRequest> for tunnel::Header {
    fn from(request: &TunnelRequest) -> Self {
        let mode = match request.mode {
            TunnelMode::Mesh => tunnel::Mode::Mesh,
            TunnelMode::Plain => tunnel::Mode::Plain,
            TunnelMode::Probe => tunnel::Mode::Probe,
        };
        let group = request.group.as_ref().map(|group| tunnel::GroupSelector {
            service_account: group.service_account.clone(),
            labels: group.labels.clone(),
            locality: group.locality.clone(),
        });
        Self {
            version: crate::PROTOCOL_MAX,
            namespace: request.service.namespace().to_string(),
            service: request.service.name().to_owned(),
            port: request.port.into(),
            cluster: request.cluster.to_string(),
            group,
            pod: request.pod.clone().unwrap_or_default(),
            mode: mode.into(),
            source: request.source.to_string(),
            traceparent: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn service(
        name: String,
        ports: BTreeMap<u16, u16>,
        labels: BTreeMap<String, String>,
        clusters: Vec<String>,
    ) -> Service {
        let namespace = Namespace::new("default").unwrap();
        let account = SpiffeId::new(TrustDomain::new("east.demo").unwrap(), namespace.clone(), "a").unwrap();
        let key = GroupKey { service_account: "a".into(), labels: labels.clone(), locality: "r/z".into() };
        let import = Import { serial: 3, ports: Vec::new(), groups: vec![Group { key, meshed: true, healthy: 2 }] };
        let clusters: Vec<ClusterName> = clusters.into_iter().map(|name| ClusterName::new(name).unwrap()).collect();
        let endpoint = Endpoint {
            name: "pod".into(),
            address: [127, 0, 0, 1].into(),
            ports,
            identity: Some(account),
            labels,
            locality: String::new(),
            ready: true,
        };
        Service {
            name: ServiceName::new(namespace, name).unwrap(),
            global: true,
            headless: false,
            clusterset_addresses: vec!["243.0.0.1".parse().unwrap()],
            cluster_addresses: Vec::new(),
            ports: vec![ServicePort { name: "http".into(), number: 80, protocol: Protocol::Grpc }],
            endpoints: vec![endpoint],
            export: Some(ExportPolicy::Only(clusters.iter().cloned().collect())).filter(|_| !clusters.is_empty()),
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
