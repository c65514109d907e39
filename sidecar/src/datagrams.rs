//! Transparent capture of UDP: datagrams that the kernel handed over, where each was going, and answers that come from there.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Weak};

use dial::Dialer;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, setsockopt, sockaddr_in6, sockopt,
};
use proxy::listen::Lifecycle;
use proxy::outbound::{Dialled, Outbound};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::flows::{Begin, Flows};

/// Flows that a workload may have at once in each family; one more ends the one that was silent for longest.
const FLOWS: usize = 1024;
/// Bytes of datagrams that wait to be looked at; the kernel may grant less.
const BUFFER: usize = 1 << 20;

/// The handler of captured datagrams; clones share the engine.
#[derive(Clone)]
pub struct CapturedDatagrams {
    outbound: Outbound,
    life: Lifecycle,
    dialer: Dialer,
}

/// A flow is what goes from one place to one other.
type Key = (SocketAddr, SocketAddr);

/// Where answers come from: one socket for each destination, as long as a flow needs it.
#[derive(Default)]
struct Impostors(HashMap<SocketAddr, Weak<std::net::UdpSocket>>);

impl CapturedDatagrams {
    /// Hands what the application sends to `outbound`; answers leave by `dialer`.
    pub fn new(outbound: Outbound, life: Lifecycle, dialer: Dialer) -> Self {
        Self { outbound, life, dialer }
    }

    /// Serves one listener until the process ends.
    pub async fn serve(&self, listener: UdpSocket) {
        let (mut flows, mut impostors) = (Flows::new(self.outbound.clone(), FLOWS), Impostors::default());
        let mut datagram = vec![0; 65_536];
        loop {
            tokio::select! {
                received = receive(&listener, &mut datagram) => match received {
                    Ok((length, Some(key))) => {
                        flows.send(&key, &datagram[..length], || self.begin(key, &mut impostors));
                    }
                    Ok((_, None)) => flows.dropped(),
                    Err(error) => tracing::debug!(%error, "a captured datagram cannot be read"),
                },
                Some(()) = flows.ended() => {}
                () = self.life.ended.cancelled() => break,
            }
        }
        flows.end().await;
    }

    fn begin(&self, (client, destination): Key, impostors: &mut Impostors) -> Option<Begin> {
        let socket = match impostors.of(destination, self.dialer) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%destination, %error, "datagrams are dropped: no answer could come from there");
                return None;
            }
        };
        let (host, port) = (destination.ip().to_string(), destination.port());
        Some(Begin {
            dialled: Dialled { host, port, source: Some(client), transparent: true, udp: true },
            deliver: Box::new(move |payload: &[u8]| socket.send_to(payload, client).is_ok()),
        })
    }
}

impl Impostors {
    fn of(&mut self, destination: SocketAddr, dialer: Dialer) -> io::Result<Arc<std::net::UdpSocket>> {
        if let Some(socket) = self.0.get(&destination).and_then(Weak::upgrade) {
            return Ok(socket);
        }
        self.0.retain(|_, socket| socket.strong_count() > 0);
        let socket = Arc::new(dialer.impersonate_udp(destination)?);
        self.0.insert(destination, Arc::downgrade(&socket));
        Ok(socket)
    }
}

async fn receive(listener: &UdpSocket, datagram: &mut [u8]) -> io::Result<(usize, Option<Key>)> {
    listener.async_io(Interest::READABLE, || read(listener, datagram)).await
}

/// A datagram's length, and where it came from and was going, if the kernel says so (`IP_RECVORIGDSTADDR`).
fn read(listener: &UdpSocket, datagram: &mut [u8]) -> io::Result<(usize, Option<Key>)> {
    let (mut control, mut parts) = (nix::cmsg_space!(sockaddr_in6), [IoSliceMut::new(datagram)]);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(listener.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let destination = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4OrigDstAddr(address) => Some(SocketAddrV4::from(SockaddrIn::from(address)).into()),
        ControlMessageOwned::Ipv6OrigDstAddr(address) => Some(SocketAddrV6::from(SockaddrIn6::from(address)).into()),
        _ => None,
    });
    Ok((message.bytes, message.address.as_ref().and_then(address).zip(destination)))
}

fn address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let four = address.as_sockaddr_in().map(|address| SocketAddrV4::from(*address).into());
    four.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddrV6::from(*address).into()))
}

/// Listens for captured datagrams, of each family for itself. Where the kernel has no IPv6 there is one listener.
pub fn listen_for_datagrams(port: u16) -> io::Result<Vec<UdpSocket>> {
    let mut listeners = vec![listen_on(Ipv4Addr::UNSPECIFIED.into(), port)?];
    match listen_on(Ipv6Addr::UNSPECIFIED.into(), port) {
        Ok(listener) => listeners.push(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(error) => tracing::info!(%error, "datagrams of IPv6 are not captured"),
    }
    Ok(listeners)
}

fn listen_on(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket =
        Socket::new(if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }, Type::DGRAM, Some(Protocol::UDP))?;
    match address {
        IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
        }
    }
    // By this name for both families.
    socket.set_ip_transparent_v4(true)?;
    // What was captured comes in there; nobody else sends to this socket.
    socket.bind_device(Some(b"lo"))?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    UdpSocket::from_std(socket.into())
}
