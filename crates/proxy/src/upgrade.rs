//! HTTP/1.1 upgrades, such as WebSocket: the request and its 101 are HTTP, what follows is carried as it is.
//!
//! Between sidecars an upgrade rides an opaque flow of its own; the server's sidecar reads the request out of it again, so
//! that authorisation and `x-forwarded-client-cert` are those of any request.

use std::any::Any;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::uri::Authority;
use http::{Request, Response, StatusCode, Version};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh::Failure;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::access::OpenRecord;
use crate::body::{self, Body, BodyOutcome, Ending, Tracked, chain};
use crate::copy::copy_bidirectional;
use crate::fault::{Fault, flag};
use crate::headers;

/// A connection that is idle for this long after its upgrade is closed.
const IDLE: std::time::Duration = std::time::Duration::from_secs(3600);

/// The protocol that a request wants to go over to. HTTP itself is none: on an `h2c` connection the application would
/// read requests that nobody authorised, with whatever `x-forwarded-client-cert` the client wrote. As RFC 9110 §7.8
/// allows, such a wish is not heard.
pub(crate) fn wanted<B>(request: &Request<B>) -> Option<HeaderValue> {
    let named = request.headers().get_all(CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")))
    });
    let protocols: Vec<&HeaderValue> = request.headers().get_all(UPGRADE).iter().collect();
    let [protocol] = protocols.as_slice() else { return None };
    (named && request.version() == Version::HTTP_11 && !may_be_http(protocol)).then(|| (*protocol).clone())
}

fn may_be_http(protocol: &HeaderValue) -> bool {
    let Ok(protocols) = protocol.to_str() else { return true };
    protocols.split(',').map(|name| name.trim().to_ascii_lowercase()).any(|name| {
        // `TLS/1.0` (RFC 2817) hides requests all the same.
        name.starts_with("h2") || name.starts_with("h3") || name.starts_with("http") || name.starts_with("tls")
    })
}

/// What an upgrade needs besides its stream.
pub(crate) struct Upgrade {
    /// The request, without hop-by-hop headers.
    pub(crate) request: Request<Body>,
    /// What it wants to go over to.
    pub(crate) protocol: HeaderValue,
    /// The host that the server sees.
    pub(crate) authority: Authority,
    /// Its record, finished when the upgraded connection ends.
    pub(crate) record: OpenRecord,
    /// Kept as long as the connection.
    pub(crate) hold: Box<dyn Any + Send>,
}

/// Sends the request over `io` and passes the answer on; after a 101 both streams are joined.
pub(crate) async fn carry<T>(io: T, upgrade: Upgrade) -> Result<Response<Body>, (Fault, OpenRecord)>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Upgrade { mut request, protocol, authority, mut record, hold } = upgrade;
    let client = hyper::upgrade::on(&mut request);
    headers::to_http1(&mut request, &authority);
    mark(request.headers_mut(), protocol);
    let sent = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = chain(&error), "a connection that was to be upgraded failed");
            }
        });
        sender.send_request(request).await
    };
    let mut response = match sent.await {
        Ok(response) => response,
        Err(error) => {
            let message = format!("{authority}: {}", chain(&error));
            return Err((Fault { failure: Failure::Broken, flag: flag::BROKEN, message, denial: None }, record));
        }
    };
    let status = response.status();
    record.note(|record| record.status = status.as_u16());
    let agreed = response.headers().get(UPGRADE).cloned().filter(|_| status == StatusCode::SWITCHING_PROTOCOLS);
    headers::strip_hop(response.headers_mut());
    let Some(agreed) = agreed else {
        return Ok(response.map(|body| {
            Tracked::wrap(body::incoming(body), move |ending| {
                record.finish(&ending);
                drop(hold);
            })
        }));
    };
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        join(client, server, record).await;
        drop(hold);
    });
    mark(response.headers_mut(), agreed);
    Ok(response.map(|_| body::empty()))
}

fn mark(headers: &mut http::HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

async fn join(client: hyper::upgrade::OnUpgrade, server: hyper::upgrade::OnUpgrade, record: OpenRecord) {
    let (client, server) = match tokio::try_join!(client, server) {
        Ok(both) => both,
        Err(error) => {
            let outcome = BodyOutcome::Broken(chain(&error));
            return record.finish(&Ending { bytes: 0, outcome, grpc_status: None });
        }
    };
    let copied = copy_bidirectional(TokioIo::new(client), TokioIo::new(server), Some(IDLE)).await;
    let mut record = record;
    record.count_received(move || copied.a_to_b);
    let outcome = copied.error.map_or(BodyOutcome::Complete, |error| BodyOutcome::Broken(error.to_string()));
    record.finish(&Ending { bytes: copied.b_to_a, outcome, grpc_status: None });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_over_to_everything_but_http() {
        let cases: [(&[&str], bool); 7] = [
            (&["websocket"], true),
            (&["SPDY/3.1"], true),
            (&["h2c"], false),
            (&["websocket, H2C"], false),
            (&["websocket", "h2c"], false),
            (&["HTTP/2.0"], false),
            (&["TLS/1.2"], false),
        ];
        for (protocols, expected) in cases {
            let mut request = Request::get("/").header(CONNECTION, "upgrade").body(()).unwrap();
            for protocol in protocols {
                request.headers_mut().append(UPGRADE, HeaderValue::from_static(protocol));
            }
            assert_eq!(wanted(&request).is_some(), expected, "{protocols:?}");
        }
    }
}
