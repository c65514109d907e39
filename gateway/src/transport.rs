//! The QUIC endpoint: transport parameters for a WAN, large socket buffers, and resets that survive a restart.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use identity::{Credentials, PeerPolicy, TlsConfigError};
use mesh::TrustDomain;
use quinn::congestion::CubicConfig;
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig,
    TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};

/// What is asked of the kernel for each direction of the UDP socket, in bytes.
const SOCKET_BUFFER: usize = 4 << 20;
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

/// How the endpoint is made.
#[derive(Debug, Clone)]
pub(crate) struct TransportOptions {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Whether the kernel may segment datagrams.
    pub(crate) segmentation_offload: bool,
    /// Where the reset key is kept; none: a new one each time.
    pub(crate) state_dir: Option<PathBuf>,
}

/// Opens the endpoint that both sides of the gateway use.
pub(crate) fn endpoint(
    options: &TransportOptions,
    credentials: &Credentials,
) -> Result<(Endpoint, SocketBuffers), TransportError> {
    let peers = PeerPolicy::System { account: "gateway", trust_domain: None };
    let crypto = credentials.quic_server_config(peers, &[api::TUNNEL_ALPN])?;
    let mut server = ServerConfig::with_crypto(crypto);
    server.transport_config(transport(options.segmentation_offload)).max_incoming(MAX_INCOMING);
    let failed = |source| TransportError::Socket { address: options.listen, source };
    let (socket, buffers) = socket(options.listen).map_err(failed)?;
    tracing::info!(
        receive = buffers.receive,
        send = buffers.send,
        wanted = SOCKET_BUFFER,
        "UDP socket buffers granted"
    );
    let config = endpoint_config(options.state_dir.as_deref())?;
    let runtime = Arc::new(quinn::TokioRuntime);
    Ok((Endpoint::new(config, Some(server), socket, runtime).map_err(failed)?, buffers))
}

/// The configuration for dialling the gateways of one trust domain.
pub(crate) fn client_config(
    credentials: &Credentials,
    trust_domain: &TrustDomain,
    segmentation_offload: bool,
) -> Result<ClientConfig, TlsConfigError> {
    let peers = PeerPolicy::System { account: "gateway", trust_domain: Some(trust_domain.clone()) };
    let mut config = ClientConfig::new(credentials.quic_client_config(peers, &[api::TUNNEL_ALPN])?);
    config.transport_config(transport(segmentation_offload));
    Ok(config)
}

fn transport(segmentation_offload: bool) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(4096))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(4 << 20))
        .receive_window(VarInt::from_u32(32 << 20))
        .send_window(32 << 20)
        .keep_alive_interval(Some(Duration::from_secs(5)))
        .max_idle_timeout(Some(VarInt::from_u32(90_000).into()))
        .initial_mtu(1200)
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .congestion_controller_factory(Arc::new(CubicConfig::default()))
        .enable_segmentation_offload(segmentation_offload);
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
