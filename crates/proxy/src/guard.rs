//! What stands before a workload or a gateway's routes: tokens are verified, policies applied, limits counted.
//!
//! [`Guard::admit`] decides on one HTTP request, [`Guard::admit_connection`] on a connection whose bytes are opaque.
//! What can be decided without the world is decided by `mesh` (`authorize`, `limits`); here are the keys of
//! token issuers, the external authorizers and the buckets of rate limits. One guard serves a process: buckets and keys
//! outlive every configuration that names them.

mod answer;
mod authorizer;
mod bodies;
mod limits;
mod refused;
mod tokens;

use std::borrow::Cow;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Request, Response};
use identity::PeerIdentity;
use mesh::{AccessDecision, AccessRequest, Claims, ConnectionFacts, Denial, HttpRequest, InboundPolicy, Reason};

use crate::body::Body;
use crate::fault::flag;
use crate::headers;
use crate::outbound::Outbound;

use authorizer::{HeaderEdit, Peeked, Verdict};
use refused::Refused;

pub use tokens::verifies;

/// Applies inbound policies; clones share it.
#[derive(Clone)]
pub struct Guard(Arc<Engine>);

struct Engine {
    outbound: Outbound,
    keys: tokens::KeyStore,
    limiter: limits::Limiter,
}

/// What is known of the connection that a request or flow arrives on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Who mTLS proves the client to be; for callers of other clusters the inner, end-to-end identity.
    pub peer: Option<Arc<PeerIdentity>>,
    /// The port of the workload, or of the gateway's listener, as configuration names it.
    pub port: u16,
    /// Who dialled.
    pub source: Option<SocketAddr>,
    /// The client behind trusted hops (`mesh::remote_ip`); `None`: it is who dialled.
    pub remote_ip: Option<IpAddr>,
    /// What was dialled.
    pub destination_ip: Option<IpAddr>,
    /// The name in the ClientHello.
    pub sni: Option<Arc<str>>,
    /// `http` or `https`, as the client spoke.
    pub scheme: &'static str,
}

/// A request that may go on.
pub struct Admission {
    /// The request; headers may have been taken out or put in.
    pub request: Request<Body>,
    /// What the answer to the client gets.
    pub response_headers: ResponseHeaders,
    /// What a verified token says.
    pub claims: Option<Arc<Claims>>,
    /// What decided; part of the access log.
    pub reasons: Vec<Reason>,
    /// An AUDIT policy matched.
    pub audit: bool,
}

/// A request that may not.
pub struct Refusal {
    /// What the client gets, headers complete.
    pub response: Response<Body>,
    /// Why.
    pub denial: Denial,
    /// The response flag of the access log.
    pub flag: &'static str,
    /// `response_code_details` of the access log.
    pub details: Cow<'static, str>,
    /// What decided.
    pub reasons: Vec<Reason>,
    /// An AUDIT policy matched.
    pub audit: bool,
}

/// A connection that may go on.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionAdmission {
    /// What decided.
    pub reasons: Vec<Reason>,
    /// An AUDIT policy matched.
    pub audit: bool,
}

/// A connection that may not.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionRefusal {
    /// Why.
    pub denial: Denial,
    /// The response flag of the access log.
    pub flag: &'static str,
    /// What decided.
    pub reasons: Vec<Reason>,
    /// An AUDIT policy matched.
    pub audit: bool,
}

/// Changes of an answer's headers.
#[derive(Debug, Default)]
pub struct ResponseHeaders(Vec<HeaderEdit>);

impl ResponseHeaders {
    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        self.0.iter().for_each(|edit| edit.apply(headers));
    }

    fn edit(&mut self, edit: HeaderEdit) {
        self.0.push(edit);
    }

    fn set_all(&mut self, headers: HeaderMap) {
        let how = authorizer::How::Overwrite;
        let named = headers.into_iter().filter_map(|(name, value)| Some((name?, value)));
        self.0.extend(named.map(|(name, value)| HeaderEdit { name, value, how }));
    }
}

/// What is decided of a request so far.
#[derive(Default)]
struct Progress {
    claims: Option<Arc<Claims>>,
    reasons: Vec<Reason>,
    audit: bool,
    response: ResponseHeaders,
}

