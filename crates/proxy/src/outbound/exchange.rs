//! One exchange with one target: a request goes out, the head of an answer comes back.

use std::any::Any;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Request, Response, request};
use hyper::body::Incoming;
use mesh::{Failure, Labels, Protocol, RouteDecision, ServiceName, SpiffeId, Target, TrafficPolicy};

use super::arrival::Way;
use super::attempt::Attempts;
use super::{Engine, remote_key};
use crate::access::{self, Party, Via};
use crate::body::{Body, Replay};
use crate::fault::Fault;
use crate::headers;
use crate::pool::dial::{self, LocalKey, RemoteKey};
use crate::pool::grow::Wanted;
use crate::pool::http::{HttpConnection, Parts, Pings};
use crate::pool::origin::To;
use crate::pool::plain::Speaks;
use crate::pool::{Lease, Policy};

/// Which attempt at a request this is, the first being 1.
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// The head of an answer, and everything that must outlive its body.
pub(super) struct Exchange {
    pub(super) response: Response<Incoming>,
    pub(super) server: Server,
    /// Leases and load guards.
    pub(super) hold: Box<dyn Any + Send>,
}

/// Who answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    pub(super) party: Party,
    pub(super) upstream: String,
    pub(super) via: Option<Via>,
    pub(super) mutual_tls: bool,
    /// Set where a gateway speaks for the server.
    pub(super) unmeshed: Option<Arc<str>>,
}

/// What records say of a server without a sidecar.
pub(super) fn unmeshed_end(target: &Target, via: Option<&Via>) -> Option<Arc<str>> {
    let Target::Remote { cluster, unmeshed: true, .. } = target else { return None };
    let gateway = via.map(|via| via.gateway.as_str()).unwrap_or_default();
    Some(access::unmeshed(&format!("{cluster}/{gateway}")))
}

/// One request that may be sent more than once.
pub(super) struct Outgoing<'a> {
    pub(super) head: &'a request::Parts,
    pub(super) authority: &'a Authority,
    pub(super) body: &'a Replay,
    pub(super) idempotent: bool,
    /// How it came in.
    pub(super) way: &'a Way,
    /// The number of the attempt.
    pub(super) attempt: AtomicU32,
}

impl Outgoing<'_> {
    fn request(&self, port: Option<u16>) -> Result<Request<Body>, Fault> {
        let body = self.body.attempt().ok_or_else(|| Fault::connect("the request body cannot be sent again"))?;
        let mut request = Request::from_parts(self.head.clone(), body);
        let attempt = self.attempt.load(Ordering::Relaxed).max(1);
        request.headers_mut().insert(ATTEMPT_COUNT, HeaderValue::from(attempt));
        match self.way {
            // Operators' header rules may not speak for the mesh either.
            Way::Gateway(_) => {}
            _ => drop(request.headers_mut().remove(headers::XFCC)),
        }
        if let Some(port) = port {
            request.headers_mut().insert(headers::PORT, HeaderValue::from(port));
        }
        Ok(request)
    }
}

impl Engine {
    /// Sends a request to one target and waits for the head of the answer.
    pub(super) async fn exchange(
        &self,
        attempts: &Attempts<'_>,
        target: &Target,
        outgoing: &Outgoing<'_>,
    ) -> Result<Exchange, Fault> {
        let decision = attempts.decision;
        match target {
            Target::Local { endpoint, address, expected: Some(expected), .. } => {
                let key = LocalKey::of(*address, expected);
                let policy = Policy::SHARED.within(&decision.policy.pool);
                let lease = self.local.get_as(&key, policy, || self.dial_local(decision, &key, endpoint)).await?;
                let server = Server { upstream: key.address.to_string(), ..self.server_over(decision, target, &lease) };
                self.over(lease, address.port(), outgoing, server).await
            }
            Target::Local { endpoint, address, expected: None, .. } => {
                let party = self.server(decision, target, endpoint, None);
                let host = outgoing.authority.host();
                let origin = Origin { host, addresses: vec![*address], party };
                self.plainly(decision, origin, outgoing).await
            }
            Target::Named { host, port, one_address, .. } => {
                let addresses = self.names.addresses(&*self.config.resolver, host, *port, *one_address).await?;
                let origin = Origin { host, addresses, party: self.server(decision, target, host, None) };
                self.plainly(decision, origin, outgoing).await
            }
            Target::Remote { expected, cluster, .. } => {
                let key = remote_key(decision, target).ok_or_else(|| Fault::connect("no service"))?;
                let leasing = Box::pin(self.remote_lease(decision, &key, expected, outgoing));
                let lease = attempts.patiently(leasing).await?;
                let upstream = format!("{} in {cluster}", key.service);
                let server = Server { upstream, ..self.server_over(decision, target, &lease) };
                self.over(lease, key.port, outgoing, server).await
            }
        }
    }

