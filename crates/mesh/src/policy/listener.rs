//! What a Sidecar says about single ports of its workload.

use serde::{Deserialize, Serialize};

use super::{ConnectionPool, InboundPolicy};
use crate::model::Protocol;

impl InboundPolicy {
    /// The limits of a port: its own, else the workload's; with the port if they are its own, for then they are counted
    /// apart.
    pub fn pool_of(&self, port: u16) -> Option<(&ConnectionPool, Option<u16>)> {
        let own = self.listeners.get(&port).and_then(|listener| listener.pool.as_ref());
        own.map(|own| (own, Some(port))).or(self.pool.as_ref().map(|pool| (pool, None)))
    }
}

/// One `ingress` listener of a Sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundListener {
    /// How the application speaks; [`Protocol::Auto`] leaves it to the Service.
    pub protocol: Protocol,
    /// Where the application listens; `None`: on the port itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<AppEndpoint>,
    /// Limits of this port instead of [`InboundPolicy::pool`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<ConnectionPool>,
}

/// A `defaultEndpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AppEndpoint {
    /// `127.0.0.1:<port>`: on the workload's loopback.
    Loopback(u16),
    /// `0.0.0.0:<port>`: on the workload's own address.
    Instance(u16),
}
