//! The client side: one connection that many flows share.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Request, Response, response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::keep_alive::{Streams, until_silent};
use super::{H2Io, H2Reader, H2Writer, Settings};

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer does not speak HTTP/2, or went away.
    #[error("the HTTP/2 handshake failed")]
    Http2(#[source] h2::Error),
    /// The peer said nothing.
    #[error("the HTTP/2 handshake took too long")]
    Timeout,
}

/// Why a request could not be sent; no byte of it reached the peer's application.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The authority or path is none.
    #[error("{0:?} is no valid request target")]
    Target(String),
    /// The connection is going away or gone.
    #[error("the connection takes no more requests")]
    Connection(#[source] h2::Error),
}

/// Why a flow was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The peer answered with something else than 2xx; the headers say why.
    #[error("the peer refused with status {}", .0.status.as_u16())]
    Refused(Box<response::Parts>),
    /// The stream or its connection failed before the answer.
    #[error("the stream failed before it was answered")]
    Failed(#[source] h2::Error),
    /// The connection's task is gone.
    #[error("the connection ended before the stream was answered")]
    Gone,
}

/// The client side of one HTTP/2 connection; clones share it. It ends when the last clone and the last flow are dropped.
#[derive(Clone)]
pub struct Outer {
    requests: SendRequest<Bytes>,
    streams: Streams,
    shared: Arc<Shared>,
}

/// What the handles and the connection's task share.
struct Shared {
    /// Cancelled when the connection has ended.
    ended: CancellationToken,
    /// Ends the connection at once.
    abort: CancellationToken,
    /// Whether flows that are open may go on, but none may begin.
    retired: AtomicBool,
}

impl fmt::Debug for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outer").field("usable", &self.is_usable()).field("streams", &self.active_streams()).finish()
    }
}

