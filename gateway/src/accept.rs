//! Connections of peers that prove who they are, one TLS handshake each: what the listener for workloads and the tunnels' over
//! TCP do alike.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::{Handshakes, PeerIdentity, PeerPolicy, accept_tls};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use crate::context::Context;
use crate::limits::{HANDSHAKE_TIMEOUT, HANDSHAKES};

/// A listener.
#[derive(Clone, Copy)]
pub(crate) struct Door {
    /// In metrics and in the log.
    pub(crate) name: &'static str,
    /// Who may come in.
    pub(crate) peers: fn(&Context) -> PeerPolicy,
    /// What they speak.
    pub(crate) alpn: &'static [u8],
}

/// Accepts connections until the process drains, and serves each one on its own.
pub(crate) async fn accept<F: Future<Output = ()> + Send>(
    context: Arc<Context>,
    listener: TcpListener,
    door: Door,
    serve: impl Fn(Arc<Context>, TlsStream<TcpStream>, PeerIdentity) -> F + Clone + Send + 'static,
) {
    let handshakes = Handshakes::new(HANDSHAKES);
    let draining = context.shutdown.draining();
    loop {
        let accepted = tokio::select! {
            () = draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, source): (TcpStream, SocketAddr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Such as too many open files: it passes, and until then accepting in a loop would spin.
                tracing::warn!(listener = door.name, %error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let pending = match handshakes.begin(source.ip()) {
            Ok(pending) => pending,
            Err(reason) => {
                context.metrics.refuse(door.name, "limit");
                telemetry::shed(door.name, reason);
                continue;
            }
        };
        let (context, serve) = (Arc::clone(&context), serve.clone());
        tokio::spawn(async move {
            match pending.run(handshake(&context, stream, door)).await {
                None => {}
                Some(Ok((stream, peer))) => serve(context, stream, peer).await,
                Some(Err(error)) => {
                    context.metrics.refuse(door.name, "handshake");
                    telemetry::shed(door.name, "handshake");
                    tracing::info!(listener = door.name, error, "handshake refused");
                }
            }
        });
    }
}

async fn handshake(
    context: &Context,
    stream: TcpStream,
    door: Door,
) -> Result<(TlsStream<TcpStream>, PeerIdentity), String> {
    let config = context.credentials.server_config((door.peers)(context), &[door.alpn]);
    let config = config.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    accept_tls(config, stream, HANDSHAKE_TIMEOUT).await.map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}
