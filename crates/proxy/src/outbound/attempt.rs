//! Attempts: which target is next, one exchange with it, and what its failure means for the following ones.

use std::any::Any;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderValue, Request, Response, request};
use hyper::body::Incoming;
use mesh::{Attempt, Denial, Failure, Labels, Load, Protocol, RetryDecision, RouteDecision, SpiffeId, Target};

use super::{Engine, TargetKey, remote_key};
use crate::access::{Party, Via};
use crate::balance::LoadGuard;
use crate::body::{Body, Replay};
use crate::fault::Fault;
use crate::headers;
use crate::pool::Lease;
use crate::pool::dial::{self, LocalKey, RemoteKey, RemoteRequest};
use crate::pool::http::{HttpConnection, Parts};
use crate::pool::plain::Speaks;

/// More attempts than this are never made for one request, however many targets refuse connections.
const ATTEMPTS_MAX: u32 = 12;

/// The attempts at one request or connection.
pub(super) struct Attempts<'a> {
    engine: &'a Engine,
    decision: &'a RouteDecision,
    tried: Vec<TargetKey>,
    /// All attempts.
    pub made: u32,
    /// Those that count against the retry policy.
    counted: u32,
}

/// A chosen target, which counts as busy until it is dropped.
pub(super) struct Chosen {
    pub target: Target,
    key: TargetKey,
    pub load: LoadGuard<TargetKey>,
}

/// The facts on which a retry is decided, apart from the failure itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeatable {
    pub idempotent: bool,
    pub replayable: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(engine: &'a Engine, decision: &'a RouteDecision) -> Self {
        Self { engine, decision, tried: Vec::new(), made: 0, counted: 0 }
    }

    /// The next target.
    pub(super) fn next(&mut self) -> Option<Chosen> {
        let load = |target: &Target| {
            let Some(key) = TargetKey::of(self.decision, target) else { return Load::default() };
            Load {
                active: self.engine.load.active(&key),
                ejected: self.engine.aside.is_aside(&key),
                tried: self.tried.contains(&key),
                ..Load::default()
            }
        };
        let target = mesh::pick(self.decision, &load, rand::random::<u64>())?.target;
        let key = TargetKey::of(self.decision, &target)?;
        self.made += 1;
        let load = self.engine.load.start(key.clone());
        Some(Chosen { target, key, load })
    }

    /// The target works.
    pub(super) fn succeeded(&self, chosen: &Chosen) {
        self.engine.aside.clear(&chosen.key);
    }

    /// Whether to try again after a failure. A target that could not even be connected to is set aside, and does not
    /// count against the policy as long as another one is left: nothing was sent, so nothing was tried.
    pub(super) async fn again(
        &mut self,
        chosen: Chosen,
        fault: &Fault,
        repeatable: Repeatable,
    ) -> Result<(), &'static str> {
        let Chosen { key, load, .. } = chosen;
        drop(load);
        let unreachable = fault.failure == Failure::Connect || fault.denial.is_some_and(Denial::is_retriable);
        if unreachable {
            self.engine.aside.set(key.clone());
        }
        self.tried.push(key);
        let untried = self
            .targets()
            .any(|target| TargetKey::of(self.decision, target).is_some_and(|key| !self.tried.contains(&key)));
        if !(unreachable && untried && self.made < ATTEMPTS_MAX) {
            self.counted += 1;
        }
        let attempt = Attempt {
            failure: fault.failure,
            made: self.counted.max(1),
            idempotent: repeatable.idempotent,
            replayable: repeatable.replayable,
            answered: false,
        };
        match mesh::retry(&self.decision.retry, &attempt) {
            RetryDecision::No { why } => Err(why),
            RetryDecision::Again { pause } => {
                if !untried || !pause.is_zero() {
                    // The only target that there is gets a moment to come back.
                    let pause = pause.max(self.decision.retry.backoff);
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                }
                Ok(())
            }
        }
    }

    fn targets(&self) -> impl Iterator<Item = &'a Target> {
        let tiers = match &self.decision.outcome {
            mesh::RouteOutcome::Forward { tiers } => tiers.as_slice(),
            _ => &[],
        };
        tiers.iter().flat_map(|tier| &tier.targets)
    }
}

/// The head of an answer, and everything that must outlive its body.
pub(super) struct Exchange {
    pub response: Response<Incoming>,
    pub server: Server,
    /// Leases and load guards.
    pub hold: Box<dyn Any + Send>,
}

/// Who answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    pub party: Party,
    pub upstream: String,
    pub via: Option<Via>,
    pub mutual_tls: bool,
}

/// One request that may be sent more than once.
pub(super) struct Outgoing<'a> {
    pub head: &'a request::Parts,
    pub authority: &'a Authority,
    pub body: &'a Replay,
    pub idempotent: bool,
}

