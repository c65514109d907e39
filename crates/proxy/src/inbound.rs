//! What reaches a workload: mutual TLS from peers and gateways on one port, plain text on the workload's own ports.
//!
//! [`Inbound::serve_mtls`] ends mutual TLS and hands requests and CONNECT flows on; [`Inbound::serve_plain`] owns one
//! port of the workload. Both ask `mesh::authorize_inbound` for the port and the [`Guard`] for each request or opaque
//! connection before the application sees anything.

mod flow;
mod gate;
mod http;
mod mtls;
mod udp;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use dial::Dialer;
use identity::{Credentials, Handshakes, PeerIdentity};
use mesh::{AppEndpoint, Denial, Host, InboundDecision, InboundPeer, PortScope, Protocol, Reason, View, WorkloadPort};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::access::{INBOUND_PASSTHROUGH, Party, Record, Recorder, Reporter};
use crate::guard::{Facts, Guard};
use crate::listen::{self, Accepted, Lifecycle, Limits};
use crate::outbound::Directory;
use crate::pool::plain::PlainPool;

/// A port of the workload and where its application listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppPort {
    /// The number that peers dial.
    pub number: u16,
    /// The application; `None` when it has the port itself, at whichever of the pod's addresses was dialled.
    pub app: Option<SocketAddr>,
    /// How it speaks; [`Protocol::Auto`] leaves it to the view.
    pub protocol: Protocol,
}

/// What the inbound engine is given.
pub struct InboundConfig {
    /// Where views come from.
    pub directory: Arc<dyn Directory>,
    /// Who the workload is, and whom it believes.
    pub credentials: Credentials,
    /// Where records go.
    pub recorder: Recorder,
    /// When to stop.
    pub life: Lifecycle,
    /// What peers are allowed.
    pub limits: Limits,
    /// The workload's ports.
    pub ports: Vec<AppPort>,
    /// Set when the application owns its ports and connections to it are captured.
    pub application: Option<Application>,
    /// Who applies the workload's policies.
    pub guard: Guard,
    /// Who opens connections to the application.
    pub dialer: Dialer,
    /// Set where a gateway serves a workload without a sidecar: what records say of the server's end.
    pub server: Option<Arc<str>>,
}

/// An application that owns its ports: all of them can be opened, declared or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Where it is, for connections that do not tell by what they dialled.
    pub address: IpAddr,
    /// Ports that are the sidecar's own and never the application's.
    pub reserved: BTreeSet<u16>,
}

/// The inbound engine; clones share it.
#[derive(Clone)]
pub struct Inbound(Arc<Engine>);

struct Engine {
    config: InboundConfig,
    plain: PlainPool,
    handshakes: Handshakes,
    gates: gate::Gates,
}

/// Who is at the other end.
#[derive(Clone)]
enum Peer {
    /// Proven by mutual TLS.
    Mutual(Arc<PeerIdentity>),
    /// Anyone.
    Plain,
}

impl Peer {
    fn as_inbound(&self) -> InboundPeer<'_> {
        match self {
            Self::Mutual(peer) => InboundPeer::Mutual(&peer.id),
            Self::Plain => InboundPeer::Plain,
        }
    }
}

/// One connection of somebody.
#[derive(Clone)]
struct Caller {
    peer: Peer,
    /// Who dialled; for callers of other clusters a gateway.
    source: SocketAddr,
    /// What was dialled.
    dialled: Option<IpAddr>,
}

impl Caller {
    fn facts(&self, port: u16) -> Facts {
        let peer = match &self.peer {
            Peer::Mutual(peer) => Some(peer.clone()),
            Peer::Plain => None,
        };
        Facts {
            peer,
            port,
            source: Some(self.source),
            remote_ip: None,
            destination_ip: self.dialled,
            sni: None,
            scheme: "http",
        }
    }
}

/// A port that may be opened, and where it leads.
struct Admitted {
    port: WorkloadPort,
    app: SocketAddr,
    protocol: Protocol,
}

/// How long connecting to the application may take; it is on the same machine.
const APP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl Inbound {
    /// Starts the engine; listeners are given to it one by one.
    pub fn start(config: InboundConfig) -> Self {
        let engine = Arc::new(Engine {
            plain: PlainPool::new(config.credentials.clone(), APP_TIMEOUT, config.dialer),
            handshakes: config.limits.handshakes(),
            gates: gate::Gates::default(),
            config,
        });
        let (swept, ended) = (Arc::downgrade(&engine), engine.config.life.ended.clone());
        tokio::spawn(async move {
            let pause = std::time::Duration::from_secs(5);
            while ended.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                let Some(engine) = swept.upgrade() else { return };
                engine.plain.sweep();
            }
        });
        Self(engine)
    }

    /// Serves mutual TLS for all ports until draining.
    pub async fn serve_mtls(&self, listener: TcpListener) {
        let config = &self.0.config;
        listen::accept(listener, &config.limits, &config.life, |accepted| {
            let engine = self.0.clone();
            async move { Box::pin(engine.mtls(accepted)).await }
        })
        .await;
    }

    /// Serves mutual TLS on one stream, which `source` opened, until its end.
    pub async fn serve_stream<T>(&self, stream: T, source: SocketAddr)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.0.clone().mtls_stream(stream, source, None).await;
    }

    /// Serves one port of the workload in plain text until draining.
    pub async fn serve_plain(&self, listener: TcpListener, number: u16) {
        let config = &self.0.config;
        listen::accept(listener, &config.limits, &config.life, |accepted| {
            let engine = self.0.clone();
            async move {
                let local = accepted.stream.local_addr().ok();
                engine.plain_connection(accepted, local, number).await;
            }
        })
        .await;
    }

    /// Carries one captured connection in plain text, which was going to `original`.
    pub async fn captured(&self, accepted: Accepted, original: SocketAddr) {
        self.0.clone().plain_connection(accepted, Some(original), original.port()).await;
    }
}

