//! Connections over QUIC.

use std::sync::Arc;

use identity::PeerIdentity;
use mesh::Transport;
use quinn::{Connection, Endpoint, Incoming};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{UNTRUSTED, admit_peer, begin_stream, watch_readers};
use crate::context::Context;
use crate::limits::{HANDSHAKE_TIMEOUT, QUIC_HANDSHAKES};
use crate::stream::{Flows, TunnelIo};
use crate::transport::share_memory;

/// Accepts connections until the process ends.
pub(crate) async fn listen(context: Arc<Context>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(QUIC_HANDSHAKES));
    while let Some(incoming) = endpoint.accept().await {
        if context.is_draining() {
            incoming.refuse();
            continue;
        }
        // Under load whoever comes must first show that its address is real, which costs us nothing: a flood from made-up
        // addresses never takes the second half of the places.
        let busy = handshakes.available_permits() < QUIC_HANDSHAKES / 2;
        if busy && incoming.may_retry() {
            context.metrics.refuse("quic", "retry");
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            context.metrics.refuse("quic", "limit");
            telemetry::shed("quic", "connections");
            incoming.refuse();
            continue;
        };
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            let accepted = handshake(incoming).await;
            drop(permit);
            match accepted {
                Ok((connection, peer)) => serve(context, connection, peer).await,
                Err(error) => {
                    context.metrics.refuse("quic", "handshake");
                    telemetry::shed("quic", "handshake");
                    tracing::info!(%error, "QUIC handshake refused");
                }
            }
        });
    }
}

/// Never `into_0rtt`: nothing is read before the client's certificate is verified.
async fn handshake(incoming: Incoming) -> Result<(Connection, PeerIdentity), String> {
    let connecting = incoming.accept().map_err(|error| error.to_string())?;
    let connected = timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| "it took too long".to_owned())?;
    let connection = connected.map_err(|error| error.to_string())?;
    match identity::quic_peer(&connection) {
        Ok(peer) => Ok((connection, peer)),
        Err(error) => {
            connection.close(UNTRUSTED, b"no identity");
            Err(error.to_string())
        }
    }
}

async fn serve(context: Arc<Context>, connection: Connection, peer: PeerIdentity) {
    let admission = match admit_peer(&context, peer, "quic") {
        Ok(admission) => admission,
        Err((code, reason)) => return connection.close(code, reason.as_bytes()),
    };
    let peer = &admission.peer;
    tracing::info!(peer = %peer.id, address = %connection.remote_address(), "QUIC connection accepted");
    share_memory(&connection, context.paths.ground().open_connections());
    let flows = Flows::beside_datagrams(&connection);
    let accept = async {
        loop {
            match connection.accept_bi().await {
                Ok((send, recv)) => begin_stream(&context, peer, TunnelIo::quic(send, recv, &flows)),
                Err(error) => return tracing::info!(peer = %peer.id, %error, "QUIC connection ended"),
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = watch_readers(&context, &flows, Transport::Quic) => {}
        reason = context.until_untrusted(peer) => {
            tracing::info!(peer = %peer.id, reason, "QUIC connection closed");
            connection.close(UNTRUSTED, reason.as_bytes());
        }
    }
}
