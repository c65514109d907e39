//! One link: all connections to one remote gateway, and the transport that new flows take.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh::{ConnectionLoad, Transport, TransportChoice, TransportSeen};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::finish::finish;
use super::lane::{Keeper, Lane};
use super::{Connection, PathRow, Paths, TICK, Target};
use crate::metrics::PathLabels;

/// How long the flows to a cluster that nothing is imported from any more may go on.
const LINGER: Duration = Duration::from_secs(60);

/// The state of a link.
#[derive(Debug)]
pub(super) struct Link {
    /// `<own gateway>/<cluster>/<remote gateway>`.
    pub(super) id: String,
    pub(super) target: Target,
    pub(super) labels: PathLabels,
    quic: Vec<Arc<Lane>>,
    tcp: Vec<Arc<Lane>>,
    choice: Mutex<TransportChoice>,
}

impl Link {
    pub(super) fn new(paths: &Paths, target: Target) -> Self {
        let ground = paths.ground();
        let labels = PathLabels { cluster: target.cluster.to_string(), remote_gateway: target.gateway.name.clone() };
        let id = format!("{}/{}/{}", ground.name, target.cluster, target.gateway.name);
        let count = usize::from(ground.tunnel.connections);
        let lanes = |transport, count| (0..count).map(|index| Lane::new(&id, transport, index)).collect();
        let quic = lanes(Transport::Quic, count);
        let tcp = lanes(Transport::Tcp, if ground.tunnel.fallback { count } else { 0 });
        Self { quic, tcp, target, labels, choice: Mutex::new(TransportChoice::new(Instant::now())), id }
    }

    /// The connections of now with what their choice needs; `gateway` is the link's number.
    pub(super) fn loads(&self, gateway: usize, now: Instant) -> Vec<(ConnectionLoad, Arc<Connection>)> {
        let preferred = self.choice().preferred();
        let load = |connection: Arc<Connection>| {
            let load = ConnectionLoad {
                gateway,
                transport: connection.transport(),
                preferred,
                usable: connection.is_usable(),
                suspect: connection.is_suspect(now),
                flows: connection.streams(),
                bulk: connection.flows().bulk(),
                share: connection.share(now),
            };
            (load, connection)
        };
        self.lanes().filter_map(|lane| lane.current()).map(load).collect()
    }

    /// Whether there is a usable connection of a transport.
    pub(super) fn is_connected_over(&self, transport: Transport) -> bool {
        self.lanes().any(|lane| lane.transport == transport && lane.is_usable())
    }

    /// Whether nothing is usable but may soon be.
    pub(super) fn is_settling(&self, now: Instant) -> bool {
        self.choice().is_settling(now)
    }

