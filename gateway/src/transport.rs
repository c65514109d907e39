//! The QUIC endpoints: transport parameters for a WAN, large socket buffers, and resets that survive a restart.

mod knocking;
mod socket;
mod trips;
mod wan;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use identity::{Credentials, PeerPolicy, TlsConfigError};
use knocking::Knocking;
use mesh::TrustDomain;
use proxy::hbone;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, Runtime, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use socket::InBatches;
use socket2::{Domain, Protocol, Socket, Type};
pub(crate) use trips::Trips;
use wan::Wan;

/// Bytes that the peer may send on one stream beyond what was read: 335 Mbit/s of one flow at 100 ms.
pub(crate) const STREAM_WINDOW: u64 = 4 << 20;
/// Bytes that the peer may send on one connection beyond what was read, while there are few connections: many times the
/// window of a stream, so that a slow reader never stalls the others.
pub(crate) const CONNECTION_WINDOW_MAX: u64 = 64 << 20;
/// What the receive windows of all connections add up to, nearly: the n-th connection gets an n-th of it.
const RECEIVE_BUDGET: u64 = 512 << 20;
/// Bytes that are sent and not acknowledged, or wait to be sent, on one connection: 1 Gbit/s at 130 ms.
const SEND_WINDOW_MAX: u64 = 16 << 20;
/// Streams that a peer may have open at once on one connection; `limits` bounds what a peer may have altogether.
const STREAMS_PER_CONNECTION: u32 = 4096;
/// Below the shortest time that NATs and connection tracking keep a silent UDP flow for (30 s).
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A flow survives a hole shorter than this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Bytes of one handshake that are kept until somebody looks at it.
const INCOMING_BUFFER: u64 = 256 << 10;
/// What is asked of the kernel for each direction of the UDP socket, in bytes.
const SOCKET_BUFFER: usize = 4 << 20;
/// Bytes of datagrams that wait to be sent on one connection, however fast it is. The oldest give way.
pub(crate) const DATAGRAMS_UNSENT: usize = 256 << 10;
/// Bytes of datagrams that came and were not looked at; the oldest give way.
const DATAGRAMS_UNREAD: usize = 1 << 20;
/// Handshakes that wait to be looked at.
const MAX_INCOMING: usize = 1024;
/// The file in the cache directory that holds the key of stateless resets.
const RESET_KEY_FILE: &str = "stateless-reset.key";

/// Why the QUIC endpoint cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The TLS configuration.
    #[error("the QUIC TLS configuration cannot be made")]
    Tls(#[from] TlsConfigError),
    /// The socket.
    #[error("the QUIC socket on {address} cannot be opened; hint: is another gateway running there?")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The reset key cannot be kept.
    #[error("{path} cannot be written; hint: cache_dir must be writable", path = path.display())]
    ResetKey {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: identity::files::FileError,
    },
}

/// What the kernel granted, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketBuffers {
    pub(crate) receive: usize,
    pub(crate) send: usize,
}

impl SocketBuffers {
    /// Whether the kernel granted less than was asked for.
    pub(crate) fn refused(self) -> bool {
        self.receive < SOCKET_BUFFER || self.send < SOCKET_BUFFER
    }
}

/// How tunnels are run; see docs/tunnels.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelSettings {
    /// QUIC connections to each remote gateway, 1 to 8; as many over TCP while UDP is blocked.
    pub connections: u8,
    /// How the sending rate of a QUIC connection is found.
    pub congestion: Congestion,
    /// How many packets the peer may receive before it acknowledges, 2 to 64; 2 is what QUIC does by itself.
    pub ack_every: u8,
    /// Whether TCP is used while UDP does not get through, and listened for.
    pub fallback: bool,
    /// Whether datagrams of UDP flows are taken as datagrams of QUIC, which no peer sends otherwise.
    pub datagrams: bool,
    /// Whether bulk from peers that are far is received in batches; see [`mesh::Batching`]. Less CPU, and a few percent less bulk.
    pub batches: bool,
    /// Whether the kernel may segment datagrams (GSO). Off helps behind rate limiters that drop bursts.
    pub segmentation_offload: bool,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        Self {
            connections: 3,
            congestion: Congestion::Wan,
            ack_every: 2,
            fallback: true,
            datagrams: true,
            batches: false,
            segmentation_offload: true,
        }
    }
}

