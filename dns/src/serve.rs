//! The shim behind sockets: UDP datagrams and TCP connections, both bounded.

mod message;
mod tcp;
mod udp;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::shim::Shim;

pub use message::Over;
pub use tcp::TcpLimits;

/// How long questions on their way to upstreams hold up the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves both sockets until `stop`, then waits a moment for forwarded questions.
pub async fn serve(shim: Arc<Shim>, udp: UdpSocket, tcp: TcpListener, limits: TcpLimits, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let ended = CancellationToken::new();
    let udp = udp::listen(Arc::clone(&shim), Arc::new(udp), tasks.clone());
    let tcp = tcp::listen(Arc::clone(&shim), tcp, limits, tasks.clone(), ended.clone());
    tokio::select! {
        () = udp => {}
        () = tcp => {}
        () = stop.cancelled() => {}
    }
    if tokio::time::timeout(DRAIN, shim.forwarder.idle()).await.is_err() {
        tracing::info!("questions to upstreams are left unanswered");
    }
    // Connections end at their next pause; answers that are being written still go out.
    ended.cancel();
    tasks.close();
    let _late = tokio::time::timeout(DRAIN, tasks.wait()).await;
}
