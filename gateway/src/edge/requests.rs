//! Requests at a port of a Gateway, and peers of the mesh on the port that serves all ports.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use identity::PeerIdentity;
use mesh::{Denial, HeadRules, HttpRequest, InboundPeer, PortScope, Reason, ServerProtocol, ServerTlsMode, View};
use proxy::access::{ClosedBy, Party, Record, Reporter};
use proxy::body::{self, Body, Tracked};
use proxy::fault::flag;
use proxy::guard::{ConnectionRefusal, Refusal};
use proxy::hbone::Incoming;
use proxy::listen::{self, Accepted, Lifecycle};
use proxy::outbound::{Arrival, Captured, Judged};
use proxy::peers::{self, Doing, Peers};
use proxy::{headers, reply, serve};
use tokio::net::TcpListener;

use super::connection::{Link, listener};
use super::{Edge, forwarded, proof};

impl Edge {
    /// Serves HTTP/1.1 and HTTP/2 until the client ends it or the listener drains.
    pub(super) async fn http<T: Captured>(self: &Arc<Self>, io: T, link: Link, life: &Lifecycle) {
        let (edge, link) = (self.clone(), Arc::new(link));
        let of_connection = link.clone();
        let served = serve::serve(io, &self.limits, life, move |request| {
            let (edge, link) = (edge.clone(), link.clone());
            Box::pin(async move {
                let mut response = edge.request(request.map(body::incoming), &link).await;
                if link.peer.is_none() {
                    // Strangers are not told what proxies tell each other.
                    headers::strip_internal(response.headers_mut());
                }
                response
            })
        });
        if let Some(why) = served.await {
            let mut record = self.begin("http", String::new(), &self.view(), &of_connection);
            record.client(Some(of_connection.source), None);
            self.recorder.unreadable(record, why);
        }
    }

    /// One request: stamped, judged, carried.
    async fn request(&self, mut request: Request<Body>, link: &Link) -> Response<Body> {
        let view = self.view();
        let Some(workload) = &view.workload else {
            return reply::text(StatusCode::SERVICE_UNAVAILABLE, "the gateway knows nothing of its mesh yet");
        };
        let policy = &workload.config.inbound;
        // Before anything is believed or added: what `connection` names must not be what we say ourselves.
        let most_headers = if link.peer.is_some() { mesh::MESH_HEADERS_MAX } else { mesh::HEADERS_MAX };
        let authority = match headers::admit(&mut request, HeadRules { most_headers, paths: view.paths() }) {
            Ok(authority) => authority.to_string(),
            Err(refusal) => {
                let mut record = self.begin("http", String::new(), &view, link);
                record.request(&request);
                record.client(Some(link.source), None);
                return self.recorder.refused_head(record, &request, refusal);
            }
        };
        if link.peer.is_none() {
            headers::strip_proxies_words(request.headers_mut());
        }
        let client = forwarded::stamp(request.headers_mut(), link.source, link.scheme, hops(link, policy.trusted_hops));
        let remote_ip = Some(client);
        headers::strip_claims(request.headers_mut());
        headers::request_id(request.headers_mut());
        let own = self.credentials.svid();
        match (&link.peer, &link.certificate) {
            (Some(peer), _) => headers::rewrite_xfcc(request.headers_mut(), own.as_ref().map(|svid| svid.id()), peer),
            (None, Some(certificate)) => {
                request.headers_mut().insert(headers::XFCC, certificate.clone());
            }
            (None, None) => {}
        }
        let mut record = self.begin("http", authority.clone(), &view, link);
        record.request(&request);
        record.client(Some(link.source), remote_ip);
        let proven =
            listener(&view, link.port).is_none_or(|listener| proof::suffices(link, listener, &host(&authority)));
        if !proven {
            return self.refused(misdirected(reply::is_grpc(request.headers())), record);
        }
        match self.guard.admit(policy, &link.facts(remote_ip), request).await {
            Ok(admission) => {
                let judged = Judged { reasons: admission.reasons, audit: admission.audit };
                let arrival = Arrival { claims: admission.claims, ..link.arrival(remote_ip, judged) };
                let mut response = self.outbound.gateway_request(admission.request, arrival).await;
                admission.response_headers.apply(response.headers_mut());
                response
            }
            Err(refusal) => self.refused(*refusal, record),
        }
    }