/// A congestion controller: ours, or one of quinn's (docs/tunnels.md, ADR 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// RFC 9438: one loss in a hundred packets brings it down to a few Mbit/s at 80 ms.
    Cubic,
    /// quinn's BBR, version 1: insensitive to loss, overfills queues.
    Bbr,
    /// RFC 9002.
    NewReno,
    /// Ours, after BBRv3: insensitive to loss by chance, with little in queues; see [`mesh::WanCongestion`].
    #[default]
    Wan,
}

/// Where and how the endpoints are made.
#[derive(Debug, Clone)]
pub(crate) struct TransportOptions {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// How connections are run.
    pub(crate) tunnel: TunnelSettings,
    /// Where the reset key is kept; none: a new one each time.
    pub(crate) state_dir: Option<PathBuf>,
    /// The round trips of all connections of the gateway.
    pub(crate) trips: Trips,
}

/// Opens the endpoint that listens, and that the first connection to every gateway is dialled from.
pub(crate) fn endpoint(
    options: &TransportOptions,
    credentials: &Credentials,
) -> Result<(Endpoint, SocketBuffers), TransportError> {
    let peers = PeerPolicy::System { account: "gateway", trust_domain: None };
    let crypto = credentials.quic_server_config(peers, &[api::TUNNEL_ALPN])?;
    let mut server = ServerConfig::with_crypto(crypto);
    server
        .transport_config(transport(&options.tunnel, &options.trips))
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER * 64)
        // A NAT between the gateways may give a connection another port or address at any time.
        .migration(true);
    let trips = options.tunnel.batches.then_some(&options.trips);
    open(options.listen, Some(server), options.state_dir.as_deref(), trips)
}

/// Opens one more endpoint that only dials, so that its connections have a UDP port of their own: equal-cost paths,
/// connection tracking and NATs between the gateways see several flows.
pub(crate) fn dialler(ip: IpAddr, tunnel: &TunnelSettings, trips: &Trips) -> Result<Endpoint, TransportError> {
    open(SocketAddr::new(ip, 0), None, None, tunnel.batches.then_some(trips)).map(|(endpoint, _)| endpoint)
}

fn open(
    listen: SocketAddr,
    server: Option<ServerConfig>,
    state_dir: Option<&Path>,
    batches: Option<&Trips>,
) -> Result<(Endpoint, SocketBuffers), TransportError> {
    let failed = |source| TransportError::Socket { address: listen, source };
    let (socket, buffers) = socket(listen).map_err(failed)?;
    if buffers.refused() {
        tracing::warn!(
            receive = buffers.receive,
            send = buffers.send,
            wanted = SOCKET_BUFFER,
            "the kernel refused UDP socket buffers as large as wanted: bursts will be lost; hint: raise \
             net.core.rmem_max and net.core.wmem_max"
        );
    }
    let config = endpoint_config(state_dir)?;
    let runtime: Arc<dyn Runtime> = match batches {
        Some(trips) => Arc::new(InBatches(trips.clone())),
        None => Arc::new(TokioRuntime),
    };
    Ok((Endpoint::new(config, server, socket, runtime).map_err(failed)?, buffers))
}

/// The configuration for dialling the gateways of one trust domain.
pub(crate) fn client_config(
    credentials: &Credentials,
    trust_domain: &TrustDomain,
    tunnel: &TunnelSettings,
    trips: &Trips,
) -> Result<ClientConfig, TlsConfigError> {
    let peers = PeerPolicy::System { account: "gateway", trust_domain: Some(trust_domain.clone()) };
    let mut config = ClientConfig::new(credentials.quic_client_config(peers, &[api::TUNNEL_ALPN])?);
    config.transport_config(transport(tunnel, trips));
    Ok(config)
}