impl Guard {
    /// A guard that reaches key servers and authorizers through the process's outbound engine.
    pub fn new(outbound: Outbound) -> Self {
        let fetching = outbound.clone();
        let fetch: tokens::Fetch = Arc::new(move |url, timeout| {
            let outbound = fetching.clone();
            Box::pin(async move { outbound.fetch(&url, timeout).await.map_err(|fault| fault.message) })
        });
        let (keys, limiter) = (tokens::KeyStore::new(fetch), limits::Limiter::default());
        Self(Arc::new(Engine { outbound, keys, limiter }))
    }

    /// Decides on a request, before any of it goes on: its tokens, then policies, then limits. The request has been admitted
    /// ([`headers::admit`]): policies look at the path that goes on.
    pub async fn admit(
        &self,
        policy: &InboundPolicy,
        facts: &Facts,
        mut request: Request<Body>,
    ) -> Result<Admission, Box<Refusal>> {
        let mut progress = Progress::default();
        // Most workloads have no policy at all, and pay nothing for what others have.
        if policy.tokens.is_empty()
            && policy.authorization.is_empty()
            && policy.limits.is_empty()
            && policy.body_limits.is_empty()
        {
            progress.reasons.push(Reason::AllowedByDefault);
            return Ok(progress.admit(request));
        }
        let grpc = crate::reply::is_grpc(request.headers());
        let decided: Pin<Box<dyn Future<Output = Result<(), Refused>> + Send + '_>> =
            Box::pin(self.decide(policy, facts, &mut request, &mut progress));
        match decided.await {
            Ok(()) => Ok(progress.admit(request)),
            Err(refused) => Err(Box::new(refused.answer(progress, &request, facts, grpc))),
        }
    }

    async fn decide(
        &self,
        policy: &InboundPolicy,
        facts: &Facts,
        request: &mut Request<Body>,
        progress: &mut Progress,
    ) -> Result<(), Refused> {
        let facts = &facts.behind(policy, request.headers());
        progress.claims = self.authenticate(policy, request, progress).await?.map(Arc::new);
        let claims = progress.claims.clone();
        let claims = claims.as_deref();
        if !policy.authorization.is_empty() {
            self.authorize(policy, facts, request, claims, progress).await?;
        }
        bodies::limit(policy, request, progress)?;
        let applied = with_access(facts, Some(&*request), claims, |access| {
            let applied = mesh::limits(policy, access);
            (!applied.is_empty()).then(|| self.0.limiter.take(&applied))
        });
        let Some(limited) = applied else { return Ok(()) };
        if let Some(origin) = limited.exceeded.clone() {
            progress.reasons.push(Reason::Rule { origin });
            return Err(Refused::Limited(Box::new(limited)));
        }
        progress.response.set_all(limited.headers);
        Ok(())
    }

