//! One HTTP request, of the workload or at a gateway: decided, changed, sent, answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use http::uri::Authority;
use http::{Method, Request, Response, request};
use hyper::body::Incoming;
use mesh::{Denial, Failure, HeadRules, RouteDecision};

use super::Outbound;
use super::arrival::{Arrival, Way};
use super::connect::{Established, note_server};
use super::edits::{self, AnswerEdits};
use super::exchange::{Exchange, Outgoing};
use super::forward::{Answered, Failed, expiry, outcome_at_end};
use crate::access::{ClosedBy, OpenRecord, Record, Reporter, host_of};
use crate::body::{self, Body, Replay, Timed, Tracked};
use crate::fault::{Fault, flag};
use crate::metrics::Happening;
use crate::upgrade::{self, Upgrade};
use crate::{headers, reply};

impl Outbound {
    /// Carries one request that names its host, as clients of a forward proxy do. Failures become answers.
    pub async fn request(&self, request: Request<Incoming>, source: SocketAddr) -> Response<Body> {
        Box::pin(self.carry(request.map(body::incoming), &Way::Asked(Some(source)))).await
    }

    /// Carries one request that arrived at a gateway. Failures become answers.
    pub async fn gateway_request(&self, request: Request<Body>, arrival: Arrival) -> Response<Body> {
        Box::pin(self.carry(request, &Way::Gateway(Arc::new(arrival)))).await
    }

    pub(super) async fn carry(&self, mut request: Request<Body>, way: &Way) -> Response<Body> {
        let most_headers = if matches!(way, Way::Gateway(_)) { mesh::MESH_HEADERS_MAX } else { mesh::HEADERS_MAX };
        let paths = self.0.config.directory.view().paths();
        let admitted = headers::admit(&mut request, HeadRules { most_headers, paths });
        let named = admitted.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut record = Record::begin(Reporter::Source, "http", named);
        record.request(&request);
        record.source = self.0.source(way);
        record.client(way.source(), way.facts().remote_ip);
        let authority = match admitted {
            Ok(authority) => authority,
            Err(refusal) => return self.0.config.recorder.refused_head(record, &request, refusal),
        };
        let protocol = upgrade::wanted(&request);
        headers::strip_hop(request.headers_mut());
        match way {
            // What the edge found out about its client, after it had removed what the client claimed.
            Way::Gateway(_) => headers::strip_internal(request.headers_mut()),
            _ => headers::strip_claims(request.headers_mut()),
        }
        headers::forwarded_scheme(request.headers_mut(), way.scheme());
        record.request_id = headers::request_id(request.headers_mut());
        let (mut head, body) = request.into_parts();
        let decision = self.0.decide_http(&head, &authority, way).await;
        way.decided(&mut record, &decision);
        headers::strip_steering(&mut head.headers);
        let mut answers = AnswerEdits::of(&decision, &head, &authority, way);
        let mut record = self.0.config.recorder.open(record);
        if let Some(response) = answers.preflight() {
            return answer_here(response, record, flag::NONE);
        }
        if let Some(mut response) = self.inject(&decision, &mut record, reply::is_grpc(&head.headers)).await {
            answers.cross_origin(response.headers_mut());
            return answer_here(response, record, flag::ABORT);
        }
        if let Some(mut response) = edits::own_answer(&decision, reply::is_grpc(&head.headers)) {
            answers.apply(&mut response);
            return answer_here(response, record, flag::NONE);
        }
        let authority = edits::edit(&decision, &answers, &mut head, authority, way.scheme());
        if let Some(protocol) = protocol {
            // What follows rides a flow, on which nobody would believe it.
            head.headers.remove(headers::XFCC);
            let request = Request::from_parts(head, body);
            let upgrade = Upgrade { request, protocol, authority, record, hold: Box::new(()) };
            let mut response = Box::pin(self.upgrade(&decision, way, upgrade)).await;
            answers.apply(&mut response);
            return response;
        }
        let mut response = self.send(&decision, (head, body), &authority, way, record).await;
        answers.apply(&mut response);
        response
    }

    /// Sends a request, and copies of it, and passes the answer on.
    async fn send(
        &self,
        decision: &RouteDecision,
        (head, body): (request::Parts, Body),
        authority: &Authority,
        way: &Way,
        mut record: OpenRecord,
    ) -> Response<Body> {
        let body = Replay::new(body);
        record.count_received(body.counter());
        self.mirror(decision, &head, authority, &body);
        let idempotent = is_idempotent(&head.method);
        let outgoing = Outgoing { head: &head, authority, body: &body, idempotent, way, attempt: AtomicU32::new(1) };
        let (sent, over) = (Instant::now(), body.over());
        let outcome = self.0.dispatch(decision, &outgoing).await;
        body.settle();
        match outcome {
            Ok(answered) => {
                let mut response = pass_on(answered, record);
                edits::service_time(response.headers_mut(), sent.elapsed());
                match decision.timeout {
                    // The time that was used up counts.
                    Some(timeout) => {
                        let left = timeout.saturating_sub(sent.elapsed()).max(std::time::Duration::from_millis(1));
                        response.map(|body| Timed::wrap(body, expiry(Some(left), over)))
                    }
                    None => response,
                }
            }
            Err(Failed { fault, attempts, why }) => {
                record.note(|record| {
                    record.attempts = attempts;
                    record.error = why.map(|why| format!("{fault}; not repeated: {why}"));
                });
                give_up(&fault, record, way, reply::is_grpc(&head.headers))
            }
        }
    }

