//! The one door by which a proxy opens sockets of its own.
//!
//! What it is: a [`Dialer`] that whoever starts a proxy hands to everything that dials. Beside a workload whose connections
//! are captured it marks each socket (`SO_MARK`), so that the kernel does not hand the proxy's connections to the proxy.
//!
//! What it is not: it knows no TLS, no pools and no time limits.
//!
//! **Invariant:** a socket carries the mark before its first packet leaves. `clippy.toml` of the crates that run beside a
//! workload forbids every other way to open one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket, lookup_host};

/// Opens sockets, marked or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dialer {
    mark: Option<u32>,
}

impl Dialer {
    /// For a process whose connections nobody captures.
    pub const fn unmarked() -> Self {
        Self { mark: None }
    }

    /// Marks every socket with this `SO_MARK`.
    pub const fn marked(mark: u32) -> Self {
        Self { mark: Some(mark) }
    }

    /// Whether the process may mark sockets (`CAP_NET_ADMIN`, or `CAP_NET_RAW` since Linux 5.17).
    pub fn check(&self) -> io::Result<()> {
        self.mark(&TcpSocket::new_v4()?)
    }

    /// Connects to an address.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        self.mark(&socket)?;
        socket.connect(address).await
    }

    /// Connects to the first address of `host:port` that takes the connection.
    pub async fn connect_to(&self, host_port: &str) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host_port} has no address"));
        for address in lookup_host(host_port).await? {
            match self.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Binds a socket for datagrams.
    pub async fn bind_udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(local).await?;
        self.mark(&socket)?;
        Ok(socket)
    }

    /// A socket for datagrams to one address and from it. It is ready to send: what is tried at once is not lost.
    pub async fn connect_udp(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self.bind_udp(SocketAddr::new(any, 0)).await?;
        socket.connect(address).await?;
        socket.writable().await?;
        Ok(socket)
    }

    /// A socket that sends datagrams in the name of somebody else's address, from which an application expects its answers
    /// (`IP_TRANSPARENT`, of either family; wants `CAP_NET_ADMIN` or `CAP_NET_RAW`). Several sockets may have one address.
    /// Nothing is received by it, and sending never waits, so the runtime need not know it.
    pub fn impersonate_udp(&self, address: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        self.mark(&socket)?;
        socket.set_reuse_address(true)?;
        socket.set_ip_transparent_v4(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    }

    fn mark(&self, socket: &impl std::os::fd::AsFd) -> io::Result<()> {
        match self.mark {
            Some(mark) => SockRef::from(socket).set_mark(mark),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn names_and_addresses_are_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dialer = Dialer::unmarked();
        let named = address.to_string();
        let (one, two) = tokio::join!(dialer.connect(address), dialer.connect_to(&named));
        assert_eq!((one.unwrap().peer_addr().unwrap(), two.unwrap().peer_addr().unwrap()), (address, address));
        assert!(dialer.connect_to("nothing.invalid:1").await.is_err());
    }

    #[tokio::test]
    async fn the_first_datagram_is_sent_at_once() {
        let server = Dialer::unmarked().bind_udp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let client = Dialer::unmarked().connect_udp(server.local_addr().unwrap()).await.unwrap();
        assert_eq!(client.try_send(b"first").unwrap(), 5);
        assert_eq!(server.recv(&mut [0; 9]).await.unwrap(), 5);
    }

    /// Whether it may be marked depends on who runs the test; an unmarked socket never stands in for a marked one.
    #[tokio::test]
    async fn a_socket_carries_its_mark_or_is_not_opened() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialer = Dialer::marked(1337);
        match (dialer.check(), dialer.connect(listener.local_addr().unwrap()).await) {
            (Ok(()), Ok(stream)) => assert_eq!(SockRef::from(&stream).mark().unwrap(), 1337),
            (Err(check), Err(connect)) => assert_eq!(check.kind(), connect.kind()),
            (check, connect) => panic!("{check:?} {connect:?}"),
        }
    }
}
