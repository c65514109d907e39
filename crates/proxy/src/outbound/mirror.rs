//! Copies of requests, whose answers are thrown away.
//!
//! A copy leaves when the whole request was read, if its body fits into what is kept for retries; a longer one is not
//! copied, because a mirror must not slow its original down. Copies have a limit of their own, so that a slow mirror
//! costs copies and nothing else.

use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::uri::Authority;
use http::{Request, request};
use http_body_util::BodyExt;
use mesh::{Destination, RouteDecision};
use tokio::sync::Semaphore;

use super::Outbound;
use crate::body::{self, Replay};
use crate::headers;
use crate::metrics::Happening;

/// Copies under way at once.
const COPIES_MAX: usize = 256;
/// How long a copy may wait for its body, and for its answer when the rule has no timeout.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bounds the copies under way.
#[derive(Debug)]
pub(super) struct Mirrors(Arc<Semaphore>);

impl Default for Mirrors {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(COPIES_MAX)))
    }
}

impl Outbound {
    /// Sends the copies that a decision has drawn.
    pub(super) fn mirror(&self, decision: &RouteDecision, head: &request::Parts, authority: &Authority, body: &Replay) {
        for destination in &decision.mirrors {
            self.copy(decision, destination, head, authority, body);
        }
    }

    fn copy(
        &self,
        decision: &RouteDecision,
        destination: &Destination,
        head: &request::Parts,
        authority: &Authority,
        body: &Replay,
    ) {
        let metrics = self.0.config.recorder.metrics.clone();
        let service = destination.host.service().map(crate::access::host_of).unwrap_or_default();
        let Ok(permit) = self.0.mirrors.0.clone().try_acquire_owned() else {
            return metrics.happened(Happening::NotMirrored, &service);
        };
        let mut copy = Request::new(());
        *copy.method_mut() = head.method.clone();
        *copy.uri_mut() = headers::absolute(&shadow(authority), &head.uri);
        *copy.version_mut() = head.version;
        *copy.headers_mut() = head.headers.clone();
        copy.headers_mut().remove(http::header::HOST);
        copy.headers_mut().remove(CONTENT_LENGTH);
        let whole = body.copy();
        let (destination, port) = (destination.clone(), decision.port);
        let (outbound, timeout) = (self.clone(), decision.timeout.unwrap_or(PATIENCE));
        let task = async move {
            let _permit = permit;
            let Ok(Ok(Some(bytes))) = tokio::time::timeout(PATIENCE, whole).await else {
                return metrics.happened(Happening::NotMirrored, &service);
            };
            metrics.happened(Happening::Mirrored, &service);
            let request = copy.map(|()| if bytes.is_empty() { body::empty() } else { body::full(bytes) });
            match outbound.call_as_asked(&destination, request, port, timeout).await {
                Ok(response) => {
                    // Read to its end, so that the connection can be used again.
                    let mut rest = response.into_body();
                    let drained = async { while let Some(Ok(_)) = rest.frame().await {} };
                    let _late = tokio::time::timeout(timeout, drained).await;
                }
                Err(fault) => tracing::debug!(%fault, "a mirrored request failed"),
            }
        };
        // Of no interest to draining: nobody waits for the answer.
        let ended = self.0.config.life.ended.clone();
        tokio::spawn(async move { ended.run_until_cancelled(task).await });
    }
}

/// `reviews:9080` becomes `reviews-shadow:9080`, as Envoy does.
fn shadow(authority: &Authority) -> Authority {
    let port = authority.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}-shadow{port}", authority.host()).parse().unwrap_or_else(|_| authority.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_marked_by_their_host() {
        for (authority, expected) in [("reviews:9080", "reviews-shadow:9080"), ("a.example", "a.example-shadow")] {
            assert_eq!(shadow(&Authority::from_static(authority)), expected);
        }
    }
}
