//! The ports of a gateway: opened and closed as its configuration says, while it runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mesh::{Listener, View};
use proxy::listen::{Lifecycle, accept};
use serde::Serialize;
use telemetry::ReadyBlock;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Edge;

/// How long to wait before a port that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Listeners by the address that they bind and the port that Gateways name.
pub(super) type Listeners = BTreeMap<(SocketAddr, u16), State>;

/// One listener.
pub(super) enum State {
    /// It accepts.
    Open {
        /// Where: another port than wanted when port 0 was wanted.
        address: SocketAddr,
        /// Ends with the listener.
        life: Lifecycle,
    },
    /// It cannot be bound; tried again and again.
    Failed {
        /// Why.
        error: String,
        /// Until it is.
        _unready: ReadyBlock,
    },
}

/// One row of `/debug/listeners`.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    port: u16,
    address: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    servers: Vec<ServerRow>,
}

/// One server of a listener.
#[derive(Debug, Serialize)]
struct ServerRow {
    gateway: String,
    hosts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<mesh::ServerTlsMode>,
    routes: Vec<String>,
}

impl Edge {
    /// Follows the views until draining.
    pub(super) async fn follow(self: Arc<Self>, mut views: watch::Receiver<Arc<View>>) {
        loop {
            let view = views.borrow_and_update().clone();
            let failed = self.adjust(&view).await;
            tokio::select! {
                changed = views.changed() => if changed.is_err() && !failed { return },
                () = tokio::time::sleep(RETRY), if failed => {}
                () = self.life.draining.cancelled() => return,
            }
        }
    }

    /// Opens what is missing and takes away what is no longer wanted; says whether something failed.
    async fn adjust(self: &Arc<Self>, view: &View) -> bool {
        let wanted = self.wanted(view);
        let missing: Vec<_> = {
            let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.retain(|key, state| {
                if let State::Open { life, .. } = state
                    && !wanted.contains(key)
                {
                    tracing::info!(address = %key.0, port = key.1, "a listener is closed");
                    life.draining.cancel();
                }
                wanted.contains(key)
            });
            let open = |key: &&(SocketAddr, u16)| !matches!(listeners.get(key), Some(State::Open { .. }));
            wanted.iter().filter(open).copied().collect()
        };
        let mut failed = false;
        for key in missing {
            let opened = TcpListener::bind(key.0).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
            let state = match opened {
                Ok((address, listener)) => self.open(listener, address, key.1),
                Err(error) => {
                    failed = true;
                    self.fail(key, &error)
                }
            };
            self.listeners.lock().unwrap_or_else(PoisonError::into_inner).insert(key, state);
        }
        failed
    }

    fn wanted(&self, view: &View) -> Vec<(SocketAddr, u16)> {
        let config = view.workload.as_ref().and_then(|workload| workload.config.gateway.as_ref());
        let key = |listener: &Listener| {
            (SocketAddr::new(listener.bind.unwrap_or(self.bind), listener.target_port), listener.port)
        };
        config.map(|config| config.listeners.iter().map(key).collect()).unwrap_or_default()
    }

    fn open(self: &Arc<Self>, listener: TcpListener, address: SocketAddr, port: u16) -> State {
        tracing::info!(%address, port, "a listener is open");
        let life = Lifecycle::new(self.life.draining.child_token(), self.life.ended.child_token());
        let (edge, own) = (self.clone(), life.clone());
        // The process waits for the listener, and the listener for its connections.
        self.life.spawn(async move {
            accept(listener, &edge.limits, &own, |accepted| {
                let (edge, life) = (edge.clone(), own.clone());
                async move { edge.accepted(accepted, port, life).await }
            })
            .await;
            own.drain(edge.drain).await;
        });
        State::Open { address, life }
    }

    fn fail(&self, (address, port): (SocketAddr, u16), error: &std::io::Error) -> State {
        tracing::warn!(%address, port, %error, "a port of a Gateway cannot be bound");
        let unready = self.readiness.block("a port of a Gateway cannot be bound");
        State::Failed { error: error.to_string(), _unready: unready }
    }

    /// Every listener with what it serves.
    pub(super) fn rows(&self) -> Vec<Row> {
        let view = self.view();
        let config = view.workload.as_ref().and_then(|workload| workload.config.gateway.clone()).unwrap_or_default();
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |((wanted, port), state): (&(SocketAddr, u16), &State)| {
            let (address, state, error) = match state {
                State::Open { address, .. } => (address, "open", None),
                State::Failed { error, .. } => (wanted, "failed", Some(error.clone())),
            };
            let servers = config.listener(*port).map(servers).unwrap_or_default();
            Row { port: *port, address: address.to_string(), state, error, servers }
        };
        listeners.iter().map(row).collect()
    }

    /// Where a port of the configuration is bound.
    #[cfg(test)]
    pub(super) fn address(&self, port: u16) -> Option<SocketAddr> {
        let listeners = self.listeners.lock().unwrap();
        listeners.iter().find_map(|((_, number), state)| match state {
            State::Open { address, .. } if *number == port => Some(*address),
            _ => None,
        })
    }
}

fn servers(listener: &Listener) -> Vec<ServerRow> {
    let row = |server: &Arc<mesh::Server>| ServerRow {
        gateway: server.gateway.clone(),
        hosts: server.hosts.iter().map(|own| own.host.as_str().to_owned()).collect(),
        tls: server.tls.as_ref().map(|tls| tls.mode),
        routes: server.routes.iter().map(|routes| routes.host.as_str().to_owned()).collect(),
    };
    listener.servers.iter().map(row).collect()
}