    /// A connection to a server of another cluster.
    async fn remote_lease(
        &self,
        decision: &RouteDecision,
        key: &RemoteKey,
        expected: &BTreeSet<SpiffeId>,
        outgoing: &Outgoing<'_>,
    ) -> Result<Lease<HttpConnection>, Fault> {
        let pool = &decision.policy.pool;
        let (timeout, pings) = (decision.connect_timeout, pool.http2_keep_alive.map(Pings::from));
        let dial = || {
            let (remotes, key, expected) = (self.remotes.clone(), key.clone(), expected.clone());
            async move { remotes.http(&key, &expected, timeout, pings).await }
        };
        let (policy, brief) = (Policy::REMOTE.within(pool), is_brief(outgoing.head));
        let wanted = Wanted { policy, brief, ended: &self.config.life.ended };
        self.remote.get_ahead(key, &wanted, dial).await
    }

    /// One exchange on a connection to a sidecar.
    async fn over(
        &self,
        lease: Lease<HttpConnection>,
        port: u16,
        outgoing: &Outgoing<'_>,
        server: Server,
    ) -> Result<Exchange, Fault> {
        let whom = server.upstream.as_str();
        let mut request = outgoing.request(Some(port))?;
        headers::to_http2(&mut request, outgoing.authority);
        let response = answer_of(&lease, request, outgoing, whom).await?;
        // A refusal that nobody else would lift is the answer: its words are the server's sidecar's.
        let refusal = Fault::from_answer(response.status(), response.headers(), whom);
        if let Some(fault) = refusal.filter(|fault| fault.denial.is_some_and(mesh::Denial::is_retriable)) {
            return Err(fault);
        }
        Ok(Exchange { response, server, hold: Box::new(lease) })
    }

    /// One exchange with a server that has no sidecar, at the first of its addresses that takes a connection.
    pub(super) async fn plainly(
        &self,
        decision: &RouteDecision,
        origin: Origin<'_>,
        outgoing: &Outgoing<'_>,
    ) -> Result<Exchange, Fault> {
        let Origin { host, addresses, party } = origin;
        let speaks = speaks(decision.protocol, &decision.policy, outgoing.head);
        let view = self.config.directory.view();
        let mut failed = None;
        for address in addresses {
            let to = To {
                address,
                host,
                policy: &decision.policy,
                source: outgoing.way.source(),
                timeout: decision.connect_timeout,
                alpn: &[],
            };
            let mut request = outgoing.request(None)?;
            if is_outside(decision) {
                request.headers_mut().remove(headers::XFCC);
            }
            match self.direct.send(request, outgoing.authority, speaks, &to, &view).await {
                Ok((response, lease)) => {
                    let server = Server { party, upstream: address.to_string(), ..Server::default() };
                    return Ok(Exchange { response, server, hold: Box::new(lease) });
                }
                // Nothing was sent, so the next address may be tried.
                Err(fault) if fault.failure == Failure::Connect => failed.get_or_insert(fault),
                Err(fault) => return Err(fault),
            };
        }
        Err(failed.unwrap_or_else(|| Fault::connect(format!("{host} has no address"))))
    }

    async fn dial_local(
        &self,
        decision: &RouteDecision,
        key: &LocalKey,
        endpoint: &str,
    ) -> Result<HttpConnection, Fault> {
        let (pool, credentials) = (&decision.policy.pool, &self.config.credentials);
        let (io, peer) =
            dial::local(self.config.dialer, credentials, key, decision.connect_timeout, pool.keep_alive.as_ref())
                .await?;
        let pings = Some(pool.http2_keep_alive.map_or(Pings::SIDECAR, Pings::from));
        let parts = Parts { peer: Some(peer), endpoint: endpoint.to_owned(), pings, ..Parts::from(io) };
        HttpConnection::handshake(parts, &self.config.credentials).await
    }

    /// What is known of the server at the other end of a connection to a sidecar.
    fn server_over(&self, decision: &RouteDecision, target: &Target, lease: &HttpConnection) -> Server {
        let identity = lease.peer.as_ref().map(|peer| &peer.id);
        let party = self.server(decision, target, &lease.endpoint, identity);
        let unmeshed = unmeshed_end(target, lease.via.as_ref());
        Server { party, upstream: String::new(), via: lease.via.clone(), mutual_tls: identity.is_some(), unmeshed }
    }

