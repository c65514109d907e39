//! Connections to servers of other clusters, dialled for a request or ahead of one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{Credentials, Places};
use mesh::SpiffeId;

use super::{Directory, Paths};
use crate::fault::Fault;
use crate::pool::dial::{self, RemoteKey, RemoteRequest};
use crate::pool::gateways::Gateways;
use crate::pool::http::{HttpConnection, Parts, Pings};
use crate::pool::meter::{Meter, Metered};

/// What is needed to get to servers of other clusters; clones share it.
#[derive(Clone)]
pub(super) struct Remotes {
    pub(super) credentials: Credentials,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) gateways: Arc<Gateways>,
    pub(super) paths: Paths,
    /// Of flows that are being opened.
    pub(super) turns: Places<RemoteKey>,
}

/// How many flows are opened to one group of servers at once: 2,000 a second over a round trip of 100 ms, and a quarter of what
/// a server's sidecar takes of one gateway.
pub(super) const OPENING: usize = 512;

impl Remotes {
    /// Opens inner mTLS to a server; `timeout` is for all of it.
    pub(super) async fn open(
        &self,
        key: &RemoteKey,
        expected: &BTreeSet<SpiffeId>,
        timeout: Duration,
    ) -> Result<dial::Remote, Fault> {
        let asked = Instant::now();
        let ride = |gateway: &str, path: &str| self.paths.ride(gateway, path, asked);
        let request = RemoteRequest { key, expected, timeout, ride: &ride };
        dial::remote(&self.credentials, &self.gateways, &self.directory.view(), &request).await
    }

    /// The same for one flow of opaque bytes. So many to one group of servers are being opened at once; the others wait in
    /// turn, so that thousands within a second neither fill a server's places for handshakes nor starve each other there.
    pub(super) async fn flow(
        &self,
        key: &RemoteKey,
        expected: &BTreeSet<SpiffeId>,
        timeout: Duration,
    ) -> Result<dial::Remote, Fault> {
        let turn = tokio::time::timeout(timeout, self.turns.of(key.clone()).acquire_owned()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Fault::overflow("too many flows to the same servers are being opened"));
        };
        self.open(key, expected, timeout).await
    }

    /// The same, with HTTP/2 inside.
    pub(super) async fn http(
        &self,
        key: &RemoteKey,
        expected: &BTreeSet<SpiffeId>,
        timeout: Duration,
        pings: Option<Pings>,
    ) -> Result<HttpConnection, Fault> {
        let remote = self.open(key, expected, timeout).await?;
        let meter = Meter::default();
        let parts = Parts {
            lost: remote.lost,
            io: Metered::new(remote.io, meter.clone()),
            peer: Some(remote.peer),
            via: Some(remote.via),
            endpoint: remote.endpoint,
            hold: Some(remote.hold),
            pings,
            meter: Some(meter),
        };
        HttpConnection::handshake(parts, &self.credentials).await
    }
}
