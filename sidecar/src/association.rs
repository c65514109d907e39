//! UDP ASSOCIATE of SOCKS5 (RFC 1928, section 7): datagrams of the workload, each with a header that names its
//! destination.
//!
//! The association lives as long as the TCP connection that asked for it. There is one flow per destination; answers carry
//! the destination as the client named it. Fragments, which hardly any client sends, are dropped, as the RFC allows.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use dial::Dialer;
use proxy::listen::Lifecycle;
use proxy::outbound::{Dialled, Outbound};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};

use crate::flows::{Begin, Flows};
use crate::socks::{self, Destination};

/// Destinations that one association may have at once; one more ends the one that was silent for longest.
const FLOWS: usize = 256;

/// One association.
pub(crate) struct Association {
    pub(crate) outbound: Outbound,
    pub(crate) life: Lifecycle,
    /// The workload, as others see it.
    pub(crate) source: SocketAddr,
}

/// What the flows of an association share.
struct Shared {
    socket: UdpSocket,
    /// Where the client sends from, once it has sent.
    client: Mutex<Option<SocketAddr>>,
}

impl Association {
    /// Answers the request on `stream` and carries datagrams until the client ends it.
    pub(crate) async fn run(&self, mut stream: TcpStream) -> io::Result<()> {
        // Where the client reached us: from there it reaches this socket, and answers are no captured traffic.
        let (own, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let socket = Dialer::unmarked().bind_udp(SocketAddr::new(own.ip(), 0)).await?;
        socks::associated(&mut stream, socket.local_addr()?).await?;
        let shared = Arc::new(Shared { socket, client: Mutex::default() });
        let mut flows = Flows::new(self.outbound.clone(), FLOWS);
        let (mut datagram, mut ignored) = (vec![0; 65_536], [0; 64]);
        loop {
            tokio::select! {
                received = shared.socket.recv_from(&mut datagram) => {
                    // Such as that an earlier answer found nobody.
                    let Ok((length, from)) = received else { continue };
                    if shared.is_client(from, peer) {
                        self.send(&datagram[..length], &shared, &mut flows);
                    }
                }
                read = stream.read(&mut ignored) => if matches!(read, Ok(0) | Err(_)) { break },
                Some(()) = flows.ended() => {}
                () = self.life.ended.cancelled() => break,
            }
        }
        flows.end().await;
        Ok(())
    }

    fn send(&self, datagram: &[u8], shared: &Arc<Shared>, flows: &mut Flows<Destination>) {
        let Some((destination, payload)) = socks::read_datagram(datagram) else { return flows.dropped() };
        flows.send(&destination, payload, || {
            let (back, answered) = (Arc::clone(shared), destination.clone());
            let Destination { host, port } = destination.clone();
            Some(Begin {
                dialled: Dialled { host, port, source: Some(self.source), transparent: false, udp: true },
                deliver: Box::new(move |payload: &[u8]| back.deliver(&answered, payload)),
            })
        });
    }
}

impl Shared {
    /// Whether a datagram comes from the client: from its machine, and always from the same port.
    fn is_client(&self, from: SocketAddr, peer: SocketAddr) -> bool {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        from.ip().to_canonical() == peer.ip().to_canonical() && *client.get_or_insert(from) == from
    }

    fn deliver(&self, from: &Destination, payload: &[u8]) -> bool {
        let client = *self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(client) = client else { return false };
        let mut datagram = Vec::with_capacity(payload.len() + 262);
        socks::put_datagram(from, payload, &mut datagram);
        self.socket.try_send_to(&datagram, client).is_ok()
    }
}
