//! What the proxy sends on its own account: to authorization services, to mirrors, for keys.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::Authority;
use http::{Request, Response, Uri, request};
use http_body_util::BodyExt;
use mesh::{
    ClientTls, ConnectionFacts, Destination, Entry, Failure, Host, Reason, RouteDecision, RouteOutcome, TrafficPolicy,
};

use super::Outbound;
use super::arrival::Way;

use super::decide::{Asked, facts};
use super::exchange::Outgoing;
use crate::body::{self, Body, Replay, Tracked};
use crate::fault::{Fault, flag};
use crate::headers;
use crate::pool::origin::To;
use crate::pool::plain::Speaks;

/// A document that is fetched may have this size.
const FETCH_MAX: usize = 1 << 20;

impl Outbound {
    /// Sends one request of the proxy itself and waits for the head of its answer.
    pub async fn call(
        &self,
        destination: &Destination,
        request: Request<Body>,
        timeout: Duration,
    ) -> Result<Response<Body>, Fault> {
        let authority = headers::authority(&request);
        let port = authority.as_ref().and_then(Authority::port_u16).unwrap_or(80);
        self.call_as_asked(destination, request, port, timeout).await
    }

    /// As [`Outbound::call`], for a destination that may name no port: `port` is the one that was asked for, and counts
    /// unless the service has only one.
    pub(super) async fn call_as_asked(
        &self,
        destination: &Destination,
        request: Request<Body>,
        port: u16,
        timeout: Duration,
    ) -> Result<Response<Body>, Fault> {
        let called = Box::pin(self.call_untimed(destination, request, port));
        tokio::time::timeout(timeout, called).await.unwrap_or_else(|_| Err(too_late(timeout)))
    }

    async fn call_untimed(
        &self,
        destination: &Destination,
        request: Request<Body>,
        port: u16,
    ) -> Result<Response<Body>, Fault> {
        let authority =
            headers::authority(&request).ok_or_else(|| Fault::connect("a request of the proxy names no host"))?;
        let (head, body) = request.into_parts();
        let asked = Asked {
            host: destination.host.clone(),
            port: destination.port.unwrap_or(port),
            http: Some(facts(&head, &authority, &Way::Asked(None))),
            connection: ConnectionFacts::default(),
            claims: None,
            entry: Entry::Workload,
        };
        let mut decision = self.0.decide_to(destination, &asked).await;
        // An address that no service has is dialled as it is: whoever configured it for the proxy means it.
        let unknown = decision.outcome == RouteOutcome::Refuse && decision.service.is_none();
        if unknown && matches!(destination.host, Host::Address(_)) {
            decision.outcome = RouteOutcome::Passthrough;
            decision.port = asked.port;
        }
        self.exchange_as(&decision, &head, body, &authority).await
    }

    /// Sends a request of the proxy itself where a decision says.
    async fn exchange_as(
        &self,
        decision: &RouteDecision,
        head: &request::Parts,
        body: Body,
        authority: &Authority,
    ) -> Result<Response<Body>, Fault> {
        let body = Replay::new(body);
        let idempotent = super::http::is_idempotent(&head.method);
        let (way, attempt) = (&Way::Asked(None), AtomicU32::new(1));
        let outgoing = Outgoing { head, authority, body: &body, idempotent, way, attempt };
        let answered = self.0.dispatch(decision, &outgoing).await.map_err(|failed| failed.fault)?;
        body.settle();
        let (response, hold) = answered.into_parts();
        Ok(response.map(|incoming| Tracked::wrap(body::incoming(incoming), move |_| drop(hold))))
    }

    /// The document at a URL, `http` or `https`.
    pub async fn fetch(&self, url: &str, timeout: Duration) -> Result<Bytes, Fault> {
        let fetched = Box::pin(self.fetch_untimed(url));
        tokio::time::timeout(timeout, fetched).await.unwrap_or_else(|_| Err(too_late(timeout)))
    }

    async fn fetch_untimed(&self, url: &str) -> Result<Bytes, Fault> {
        let uri: Uri = url.parse().map_err(|_| Fault::connect(format!("{url} is no URL")))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(Fault::connect(format!("{url} names no host")));
        };
        let port = authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let request = Request::get(uri.clone())
            .header(http::header::ACCEPT, "application/json")
            .body(body::empty())
            .map_err(|_| Fault::connect(format!("{url} cannot be asked for")))?;
        let response = match scheme {
            "http" => Box::pin(self.fetch_plain(request, authority, port)).await?,
            "https" => Box::pin(self.fetch_tls(request, authority, port)).await?,
            _ => return Err(Fault::connect(format!("{url}: this scheme is not supported"))),
        };
        if !response.status().is_success() {
            return Err(Fault::connect(format!("{url} answered {}", response.status().as_u16())));
        }
        collect(response.into_body(), url).await
    }
}

impl Outbound {
    /// One request to a service, or to a host outside the mesh even if workloads may not reach it: what the proxy needs
    /// to know is not traffic of the workload.
    async fn fetch_plain(
        &self,
        request: Request<Body>,
        authority: &Authority,
        port: u16,
    ) -> Result<Response<Body>, Fault> {
        let (head, body) = request.into_parts();
        let asked = Asked {
            host: self.0.host(authority.host()),
            port,
            http: Some(facts(&head, authority, &Way::Asked(None))),
            connection: ConnectionFacts::default(),
            claims: None,
            entry: Entry::Workload,
        };
        let mut decision = self.0.decide(&asked).await;
        if decision.reasons.contains(&Reason::NotInMesh) {
            decision.outcome = RouteOutcome::Passthrough;
        }
        self.exchange_as(&decision, &head, body, authority).await
    }

    /// One request to a server outside the mesh that the machine's roots vouch for.
    async fn fetch_tls(
        &self,
        request: Request<Body>,
        authority: &Authority,
        port: u16,
    ) -> Result<Response<Body>, Fault> {
        let policy = TrafficPolicy { tls: ClientTls::Originate(Box::default()), ..TrafficPolicy::default() };
        let host = authority.host();
        let view = self.0.config.directory.view();
        let addresses = self.0.names.addresses(&*self.0.config.resolver, host, port, false).await?;
        let (head, _) = request.into_parts();
        let mut failed = None;
        for address in addresses {
            let timeout = mesh::CONNECT_TIMEOUT;
            let to = To { address, host, policy: &policy, source: None, timeout, alpn: &[] };
            let request = Request::from_parts(head.clone(), body::empty());
            match self.0.direct.send(request, authority, Speaks::Negotiated, &to, &view).await {
                Ok((response, lease)) => {
                    return Ok(response.map(|incoming| Tracked::wrap(body::incoming(incoming), move |_| drop(lease))));
                }
                Err(fault) => failed.get_or_insert(fault),
            };
        }
        Err(failed.unwrap_or_else(|| Fault::connect(format!("{host} has no address"))))
    }
}

async fn collect(mut body: Body, url: &str) -> Result<Bytes, Fault> {
    let mut document = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::connect(format!("{url} broke off: {}", body::chain(&error))))?;
        if let Some(data) = frame.data_ref() {
            if document.len() + data.len() > FETCH_MAX {
                return Err(Fault::connect(format!("{url} is longer than {FETCH_MAX} bytes")));
            }
            document.extend_from_slice(data);
        }
    }
    Ok(document.freeze())
}

fn too_late(timeout: Duration) -> Fault {
    let message = format!("no answer within {} ms", timeout.as_millis());
    Fault { failure: Failure::Timeout, flag: flag::TIMEOUT, message, denial: None }
}