    async fn authenticate(
        &self,
        policy: &InboundPolicy,
        request: &mut Request<Body>,
        progress: &mut Progress,
    ) -> Result<Option<Claims>, Refused> {
        if policy.tokens.is_empty() {
            return Ok(None);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let accepted = tokens::authenticate(&self.0.keys, &policy.tokens, request, now).await;
        let Some(accepted) = accepted.map_err(Refused::Token)? else { return Ok(None) };
        progress.reasons.push(Reason::Rule { origin: accepted.rule.origin.clone() });
        Ok(Some(accepted.claims))
    }

    /// Authorizers first: what they change of the request is what the other policies see, as in Istio.
    async fn authorize(
        &self,
        policy: &InboundPolicy,
        facts: &Facts,
        request: &mut Request<Body>,
        claims: Option<&Claims>,
        progress: &mut Progress,
    ) -> Result<(), Refused> {
        let decide = |request: &Request<Body>| -> AccessDecision {
            with_access(facts, Some(request), claims, |access| mesh::authorize(policy, access))
        };
        let mut decision = decide(request);
        if !decision.ask.is_empty() {
            for authorizer in std::mem::take(&mut decision.ask) {
                self.ask(&authorizer, facts, request, progress).await?;
            }
            decision = decide(request);
        }
        progress.reasons.extend(decision.reasons);
        progress.audit = decision.audit;
        decision.outcome.map_err(Refused::Policy)
    }

    async fn ask(
        &self,
        authorizer: &mesh::ExternalAuthorizer,
        facts: &Facts,
        request: &mut Request<Body>,
        progress: &mut Progress,
    ) -> Result<(), Refused> {
        let body = std::mem::replace(request.body_mut(), crate::body::empty());
        let (peeked, body) = Peeked::read(body, authorizer.body).await.map_err(Refused::Peek)?;
        *request.body_mut() = body;
        let verdict = authorizer::ask(&self.0.outbound, authorizer, facts, &head_of(request), &peeked).await;
        progress.reasons.push(Reason::Note { text: said(&authorizer.name, &verdict) });
        match verdict {
            Verdict::Allowed(edits) => {
                edits.apply(request);
                progress.response.0.extend(edits.response.0);
                Ok(())
            }
            Verdict::Denied(written) => Err(Refused::External(written)),
            Verdict::Failed(_) if authorizer.fail_open => Ok(()),
            Verdict::Failed(_) => Err(Refused::Unanswered(authorizer.status_on_error)),
        }
    }

    /// Decides on a connection whose bytes are opaque, before the application is dialled.
    pub async fn admit_connection(
        &self,
        policy: &InboundPolicy,
        facts: &Facts,
    ) -> Result<ConnectionAdmission, Box<ConnectionRefusal>> {
        let decision = with_access(facts, None::<&Request<()>>, None, |access| mesh::authorize(policy, access));
        let AccessDecision { outcome, ask, audit, mut reasons } = decision;
        let refuse = |flag, reasons| ConnectionRefusal { denial: Denial::Policy, flag, reasons, audit };
        for authorizer in ask {
            let verdict = Box::pin(authorizer::ask_connection(&self.0.outbound, &authorizer, facts)).await;
            reasons.push(Reason::Note { text: said(&authorizer.name, &verdict) });
            let passes = match verdict {
                Verdict::Allowed(_) => true,
                Verdict::Denied(_) => false,
                Verdict::Failed(_) => authorizer.fail_open,
            };
            if !passes {
                return Err(Box::new(refuse(flag::EXTERNAL, reasons)));
            }
        }
        match outcome {
            Ok(()) => Ok(ConnectionAdmission { reasons, audit }),
            Err(_) => Err(Box::new(refuse(flag::NONE, reasons))),
        }
    }
}

impl Progress {
    fn admit(self, request: Request<Body>) -> Admission {
        let Self { claims, reasons, audit, response } = self;
        Admission { request, response_headers: response, claims, reasons, audit }
    }
}

impl Facts {
    /// The same with the client's address, if trusted hops tell it and nobody has looked before.
    fn behind(&self, policy: &InboundPolicy, headers: &HeaderMap) -> Self {
        let mut facts = self.clone();
        if let (None, Some(source)) = (facts.remote_ip, facts.source) {
            let values = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
            facts.remote_ip = Some(mesh::remote_ip(values, source.ip(), policy.trusted_hops));
        }
        facts
    }
}

/// Puts a request, or a connection without one, into the words of decisions.
pub(crate) fn with_access<B, T>(
    facts: &Facts,
    request: Option<&Request<B>>,
    claims: Option<&Claims>,
    decide: impl FnOnce(&AccessRequest<'_>) -> T,
) -> T {
    let authority = request.and_then(headers::authority);
    let http = request.map(|request| HttpRequest {
        method: request.method().as_str(),
        scheme: facts.scheme,
        authority: authority.as_ref().map_or("", |authority| authority.as_str()),
        path_and_query: request.uri().path_and_query().map_or("/", |target| target.as_str()),
        headers: request.headers(),
    });
    decide(&AccessRequest {
        peer: facts.peer.as_ref().map(|peer| &peer.id),
        port: facts.port,
        http: http.as_ref(),
        claims,
        connection: ConnectionFacts {
            source_ip: facts.source.map(|source| source.ip()),
            remote_ip: facts.remote_ip,
            destination_ip: facts.destination_ip,
            sni: facts.sni.as_deref(),
            udp: false,
        },
    })
}

/// The head alone: bodies cannot be shared.
fn head_of(request: &Request<Body>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    head
}

fn said(name: &str, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allowed(_) => format!("{name} allowed it"),
        Verdict::Denied(written) => format!("{name} denied it with {}", written.status.as_u16()),
        Verdict::Failed(why) => format!("{name} could not be asked: {why}"),
    }
}
