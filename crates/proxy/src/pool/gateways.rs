//! The way out of the cluster: HTTP/2 connections to the own gateways, balanced by what rides on them.
//!
//! A gateway that cannot be reached is set aside for a while that doubles with each failure; when all are, all are tried
//! again. Each connection listens to the gateway's path events, so that requests which wait on a dead path are sent again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::tunnel::PathEvent;
use dial::Dialer;
use http::{HeaderName, HeaderValue};
use identity::{Credentials, PeerPolicy};
use mesh::{LocalGateway, View};

use super::{Lease, Policy, Pool, Pooled};
use crate::balance::{Aside, LoadGuard, LoadTable};
use crate::body::chain;
use crate::fault::Fault;
use crate::hbone::{Connecting, Outer, Settings};
use crate::tunnel::EventDecoder;

/// The path on an outer connection that streams the health of the gateway's paths.
pub const PATHS: &str = "/isthmus/paths";

impl Pooled for Outer {
    fn is_usable(&self) -> bool {
        Outer::is_usable(self)
    }
}

/// A path between gateways stopped taking streams, or takes them again; with the name of the own gateway.
pub type OnPathEvent = Arc<dyn Fn(&str, &PathEvent) + Send + Sync>;

/// Connections to the own gateways.
pub struct Gateways {
    pool: Pool<SocketAddr, Outer>,
    load: LoadTable<SocketAddr>,
    aside: Aside<SocketAddr>,
    credentials: Credentials,
    dialer: Dialer,
    on_path_event: OnPathEvent,
}

/// A flow through one of the own gateways; it counts against the gateway until it is dropped.
pub struct Tunnel {
    /// The flow and the answer that is still to come.
    pub connecting: Connecting,
    /// Holds the outer connection for as long as the flow lasts.
    pub hold: Hold,
}

/// What a tunnelled flow holds on its outer connection.
pub struct Hold {
    lease: Lease<Outer>,
    _load: LoadGuard<SocketAddr>,
    /// Until when the connection between the gateways takes new flows, if the gateway said so.
    until: Option<Instant>,
}

impl Hold {
    /// Whether the gateway, and the connection behind it, still take flows; if not, what rides on this one should move elsewhere before it is cut.
    pub fn is_usable(&self) -> bool {
        self.lease.is_usable() && self.until.is_none_or(|until| Instant::now() < until)
    }

    /// The connection between the gateways takes new flows for so many milliseconds; 0: for how long is not known.
    pub(super) fn usable_for_ms(&mut self, millis: u64) {
        self.until = Some(millis)
            .filter(|millis| *millis > 0)
            .and_then(|millis| Instant::now().checked_add(Duration::from_millis(millis)));
    }
}

impl Gateways {
    /// No connection is made before one is needed. `on_path_event` gets the gateway's name and the event.
    pub fn new(credentials: Credentials, dialer: Dialer, on_path_event: OnPathEvent) -> Self {
        let (load, aside) = (LoadTable::default(), Aside::default());
        Self { pool: Pool::new(Policy::SHARED), load, aside, credentials, dialer, on_path_event }
    }

    /// The gateways in the order in which they should be tried: those not set aside, the least busy first.
    pub fn order(&self, view: &View) -> Vec<Arc<LocalGateway>> {
        let mut gateways: Vec<(bool, u32, u32, &Arc<LocalGateway>)> = view
            .gateways
            .values()
            .map(|gateway| {
                let address = &gateway.hbone_address;
                (self.aside.is_aside(address), self.load.active(address), rand::random(), gateway)
            })
            .collect();
        gateways.sort_by_key(|(aside, active, entropy, _)| (*aside, *active, *entropy));
        gateways.into_iter().map(|(_, _, _, gateway)| gateway.clone()).collect()
    }

