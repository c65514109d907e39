//! The echo server: what a workload runs unless the fleet file names a command.
//!
//! One listener per port, HTTP/1.1 and HTTP/2 by prior knowledge told apart by the connection's first bytes, gRPC by its
//! content type, TCP with or without a greeting. Every answer says who served, over what, and whose identity the sidecar
//! vouched for, so that tests and people can see the path of a request from its answer.

mod answer;
mod control;
mod grpc;
mod http;
mod tcp;
mod udp;
mod websocket;

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::file::PortProtocol;

pub use answer::{Answer, Whoami, client_identity};
pub use control::Seen;

use control::State;

/// The generated gRPC client, server and messages.
#[expect(missing_docs, reason = "generated from proto/isthmus/echo.proto, which has the comments")]
#[allow(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated code"
)]
pub mod pb {
    tonic::include_proto!("isthmus.echo.v1");
}

/// One port to serve: `name=protocol:address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EchoPort {
    /// The port's name.
    pub name: String,
    /// What is spoken.
    pub protocol: PortProtocol,
    /// Where.
    pub listen: SocketAddr,
}

/// Why a text is no [`EchoPort`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not name=protocol:address, such as http=http:127.0.0.1:8080")]
pub struct EchoPortError(String);

impl FromStr for EchoPort {
    type Err = EchoPortError;
    fn from_str(text: &str) -> Result<Self, EchoPortError> {
        let parse = || {
            let (name, rest) = text.split_once('=')?;
            let (protocol, listen) = rest.split_once(':')?;
            let protocol = PortProtocol::parse(protocol)?;
            Some(Self { name: name.to_owned(), protocol, listen: listen.parse().ok()? })
        };
        parse().ok_or_else(|| EchoPortError(text.to_owned()))
    }
}

/// A running echo server.
#[derive(Debug)]
pub struct Echo {
    /// Where each port listens, in the order given.
    pub addresses: Vec<SocketAddr>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Echo {
    /// Binds every port, then serves them until [`Echo::stop`] or drop.
    pub async fn start(ports: &[EchoPort], whoami: Whoami) -> Result<Self> {
        let (mut listeners, mut sockets, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for port in ports {
            let failed = || format!("cannot listen on {}", port.listen);
            if port.protocol == PortProtocol::Udp {
                let socket = UdpSocket::bind(port.listen).await.with_context(failed)?;
                addresses.push(socket.local_addr()?);
                sockets.push(socket);
            } else {
                let listener = TcpListener::bind(port.listen).await.with_context(failed)?;
                addresses.push(listener.local_addr()?);
                listeners.push((listener, port.protocol));
            }
        }
        let echo = Self { addresses, shutdown: CancellationToken::new(), tasks: TaskTracker::new() };
        for socket in sockets {
            echo.tasks.spawn(udp::serve(socket, echo.shutdown.clone()));
        }
        let state = Arc::new(State::new(whoami));
        for (listener, protocol) in listeners {
            echo.tasks.spawn(accept(listener, protocol, state.clone(), echo.shutdown.clone(), echo.tasks.clone()));
        }
        Ok(echo)
    }

    /// Accepts nothing more and waits for what is in flight.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    protocol: PortProtocol,
    state: Arc<State>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        // Out of descriptors, or a client that left already: the next one may do better.
        let Ok((stream, _)) = accepted else {
            tokio::task::yield_now().await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (state, shutdown) = (state.clone(), shutdown.clone());
        tasks.spawn(async move {
            match protocol {
                PortProtocol::Http | PortProtocol::Http2 | PortProtocol::Grpc => {
                    http::serve(stream, state, shutdown).await;
                }
                // Has a socket of its own.
                PortProtocol::Udp => {}
                PortProtocol::Tcp => tcp::serve(stream, None, shutdown).await,
                PortProtocol::TcpServerFirst => tcp::serve(stream, Some(state.whoami.clone()), shutdown).await,
            }
        });
    }
}