    /// Whether a connection is silent and not ejected yet.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.lanes().filter_map(|lane| lane.current()).any(|it| it.is_usable() && it.is_suspect(now))
    }

    pub(super) fn row(&self, now: Instant) -> PathRow {
        let preferred = self.choice().preferred();
        let rows: Vec<_> = self.lanes().map(|lane| lane.row(now)).collect();
        let usable = rows.iter().any(|row| row.usable);
        let best = rows.iter().filter(|row| row.rtt_ms.is_some());
        let best = best.min_by_key(|row| (!row.usable, row.transport != preferred));
        PathRow {
            path: self.id.clone(),
            cluster: self.target.cluster.to_string(),
            remote_gateway: self.target.gateway.name.clone(),
            address: self.target.gateway.quic_address.clone(),
            usable,
            transport: preferred,
            rtt_ms: best.and_then(|row| row.rtt_ms),
            streams: rows.iter().map(|row| row.streams).sum(),
            last_error: self.quic.iter().find_map(|lane| lane.last_error()),
            silent_ms: best.map_or(0, |row| row.silent_ms),
            // TCP that is not in use is no news.
            connections: rows
                .into_iter()
                .filter(|row| row.transport == Transport::Quic || row.rtt_ms.is_some() || row.last_error.is_some())
                .collect(),
        }
    }

    fn lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.quic.iter().chain(&self.tcp)
    }

    fn choice(&self) -> MutexGuard<'_, TransportChoice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all connections once: whether TCP is wanted, and what the metrics say.
    fn judge(&self, paths: &Paths, tcp_wanted: &watch::Sender<bool>, now: Instant) {
        let quic: Vec<Arc<Connection>> = self.quic.iter().filter_map(|lane| lane.current()).collect();
        let usable: Vec<&Arc<Connection>> = quic.iter().filter(|it| it.is_usable()).collect();
        let silent = |it: &&Arc<Connection>| it.is_suspect(now);
        if quic.iter().any(|it| silent(&it)) {
            usable.iter().for_each(|it| it.suspect(now));
        }
        let seen = TransportSeen {
            quic_usable: !usable.is_empty(),
            quic_suspect: !usable.is_empty() && usable.iter().all(silent),
            tcp_usable: self.tcp.iter().any(|lane| lane.is_usable()),
            tcp_failed: self.tcp.is_empty() || self.tcp.iter().any(|lane| lane.has_failed()),
        };
        let (before, preferred, wanted) = {
            let mut choice = self.choice();
            let before = choice.preferred();
            choice.observe(now, seen);
            (before, choice.preferred(), choice.wants_tcp(now))
        };
        if *tcp_wanted.borrow() != wanted {
            self.tcp.iter().for_each(|lane| lane.forgive());
            tcp_wanted.send_replace(wanted);
        }
        if before != preferred {
            tracing::warn!(path = self.id, transport = preferred.as_str(), "new flows take another transport");
            paths.ground().metrics.transport_changed(&self.labels, preferred);
        }
        self.measure(paths, preferred, seen);
    }

    fn measure(&self, paths: &Paths, preferred: Transport, seen: TransportSeen) {
        let metrics = &paths.ground().metrics;
        let connected = self.lanes().find_map(|lane| lane.current().filter(|it| it.transport() == preferred));
        let state = match (&connected, seen.quic_usable || seen.tcp_usable) {
            (_, true) => "usable",
            (Some(_), false) => "ejected",
            (None, false) => "connecting",
        };
        metrics.path_state(&self.labels, Some(state));
        if let Some(connection) = connected {
            metrics.rtt.get_or_create(&self.labels).set(connection.rtt().as_secs_f64());
        }
        for (transport, lanes) in [(Transport::Quic, &self.quic), (Transport::Tcp, &self.tcp)] {
            let usable = lanes.iter().filter(|lane| lane.is_usable()).count();
            metrics.path_over(&self.labels, transport, usable, transport == preferred);
        }
    }
}

/// Keeps a link up until `stop`, then lets its flows end.
pub(super) async fn run(paths: Arc<Paths>, link: Arc<Link>, stop: CancellationToken) {
    let (tcp_wanted, wants_tcp) = watch::channel(false);
    let (_quic_wanted, wants_quic) = watch::channel(true);
    let mut keepers = JoinSet::new();
    for lane in link.lanes() {
        let wanted = match lane.transport {
            Transport::Quic => wants_quic.clone(),
            Transport::Tcp => wants_tcp.clone(),
        };
        let keeper = Keeper { paths: Arc::clone(&paths), link: Arc::clone(&link), lane: Arc::clone(lane), wanted };
        keepers.spawn(keeper.run());
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => link.judge(&paths, &tcp_wanted, Instant::now()),
        }
    }
    keepers.shutdown().await;
    for lane in link.lanes() {
        paths.publish(&lane.id, None);
    }
    paths.forget_metrics(&link);
    let connections: Vec<_> = link.lanes().filter_map(|lane| lane.current()).collect();
    for connection in connections {
        let imported = paths.imports_from(&link.target);
        let (paths, target) = (Arc::clone(&paths), link.target.clone());
        tokio::spawn(async move {
            if imported {
                // Another gateway, or another address of this one, has taken over: the flows here take their time.
                finish(&paths, &target, &connection).await;
            } else {
                let _ = timeout(LINGER, finish(&paths, &target, &connection)).await;
                connection.close(0, "nothing is imported any more");
            }
        });
    }
}