    /// Records an answer that the guard gave.
    fn refused(&self, refusal: Refusal, mut record: Record) -> Response<Body> {
        record.status = refusal.response.status().as_u16();
        record.grpc_status = body::grpc_status(refusal.response.headers());
        record.flags = refusal.flag;
        record.response_code_details = refusal.details;
        record.reasons = refusal.reasons;
        record.audit = refusal.audit;
        record.error = Some(refusal.denial.to_string());
        record.closed_by = ClosedBy::Us;
        let open = self.recorder.open(record);
        refusal.response.map(|body| Tracked::wrap(body, move |ending| open.finish(&ending)))
    }

    pub(super) fn record_refused_connection(&self, link: &Link, refusal: &ConnectionRefusal) {
        let authority = link.sni.as_deref().map(str::to_owned);
        let authority = authority.or_else(|| link.destination_ip.map(|ip| ip.to_string())).unwrap_or_default();
        let mut record = self.begin("tcp", format!("{authority}:{}", link.port), &self.view(), link);
        record.client(Some(link.source), None);
        record.flags = refusal.flag;
        record.reasons.clone_from(&refusal.reasons);
        record.audit = refusal.audit;
        record.error = Some(refusal.denial.to_string());
        record.closed_by = ClosedBy::Us;
        self.recorder.opened(&record);
        self.recorder.closed(record);
    }

    fn begin(&self, protocol: &'static str, authority: String, view: &View, link: &Link) -> Record {
        let mut record = Record::begin(Reporter::Source, protocol, authority);
        let own = self.credentials.svid();
        record.source = match &link.peer {
            Some(peer) => Party::of_identity(&peer.id),
            None => Party::own(view.workload.as_deref(), view.cluster(), own.as_ref().map(|svid| svid.id())),
        };
        record.mutual_tls = link.peer.is_some();
        record.revision = view.revision;
        record
    }

    /// Serves mTLS of the mesh until draining.
    pub(super) async fn serve_mesh(self: Arc<Self>, listener: TcpListener) {
        let life = self.life.clone();
        listen::accept(listener, &self.limits, &life, |accepted| {
            let edge = self.clone();
            async move {
                let Accepted { stream, peer: source, permit } = accepted;
                let destination_ip = stream.local_addr().ok().map(|address| address.ip());
                let peers = Arc::new(FromMesh { edge: edge.clone(), source, destination_ip });
                let bounds = (&edge.limits, &edge.handshakes);
                Box::pin(peers::serve(stream, &edge.credentials, bounds, &edge.life.draining, peers)).await;
                drop(permit);
            }
        })
        .await;
    }
}

/// The client may come again by another connection (RFC 9110 §15.5.20).
fn misdirected(grpc: bool) -> Refusal {
    let denial = Denial::MtlsRequired;
    let text = "this host asks clients for more than this connection has proven";
    let response = reply::denied(StatusCode::MISDIRECTED_REQUEST, denial, text, grpc);
    let (details, reasons) = ("misdirected".into(), vec![Reason::Denied { denial }]);
    Refusal { response, denial, flag: flag::NONE, details, reasons, audit: false }
}

/// The hops in front of the gateway that are believed: a peer of the mesh is none of them, and may say what it likes.
fn hops(link: &Link, trusted: u32) -> u32 {
    if link.peer.is_some() { 0 } else { trusted }
}

/// The host of an authority, as routes look at it.
fn host(authority: &str) -> String {
    let headers = HeaderMap::new();
    HttpRequest { method: "", scheme: "", authority, path_and_query: "/", headers: &headers }.host()
}

/// One connection by mTLS of the mesh.
struct FromMesh {
    edge: Arc<Edge>,
    source: std::net::SocketAddr,
    destination_ip: Option<std::net::IpAddr>,
}

