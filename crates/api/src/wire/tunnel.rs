//! Tunnel headers.

use mesh::{GroupKey, TunnelMode, TunnelRequest};

use super::{WireError, error, parse, port_number, service_name};
use crate::tunnel;

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
            udp: header.udp,
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
            udp: request.udp,
            mode: mode.into(),
            source: request.source.to_string(),
            traceparent: String::new(),
        }
    }
}
