//! One HTTP request of the workload.

use std::any::Any;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use mesh::{Denial, Failure, RouteDecision, RouteOutcome};

use super::arrival::{Arrival, Dialled, Way};
use super::attempt::{Attempts, Chosen, Exchange, Outgoing, Repeatable, refused, speaks};
use super::stream::{Established, Upstream, note_server};
use super::{Engine, Outbound};
use crate::access::{ClosedBy, OpenRecord, Party, Record, Reporter};
use crate::body::{self, Body, Replay, Tracked};
use crate::fault::{Fault, flag};
use crate::upgrade::{self, Upgrade};
use crate::{headers, reply};

impl Outbound {
    /// Carries one request that names its host, as clients of a forward proxy do. Failures become answers.
    pub async fn request(&self, request: Request<Incoming>) -> Response<Body> {
        Box::pin(self.0.request(request.map(body::incoming), &Way::Asked)).await
    }

    /// Carries one request that arrived at a gateway. Failures become answers.
    pub async fn gateway_request(&self, request: Request<Body>, arrival: Arrival) -> Response<Body> {
        Box::pin(self.0.request(request, &Way::Gateway(Arc::new(arrival)))).await
    }
}

impl Engine {
    pub(super) async fn request(&self, mut request: Request<Body>, way: &Way) -> Response<Body> {
        let Some(authority) = headers::authority(&request) else {
            return reply::text(StatusCode::BAD_REQUEST, "the request names no host");
        };
        let mut record = Record::begin(Reporter::Source, "http", authority.to_string());
        record.request(&request);
        record.source = self.own();
        let protocol = upgrade::wanted(&request);
        headers::strip_hop(request.headers_mut());
        headers::strip_claims(request.headers_mut());
        headers::forwarded_proto(request.headers_mut());
        record.request_id = headers::request_id(request.headers_mut());
        let (head, body) = request.into_parts();
        let decision = self.decide_http(&head, &authority, way).await;
        record.decided(&decision);
        if let Some(protocol) = protocol {
            let record = self.config.recorder.open(record);
            let request = Request::from_parts(head, body);
            let upgrade = Upgrade { request, protocol, authority, record, hold: Box::new(()) };
            return Box::pin(self.upgrade(&decision, way, upgrade)).await;
        }
        let body = Replay::new(body);
        let mut record = self.config.recorder.open(record);
        record.count_received(body.counter());
        let idempotent = is_idempotent(&head.method);
        let outgoing = Outgoing { head: &head, authority: &authority, body: &body, idempotent };
        let outcome = self.dispatch(&decision, &outgoing, way).await;
        body.settle();
        match outcome {
            Ok(answered) => pass_on(answered, record),
            Err(Failed { fault, attempts, why }) => {
                record.note(|record| {
                    record.attempts = attempts;
                    record.error = why.map(|why| format!("{fault}; not repeated: {why}"));
                });
                give_up(&fault, record, reply::is_grpc(&head.headers))
            }
        }
    }

    /// Sends a request where its decision says.
    pub(super) async fn dispatch(
        &self,
        decision: &RouteDecision,
        outgoing: &Outgoing<'_>,
        way: &Way,
    ) -> Result<Answered, Failed> {
        match &decision.outcome {
            RouteOutcome::Refuse | RouteOutcome::Redirect { .. } | RouteOutcome::Direct => {
                Err(Failed::from(refused(decision)))
            }
            RouteOutcome::Passthrough => {
                Ok(Answered::from(self.pass_through(decision, outgoing, way.dialled()).await.map_err(Failed::from)?))
            }
            RouteOutcome::Forward { .. } => self.forward(decision, outgoing).await,
        }
    }

    /// Attempts until one is answered or no other may be made.
    async fn forward(&self, decision: &RouteDecision, outgoing: &Outgoing<'_>) -> Result<Answered, Failed> {
        let mut attempts = Attempts::new(self, decision);
        loop {
            let Some(chosen) = attempts.next() else { return Err(Failed::from(refused(decision))) };
            let (fault, answer) = match self.exchange(decision, &chosen.target, outgoing).await {
                Ok(exchange) => {
                    attempts.succeeded(&chosen);
                    match unavailable(&exchange.response) {
                        None => {
                            let attempts = attempts.made;
                            return Ok(Answered { exchange, chosen: Some(chosen), flag: None, attempts, why: None });
                        }
                        Some(fault) => (fault, Some(exchange)),
                    }
                }
                Err(fault) => (fault, None),
            };
            tracing::debug!(%fault, attempt = attempts.made, "an attempt failed");
            let repeatable = Repeatable { idempotent: outgoing.idempotent, replayable: outgoing.body.is_replayable() };
            if let Err(why) = attempts.again(chosen, &fault, repeatable).await {
                let (attempts, why) = (attempts.made, Some(why));
                let flag = (attempts > 1).then_some(flag::RETRIES);
                return match answer {
                    Some(exchange) => Ok(Answered { exchange, chosen: None, flag, attempts, why }),
                    None => Err(Failed { fault, attempts, why }),
                };
            }
        }
    }

