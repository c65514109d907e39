//! Services and what they consist of.

use mesh::{ClusterName, Constituent, Endpoint, ExportPolicy, Group, Import, ImportPod, Service, SpiffeId};

use super::{WireError, convert_all, document, error, parse, parse_all, port_number, service_name, texts, to_document};
use crate::{discovery, trust};

impl TryFrom<&trust::Export> for Constituent {
    type Error = WireError;
    fn try_from(export: &trust::Export) -> Result<Self, WireError> {
        Ok(Self {
            cluster: parse("cluster", &export.cluster)?,
            created_at: export.created_at,
            headless: export.headless,
            ports: convert_all(&export.ports)?,
            session_affinity: Some(export.session_affinity_seconds).filter(|seconds| *seconds > 0),
            labels: export.labels.clone(),
            annotations: export.annotations.clone(),
        })
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
        let stand_in = match endpoint.stand_in.as_str() {
            "" => None,
            identity => Some(parse::<SpiffeId>("stand_in", identity)?),
        };
        let plain_ports = endpoint.plain_ports.iter().map(|number| port_number("plain_ports", *number));
        Ok(Self {
            name: endpoint.name.clone(),
            address: parse("address", &endpoint.address)?,
            other_addresses: parse_all("other_addresses", &endpoint.other_addresses)?,
            ports: ports.collect::<Result<_, WireError>>()?,
            identity,
            labels: endpoint.labels.clone(),
            locality: endpoint.locality.clone(),
            ready: endpoint.ready,
            plain_ports: plain_ports.collect::<Result<_, WireError>>()?,
            stand_in,
            weight: endpoint.weight.max(1),
        })
    }
}

impl From<&Endpoint> for discovery::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            name: endpoint.name.clone(),
            address: endpoint.address.to_string(),
            other_addresses: endpoint.other_addresses.iter().map(ToString::to_string).collect(),
            ports: endpoint.ports.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect(),
            identity: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            labels: endpoint.labels.clone(),
            locality: endpoint.locality.clone(),
            ready: endpoint.ready,
            plain_ports: endpoint.plain_ports.iter().map(|number| (*number).into()).collect(),
            weight: endpoint.weight,
            stand_in: endpoint.stand_in.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl TryFrom<&discovery::ImportPod> for ImportPod {
    type Error = WireError;
    fn try_from(pod: &discovery::ImportPod) -> Result<Self, WireError> {
        let group = pod.group.as_ref().ok_or_else(|| error("pods.group", "it is missing"))?;
        Ok(Self {
            name: pod.name.clone(),
            hostname: Some(pod.hostname.clone()).filter(|name| !name.is_empty()),
            addresses: parse_all("pods.addresses", &pod.addresses)?,
            group: Group::try_from(group)?.key,
        })
    }
}

impl From<&ImportPod> for discovery::ImportPod {
    fn from(pod: &ImportPod) -> Self {
        let group = Group { key: pod.group.clone(), meshed: true, healthy: 1 };
        Self {
            name: pod.name.clone(),
            hostname: pod.hostname.clone().unwrap_or_default(),
            addresses: texts(&pod.addresses),
            group: Some((&group).into()),
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
            let (groups, pods) = (convert_all(&import.groups)?, convert_all(&import.pods)?);
            Ok((cluster, Import { serial: import.serial, ports, groups, pods }))
        };
        let listener =
            |(port, own): (&u32, &u32)| Ok((port_number("listeners", *port)?, port_number("listeners", *own)?));
        Ok(Self {
            name: service_name(&service.namespace, &service.name)?,
            global: service.global,
            headless: service.headless,
            clusterset_addresses: parse_all("clusterset_addresses", &service.clusterset_addresses)?,
            listeners: service.listeners.iter().map(listener).collect::<Result<_, WireError>>()?,
            cluster_addresses: parse_all("cluster_addresses", &service.cluster_addresses)?,
            ports: convert_all(&service.ports)?,
            endpoints: convert_all(&service.endpoints)?,
            export: service.export.as_ref().map(ExportPolicy::try_from).transpose()?,
            imports: service.imports.iter().map(import).collect::<Result<_, WireError>>()?,
            config: document("config", &service.config)?,
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
            pods: import.pods.iter().map(Into::into).collect(),
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
            config: to_document(&*service.config),
            listeners: service.listeners.iter().map(|(port, own)| ((*port).into(), (*own).into())).collect(),
        }
    }
}
