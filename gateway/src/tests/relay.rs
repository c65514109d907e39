//! What lies between two gateways: a UDP and a TCP hop on one port that can block either and move to another source
//! port, as a NAT does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// The hop; its tasks end with it.
pub(super) struct Relay {
    /// Where it is reached, over UDP and TCP.
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    udp_blocked: AtomicBool,
    tcp_blocked: AtomicBool,
    /// By the client's address.
    back: Mutex<BTreeMap<SocketAddr, Back>>,
}

/// The socket of one client that faces the server, and the task that reads it.
struct Back {
    socket: Arc<UdpSocket>,
    _answers: JoinSet<()>,
}

impl Relay {
    pub(super) async fn new(to: SocketAddr) -> Self {
        let (front, listener) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(front) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (Arc::new(front), listener);
            }
        };
        let address = front.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(udp(front, to, Arc::clone(&shared)));
        tasks.spawn(tcp(listener, to, Arc::clone(&shared)));
        Self { address, shared, _tasks: tasks }
    }

    /// Whether UDP is swallowed, both ways.
    pub(super) fn block_udp(&self, blocked: bool) {
        self.shared.udp_blocked.store(blocked, Ordering::Relaxed);
    }

    /// Whether TCP connections are refused.
    pub(super) fn block_tcp(&self, blocked: bool) {
        self.shared.tcp_blocked.store(blocked, Ordering::Relaxed);
    }

    /// Forgets all UDP flows, as a NAT that restarts: the next packet of each gets another source port.
    pub(super) fn rebind(&self) {
        self.shared.back.lock().unwrap().clear();
    }

    /// The source addresses that UDP came from.
    pub(super) fn clients(&self) -> usize {
        self.shared.back.lock().unwrap().len()
    }
}

async fn udp(front: Arc<UdpSocket>, to: SocketAddr, shared: Arc<Shared>) {
    let mut packet = vec![0; 65536];
    loop {
        let Ok((count, client)) = front.recv_from(&mut packet).await else { continue };
        if shared.udp_blocked.load(Ordering::Relaxed) {
            continue;
        }
        let known = shared.back.lock().unwrap().get(&client).map(|back| Arc::clone(&back.socket));
        let socket = match known {
            Some(socket) => socket,
            None => {
                let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                socket.connect(to).await.unwrap();
                let mut answering = JoinSet::new();
                answering.spawn(answers(Arc::clone(&socket), Arc::clone(&front), client, Arc::clone(&shared)));
                let back = Back { socket: Arc::clone(&socket), _answers: answering };
                shared.back.lock().unwrap().insert(client, back);
                socket
            }
        };
        let _ = socket.send(&packet[..count]).await;
    }
}

async fn answers(back: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr, shared: Arc<Shared>) {
    let mut packet = vec![0; 65536];
    loop {
        let Ok(count) = back.recv(&mut packet).await else { continue };
        if !shared.udp_blocked.load(Ordering::Relaxed) {
            let _ = front.send_to(&packet[..count], client).await;
        }
    }
}

async fn tcp(listener: TcpListener, to: SocketAddr, shared: Arc<Shared>) {
    let mut flows = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        if shared.tcp_blocked.load(Ordering::Relaxed) {
            continue;
        }
        flows.spawn(async move {
            if let Ok(mut server) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