/// Where an endpoint of a Sidecar is, beside an application that listens on `own`. Workloads that share a machine have
/// loopback addresses of their own.
fn place_of(endpoint: AppEndpoint, own: IpAddr) -> SocketAddr {
    match endpoint {
        AppEndpoint::Loopback(port) if own.is_loopback() => SocketAddr::new(own, port),
        AppEndpoint::Loopback(port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        AppEndpoint::Instance(port) => SocketAddr::new(own, port),
    }
}

impl Engine {
    /// The decision on a port, and where the port leads when it may be opened.
    fn admit(
        &self,
        view: &View,
        caller: &Caller,
        number: u16,
        udp: bool,
    ) -> (InboundDecision, Result<Admitted, Denial>) {
        let application = self.config.application.as_ref();
        let scope = application.map_or(PortScope::Declared, |_| PortScope::All);
        let decision = match udp {
            true => mesh::authorize_inbound_udp(view, caller.peer.as_inbound(), number, scope),
            false => mesh::authorize_inbound(view, caller.peer.as_inbound(), number, scope),
        };
        let admitted = decision.outcome.clone().and_then(|port| {
            if application.is_some_and(|application| application.reserved.contains(&port.number)) {
                return Err(Denial::UnknownPort);
            }
            let known =
                self.config.ports.iter().find(|known| known.number == port.number && known.protocol.is_udp() == udp);
            let declared = known.map(|known| known.protocol).filter(|protocol| *protocol != Protocol::Auto);
            let own =
                |application: &Application| SocketAddr::new(caller.dialled.unwrap_or(application.address), port.number);
            let app = known.and_then(|known| known.app).or_else(|| application.map(own)).ok_or(Denial::UnknownPort)?;
            let protocol = declared.unwrap_or(port.protocol);
            let listeners = view.workload.as_ref().map(|workload| &workload.config.inbound.listeners);
            Ok(match listeners.and_then(|listeners| listeners.get(&port.number)).filter(|_| !udp) {
                Some(listener) => Admitted {
                    app: listener.endpoint.map_or(app, |endpoint| place_of(endpoint, app.ip())),
                    protocol: if listener.protocol == Protocol::Auto { protocol } else { listener.protocol },
                    port,
                },
                None => Admitted { port, app, protocol },
            })
        });
        (decision, admitted)
    }

    /// Takes over a decision; what goes to ports that nobody declared is no service's.
    fn note(record: &mut Record, decision: InboundDecision) {
        if decision.reasons.iter().any(|reason| matches!(reason, Reason::UndeclaredPort { .. })) {
            record.service = None;
            INBOUND_PASSTHROUGH.clone_into(&mut record.upstream_cluster);
        }
        record.revision = decision.revision;
        record.reasons = decision.reasons;
        record.attempts = 1;
    }

    fn begin(&self, protocol: &'static str, authority: String, view: &View, caller: &Caller) -> Record {
        let svid = self.config.credentials.svid();
        let mut record = Record::begin(Reporter::Destination, protocol, authority);
        record.server.clone_from(&self.config.server);
        record.destination = Party::own(view.workload.as_deref(), view.cluster(), svid.as_ref().map(|svid| svid.id()));
        if let Some(workload) = &view.workload {
            let host = record.authority.rsplit_once(':').map_or(record.authority.as_str(), |(host, _)| host);
            record.service = Host::parse(host, &workload.namespace).service().cloned();
        }
        record.client(Some(caller.source), None);
        if let Peer::Mutual(peer) = &caller.peer {
            let own = view.mesh.as_deref().filter(|mesh| mesh.trust_domain == *peer.id.trust_domain());
            let cluster = own.map(|mesh| mesh.cluster.to_string());
            let other = || view.cluster_of(peer.id.trust_domain()).map(|cluster| cluster.name.to_string());
            let cluster = cluster.or_else(other).unwrap_or_default();
            record.source = Party { cluster, ..Party::of_identity(&peer.id) };
            record.mutual_tls = true;
        }
        record
    }
}
