//! Keep-alive connections to the sidecar, reused last in, first out.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::echo::{Answer, Whoami};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The sidecar does not accept.
    #[error("cannot connect to the sidecar: {0}")]
    Connect(std::io::Error),
    /// The connection broke before or in the answer.
    #[error("the sidecar broke off: {0}")]
    Broken(hyper::Error),
    /// The URL cannot be sent.
    #[error("the URL has no host")]
    Url,
}

type Sender = SendRequest<Empty<Bytes>>;

#[derive(Debug)]
pub(super) struct Connections {
    proxy: SocketAddr,
    url: Uri,
    idle: Mutex<Vec<Sender>>,
}

impl Connections {
    pub(super) fn new(proxy: SocketAddr, url: Uri) -> Self {
        Self { proxy, url, idle: Mutex::new(Vec::new()) }
    }

    /// Sends one request and reads the answer; the connection is kept for the next one.
    pub(super) async fn send(&self) -> Result<(u16, Whoami), SendError> {
        let authority = self.url.authority().ok_or(SendError::Url)?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| SendError::Url)?;
        let mut sender = match self.idle() {
            Some(sender) => sender,
            None => self.open().await?,
        };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.url.clone();
        request.headers_mut().insert(header::HOST, host);
        let response = sender.send_request(request).await.map_err(SendError::Broken)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(SendError::Broken)?.to_bytes();
        let answer: Answer = serde_json::from_slice(&body).unwrap_or_default();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok((status, answer.whoami))
    }

    /// A connection that is still open, the one used last first.
    fn idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        let ready = idle.iter().rposition(Sender::is_ready)?;
        Some(idle.remove(ready))
    }

    async fn open(&self) -> Result<Sender, SendError> {
        let stream = TcpStream::connect(self.proxy).await.map_err(SendError::Connect)?;
        let _ = stream.set_nodelay(true);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(SendError::Broken)?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
