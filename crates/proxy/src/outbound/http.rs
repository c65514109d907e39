//! One HTTP request of the workload.

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use mesh::{Denial, Failure, RouteDecision, RouteOutcome};

use super::attempt::{Attempts, Chosen, Exchange, Outgoing, Repeatable, refused, speaks};
use super::stream::{Established, Upstream, note_server};
use super::{Engine, Outbound};
use crate::access::{ClosedBy, OpenRecord, Party, Record, Reporter};
use crate::body::{self, Body, Replay, Tracked};
use crate::fault::{Fault, flag};
use crate::upgrade::{self, Upgrade};
use crate::{headers, reply};

/// Where a captured connection was going; requests on it go there, whatever host they name.
#[derive(Debug, Clone)]
pub(super) struct Dialled {
    pub host: String,
    pub port: u16,
}

impl Outbound {
    /// Carries one request that names its host, as clients of a forward proxy do. Failures become answers.
    pub async fn request(&self, request: Request<Incoming>) -> Response<Body> {
        Box::pin(self.0.request(request, None)).await
    }
}

impl Engine {
    pub(super) async fn request(&self, mut request: Request<Incoming>, dialled: Option<&Dialled>) -> Response<Body> {
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
        let decision = match dialled {
            Some(dialled) => self.decide(&dialled.host, dialled.port).await,
            None => self.decide(authority.host(), authority.port_u16().unwrap_or(80)).await,
        };
        record.decided(&decision);
        if let Some(protocol) = protocol {
            let request = request.map(body::incoming);
            let record = self.config.recorder.open(record);
            let upgrade = Upgrade { request, protocol, authority, record, hold: Box::new(()) };
            return Box::pin(self.upgrade(&decision, dialled, upgrade)).await;
        }
        let (head, body) = request.into_parts();
        let body = Replay::new(body::incoming(body));
        let mut record = self.config.recorder.open(record);
        record.count_received(body.counter());
        let idempotent = is_idempotent(&head.method);
        let outgoing = Outgoing { head: &head, authority: &authority, body: &body, idempotent };
        let outcome = match &decision.outcome {
            RouteOutcome::Refuse | RouteOutcome::Redirect { .. } | RouteOutcome::Direct => Err(refused(&decision)),
            RouteOutcome::Passthrough => self.pass_through(&decision, &outgoing, dialled).await.map(Answered::from),
            RouteOutcome::Forward { .. } => self.forward(&decision, &outgoing, &mut record).await,
        };
        body.settle();
        match outcome {
            Ok(answered) => pass_on(answered, record),
            Err(fault) => give_up(&fault, record, reply::is_grpc(&head.headers)),
        }
    }

    /// Attempts until one is answered or no other may be made.
    async fn forward(
        &self,
        decision: &RouteDecision,
        outgoing: &Outgoing<'_>,
        record: &mut OpenRecord,
    ) -> Result<Answered, Fault> {
        let mut attempts = Attempts::new(self, decision);
        loop {
            let Some(chosen) = attempts.next() else { return Err(refused(decision)) };
            record.note(|record| record.attempts = attempts.made);
            let (fault, answer) = match self.exchange(decision, &chosen.target, outgoing).await {
                Ok(exchange) => {
                    attempts.succeeded(&chosen);
                    match unavailable(&exchange.response) {
                        None => return Ok(Answered { exchange, chosen: Some(chosen), flag: None }),
                        Some(fault) => (fault, Some(exchange)),
                    }
                }
                Err(fault) => (fault, None),
            };
            tracing::debug!(%fault, attempt = attempts.made, "an attempt failed");
            let repeatable = Repeatable { idempotent: outgoing.idempotent, replayable: outgoing.body.is_replayable() };
            if let Err(why) = attempts.again(chosen, &fault, repeatable).await {
                record.note(|record| record.error = Some(format!("{fault}; not repeated: {why}")));
                let retried = attempts.made > 1;
                return match answer {
                    Some(exchange) => Ok(Answered { exchange, chosen: None, flag: retried.then_some(flag::RETRIES) }),
                    None => Err(fault),
                };
            }
        }
    }

    /// A request that wants to go over to another protocol: on an opaque flow of its own.
    async fn upgrade(
        &self,
        decision: &RouteDecision,
        dialled: Option<&Dialled>,
        mut upgrade: Upgrade,
    ) -> Response<Body> {
        let to = dialled
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
struct Answered {
    exchange: Exchange,
    /// Keeps the target counted as busy.
    chosen: Option<Chosen>,
    flag: Option<&'static str>,
}

impl From<Exchange> for Answered {
    fn from(exchange: Exchange) -> Self {
        Self { exchange, chosen: None, flag: None }
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
        record.attempts = record.attempts.max(1);
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
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

/// Whether a server said that it is not available: 503, or gRPC `unavailable` or `cancelled` without a body.
fn unavailable(response: &Response<Incoming>) -> Option<Fault> {
    let grpc = body::grpc_status(response.headers());
    let grpc = grpc.as_deref().is_some_and(|status| matches!(status, "1" | "14"));
    (response.status() == StatusCode::SERVICE_UNAVAILABLE || grpc).then(|| Fault {
        failure: Failure::Unavailable,
        flag: flag::RETRIES,
        message: "the server is not available".into(),
        denial: None,
    })
}