    /// Opens a flow by CONNECT through one gateway.
    pub async fn open(
        &self,
        gateway: &Arc<LocalGateway>,
        authority: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        timeout: Duration,
    ) -> Result<Tunnel, Fault> {
        let address = gateway.hbone_address;
        let lease = self.pool.get(&address, || self.dial(gateway, timeout)).await.inspect_err(|_| {
            self.aside.set(address);
        })?;
        let load = self.load.start(address);
        let connecting = lease.connect(authority, headers).await.map_err(|error| {
            self.aside.set(address);
            Fault::from_request(&error, &gateway.name)
        })?;
        self.aside.clear(&address);
        Ok(Tunnel { connecting, hold: Hold { lease, _load: load, until: None } })
    }

    /// Takes a gateway out of the first choice for a while: it took the flow but the flow failed.
    pub fn set_aside(&self, gateway: &LocalGateway) {
        self.aside.set(gateway.hbone_address);
    }

    async fn dial(&self, gateway: &Arc<LocalGateway>, timeout: Duration) -> Result<Outer, Fault> {
        let whom = format!("the gateway {} at {}", gateway.name, gateway.hbone_address);
        let dial = async {
            let connected = self.dialer.connect(gateway.hbone_address).await;
            let stream = connected.map_err(|error| Fault::connect(format!("{whom}: {error}")))?;
            let _ = stream.set_nodelay(true);
            let config = self
                .credentials
                .client_config(PeerPolicy::only(gateway.identity.clone()), &[b"h2"])
                .map_err(|error| Fault::connect(format!("{whom}: {}", chain(&error))))?;
            let (tls, peer) = identity::connect_tls(config, stream, timeout)
                .await
                .map_err(|error| Fault::connect(format!("{whom}: {}", chain(&error))))?;
            let settings = Settings { stream_window: 256 * 1024, connection_window: 4 << 20, ..Settings::default() };
            let outer = Outer::handshake(tls, &settings)
                .await
                .map_err(|error| Fault::connect(format!("{whom}: {}", chain(&error))))?;
            Ok((outer, peer))
        };
        let (outer, peer) = tokio::time::timeout(timeout, dial).await.map_err(|_| Fault::connect_timeout(&whom))??;
        let (credentials, watched) = (self.credentials.clone(), outer.clone());
        let (name, on_path_event) = (gateway.name.clone(), self.on_path_event.clone());
        tokio::spawn(async move {
            let retire = async {
                credentials.aging(&peer).await;
                watched.retire();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = retire => {}
                () = watch_paths(&watched, &name, &on_path_event) => {}
                reason = credentials.expiry(&peer) => {
                    tracing::info!(gateway = name, ?reason, "the connection to a gateway must end");
                    tokio::time::sleep(super::http::END_GRACE).await;
                    watched.abort();
                }
            }
        });
        Ok(outer)
    }

    /// Closes what is no longer used.
    pub fn sweep(&self) {
        self.pool.sweep();
    }

    /// Every outer connection: the gateway's address and the flows on it.
    pub fn for_each(&self, mut visit: impl FnMut(SocketAddr, usize)) {
        self.pool.for_each(|address, _, active| visit(*address, active));
    }
}

/// Follows the events of one outer connection until it ends.
async fn watch_paths(outer: &Outer, gateway: &str, on_path_event: &OnPathEvent) {
    let response = match outer.get(PATHS).await {
        Ok(response) if response.status().is_success() => response,
        Ok(response) => {
            tracing::debug!(gateway, status = response.status().as_u16(), "the gateway has no path events");
            return std::future::pending().await;
        }
        Err(error) => {
            tracing::debug!(gateway, error = chain(&error), "cannot follow the paths of a gateway");
            return;
        }
    };
    let mut body = response.into_body();
    let mut decoder = EventDecoder::default();
    while let Some(Ok(data)) = body.data().await {
        // Fails only on a stream that is gone, which the next read says.
        let _ = body.flow_control().release_capacity(data.len());
        decoder.push(&data);
        loop {
            match decoder.next_event() {
                Ok(Some(event)) => on_path_event(gateway, &event),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(gateway, %error, "a gateway sent a path event that cannot be read");
                    return;
                }
            }
        }
    }
}
