//! Transparent capture: connections that the kernel handed over, and where they were going.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy::inbound::Inbound;
use proxy::listen::{self, Accepted, Lifecycle, Limits};
use proxy::outbound::{Captured as _, Dialled, Outbound};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The handlers of captured connections; clones share the engines.
#[derive(Clone)]
pub struct Transparent {
    outbound: Outbound,
    inbound: Inbound,
    life: Lifecycle,
}

impl Transparent {
    /// Hands what the application sends to `outbound`, and what is sent to it to `inbound`.
    pub fn new(outbound: Outbound, inbound: Inbound, life: Lifecycle) -> Self {
        Self { outbound, inbound, life }
    }

    /// Serves what the application sends, until draining.
    pub async fn serve_outbound(&self, listener: TcpListener) {
        listen::accept(listener, &Limits::for_own_workload(), &self.life, |accepted| {
            let outbound = self.outbound.clone();
            async move {
                let Some(original) = captured(&accepted.stream) else { return };
                let Accepted { stream, permit, peer } = accepted;
                let (host, port) = (original.ip().to_string(), original.port());
                outbound
                    .stream(stream, Dialled { host, port, source: Some(peer), transparent: true, udp: false })
                    .await;
                drop(permit);
            }
        })
        .await;
    }

    /// Serves what is sent to the application in plain text, until draining.
    pub async fn serve_inbound(&self, listener: TcpListener) {
        listen::accept(listener, &Limits::default(), &self.life, |accepted| {
            let inbound = self.inbound.clone();
            async move {
                if let Some(original) = captured(&accepted.stream) {
                    inbound.captured(accepted, original).await;
                }
            }
        })
        .await;
    }
}

/// Where a connection was going. One that was made to the listener itself is reset: carrying it on would be a loop.
fn captured(stream: &TcpStream) -> Option<SocketAddr> {
    match original(stream) {
        Ok(Some(original)) => Some(original),
        Ok(None) => {
            tracing::debug!(peer = ?stream.peer_addr().ok(), "a connection that was not captured is reset");
            stream.abort();
            None
        }
        Err(error) => {
            tracing::debug!(%error, "a connection whose destination the kernel does not know is reset");
            stream.abort();
            None
        }
    }
}

/// What the client dialled (`SO_ORIGINAL_DST`); `None` when it dialled this listener.
fn original(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = match original {
        Ok(original) => original.as_socket(),
        // Without a ruleset the kernel tracks no connections.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(original.filter(|original| *original != local))
}

/// Listens on all addresses, of each family for itself, so that IPv4 is seen as IPv4. Where the kernel has no IPv6 there is
/// one listener.
pub fn listen_everywhere(port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = vec![listen_on(Ipv4Addr::UNSPECIFIED.into(), port)?];
    match listen_on(Ipv6Addr::UNSPECIFIED.into(), port) {
        Ok(listener) => listeners.push(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(error) => tracing::info!(%error, "IPv6 is not captured"),
    }
    Ok(listeners)
}

fn listen_on(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
