//! Connections over TCP, from gateways that UDP does not connect us with.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use identity::{Handshakes, PeerIdentity, PeerPolicy, accept_tls};
use mesh::Transport;
use proxy::hbone::{self, Incoming};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use super::{admit_peer, begin_stream, watch_readers};
use crate::context::Context;
use crate::limits::{HANDSHAKE_TIMEOUT, HANDSHAKES};
use crate::stream::{Flows, TunnelIo};
use crate::transport::http2_settings;

/// Accepts connections until the process drains.
pub(crate) async fn listen(context: Arc<Context>, listener: TcpListener) {
    let handshakes = Handshakes::new(HANDSHAKES);
    let draining = context.shutdown.draining();
    loop {
        let (stream, source) = tokio::select! {
            () = draining.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Such as too many open files: it passes, and until then accepting in a loop would spin.
                    tracing::warn!(%error, "tunnel connection over TCP not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let pending = match handshakes.begin(source.ip()) {
            Ok(pending) => pending,
            Err(reason) => {
                context.metrics.refuse("tcp", "limit");
                telemetry::shed("tcp", reason);
                continue;
            }
        };
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            let Some(accepted) = pending.run(handshake(&context, stream)).await else { return };
            match accepted {
                Ok((stream, peer)) => {
                    // Tracked: draining waits until the last stream's end has been sent.
                    let _ = context.shutdown.spawn(serve(Arc::clone(&context), stream, peer)).await;
                }
                Err(error) => {
                    context.metrics.refuse("tcp", "handshake");
                    telemetry::shed("tcp", "handshake");
                    tracing::info!(error, "tunnel handshake over TCP refused");
                }
            }
        });
    }
}

async fn handshake(context: &Context, stream: TcpStream) -> Result<(TlsStream<TcpStream>, PeerIdentity), String> {
    let peers = PeerPolicy::System { account: "gateway", trust_domain: None };
    let config =
        context.credentials.server_config(peers, &[api::TUNNEL_TCP_ALPN]).map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    accept_tls(config, stream, HANDSHAKE_TIMEOUT).await.map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

async fn serve(context: Arc<Context>, stream: TlsStream<TcpStream>, peer: PeerIdentity) {
    // The connection ends with the stream; the metric and the log have the reason.
    let Ok(admission) = admit_peer(&context, peer, "tcp") else { return };
    let peer = Arc::clone(&admission.peer);
    tracing::info!(peer = %peer.id, "tunnel connection over TCP accepted");
    let flows = Flows::new();
    let handler = {
        let (context, peer, flows) = (Arc::clone(&context), Arc::clone(&peer), flows.clone());
        move |incoming: Incoming| {
            if *incoming.request.method() != Method::CONNECT {
                incoming.refuse(StatusCode::METHOD_NOT_ALLOWED, Vec::new());
            } else if let Ok(io) = incoming.accept(Vec::new()) {
                begin_stream(&context, &peer, TunnelIo::tcp(io, &flows));
            }
            std::future::ready(())
        }
    };
    let settings = http2_settings();
    tokio::select! {
        served = hbone::serve(stream, &settings, context.shutdown.draining(), handler) => match served {
            Ok(()) => tracing::info!(peer = %peer.id, "tunnel connection over TCP ended"),
            Err(error) => tracing::info!(peer = %peer.id, %error, "tunnel connection over TCP refused"),
        },
        () = watch_readers(&context, &flows, Transport::Tcp) => {}
        reason = context.until_untrusted(&peer) => {
            tracing::info!(peer = %peer.id, reason, "tunnel connection over TCP closed");
        }
        () = context.shutdown.ended().cancelled_owned() => {}
    }
}
