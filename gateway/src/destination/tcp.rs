//! Connections over TCP, from gateways that UDP does not connect us with.

use std::sync::Arc;

use http::{Method, StatusCode};
use identity::{PeerIdentity, PeerPolicy};
use mesh::Transport;
use proxy::hbone::{self, Incoming};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use super::{admit_peer, begin_stream, watch_readers};
use crate::accept::{Door, accept};
use crate::context::Context;
use crate::stream::{Flows, TunnelIo};
use crate::transport::http2_settings;

/// Accepts connections until the process drains.
pub(crate) async fn listen(context: Arc<Context>, listener: TcpListener) {
    let peers = |_: &Context| PeerPolicy::System { account: "gateway", trust_domain: None };
    let door = Door { name: "tcp", peers, alpn: api::TUNNEL_TCP_ALPN };
    accept(context, listener, door, |context, stream, peer| async move {
        // Tracked: draining waits until the last stream's end has been sent.
        let _ = context.shutdown.spawn(serve(Arc::clone(&context), stream, peer)).await;
    })
    .await;
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
