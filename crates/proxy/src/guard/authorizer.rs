//! External authorizers: what CUSTOM policies put requests before.
//!
//! One question and one answer, by gRPC (`envoy.service.auth.v3`) or HTTP. An authorizer that cannot be asked, takes too
//! long or answers nonsense is a failure; the provider's `failOpen` says what that means.

mod grpc;
mod http_check;
mod peek;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use mesh::{ExternalAuthorizer, ExternalAuthorizerProtocol};

use super::{Facts, ResponseHeaders};
use crate::body::Body;
use crate::fault::Fault;
use crate::outbound::Outbound;

pub(super) use peek::{PeekError, Peeked};

/// What an authorizer says.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The request goes on, changed like this.
    Allowed(Box<Edits>),
    /// The client gets this.
    Denied(Box<Written>),
    /// There is no answer.
    Failed(String),
}

/// Changes that an authorizer wants.
#[derive(Debug, Default)]
pub(super) struct Edits {
    pub(super) set: Vec<HeaderEdit>,
    pub(super) remove: Vec<HeaderName>,
    pub(super) query_set: Vec<(String, String)>,
    pub(super) query_remove: Vec<String>,
    pub(super) response: ResponseHeaders,
}

/// One header that an authorizer writes.
#[derive(Debug)]
pub(super) struct HeaderEdit {
    pub(super) name: HeaderName,
    pub(super) value: http::HeaderValue,
    pub(super) how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfPresent,
}

/// A denial in an authorizer's words.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Asks about a request; the head stays as it is.
pub(super) async fn ask(
    outbound: &Outbound,
    authorizer: &ExternalAuthorizer,
    facts: &Facts,
    request: &Request<()>,
    peeked: &Peeked,
) -> Verdict {
    let asked = async {
        match &authorizer.protocol {
            ExternalAuthorizerProtocol::Grpc => grpc::check(outbound, authorizer, facts, Some((request, peeked))).await,
            ExternalAuthorizerProtocol::Http { .. } => {
                http_check::check(outbound, authorizer, facts, request, peeked).await
            }
        }
    };
    in_time(authorizer, asked).await
}

/// Asks about a connection whose bytes are opaque; there is nothing to change.
pub(super) async fn ask_connection(outbound: &Outbound, authorizer: &ExternalAuthorizer, facts: &Facts) -> Verdict {
    in_time(authorizer, grpc::check(outbound, authorizer, facts, None)).await
}

async fn in_time(authorizer: &ExternalAuthorizer, asked: impl Future<Output = Verdict>) -> Verdict {
    let late = || Verdict::Failed(format!("no answer within {} ms", authorizer.timeout.as_millis()));
    tokio::time::timeout(authorizer.timeout, Box::pin(asked)).await.unwrap_or_else(|_| late())
}

impl Edits {
    /// Makes the changes of the request. What frames a message or names its target is not an authorizer's.
    pub(super) fn apply<B>(&self, request: &mut Request<B>) {
        let headers = request.headers_mut();
        for name in self.remove.iter().filter(|name| !is_framing(name)) {
            headers.remove(name);
        }
        for edit in self.set.iter().filter(|edit| !is_framing(&edit.name)) {
            edit.apply(headers);
        }
        if self.query_set.is_empty() && self.query_remove.is_empty() {
            return;
        }
        let named = |pair: &str, name: &str| pair.split('=').next() == Some(name);
        let replaced = |pair: &&str| {
            self.query_set.iter().any(|(name, _)| named(pair, name))
                || self.query_remove.iter().any(|name| named(pair, name))
        };
        let query = request.uri().query().unwrap_or_default();
        let kept = query.split('&').filter(|pair| !pair.is_empty() && !replaced(pair)).map(str::to_owned);
        let pairs: Vec<String> =
            kept.chain(self.query_set.iter().map(|(name, value)| format!("{name}={value}"))).collect();
        let path = request.uri().path();
        let target = if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) };
        crate::headers::set_path_and_query(request, &target);
    }
}

impl HeaderEdit {
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        let (name, value) = (self.name.clone(), self.value.clone());
        match self.how {
            How::Append => {
                headers.append(name, value);
            }
            How::AddIfAbsent if headers.contains_key(&name) => {}
            How::OverwriteIfPresent if !headers.contains_key(&name) => {}
            How::AddIfAbsent | How::Overwrite | How::OverwriteIfPresent => {
                headers.insert(name, value);
            }
        }
    }
}

/// A call of an authorizer, with its type hidden: it holds the whole outbound engine, and callers hold it.
fn call<'a>(
    outbound: &'a Outbound,
    authorizer: &'a ExternalAuthorizer,
    request: Request<Body>,
) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Fault>> + Send + 'a>> {
    Box::pin(outbound.call(&authorizer.destination, request, authorizer.timeout))
}

/// Headers that no answer of an authorizer may touch.
fn is_framing(name: &HeaderName) -> bool {
    use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
    [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, TE, UPGRADE].contains(name)
}

/// Reads a short answer whole.
async fn read(body: Body) -> Result<(Bytes, Option<HeaderMap>), String> {
    use http_body_util::{BodyExt, Limited};
    /// An answer may have this size.
    const ANSWER_MAX: usize = 1 << 20;
    let collected = Limited::new(body, ANSWER_MAX).collect().await.map_err(|error| error.to_string())?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}
