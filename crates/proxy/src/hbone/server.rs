//! The server side: hands over every stream before it is answered.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use mesh::HTTP2_BOUNDS;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::keep_alive::{InUse, Streams, until_silent};
use super::{H2Io, H2Reader, H2Writer, HandshakeError, Settings};

/// Serves one HTTP/2 connection until the peer ends it, it fails, or — after `drain` — its last stream has ended.
///
/// Every stream's handler runs on a task of its own. `drain` sends GOAWAY; streams that are open go on. Dropping the
/// future ends the connection and thereby all its streams at once. An error after the handshake is no error here: the
/// streams saw it.
pub async fn serve<T, H, F>(
    io: T,
    settings: &Settings,
    drain: CancellationToken,
    handler: H,
) -> Result<(), HandshakeError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Incoming) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(settings.max_header_list)
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_pending_accept_reset_streams(HTTP2_BOUNDS.pending_accept_resets)
        .max_local_error_reset_streams(Some(HTTP2_BOUNDS.local_error_resets))
        .max_concurrent_reset_streams(HTTP2_BOUNDS.remembered_resets)
        .max_send_buffer_size(HTTP2_BOUNDS.send_buffer);
    if settings.extended_connect {
        builder.enable_connect_protocol();
    }
    // Streams that were reset end a moment later; more than this many at once come of resetting all the time.
    let most = usize::try_from(settings.max_concurrent_streams).unwrap_or(usize::MAX).saturating_mul(2);
    let handshake = tokio::time::timeout(settings.handshake_timeout, builder.handshake::<_, Bytes>(io)).await;
    let mut connection = handshake.map_err(|_| HandshakeError::Timeout)?.map_err(HandshakeError::Http2)?;
    let streams = Streams::default();
    let silent = until_silent(connection.ping_pong(), settings, &streams);
    tokio::pin!(silent);
    let mut draining = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                None => return Ok(()),
                Some(Err(error)) => {
                    tracing::debug!(%error, "HTTP/2 connection failed");
                    if error.is_library() && !error.is_io() {
                        let calm = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
                        telemetry::shed(settings.listener, if calm { "resets" } else { "protocol" });
                    }
                    return Ok(());
                }
                Some(Ok(_)) if streams.count() >= most => {
                    tracing::info!("an HTTP/2 peer resets its streams faster than they end");
                    telemetry::shed(settings.listener, "resets");
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
                Some(Ok((request, respond))) => {
                    let (parts, body) = request.into_parts();
                    let request = Request::from_parts(parts, ());
                    tokio::spawn(handler(Incoming { request, body, respond, in_use: Arc::new(streams.enter()) }));
                }
            },
            () = drain.cancelled(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = &mut silent => {
                tracing::debug!("HTTP/2 peer no longer answers pings");
                return Ok(());
            }
        }
    }
}

/// A stream that the peer opened and nobody has answered. Dropping it resets the stream.
#[derive(Debug)]
pub struct Incoming {
    /// The head of the request.
    pub request: Request<()>,
    /// What follows it.
    pub body: RecvStream,
    /// Where the answer goes.
    pub respond: SendResponse<Bytes>,
    in_use: Arc<InUse>,
}

impl Incoming {
    /// Whether the stream is to carry UDP datagrams, as capsules.
    pub fn is_connect_udp(&self) -> bool {
        self.protocol().is_some_and(|protocol| protocol.as_str() == super::CONNECT_UDP)
    }

    /// What an extended CONNECT asks for.
    pub fn protocol(&self) -> Option<&h2::ext::Protocol> {
        self.request.extensions().get()
    }

    /// Answers 200 and takes the stream as a flow.
    pub fn accept(self, headers: Vec<(HeaderName, HeaderValue)>) -> Result<H2Io, h2::Error> {
        let (_, reader, responder) = self.split();
        Ok(H2Io::join(reader, responder.accept(headers)?))
    }

    /// Answers with `status` and no body. A request body that still comes is discarded.
    pub fn refuse(self, status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>) {
        let (_, _reader, responder) = self.split();
        responder.refuse(status, headers);
    }

    /// Takes the stream apart, so that its bytes can be read before it is answered.
    pub fn split(self) -> (Request<()>, H2Reader, Responder) {
        let reader = H2Reader::open(self.body, Arc::clone(&self.in_use));
        (self.request, reader, Responder { respond: self.respond, _in_use: self.in_use })
    }
}

/// Answers one stream. Dropping it unanswered resets the stream.
#[derive(Debug)]
pub struct Responder {
    respond: SendResponse<Bytes>,
    _in_use: Arc<InUse>,
}

impl Responder {
    /// Answers 200; what is written follows.
    pub fn accept(mut self, headers: Vec<(HeaderName, HeaderValue)>) -> Result<H2Writer, h2::Error> {
        let stream = self.respond.send_response(response(StatusCode::OK, headers), false)?;
        Ok(H2Writer::new(stream))
    }

    /// Answers with `status` and no body.
    pub fn refuse(mut self, status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>) {
        // Fails only when the peer went away, and then nobody is interested.
        let _ = self.respond.send_response(response(status, headers), true);
    }

    /// Ends the stream without an answer.
    pub fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Resolves when the peer gave the stream up before it was answered.
    pub async fn abandoned(&mut self) {
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

fn response(status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().extend(headers);
    response
}
