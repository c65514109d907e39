//! One line of the access log per flow.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mesh::{Denial, Reason, TunnelMode, TunnelRequest, View};
use serde::Serialize;

use crate::context::Context;
use crate::metrics::{ByteLabels, StreamLabels};

/// What is learnt of a flow on its way, and at its end one line of the access log.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    /// Unix milliseconds of the flow's begin.
    time_ms: u64,
    gateway: String,
    /// `outbound` at the source gateway, `inbound` at the destination gateway.
    direction: &'static str,
    /// The identity that TLS proved.
    peer: String,
    /// The cluster at the other end.
    pub(crate) cluster: String,
    service: String,
    port: u16,
    /// The workload that sends, by its gateway's word.
    source: String,
    /// The pod.
    pub(crate) endpoint: String,
    /// Set where this gateway speaks for a pod without a sidecar: the last hop is plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<Arc<str>>,
    /// As the header says: `mesh`, or `plain` where a gateway speaks for the server.
    mode: &'static str,
    /// The connection between the gateways, at the source gateway.
    pub(crate) path: String,
    /// `quic` or `tcp` between the gateways; `none` if the flow did not come that far.
    pub(crate) transport: &'static str,
    pub(crate) revision: u64,
    /// `accepted`, or the denial in kebab case.
    result: &'static str,
    pub(crate) reasons: Vec<Reason>,
    /// How often the flow was sent again over another path.
    pub(crate) replays: u32,
    /// From the client to the server.
    request_bytes: u64,
    /// From the server to the client.
    response_bytes: u64,
    duration_ms: u64,
    /// `client`, `server` or `gateway`.
    pub(crate) closed_by: &'static str,
    pub(crate) error: String,
    #[serde(skip)]
    begun: Instant,
    /// The service as a metric label.
    #[serde(skip)]
    label: String,
}

impl Record {
    /// Begins a record.
    pub(crate) fn begin(context: &Context, direction: &'static str, peer: &mesh::SpiffeId) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            gateway: context.full_name(),
            direction,
            peer: peer.to_string(),
            cluster: "unknown".to_owned(),
            service: String::new(),
            port: 0,
            source: String::new(),
            endpoint: String::new(),
            server: None,
            mode: TunnelMode::Mesh.as_str(),
            path: String::new(),
            transport: "none",
            revision: 0,
            result: "failed",
            reasons: Vec::new(),
            replays: 0,
            request_bytes: 0,
            response_bytes: 0,
            duration_ms: 0,
            closed_by: "gateway",
            error: String::new(),
            begun: Instant::now(),
            label: "unknown".to_owned(),
        }
    }

    /// Takes what the header says.
    pub(crate) fn request(&mut self, view: &View, request: &TunnelRequest) {
        self.service = request.service.to_string();
        self.port = request.port;
        self.source = request.source.to_string();
        self.mode = request.mode.as_str();
        if view.services.contains_key(&request.service) {
            self.label.clone_from(&self.service);
        }
    }

    /// The flow was accepted.
    pub(crate) fn accepted(&mut self) {
        self.result = "accepted";
    }

    /// The flow was denied.
    pub(crate) fn denied(&mut self, denial: Denial) {
        self.result = denial.as_str();
    }

    /// The bytes that were carried.
    pub(crate) fn carried(&mut self, request: u64, response: u64) {
        self.request_bytes = request;
        self.response_bytes = response;
    }

    /// Bytes carried, both directions.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.request_bytes.saturating_add(self.response_bytes)
    }

    /// Writes the line and counts the flow.
    pub(crate) fn finish(mut self, context: &Context) {
        self.duration_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        context
            .metrics
            .streams
            .get_or_create(&StreamLabels {
                direction: self.direction,
                peer_cluster: self.cluster.clone(),
                service: self.label.clone(),
                result: self.result,
                transport: self.transport,
                mode: self.mode,
            })
            .inc();
        for (kind, bytes) in [("request", self.request_bytes), ("response", self.response_bytes)] {
            if bytes > 0 {
                let labels = ByteLabels {
                    direction: self.direction,
                    peer_cluster: self.cluster.clone(),
                    service: self.label.clone(),
                    kind,
                };
                context.metrics.bytes.get_or_create(&labels).inc_by(bytes);
            }
        }
        context.access.record(&self);
    }
}
