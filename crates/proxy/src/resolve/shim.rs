//! Hosts outside the mesh, asked of the cluster's DNS shim.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Resolve, Resolving};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;

/// How long one question waits for its answer; it is put twice.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Answers that are kept, each as long as it allows: requests on one host follow each other closely.
const ANSWERS_MAX: u64 = 256;

/// Asks the DNS shim and nobody else: neither `/etc/hosts` nor `/etc/resolv.conf` is read.
#[derive(Debug, Clone)]
pub struct ShimResolver(TokioResolver);

impl ShimResolver {
    /// Nothing is asked before a name is needed.
    pub fn new(shim: SocketAddr) -> io::Result<Self> {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = shim.port();
            connection
        });
        let server = NameServerConfig::new(shim.ip(), true, connections.to_vec());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.with_options(options()).build().map(Self).map_err(io::Error::other)
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
