//! One HTTP request for the application.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response, StatusCode, Version};
use identity::PeerIdentity;
use mesh::{Denial, Failure, HeadRules, InboundPolicy, Protocol, Reason, View};

use super::gate::{self, Pass};
use super::{Admitted, Caller, Engine, Peer};
use crate::access::{ClosedBy, OpenRecord};
use crate::body::{self, Body, Oversize, Tracked};
use crate::fault::{Fault, flag};
use crate::guard::{Admission, Facts, Refusal, ResponseHeaders};
use crate::pool::plain::Speaks;
use crate::upgrade::{self, Upgrade};
use crate::{headers, reply};

impl Engine {
    /// Carries a request to the application. `arrived` is the port that it arrived on; on the mTLS port, which serves
    /// all ports, the peer's sidecar names it.
    pub(super) async fn request(
        &self,
        mut request: Request<Body>,
        caller: Caller,
        arrived: Option<u16>,
    ) -> Response<Body> {
        let peer = &caller.peer;
        let view = self.config.directory.view();
        let most_headers = if arrived.is_some() { mesh::HEADERS_MAX } else { mesh::MESH_HEADERS_MAX };
        let authority = match headers::admit(&mut request, HeadRules { most_headers, paths: view.paths() }) {
            Ok(authority) => authority,
            Err(refusal) => {
                let mut record = self.begin("http", String::new(), &view, &caller);
                record.request(&request);
                return self.config.recorder.refused_head(record, &request, refusal);
            }
        };
        let named = request.headers().get(headers::PORT).and_then(|value| value.to_str().ok()?.parse().ok());
        let Some(port) = arrived.or(named).or(authority.port_u16()) else {
            return reply::text(StatusCode::BAD_REQUEST, "the request names no port");
        };
        let (decision, admitted) = self.admit(&view, &caller, port, false);
        let mut record = self.begin("http", authority.to_string(), &view, &caller);
        record.request(&request);
        Self::note(&mut record, decision);
        let protocol = upgrade::wanted(&request);
        headers::strip_hop(request.headers_mut());
        // A proxy speaks for its client when it sends the request itself: sidecars never pass on what workloads claim. The
        // bytes of a flow may be the workload's own words.
        match (peer, arrived) {
            (Peer::Mutual(peer), None) if self.may_vouch(peer) => headers::strip_internal(request.headers_mut()),
            _ => headers::strip_claims(request.headers_mut()),
        }
        headers::forwarded_proto(request.headers_mut());
        record.request_id = headers::request_id(request.headers_mut());
        if let Peer::Mutual(peer) = peer {
            let svid = self.config.credentials.svid();
            headers::append_xfcc(request.headers_mut(), svid.as_ref().map(|svid| svid.id()), peer);
        }
        let grpc = reply::is_grpc(request.headers());
        let speaks = admitted.as_ref().map_or(Speaks::Http1, |admitted| speaks(admitted, &request, peer));
        let received = Arc::new(AtomicU64::new(0));
        let (counted, count) = (received.clone(), received);
        let request =
            request.map(|body| Tracked::wrap(body, move |ending| counted.store(ending.bytes, Ordering::Relaxed)));
        let mut record = self.config.recorder.open(record);
        record.count_received(move || count.load(Ordering::Relaxed));
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(denial) => return deny(denial, record, grpc),
        };
        let facts = caller.facts(admitted.port.number);
        let guarded = Box::pin(self.guarded_request(&view, &facts, request, speaks)).await;
        let Guarded { request, response_headers, reasons, audit, pass } = match guarded {
            Ok(guarded) => guarded,
            Err(refusal) => return refused(*refusal, record),
        };
        record.note(|record| {
            record.upstream = admitted.app.to_string();
            record.reasons.extend(reasons);
            record.audit = audit;
        });
        if let Some(protocol) = protocol {
            let upgrade = Upgrade { request, protocol, authority, record, hold: Box::new(pass) };
            return self.upgrade(&admitted, upgrade, grpc).await;
        }
        let extensions = request.extensions().clone();
        let answered = tokio::select! {
            biased;
            () = Oversize::of(&extensions) => Err(Fault::too_large()),
            answered = self.plain.send(request, admitted.app, &authority, speaks) => answered,
        };
        match answered {
            Err(fault) => unanswered(&fault, record, grpc),
            Ok(answer) => {
                let (mut head, incoming) = answer.response.into_parts();
                headers::strip_hop(&mut head.headers);
                headers::strip_claims(&mut head.headers);
                response_headers.apply(&mut head.headers);
                record.note(|record| {
                    record.status = head.status.as_u16();
                    record.grpc_status = body::grpc_status(&head.headers);
                });
                let lease = answer.lease;
                let body = Tracked::wrap(body::incoming(incoming), move |ending| {
                    record.finish(&ending);
                    drop((lease, pass));
                });
                Response::from_parts(head, body)
            }
        }
    }
}

/// A request that policies let through and that there is room for.
struct Guarded {
    request: Request<Body>,
    response_headers: ResponseHeaders,
    reasons: Vec<Reason>,
    audit: bool,
    pass: Option<Pass>,
}