    /// What the labels of a target and a proven identity say about a server.
    pub(super) fn server(
        &self,
        decision: &RouteDecision,
        target: &Target,
        pod: &str,
        identity: Option<&SpiffeId>,
    ) -> Party {
        let view = self.config.directory.view();
        let service = decision.service.as_ref().and_then(|name| view.services.get(name));
        let labels = match target {
            Target::Local { endpoint, .. } => service
                .and_then(|service| service.endpoints.iter().find(|known| known.name == *endpoint))
                .map(|known| &known.labels),
            Target::Named { .. } => None,
            Target::Remote { group, .. } => Some(&group.labels),
        };
        let described = match labels {
            Some(labels) => Party::of_pod(pod, labels),
            None => Party::of_pod(pod, &Labels::new()),
        };
        let Party { namespace, identity, cluster, .. } = self.party_of(identity);
        let of_service = || decision.service.as_ref().map(|service| service.namespace().to_string());
        let namespace = Some(namespace).filter(|known| !known.is_empty()).or_else(of_service).unwrap_or_default();
        Party { namespace, identity, cluster, ..described }
    }

    /// What a proven identity says about a server.
    pub(super) fn party_of(&self, identity: Option<&SpiffeId>) -> Party {
        let Some(identity) = identity else { return self.own_cluster() };
        let view = self.config.directory.view();
        let own = view.mesh.as_deref().filter(|mesh| mesh.trust_domain == *identity.trust_domain());
        let cluster = own.map(|mesh| mesh.cluster.to_string());
        let remote = || view.cluster_of(identity.trust_domain()).map(|cluster| cluster.name.to_string());
        Party { cluster: cluster.or_else(remote).unwrap_or_default(), ..Party::of_identity(identity) }
    }

    fn own_cluster(&self) -> Party {
        let view = self.config.directory.view();
        Party { cluster: view.cluster().map(ToString::to_string).unwrap_or_default(), ..Party::default() }
    }
}

/// Waits for the head of an answer; a repeatable request gives up when the path below its connection dies.
async fn answer_of(
    lease: &HttpConnection,
    request: Request<Body>,
    outgoing: &Outgoing<'_>,
    whom: &str,
) -> Result<Response<Incoming>, Fault> {
    let send = lease.send(request, whom);
    tokio::pin!(send);
    tokio::select! {
        biased;
        response = send.as_mut() => return response,
        () = lease.lost(), if outgoing.idempotent => {
            if outgoing.body.is_replayable() {
                let path = lease.via.as_ref().map(|via| via.path.as_str()).unwrap_or_default();
                return Err(Fault::path_down(path));
            }
        }
    }
    send.await
}

/// Whether a request is likely over soon, by its head.
fn is_brief(head: &request::Parts) -> bool {
    let of = |name: HeaderName| head.headers.get(name).map(HeaderValue::as_bytes);
    mesh::is_brief(&mesh::BriefHead {
        method: head.method.as_str(),
        content_length: of(CONTENT_LENGTH),
        content_type: of(CONTENT_TYPE),
        accept: of(ACCEPT),
    })
}

/// Whether the server is a host outside the mesh, which learns nothing of who is inside.
fn is_outside(decision: &RouteDecision) -> bool {
    decision.service.as_ref().is_none_or(ServiceName::is_entry)
}

/// A server without a sidecar.
pub(super) struct Origin<'a> {
    pub(super) host: &'a str,
    /// To be tried in turn.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) party: Party,
}

/// Which HTTP a server without a sidecar gets: what its policy says, else what its port declares, else what the client
/// spoke. Behind TLS that starts here, a port that declares nothing gets what the server chooses: a client's HTTP/2 up to
/// here says nothing about the server.
pub(super) fn speaks(protocol: Protocol, policy: &TrafficPolicy, head: &request::Parts) -> Speaks {
    let of_client = if head.version == http::Version::HTTP_2 { Speaks::Http2 } else { Speaks::Http1 };
    if policy.pool.use_client_protocol {
        return of_client;
    }
    match protocol {
        Protocol::Http2 | Protocol::Grpc => Speaks::Http2,
        Protocol::Http if policy.pool.upgrade_to_http2 == Some(true) => Speaks::Http2,
        Protocol::Http => Speaks::Http1,
        _ if matches!(policy.tls, mesh::ClientTls::Originate(_)) => Speaks::Negotiated,
        _ => of_client,
    }
}
