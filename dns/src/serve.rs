//! The shim behind a DNS server: reads requests, keeps to what the client can take, sends responses.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::forward::UDP_PAYLOAD;
use crate::reply::Reply;
use crate::shim::{Asked, Shim};

/// A TCP connection that asks nothing for this long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Responses that a TCP connection may have waiting for its client.
const TCP_RESPONSES: usize = 32;
/// How long questions on their way to upstreams hold up the end.
const DRAIN: Duration = Duration::from_secs(2);
/// What a client without EDNS takes over UDP (RFC 1035).
const UDP_PLAIN: u16 = 512;

/// Serves both sockets until `stop`, then waits a moment for forwarded questions.
pub async fn serve(shim: Arc<Shim>, udp: UdpSocket, tcp: TcpListener, stop: CancellationToken) {
    let mut server = Server::new(Handler { shim: Arc::clone(&shim) });
    server.register_socket(udp);
    server.register_listener(tcp, TCP_IDLE, TCP_RESPONSES);
    tokio::select! {
        ended = server.block_until_done() => {
            if let Err(error) = ended {
                tracing::error!(%error, "a DNS listener broke");
            }
            return;
        }
        () = stop.cancelled() => {}
    }
    if tokio::time::timeout(DRAIN, shim.forwarder.idle()).await.is_err() {
        tracing::info!("questions to upstreams are left unanswered");
    }
    if let Err(error) = server.shutdown_gracefully().await {
        tracing::warn!(%error, "the DNS server did not end cleanly");
    }
}

struct Handler {
    shim: Arc<Shim>,
}

impl RequestHandler for Handler {
    // The signature that `async_trait` makes of an async fn.
    fn handle_request<'life0, 'life1, 'async_trait, R, T>(
        &'life0 self,
        request: &'life1 Request,
        response_handle: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'async_trait>>
    where
        R: ResponseHandler + 'async_trait,
        T: Time + 'async_trait,
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.respond(request, response_handle))
    }
}

impl Handler {
    async fn respond(&self, request: &Request, mut handle: impl ResponseHandler) -> ResponseInfo {
        let begun = Instant::now();
        let proto = if request.protocol() == Protocol::Udp { "udp" } else { "tcp" };
        let (reply, zone) = match refuse(request) {
            Err(code) => (Reply::code(code), "invalid"),
            Ok(asked) => self.shim.answer(&asked).await,
        };
        let edns = response_edns(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = reply.recursion_available;
        metadata.authentic_data = reply.authentic_data;
        metadata.response_code = reply.code;
        if reply.code.high() > 0 && edns.is_none() {
            // Only EDNS has room for such a code.
            metadata.response_code = ResponseCode::ServFail;
        }
        let mut sections = (reply.answers, reply.authorities, reply.additionals);
        if proto == "udp" && !fits(request, metadata, &sections, edns.as_ref()) {
            metadata.truncation = true;
            sections = Default::default();
        }
        self.shim.metrics.record(zone, proto, metadata.response_code, begun.elapsed());
        let (answers, authorities, additionals) = &sections;
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let response = builder.build(metadata, answers, authorities, [], additionals);
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, client = %request.src(), "response not sent");
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}

/// What is no question for us, by its header alone.
fn refuse(request: &Request) -> Result<Asked, ResponseCode> {
    if request.metadata.message_type != MessageType::Query {
        return Err(ResponseCode::FormErr);
    }
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    let edns = request.edns.as_ref();
    if edns.is_some_and(|edns| edns.version() != 0) {
        return Err(ResponseCode::BADVERS);
    }
    let info = request.request_info().map_err(|_| ResponseCode::FormErr)?;
    Ok(Asked {
        question: info.query.original().clone(),
        recursion_desired: request.metadata.recursion_desired,
        checking_disabled: request.metadata.checking_disabled,
        dnssec_ok: edns.is_some_and(|edns| edns.flags().dnssec_ok),
    })
}

/// The OPT record of the response if the request had one. Its payload is also the bound that the encoder keeps to.
fn response_edns(request: &Request) -> Option<Edns> {
    let asked = request.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_version(0)
        .set_max_payload(asked.max_payload().clamp(UDP_PLAIN, UDP_PAYLOAD))
        .set_dnssec_ok(asked.flags().dnssec_ok);
    Some(edns)
}

type Sections = (Vec<hickory_proto::rr::Record>, Vec<hickory_proto::rr::Record>, Vec<hickory_proto::rr::Record>);

/// Whether a response fits into the client's datagram as a whole.
fn fits(request: &Request, metadata: Metadata, sections: &Sections, edns: Option<&Edns>) -> bool {
    let limit = edns.map_or(UDP_PLAIN, Edns::max_payload);
    let mut message = Message::new(metadata.id, MessageType::Response, metadata.op_code);
    message.add_queries(request.queries.queries().iter().map(|query| query.original().clone()));
    message.answers.clone_from(&sections.0);
    message.authorities.clone_from(&sections.1);
    message.additionals.clone_from(&sections.2);
    message.edns = edns.cloned();
    message.to_vec().is_ok_and(|bytes| bytes.len() <= usize::from(limit))
}
