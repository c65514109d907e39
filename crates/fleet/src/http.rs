//! A minimal HTTP/1.1 client for admin listeners: one request, one connection, one deadline.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The longest admin answer that is read, in bytes.
const BODY_MAX: usize = 64 * 1024 * 1024;

/// Why an admin listener gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nobody accepts there.
    #[error("cannot connect to {address}")]
    Connect {
        /// The listener.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The answer did not come in time.
    #[error("{address} did not answer within {} ms", within.as_millis())]
    Timeout {
        /// The listener.
        address: SocketAddr,
        /// The deadline.
        within: Duration,
    },
    /// The connection broke or spoke no HTTP.
    #[error("{address} broke off: {why}")]
    Broken {
        /// The listener.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
    /// The answer is not JSON.
    #[error("{address}{path} answered {status}, not JSON: {body}")]
    NotJson {
        /// The listener.
        address: SocketAddr,
        /// The path.
        path: String,
        /// Its status.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
}

/// `GET http://<address><path>`.
pub async fn get(address: SocketAddr, path: &str, within: Duration) -> Result<(StatusCode, Bytes), GetError> {
    match tokio::time::timeout(within, exchange(address, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(GetError::Timeout { address, within }),
    }
}

/// The same for JSON with a success status.
pub async fn get_json(address: SocketAddr, path: &str, within: Duration) -> Result<serde_json::Value, GetError> {
    let (status, body) = get(address, path, within).await?;
    let parsed = if status.is_success() { serde_json::from_slice(&body).ok() } else { None };
    parsed.ok_or_else(|| {
        let body: String = String::from_utf8_lossy(&body).trim().chars().take(300).collect();
        GetError::NotJson { address, path: path.to_owned(), status, body }
    })
}

async fn exchange(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), GetError> {
    let broken = |why: String| GetError::Broken { address, why };
    let stream = TcpStream::connect(address).await.map_err(|source| GetError::Connect { address, source })?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
    driver.abort();
    let body = body.map_err(|error| broken(error.to_string()))?;
    Ok((status, body.to_bytes()))
}
