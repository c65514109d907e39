//! What DNS answers from.

use mesh::{HostEntry, HostPod, HostPort, LocalHost, PortTransport};

use super::{WireError, convert_all, error, parse, parse_all, port_number, service_name, texts};
use crate::discovery;

impl TryFrom<&discovery::HostEntry> for HostEntry {
    type Error = WireError;
    fn try_from(host: &discovery::HostEntry) -> Result<Self, WireError> {
        Ok(Self {
            name: service_name(&host.namespace, &host.name)?,
            addresses: parse_all("addresses", &host.addresses)?,
            ports: convert_all(&host.ports)?,
            clusterset: host.clusterset,
            headless: host.headless,
            pods: convert_all(&host.pods)?,
            local: host.local.as_ref().map(LocalHost::try_from).transpose()?,
            global: host.global,
        })
    }
}

impl From<&HostEntry> for discovery::HostEntry {
    fn from(host: &HostEntry) -> Self {
        Self {
            namespace: host.name.namespace().to_string(),
            name: host.name.name().to_owned(),
            addresses: texts(&host.addresses),
            clusterset: host.clusterset,
            headless: host.headless,
            pods: host.pods.iter().map(Into::into).collect(),
            local: host.local.as_ref().map(Into::into),
            global: host.global,
            ports: host.ports.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<&discovery::LocalHost> for LocalHost {
    type Error = WireError;
    fn try_from(local: &discovery::LocalHost) -> Result<Self, WireError> {
        Ok(Self {
            addresses: parse_all("local.addresses", &local.addresses)?,
            ports: convert_all(&local.ports)?,
            headless: local.headless,
            external_name: Some(local.external_name.clone()).filter(|name| !name.is_empty()),
            pods: convert_all(&local.pods)?,
        })
    }
}

impl From<&LocalHost> for discovery::LocalHost {
    fn from(local: &LocalHost) -> Self {
        Self {
            addresses: texts(&local.addresses),
            ports: local.ports.iter().map(Into::into).collect(),
            headless: local.headless,
            external_name: local.external_name.clone().unwrap_or_default(),
            pods: local.pods.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<&discovery::HostPort> for HostPort {
    type Error = WireError;
    fn try_from(port: &discovery::HostPort) -> Result<Self, WireError> {
        let transport = Some(port.transport.as_str()).filter(|transport| !transport.is_empty());
        let transport = PortTransport::of_kubernetes(transport)
            .ok_or_else(|| error("transport", format!("{:?} is not known", port.transport)))?;
        Ok(Self { name: port.name.clone(), number: port_number("number", port.number)?, transport })
    }
}

impl From<&HostPort> for discovery::HostPort {
    fn from(port: &HostPort) -> Self {
        let transport = match port.transport {
            PortTransport::Tcp => "",
            PortTransport::Udp => "UDP",
            PortTransport::Sctp => "SCTP",
        };
        Self { name: port.name.clone(), number: port.number.into(), transport: transport.into() }
    }
}

impl TryFrom<&discovery::HostPod> for HostPod {
    type Error = WireError;
    fn try_from(pod: &discovery::HostPod) -> Result<Self, WireError> {
        Ok(Self {
            cluster: parse("pods.cluster", &pod.cluster)?,
            hostname: Some(pod.hostname.clone()).filter(|name| !name.is_empty()),
            addresses: parse_all("pods.addresses", &pod.addresses)?,
            ports: convert_all(&pod.ports)?,
        })
    }
}

impl From<&HostPod> for discovery::HostPod {
    fn from(pod: &HostPod) -> Self {
        Self {
            cluster: pod.cluster.to_string(),
            hostname: pod.hostname.clone().unwrap_or_default(),
            addresses: texts(&pod.addresses),
            ports: pod.ports.iter().map(Into::into).collect(),
        }
    }
}