impl Outer {
    /// Starts HTTP/2 on `io` and a task that drives it.
    pub async fn handshake<T>(io: T, settings: &Settings) -> Result<Self, HandshakeError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_header_list_size(settings.max_header_list)
            .enable_push(false);
        let handshake = tokio::time::timeout(settings.handshake_timeout, builder.handshake(io)).await;
        let (requests, mut connection) =
            handshake.map_err(|_| HandshakeError::Timeout)?.map_err(HandshakeError::Http2)?;
        let shared = Arc::new(Shared {
            ended: CancellationToken::new(),
            abort: CancellationToken::new(),
            retired: AtomicBool::new(false),
        });
        let streams = Streams::default();
        let (settings, ended, counted) = (settings.clone(), Arc::clone(&shared), streams.clone());
        let ping = connection.ping_pong();
        tokio::spawn(async move {
            tokio::select! {
                result = connection => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "HTTP/2 connection failed");
                    }
                }
                () = until_silent(ping, &settings, &counted) => tracing::debug!("HTTP/2 peer no longer answers pings"),
                () = ended.abort.cancelled() => {}
            }
            ended.ended.cancel();
        });
        Ok(Self { requests, streams, shared })
    }

    /// Lets no new flow begin where [`Outer::is_usable`] is asked; those that are open go on.
    pub fn retire(&self) {
        self.shared.retired.store(true, Ordering::Release);
    }

    /// Whether new streams can be opened: the connection lives, is not retired, and no GOAWAY was received.
    pub fn is_usable(&self) -> bool {
        // A clone has no stream of its own that is pending, so this never waits.
        let mut requests = self.requests.clone();
        let ready = requests.poll_ready(&mut Context::from_waker(Waker::noop()));
        let over = self.shared.ended.is_cancelled() || self.shared.retired.load(Ordering::Acquire);
        !over && !matches!(ready, Poll::Ready(Err(_)))
    }

    /// Flows that are open, [`Outer::get`] requests apart.
    pub fn active_streams(&self) -> usize {
        self.streams.count()
    }

    /// Resolves when the connection has ended, for whatever reason.
    pub async fn closed(&self) {
        self.shared.ended.cancelled().await;
    }

    /// Whether the connection has ended; one that was told to go away has not, while flows ride on it.
    pub fn is_closed(&self) -> bool {
        self.shared.ended.is_cancelled()
    }

    /// Ends the connection at once, whatever rides on it.
    pub fn abort(&self) {
        self.shared.abort.cancel();
    }

    /// Opens a flow by CONNECT. The flow takes bytes at once; its reads wait for the answer.
    pub async fn connect(
        &self,
        authority: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Connecting, RequestError> {
        let target = || RequestError::Target(authority.to_owned());
        let request = Request::connect(authority).body(()).map_err(|_| target())?;
        if request.uri().authority().is_none() {
            return Err(target());
        }
        self.open(request, headers).await
    }

    /// Opens a flow of UDP datagrams by CONNECT-UDP (RFC 9298); what it carries are capsules. Whether the peer takes it
    /// shows in its answer: its settings, which RFC 8441 would have us await, cost a round trip, and both ends are ours.
    pub async fn connect_udp(&self, host: &str, port: u16) -> Result<Connecting, RequestError> {
        // The colons of an IPv6 address are escaped (RFC 9298, section 2).
        let segment = host.trim_matches(['[', ']']).replace(':', "%3A");
        let target = format!("https://{host}:{port}/.well-known/masque/udp/{segment}/{port}/");
        let request = Request::builder().method(http::Method::CONNECT).uri(&target).body(());
        let mut request = request.map_err(|_| RequestError::Target(target))?;
        request.extensions_mut().insert(h2::ext::Protocol::from_static(super::CONNECT_UDP));
        self.open(request, vec![(super::CAPSULE_PROTOCOL, HeaderValue::from_static("?1"))]).await
    }

    async fn open(
        &self,
        mut request: Request<()>,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Connecting, RequestError> {
        request.headers_mut().extend(headers);
        let (response, stream) = self.send(request, false).await?;
        let (answer_tx, answer) = oneshot::channel();
        let (body_tx, body) = oneshot::channel();
        tokio::spawn(await_answer(response, answer_tx, body_tx));
        let reader = H2Reader::awaiting(body, Arc::new(self.streams.enter()));
        let io = H2Io::join(reader, H2Writer::new(stream));
        Ok(Connecting { io, answer: Answer(answer) })
    }

    /// Sends a GET without a body and waits for the head of its response.
    pub async fn get(&self, path: &str) -> Result<Response<RecvStream>, AnswerError> {
        let request = Request::get(format!("http://isthmus{path}")).body(());
        let request = request.map_err(|_| AnswerError::Gone)?;
        let (response, _stream) = self.send(request, true).await.map_err(|error| match error {
            RequestError::Connection(error) => AnswerError::Failed(error),
            RequestError::Target(_) => AnswerError::Gone,
        })?;
        response.await.map_err(AnswerError::Failed)
    }

    async fn send(&self, request: Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), RequestError> {
        let mut requests = self.requests.clone().ready().await.map_err(RequestError::Connection)?;
        requests.send_request(request, end).map_err(RequestError::Connection)
    }
}

/// Waits for the answer of one flow, so that it makes progress whether or not anyone asks for the answer.
async fn await_answer(
    response: ResponseFuture,
    answer: oneshot::Sender<Result<response::Parts, AnswerError>>,
    mut body: oneshot::Sender<RecvStream>,
) {
    let result = tokio::select! {
        response = response => response,
        // The flow was dropped; dropping the response too lets h2 forget the stream.
        () = body.closed() => return,
    };
    // Nobody needs to be interested in the answer: the flow's reads tell enough.
    let _ = answer.send(match result {
        Err(error) => Err(AnswerError::Failed(error)),
        Ok(response) => {
            let (parts, received) = response.into_parts();
            if parts.status.is_success() {
                let _ = body.send(received);
                Ok(parts)
            } else {
                Err(AnswerError::Refused(Box::new(parts)))
            }
        }
    });
}

/// A flow that was asked for.
#[derive(Debug)]
pub struct Connecting {
    /// Takes bytes at once; reads yield what follows a positive answer, and fail after a negative one.
    pub io: H2Io,
    /// Resolves with the answer's head. Need not be polled for `io` to work.
    pub answer: Answer,
}

/// Waits for the answer to a CONNECT.
#[derive(Debug)]
pub struct Answer(oneshot::Receiver<Result<response::Parts, AnswerError>>);

impl Future for Answer {
    type Output = Result<response::Parts, AnswerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(AnswerError::Gone)))
    }
}
