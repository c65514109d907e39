//! What the proxy sends on its own account: to authorization services, to mirrors, for keys.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use mesh::{ConnectionFacts, Destination, Entry, Failure, Host};

use super::Outbound;
use super::arrival::Way;
use super::attempt::Outgoing;
use super::decide::{Asked, facts};
use crate::body::{self, Body, Replay, Tracked};
use crate::fault::{Fault, flag};
use crate::headers;

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
        let called = Box::pin(self.call_untimed(destination, request));
        tokio::time::timeout(timeout, called).await.unwrap_or_else(|_| Err(too_late(timeout)))
    }

    async fn call_untimed(&self, destination: &Destination, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let authority =
            headers::authority(&request).ok_or_else(|| Fault::connect("a request of the proxy names no host"))?;
        let (head, body) = request.into_parts();
        let asked = Asked {
            host: destination.host.clone(),
            port: destination.port.or(authority.port_u16()).unwrap_or(80),
            http: Some(facts(&head, &authority, &Way::Asked)),
            connection: ConnectionFacts::default(),
            entry: Entry::Workload,
        };
        let decision = self.0.decide_to(destination, &asked).await;
        let body = Replay::new(body);
        let idempotent = super::http::is_idempotent(&head.method);
        let outgoing = Outgoing { head: &head, authority: &authority, body: &body, idempotent };
        let answered = self.0.dispatch(&decision, &outgoing, &Way::Asked).await.map_err(|failed| failed.fault)?;
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
        let host: Host = self.0.host(authority.host());
        let request = Request::get(uri.clone())
            .header(http::header::ACCEPT, "application/json")
            .body(body::empty())
            .map_err(|_| Fault::connect(format!("{url} cannot be asked for")))?;
        let response = match scheme {
            "http" => {
                let destination = Destination { host, subset: None, port: Some(port) };
                Box::pin(self.call_untimed(&destination, request)).await?
            }
            _ => return Err(Fault::connect(format!("{url}: this scheme is not supported"))),
        };
        if !response.status().is_success() {
            return Err(Fault::connect(format!("{url} answered {}", response.status().as_u16())));
        }
        collect(response.into_body(), url).await
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