    /// A request that wants to go over to another protocol: on an opaque flow of its own.
    async fn upgrade(&self, decision: &RouteDecision, way: &Way, mut upgrade: Upgrade) -> Response<Body> {
        let to = way
            .dialled()
            .cloned()
            .unwrap_or_else(|| Dialled { host: upgrade.authority.host().to_owned(), port: decision.port });
        let Established { connected, chosen, attempts } = match self.establish(decision, &to).await {
            Ok(established) => established,
            Err(fault) => return give_up(&fault, upgrade.record, false),
        };
        upgrade.record.note(|record| {
            record.attempts = attempts;
            note_server(record, connected.server);
        });
        upgrade.hold = Box::new((connected.hold, chosen.map(|chosen| chosen.load)));
        let carried = match connected.upstream {
            Upstream::Tunnel(io) => upgrade::carry(io, upgrade).await,
            Upstream::Plain(io) => upgrade::carry(io, upgrade).await,
        };
        carried.unwrap_or_else(|(fault, record)| give_up(&fault, record, false))
    }

    /// A host outside the mesh: dialled as the client named it, in plain text.
    async fn pass_through(
        &self,
        decision: &RouteDecision,
        outgoing: &Outgoing<'_>,
        dialled: Option<&Dialled>,
    ) -> Result<Exchange, Fault> {
        let host = dialled.map_or(outgoing.authority.host(), |dialled| &dialled.host);
        let mut failed = None;
        for address in self.resolve(host, decision.port).await? {
            let speaks = speaks(decision.protocol, outgoing.head);
            match self.plainly(address, speaks, outgoing, Party::default()).await {
                // Nothing was sent, so the next address may be tried.
                Err(fault) if fault.failure == Failure::Connect => failed.get_or_insert(fault),
                exchanged => return exchanged,
            };
        }
        Err(failed.unwrap_or_else(|| Fault::connect(format!("{host} has no address"))))
    }
}

/// An answer and what is known of it.
pub(super) struct Answered {
    exchange: Exchange,
    /// Keeps the target counted as busy.
    chosen: Option<Chosen>,
    flag: Option<&'static str>,
    attempts: u32,
    /// Why a failure that is passed on was not repeated.
    why: Option<&'static str>,
}

impl From<Exchange> for Answered {
    fn from(exchange: Exchange) -> Self {
        Self { exchange, chosen: None, flag: None, attempts: 1, why: None }
    }
}

impl Answered {
    /// The answer, and what must outlive its body.
    pub(super) fn into_parts(self) -> (Response<Incoming>, Box<dyn Any + Send>) {
        let Exchange { response, hold, .. } = self.exchange;
        (response, Box::new((hold, self.chosen.map(|chosen| chosen.load))))
    }
}

/// Nothing that could be passed on.
pub(super) struct Failed {
    pub(super) fault: Fault,
    pub(super) attempts: u32,
    pub(super) why: Option<&'static str>,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self { fault, attempts: 0, why: None }
    }
}

/// Passes an answer on; the record is finished when its body has passed.
fn pass_on(answered: Answered, mut record: OpenRecord) -> Response<Body> {
    let Exchange { response, server, hold } = answered.exchange;
    let (mut head, incoming) = response.into_parts();
    headers::strip_hop(&mut head.headers);
    record.note(|record| {
        record.status = head.status.as_u16();
        record.grpc_status = body::grpc_status(&head.headers);
        note_server(record, server);
        record.attempts = answered.attempts;
        record.error = answered.why.map(|why| format!("the server is not available; not repeated: {why}"));
        if let Some(flag) = answered.flag {
            record.flags = flag;
        }
    });
    let hold = (hold, answered.chosen.map(|chosen| chosen.load));
    let body = Tracked::wrap(body::incoming(incoming), move |ending| {
        record.finish(&ending);
        drop(hold);
    });
    Response::from_parts(head, body)
}

/// Answers in the place of a server that could not.
fn give_up(fault: &Fault, mut record: OpenRecord, grpc: bool) -> Response<Body> {
    let response = reply::for_fault(fault, grpc);
    record.note(|record| {
        record.status = response.status().as_u16();
        record.grpc_status = body::grpc_status(response.headers());
        record.flags = fault.flag;
        record.error.get_or_insert_with(|| fault.message.clone());
        record.closed_by = ClosedBy::Us;
        record.retriable = matches!(fault.failure, Failure::Connect | Failure::Refused)
            || fault.denial.is_some_and(Denial::is_retriable);
    });
    response.map(|body| Tracked::wrap(body, move |ending| record.finish(&ending)))
}

/// RFC 9110 §9.2.2.
pub(super) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

/// Whether a server said that it is not available: 503, or gRPC `unavailable` or `cancelled` without a body.
fn unavailable(response: &Response<Incoming>) -> Option<Fault> {
    let grpc = body::grpc_status(response.headers());
    let grpc = grpc.as_deref().is_some_and(|status| matches!(status, "1" | "14"));
    (response.status() == StatusCode::SERVICE_UNAVAILABLE || grpc).then(|| Fault {
        failure: Failure::Answer(mesh::Answer {
            status: response.status().as_u16(),
            grpc: body::grpc_status(response.headers()).and_then(|status| status.parse().ok()),
            rate_limited: response.headers().contains_key("x-envoy-ratelimited"),
        }),
        flag: flag::RETRIES,
        message: "the server is not available".into(),
        denial: None,
    })
}
