//! Addresses of hosts outside the mesh, remembered for a moment.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Fault;
use crate::resolve::Resolve;

/// How long an answer is used; the resolver behind knows the real lifetime and answers from its own cache.
const FRESH: Duration = Duration::from_secs(5);
/// More hosts are not remembered.
const HOSTS_MAX: usize = 1024;
/// No more addresses of a host are tried for one request: each may cost a connect timeout.
const ADDRESSES_MAX: usize = 3;

/// What DNS said lately.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<Known>);

/// By host and port: when DNS was asked, and what it answered.
type Known = HashMap<(String, u16), (Instant, Vec<SocketAddr>)>;

impl Names {
    /// The addresses to try in turn, at least one: any first, or with `one` the one that DNS gave first.
    pub(super) async fn addresses(
        &self,
        resolver: &dyn Resolve,
        host: &str,
        port: u16,
        one: bool,
    ) -> Result<Vec<SocketAddr>, Fault> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let mut addresses = match self.remembered(host, port) {
            Some(addresses) => addresses,
            None => {
                let resolved = resolver.resolve(host, port).await;
                let addresses =
                    resolved.map_err(|error| Fault::connect(format!("{host} cannot be resolved: {error}")))?;
                self.remember(host, port, &addresses);
                addresses
            }
        };
        if addresses.is_empty() {
            return Err(Fault::connect(format!("{host} has no address")));
        }
        if !one {
            let first = rand::random::<u32>() as usize % addresses.len();
            addresses.rotate_left(first);
        }
        addresses.truncate(ADDRESSES_MAX);
        Ok(addresses)
    }

    fn remembered(&self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, addresses) = known.get(&(host.to_owned(), port))?;
        (asked.elapsed() < FRESH).then(|| addresses.clone())
    }

    fn remember(&self, host: &str, port: u16, addresses: &[SocketAddr]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= HOSTS_MAX {
            known.retain(|_, (asked, _)| asked.elapsed() < FRESH);
        }
        if known.len() < HOSTS_MAX {
            known.insert((host.to_owned(), port), (Instant::now(), addresses.to_vec()));
        }
    }

    /// Forgets what is old; called every few seconds.
    pub(super) fn sweep(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (asked, _)| asked.elapsed() < FRESH);
    }
}
