//! The mesh, its clusters and gateways, workloads and host names.

use std::collections::{BTreeMap, BTreeSet};

use mesh::{
    AddressEntry, ExportPolicy, LocalGateway, MeshId, MeshInfo, MtlsMode, Pod, RemoteCluster, RemoteGateway, Secret,
    StandIn, TrustDomain, Workload, WorkloadPort,
};

use super::{WireError, document, error, parse, parse_all, port_number, protocol, to_document};
use crate::{discovery, trust};

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
            share_percent: 100_u32.saturating_sub(cluster.drained_percent),
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
            drained_percent: 100_u32.saturating_sub(cluster.share_percent),
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
            let exports = port
                .exports
                .iter()
                .map(|(number, policy)| Ok((port_number("exports", *number)?, ExportPolicy::try_from(policy)?)));
            Ok(WorkloadPort {
                number: port_number("number", port.number)?,
                name: port.name.clone(),
                protocol: protocol(&port.protocol)?,
                service_ports: service_ports.collect::<Result<BTreeSet<u16>, WireError>>()?,
                exports: exports.collect::<Result<BTreeMap<u16, ExportPolicy>, WireError>>()?,
            })
        };
        let mtls = match workload.mtls.as_str() {
            "" | "permissive" => MtlsMode::Permissive,
            "strict" => MtlsMode::Strict,
            "disable" => MtlsMode::Disable,
            other => return Err(error("mtls", format!("{other:?} is not known"))),
        };
        Ok(Self {
            namespace: parse("namespace", &workload.namespace)?,
            name: workload.name.clone(),
            service_account: workload.service_account.clone(),
            labels: workload.labels.clone(),
            ports: workload.ports.iter().map(port).collect::<Result<_, WireError>>()?,
            mtls,
            locality: workload.locality.clone(),
            config: document("config", &workload.config)?,
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
            exports: port.exports.iter().map(|(number, policy)| ((*number).into(), policy.into())).collect(),
        };
        let mtls = match workload.mtls {
            MtlsMode::Permissive => "permissive",
            MtlsMode::Strict => "strict",
            MtlsMode::Disable => "disable",
        };
        Self {
            namespace: workload.namespace.to_string(),
            name: workload.name.clone(),
            service_account: workload.service_account.clone(),
            labels: workload.labels.clone(),
            ports: workload.ports.iter().map(port).collect(),
            mtls: mtls.into(),
            config: to_document(&*workload.config),
            locality: workload.locality.clone(),
        }
    }
}

impl TryFrom<&discovery::StandIn> for StandIn {
    type Error = WireError;
    fn try_from(stand_in: &discovery::StandIn) -> Result<Self, WireError> {
        let workload = stand_in.workload.as_ref().ok_or_else(|| error("workload", "it must be set"))?;
        Ok(Self { address: parse("address", &stand_in.address)?, workload: workload.try_into()? })
    }
}

impl From<&StandIn> for discovery::StandIn {
    fn from(stand_in: &StandIn) -> Self {
        Self { address: stand_in.address.to_string(), workload: Some((&stand_in.workload).into()) }
    }
}

impl From<&discovery::Secret> for Secret {
    fn from(secret: &discovery::Secret) -> Self {
        let discovery::Secret { name, certificate, private_key, ca, crl } = secret.clone();
        Self { name, certificate, private_key, ca, crl }
    }
}

impl From<&Secret> for discovery::Secret {
    fn from(secret: &Secret) -> Self {
        let Secret { name, certificate, private_key, ca, crl } = secret.clone();
        Self { name, certificate, private_key, ca, crl }
    }
}

impl TryFrom<&discovery::Address> for AddressEntry {
    type Error = WireError;
    fn try_from(entry: &discovery::Address) -> Result<Self, WireError> {
        let identity = (!entry.identity.is_empty()).then(|| parse("identity", &entry.identity)).transpose()?;
        Ok(Self {
            address: parse("address", &entry.address)?,
            services: parse_all("services", &entry.services)?.into_iter().collect(),
            pod: (!entry.pod.is_empty()).then(|| Pod { name: entry.pod.clone(), identity }),
        })
    }
}

impl From<&AddressEntry> for discovery::Address {
    fn from(entry: &AddressEntry) -> Self {
        let identity = entry.pod.as_ref().and_then(|pod| pod.identity.as_ref());
        Self {
            address: entry.address.to_string(),
            services: entry.services.iter().map(ToString::to_string).collect(),
            pod: entry.pod.as_ref().map(|pod| pod.name.clone()).unwrap_or_default(),
            identity: identity.map(ToString::to_string).unwrap_or_default(),
        }
    }
}