/// Gives a new connection its share of the memory for what was received and not read, by how many there are.
pub(crate) fn share_memory(connection: &quinn::Connection, connections: usize) {
    let window = mesh::window_share(RECEIVE_BUDGET, connections, STREAM_WINDOW, CONNECTION_WINDOW_MAX);
    connection.set_receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX));
    connection.set_send_window(window.min(SEND_WINDOW_MAX));
}

/// How the same tunnel is run over HTTP/2.
pub(crate) fn http2_settings() -> hbone::Settings {
    hbone::Settings {
        max_concurrent_streams: STREAMS_PER_CONNECTION,
        stream_window: u32::try_from(STREAM_WINDOW).unwrap_or(u32::MAX),
        connection_window: u32::try_from(CONNECTION_WINDOW_MAX).unwrap_or(u32::MAX),
        // CONNECT and nothing else: the tunnel header is a frame on the stream.
        max_header_list: 4 * 1024,
        // Silence is judged by probes, as on QUIC; pings only end what is dead.
        ping_idle: KEEP_ALIVE,
        ping_in_use: KEEP_ALIVE,
        ping_timeout: IDLE_TIMEOUT - KEEP_ALIVE,
        listener: "tunnel",
        ..hbone::Settings::default()
    }
}

fn transport(tunnel: &TunnelSettings, trips: &Trips) -> Arc<TransportConfig> {
    let var = |value: u64| VarInt::from_u64(value).unwrap_or(VarInt::MAX);
    let congestion: Arc<dyn ControllerFactory + Send + Sync> = match tunnel.congestion {
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
        Congestion::NewReno => Arc::new(NewRenoConfig::default()),
        Congestion::Wan => Arc::new(Wan),
    };
    // Only sockets that receive in batches ask, and each acknowledgement would take their lock.
    let trips = tunnel.batches.then(|| trips.clone());
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_PER_CONNECTION))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(var(STREAM_WINDOW))
        // The first connections' share; `share_memory` gives later ones less.
        .receive_window(var(CONNECTION_WINDOW_MAX))
        .send_window(SEND_WINDOW_MAX)
        .send_fairness(true)
        .datagram_send_buffer_size(DATAGRAMS_UNSENT)
        .datagram_receive_buffer_size(tunnel.datagrams.then_some(DATAGRAMS_UNREAD))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .initial_mtu(1200)
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .congestion_controller_factory(Arc::new(Knocking { inner: congestion, trips }))
        .enable_segmentation_offload(tunnel.segmentation_offload);
    if tunnel.ack_every > 2 {
        let mut acks = AckFrequencyConfig::default();
        // The threshold is the number of packets that need no acknowledgement yet.
        acks.ack_eliciting_threshold(VarInt::from_u32(u32::from(tunnel.ack_every) - 1));
        transport.ack_frequency_config(Some(acks));
    }
    Arc::new(transport)
}

fn socket(address: SocketAddr) -> io::Result<(UdpSocket, SocketBuffers)> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel caps both at net.core.{r,w}mem_max without an error; what it granted is read back.
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&address.into())?;
    let buffers = SocketBuffers { receive: socket.recv_buffer_size()?, send: socket.send_buffer_size()? };
    Ok((socket.into(), buffers))
}

/// With the same reset key after a restart, the first packet of an old connection is answered with a reset that its
/// peer believes, so it reconnects at once instead of after the idle timeout.
fn endpoint_config(state_dir: Option<&Path>) -> Result<EndpointConfig, TransportError> {
    let key = match state_dir {
        Some(directory) => reset_key(&directory.join(RESET_KEY_FILE))?,
        None => rand::random(),
    };
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key)));
    config.cid_generator(|| Box::new(RandomIds));
    Ok(config)
}

fn reset_key(path: &Path) -> Result<[u8; 32], TransportError> {
    if let Ok(bytes) = std::fs::read(path)
        && let Ok(key) = bytes.try_into()
    {
        return Ok(key);
    }
    let key: [u8; 32] = rand::random();
    identity::files::write_private(path, &key)
        .map_err(|source| TransportError::ResetKey { path: path.to_owned(), source })?;
    Ok(key)
}

/// Connection ids without structure. quinn's default ids carry a mark of the process, and packets without it are
/// dropped in silence: no reset would ever be sent after a restart.
#[derive(Debug)]
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