impl Engine {
    async fn guarded_request(
        &self,
        view: &View,
        facts: &Facts,
        request: Request<Body>,
        speaks: Speaks,
    ) -> Result<Guarded, Box<Refusal>> {
        let grpc = reply::is_grpc(request.headers());
        let nothing = InboundPolicy::default();
        let policy = view.workload.as_ref().map_or(&nothing, |workload| &workload.config.inbound);
        let admission = self.config.guard.admit(policy, facts, request).await?;
        let Admission { request, response_headers, reasons, audit, claims: _ } = admission;
        let pass = match policy.pool_of(facts.port) {
            None => None,
            Some((pool, port)) => match self.gates.of(port).request(pool, speaks == Speaks::Http1).await {
                Ok(pass) => Some(pass),
                Err(_) => return Err(Box::new(overflow(reasons, audit, grpc))),
            },
        };
        Ok(Guarded { request, response_headers, reasons, audit, pass })
    }

    /// Another cluster's authority vouches for its own workloads, and for nobody that they speak of.
    fn may_vouch(&self, peer: &PeerIdentity) -> bool {
        let own = self.config.credentials.svid();
        own.is_some_and(|own| own.id().trust_domain() == peer.id.trust_domain())
    }

    /// Asks the application for an upgrade, on a connection of its own.
    async fn upgrade(&self, admitted: &Admitted, upgrade: Upgrade, grpc: bool) -> Response<Body> {
        match self.dial(admitted).await {
            Ok(app) => {
                upgrade::carry(app, upgrade).await.unwrap_or_else(|(fault, record)| unanswered(&fault, record, grpc))
            }
            Err(error) => unanswered(&Fault::connect(error.to_string()), upgrade.record, grpc),
        }
    }
}

/// What the application is spoken to. Between sidecars everything is HTTP/2, so there only gRPC tells the client's version.
fn speaks(admitted: &Admitted, request: &Request<Body>, peer: &Peer) -> Speaks {
    match (admitted.protocol, peer) {
        (Protocol::Http2 | Protocol::Grpc, _) => Speaks::Http2,
        (Protocol::Http, _) => Speaks::Http1,
        _ if reply::is_grpc(request.headers()) => Speaks::Http2,
        (_, Peer::Plain) if request.version() == Version::HTTP_2 => Speaks::Http2,
        _ => Speaks::Http1,
    }
}

/// There is no room at the application.
fn overflow(reasons: Vec<Reason>, audit: bool, grpc: bool) -> Refusal {
    let denial = Denial::Overloaded;
    let response = reply::denied(StatusCode::SERVICE_UNAVAILABLE, denial, "upstream connect error or overflow", grpc);
    Refusal { response, denial, flag: gate::OVERFLOW, details: "overflow".into(), reasons, audit }
}

/// The guard's answer goes to the client.
fn refused(refusal: Refusal, mut record: OpenRecord) -> Response<Body> {
    let Refusal { response, denial, flag, details, reasons, audit } = refusal;
    record.note(|record| {
        record.status = response.status().as_u16();
        record.grpc_status = body::grpc_status(response.headers());
        record.flags = flag;
        record.response_code_details = details;
        record.error = Some(denial.to_string());
        record.closed_by = ClosedBy::Us;
        record.retriable = denial.is_retriable();
        record.reasons.extend(reasons);
        record.audit = audit;
    });
    response.map(|body| Tracked::wrap(body, move |ending| record.finish(&ending)))
}

fn deny(denial: Denial, mut record: OpenRecord, grpc: bool) -> Response<Body> {
    let fault = Fault::denied(denial, format!("the server's sidecar denied it: {denial}"));
    record.note(|record| record.retriable = denial.is_retriable());
    answer(&fault, record, grpc)
}

/// The application could not be reached, or went away. In the first case the peer may try elsewhere, and is told so.
fn unanswered(fault: &Fault, mut record: OpenRecord, grpc: bool) -> Response<Body> {
    let unreached = matches!(fault.failure, Failure::Connect | Failure::Refused);
    record.note(|record| record.retriable = unreached);
    if fault.denial == Some(Denial::PayloadTooLarge) {
        return answer(fault, record, grpc);
    }
    let denial = unreached.then_some(Denial::EndpointUnreachable);
    let flag = if unreached { flag::UPSTREAM_FAILURE } else { flag::BROKEN };
    answer(&Fault { flag, denial, ..fault.clone() }, record, grpc)
}

fn answer(fault: &Fault, mut record: OpenRecord, grpc: bool) -> Response<Body> {
    let response = reply::outline(fault, grpc);
    record.note(|record| {
        record.status = response.status().as_u16();
        record.grpc_status = body::grpc_status(response.headers());
        record.flags = fault.flag;
        if let Some(denial) = fault.denial {
            record.response_code_details = denial.as_str().into();
        }
        record.error = Some(fault.message.clone());
        record.closed_by = ClosedBy::Us;
    });
    response.map(|body| Tracked::wrap(body, move |ending| record.finish(&ending)))
}