impl Outgoing<'_> {
    fn request(&self, port: Option<u16>) -> Result<Request<Body>, Fault> {
        let body = self.body.attempt().ok_or_else(|| Fault::connect("the request body cannot be sent again"))?;
        let mut request = Request::from_parts(self.head.clone(), body);
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
        decision: &RouteDecision,
        target: &Target,
        outgoing: &Outgoing<'_>,
    ) -> Result<Exchange, Fault> {
        match target {
            Target::Local { endpoint, address, expected: Some(expected), .. } => {
                let key = LocalKey::of(*address, expected);
                let lease = self.local.get(&key, || self.dial_local(decision, &key, endpoint)).await?;
                let server = Server { upstream: key.address.to_string(), ..self.server_over(decision, target, &lease) };
                self.over(lease, address.port(), outgoing, server).await
            }
            Target::Local { endpoint, address, expected: None, .. } => {
                let party = self.server(decision, target, endpoint, None);
                self.plainly(*address, speaks(decision.protocol, outgoing.head), outgoing, party).await
            }
            Target::Named { host, .. } => Err(Fault::connect(format!("{host} cannot be reached yet"))),
            Target::Remote { expected, cluster, .. } => {
                let key = remote_key(decision, target).ok_or_else(|| Fault::connect("no service"))?;
                let lease = self.remote.get(&key, || self.dial_remote(decision, &key, expected)).await?;
                let upstream = format!("{} in {cluster}", key.service);
                let server = Server { upstream, ..self.server_over(decision, target, &lease) };
                self.over(lease, key.port, outgoing, server).await
            }
        }
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
        if let Some(fault) = Fault::from_answer(response.status(), response.headers(), whom) {
            return Err(fault);
        }
        Ok(Exchange { response, server, hold: Box::new(lease) })
    }

    /// One exchange in plain text.
    pub(super) async fn plainly(
        &self,
        address: SocketAddr,
        speaks: Speaks,
        outgoing: &Outgoing<'_>,
        party: Party,
    ) -> Result<Exchange, Fault> {
        let request = outgoing.request(None)?;
        let answer = self.plain.send(request, address, outgoing.authority, speaks).await?;
        let server = Server { party, upstream: address.to_string(), ..Server::default() };
        Ok(Exchange { response: answer.response, server, hold: Box::new(answer.lease) })
    }

    async fn dial_local(
        &self,
        decision: &RouteDecision,
        key: &LocalKey,
        endpoint: &str,
    ) -> Result<HttpConnection, Fault> {
        let (io, peer) = dial::local(&self.config.credentials, key, decision.connect_timeout).await?;
        let parts = Parts {
            io,
            peer: Some(peer),
            via: None,
            endpoint: endpoint.to_owned(),
            lost: Arc::default(),
            hold: None,
            pings: true,
        };
        HttpConnection::handshake(parts, &self.config.credentials).await
    }

    async fn dial_remote(
        &self,
        decision: &RouteDecision,
        key: &RemoteKey,
        expected: &BTreeSet<SpiffeId>,
    ) -> Result<HttpConnection, Fault> {
        let remote = self.open_remote(decision, key, expected).await?;
        let parts = Parts {
            lost: self.paths.ride(&remote.via.source_gateway, &remote.via.path),
            io: remote.io,
            peer: Some(remote.peer),
            via: Some(remote.via),
            endpoint: remote.endpoint,
            hold: Some(remote.hold),
            pings: false,
        };
        HttpConnection::handshake(parts, &self.config.credentials).await
    }

    pub(super) async fn open_remote(
        &self,
        decision: &RouteDecision,
        key: &RemoteKey,
        expected: &BTreeSet<SpiffeId>,
    ) -> Result<dial::Remote, Fault> {
        let request = RemoteRequest { key, expected, timeout: decision.connect_timeout };
        let view = self.config.directory.view();
        dial::remote(&self.config.credentials, &self.gateways, &view, &request).await
    }

    /// What is known of the server at the other end of a connection to a sidecar.
    fn server_over(&self, decision: &RouteDecision, target: &Target, lease: &HttpConnection) -> Server {
        let identity = lease.peer.as_ref().map(|peer| &peer.id);
        let party = self.server(decision, target, &lease.endpoint, identity);
        Server { party, upstream: String::new(), via: lease.via.clone(), mutual_tls: identity.is_some() }
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
    fn party_of(&self, identity: Option<&SpiffeId>) -> Party {
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

/// Which HTTP a server without a sidecar gets: what its port declares, else what the client spoke.
pub(super) fn speaks(protocol: Protocol, head: &request::Parts) -> Speaks {
    match protocol {
        Protocol::Http2 | Protocol::Grpc => Speaks::Http2,
        Protocol::Http => Speaks::Http1,
        _ if head.version == http::Version::HTTP_2 => Speaks::Http2,
        _ => Speaks::Http1,
    }
}

/// The fault of a decision that has no target.
pub(super) fn refused(decision: &RouteDecision) -> Fault {
    let why: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
    let denial = decision.denial().unwrap_or(Denial::NoEndpoint);
    let fault = Fault::denied(denial, format!("nothing can serve this: {}", why.join("; ")));
    // Nothing was tried, so nothing can be tried again.
    Fault { failure: Failure::Timeout, ..fault }
}