    /// Puts the faults in that were drawn: the delay first, then the abort.
    async fn inject(&self, decision: &RouteDecision, record: &mut OpenRecord, grpc: bool) -> Option<Response<Body>> {
        let service = || decision.service.as_ref().map(host_of).unwrap_or_default();
        let metrics = &self.0.config.recorder.metrics;
        if let Some(delay) = decision.fault.delay {
            metrics.happened(Happening::Delay, &service());
            record.note(|record| record.flags = flag::DELAY);
            tokio::time::sleep(delay).await;
        }
        let with = decision.fault.abort?;
        metrics.happened(Happening::Abort, &service());
        Some(edits::abort(with, grpc))
    }

    /// A request that wants to go over to another protocol: on an opaque flow of its own.
    async fn upgrade(&self, decision: &RouteDecision, way: &Way, mut upgrade: Upgrade) -> Response<Body> {
        let to = way.dialled().map_or(upgrade.authority.host(), |dialled| &dialled.host).to_owned();
        let Established { connected, chosen, permit, attempts } = match self.0.establish(decision, &to, way).await {
            Ok(established) => established,
            Err(fault) => return give_up(&fault, upgrade.record, way, false),
        };
        upgrade.record.note(|record| {
            record.attempts = attempts;
            note_server(record, connected.server);
        });
        upgrade.hold = Box::new((connected.hold, chosen.map(|chosen| chosen.load), permit));
        let carried = connected.upstream.upgrade(upgrade).await;
        carried.unwrap_or_else(|(fault, record)| give_up(&fault, record, way, false))
    }
}

/// Passes an answer on; the record is finished when its body has passed.
fn pass_on(mut answered: Answered, mut record: OpenRecord) -> Response<Body> {
    let Answered { flag, attempts, why, exchange: Exchange { server, .. }, .. } = &answered;
    let (flag, attempts, server) = (*flag, *attempts, server.clone());
    let error = why.map(|why| format!("the server is not available; not repeated: {why}"));
    let late = answered.late.take();
    let (response, hold) = answered.into_parts();
    let (mut head, incoming) = response.into_parts();
    headers::strip_hop(&mut head.headers);
    record.note(|record| {
        record.status = head.status.as_u16();
        record.grpc_status = body::grpc_status(&head.headers);
        note_server(record, server);
        record.attempts = attempts;
        record.error = error;
        if let Some(flag) = flag {
            record.flag(flag);
        }
        if let Some(refusal) = Fault::from_answer(head.status, &head.headers, &record.upstream) {
            record.flag(refusal.flag);
            record.error = Some(refusal.message);
        }
    });
    let body = Tracked::wrap(body::incoming(incoming), move |ending| {
        if let (Some(late), Some(outcome)) = (late, outcome_at_end(&ending)) {
            late.observe(outcome);
        }
        record.finish(&ending);
        drop(hold);
    });
    Response::from_parts(head, body)
}

/// Answers in the place of a server that could not. The own workload is told why; clients of a gateway are not.
fn give_up(fault: &Fault, mut record: OpenRecord, way: &Way, grpc: bool) -> Response<Body> {
    let mut response = match way {
        Way::Gateway(_) => reply::outline(fault, grpc),
        _ => reply::for_fault(fault, grpc),
    };
    if fault.flag == flag::OVERFLOW {
        response.headers_mut().insert("x-envoy-overloaded", http::HeaderValue::from_static("true"));
    }
    record.note(|record| {
        record.error.get_or_insert_with(|| fault.message.clone());
        record.retriable = matches!(fault.failure, Failure::Connect | Failure::Refused)
            || fault.denial.is_some_and(Denial::is_retriable);
    });
    answer_here(response, record, fault.flag)
}

/// An answer that the engine makes itself.
fn answer_here(response: Response<Body>, mut record: OpenRecord, flag: &'static str) -> Response<Body> {
    record.note(|record| {
        record.status = response.status().as_u16();
        record.grpc_status = body::grpc_status(response.headers());
        if flag != flag::NONE {
            record.flag(flag);
        }
        record.closed_by = ClosedBy::Us;
    });
    response.map(|body| Tracked::wrap(body, move |ending| record.finish(&ending)))
}

/// RFC 9110 §9.2.2.
pub(super) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}
