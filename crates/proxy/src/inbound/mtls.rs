//! The mTLS port: one handshake, one proven peer, one HTTP/2 connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use identity::PeerPolicy;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;

use super::{Caller, Engine, Peer};
use crate::beside::{Datagrams, MaybeBeside, Raw, split};
use crate::body::chain;
use crate::capsule::TLS_FIRST;
use crate::detect::Rewind;
use crate::h2body::{self, H2Body};
use crate::hbone::{self, Incoming, Settings};
use crate::listen::Accepted;
use crate::pool::http::END_GRACE;
use crate::sealed::End;
use crate::serve::{CONNECTION_WINDOW, STREAM_WINDOW};

impl Engine {
    /// Ends TLS and serves the peer until it goes, or until its identity runs out.
    pub(super) async fn mtls(self: Arc<Self>, accepted: Accepted) {
        // A listener for both families shows IPv4 inside IPv6.
        let source = SocketAddr::new(accepted.peer.ip().to_canonical(), accepted.peer.port());
        let dialled = accepted.stream.local_addr().ok().map(|address| address.ip().to_canonical());
        Box::pin(self.mtls_stream(accepted.stream, source, dialled)).await;
        drop(accepted.permit);
    }

    /// The same for any stream; `source` dialled it.
    pub(super) async fn mtls_stream<T>(self: Arc<Self>, stream: T, source: SocketAddr, dialled: Option<IpAddr>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.config.limits;
        let handshake = async {
            let config = self.config.credentials.server_config(PeerPolicy::AnyKnown, &[b"h2"]);
            let config = config.inspect_err(|error| tracing::error!(error = chain(error), "no TLS config")).ok()?;
            let (io, raw) = beside(stream, limits.handshake_timeout).await?;
            match identity::accept_tls(config, io, limits.handshake_timeout).await {
                Ok((stream, peer)) => {
                    let export = |output, label: &[u8]| stream.get_ref().1.export_keying_material(output, label, None);
                    let datagrams = raw.and_then(|raw| raw.seal(End::Server, export).ok());
                    Some((stream, peer, datagrams))
                }
                Err(error) => {
                    tracing::info!(peer = %source, error = chain(&error), "a peer was refused");
                    telemetry::shed(limits.listener, "handshake");
                    None
                }
            }
        };
        // A gateway dials once for every flow of whole clusters. While it has as many handshakes as one source may have the
        // next ones wait, of which there are no more than it may have connections.
        let pending = match self.handshakes.begin_within(source.ip(), limits.handshake_timeout).await {
            Ok(pending) => pending,
            Err(reason) => return telemetry::shed(limits.listener, reason),
        };
        let Some(Some((stream, peer, datagrams))) = pending.run(handshake).await else { return };
        let peer = Arc::new(peer);
        let settings = Settings {
            max_concurrent_streams: limits.streams,
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            max_header_list: mesh::HTTP2_BOUNDS.header_list,
            listener: limits.listener,
            extended_connect: true,
            ..Settings::default()
        };
        let own = self.config.credentials.svid();
        let is_near = own.is_none_or(|own| own.id().trust_domain() == peer.id.trust_domain());
        let settings = if is_near { settings } else { settings.across_clusters() };
        let drain = self.config.life.draining.child_token();
        let caller = Caller { peer: Peer::Mutual(peer.clone()), source, dialled };
        let engine = self.clone();
        let datagrams = Arc::new(Mutex::new(datagrams));
        let serve = hbone::serve(stream, &settings, drain.clone(), move |incoming| {
            let (engine, caller, datagrams) = (engine.clone(), caller.clone(), datagrams.clone());
            async move { engine.incoming(incoming, caller, &datagrams).await }
        });
        tokio::pin!(serve);
        let result = tokio::select! {
            result = serve.as_mut() => result,
            reason = self.config.credentials.expiry(&peer) => {
                tracing::info!(peer = %peer.id, ?reason, "a connection must end");
                // GOAWAY, a moment for what is under way, then the end.
                drain.cancel();
                tokio::time::timeout(END_GRACE, serve).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = result {
            tracing::debug!(peer = %peer.id, error = chain(&error), "a peer does not speak HTTP/2");
        }
    }

    async fn incoming(self: Arc<Self>, incoming: Incoming, caller: Caller, beside: &Mutex<Option<Datagrams>>) {
        if incoming.is_connect_udp() {
            // They are those of the first flow, and there is no other.
            let datagrams = beside.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Box::pin(self.udp_flow(incoming, caller, datagrams)).await;
        }
        if let Some(protocol) = incoming.protocol() {
            tracing::debug!(protocol = protocol.as_str(), "a peer asked for what is not spoken here");
            return incoming.refuse(http::StatusCode::NOT_IMPLEMENTED, Vec::new());
        }
        if incoming.request.method() == Method::CONNECT {
            return Box::pin(self.flow(incoming, caller)).await;
        }
        let Incoming { request, body, mut respond, .. } = incoming;
        let body = H2Body::wrap(body, request.headers());
        let answer = Box::pin(self.request(request.map(|()| body), caller, None));
        let response = tokio::select! {
            response = answer => response,
            // The peer gave up: so does the request to the application, and its record says so.
            _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
        };
        h2body::respond(respond, response).await;
    }
}

/// A stream whose first byte was looked at.
type Looked<T> = MaybeBeside<Rewind<T>>;

/// The TLS connection on a stream, and what may be beside it: the first byte tells. `None` when none comes.
async fn beside<T>(mut stream: T, patience: Duration) -> Option<(Looked<T>, Option<Raw>)>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let first = timeout(patience, stream.read_u8()).await.ok()?.ok()?;
    let stream = Rewind::new(Bytes::copy_from_slice(&[first]), stream);
    if first != TLS_FIRST {
        return Some((MaybeBeside::Alone(stream), None));
    }
    let (io, raw) = split(stream);
    Some((MaybeBeside::Beside(io), Some(raw)))
}