impl FromMesh {
    /// The listener that a peer means: by the number that Gateways name, or by the one that it is bound to.
    fn link(&self, view: &View, port: u16, peer: Arc<PeerIdentity>) -> Option<Link> {
        let config = view.workload.as_ref()?.config.gateway.as_ref()?;
        let bound = || config.listeners.iter().find(|listener| listener.target_port == port);
        let port = config.listener(port).or_else(bound)?.port;
        if !self.may_enter(view, port, &peer) {
            tracing::info!(peer = %peer.id, port, "a peer of another cluster asks for what is not exported to it");
            return None;
        }
        let (source, destination_ip) = (self.source, self.destination_ip);
        Some(Link {
            port,
            source,
            destination_ip,
            sni: None,
            scheme: "http",
            peer: Some(peer),
            certificate: None,
            server: None,
        })
    }

    /// Peers of other clusters get what is exported to them, here as at every workload.
    fn may_enter(&self, view: &View, port: u16, peer: &PeerIdentity) -> bool {
        let own = self.edge.credentials.svid();
        own.is_some_and(|own| own.id().trust_domain() == peer.id.trust_domain())
            || mesh::authorize_inbound(view, InboundPeer::Mutual(&peer.id), port, PortScope::Declared).outcome.is_ok()
    }
}

impl Peers for FromMesh {
    fn request(self: Arc<Self>, request: Request<Body>, peer: Arc<PeerIdentity>) -> Doing<Response<Body>> {
        Box::pin(async move {
            let named = request.headers().get(headers::PORT).and_then(|value| value.to_str().ok()?.parse().ok());
            let port = named.or(headers::authority(&request).and_then(|authority| authority.port_u16()));
            match port.and_then(|port| self.link(&self.edge.view(), port, peer)) {
                Some(link) => self.edge.request(request, &link).await,
                None => {
                    let grpc = reply::is_grpc(request.headers());
                    let denial = Denial::UnknownPort;
                    reply::denied(StatusCode::FORBIDDEN, denial, "the gateway has no such port", grpc)
                }
            }
        })
    }

    fn flow(self: Arc<Self>, incoming: Incoming, peer: Arc<PeerIdentity>) -> Doing<()> {
        Box::pin(async move {
            let view = self.edge.view();
            let port = incoming.request.uri().authority().and_then(http::uri::Authority::port_u16);
            let Some(link) = port.and_then(|port| self.link(&view, port, peer)) else {
                let reason = HeaderValue::from_static(Denial::UnknownPort.as_str());
                return incoming.refuse(StatusCode::FORBIDDEN, vec![(headers::DENIAL, reason)]);
            };
            let ended = ended_by_mesh(&view, &link);
            if ended == Some(Err(Denial::Policy)) {
                let reason = HeaderValue::from_static(Denial::Policy.as_str());
                return incoming.refuse(StatusCode::FORBIDDEN, vec![(headers::DENIAL, reason)]);
            }
            let Ok(io) = incoming.accept(Vec::new()) else { return };
            let life = self.edge.life.clone();
            match ended.and_then(Result::ok) {
                Some(protocol) => self.edge.inside(io, protocol, link, &life).await,
                None => Box::pin(self.edge.clone().stream(io, link, &life)).await,
            }
        })
    }
}

/// What servers speak whose TLS is the mesh's own: for a peer that came by it, TLS has ended already. Bytes name no
/// server, so that all of them must want the peer; of requests each is looked at.
fn ended_by_mesh(view: &View, link: &Link) -> Option<Result<ServerProtocol, Denial>> {
    let is_mesh =
        |server: &&Arc<mesh::Server>| server.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::IstioMutual);
    let servers = || listener(view, link.port).into_iter().flat_map(|listener| listener.servers.iter().filter(is_mesh));
    let protocol = servers().next()?.protocol;
    let wanted = protocol == ServerProtocol::Http || servers().all(|server| proof::is_proven(link, server));
    Some(if wanted { Ok(protocol) } else { Err(Denial::Policy) })
}
