//! Names of hosts outside the mesh: who turns them into addresses is given to the engine.

mod shim;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

pub use shim::ShimResolver;

/// Turns the name of a host into addresses; the cluster's DNS shim in sidecars, or a fixed answer in tests.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host`, which is no IP address, best first, each with `port`.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolving<'a>;
}

/// An answer that is under way.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// The resolver of the machine, `/etc/hosts` and `/etc/resolv.conf` included.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Resolving<'a> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}
