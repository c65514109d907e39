//! Hosts outside the mesh, asked of the cluster's DNS shim.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use dial::Dialer;
use hickory_resolver::Resolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime};
use hickory_resolver::proto::rr::Name;
use tokio::net::{TcpStream, UdpSocket};

use super::{Resolve, Resolving};

/// How long one question waits for its answer; it is put twice.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Answers that are kept, each as long as it allows: requests on one host follow each other closely.
const ANSWERS_MAX: u64 = 256;

/// Asks the DNS shim and nobody else: neither `/etc/hosts` nor `/etc/resolv.conf` is read.
#[derive(Clone)]
pub struct ShimResolver(Resolver<Sockets>);

impl ShimResolver {
    /// Nothing is asked before a name is needed.
    pub fn new(shim: SocketAddr, dialer: Dialer) -> io::Result<Self> {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = shim.port();
            connection
        });
        let server = NameServerConfig::new(shim.ip(), true, connections.to_vec());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let sockets = Sockets { dialer, runtime: TokioRuntimeProvider::default() };
        let builder = Resolver::builder_with_config(config, sockets);
        builder.with_options(options()).build().map(Self).map_err(io::Error::other)
    }
}

/// Tokio's runtime with the proxy's own sockets.
#[derive(Clone)]
struct Sockets {
    dialer: Dialer,
    runtime: TokioRuntimeProvider,
}

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.runtime.create_handle()
    }

    fn connect_tcp(&self, server: SocketAddr, _: Option<SocketAddr>, wait: Option<Duration>) -> Opening<Self::Tcp> {
        let dialer = self.dialer;
        Box::pin(async move {
            let stream = tokio::time::timeout(wait.unwrap_or(TIMEOUT), dialer.connect(server)).await??;
            stream.set_nodelay(true)?;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, _: SocketAddr) -> Opening<UdpSocket> {
        let dialer = self.dialer;
        Box::pin(async move { dialer.bind_udp(local).await })
    }
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.ndots = 0;
    options.timeout = TIMEOUT;
    options.attempts = 1;
    options.cache_size = ANSWERS_MAX;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options
}

impl Resolve for ShimResolver {
    /// Names are absolute: no search list is tried. `localhost` is answered without a question (RFC 6761 §6.3).
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolving<'a> {
        Box::pin(async move {
            let mut name = Name::from_str_relaxed(host)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
            name.set_fqdn(true);
            let found = self.0.lookup_ip(name).await.map_err(io::Error::other)?;
            Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect())
        })
    }
}
