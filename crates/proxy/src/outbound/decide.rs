//! Decisions on the newest view, after asking for the services that they need.

use std::sync::Arc;

use http::request::Parts;
use http::uri::Authority;
use mesh::{Claims, ConnectionFacts, Destination, Entry, Host, HttpRequest, Reason, RouteDecision, RouteRequest, View};

use super::arrival::{Arrival, Question, Way};
use super::{Engine, Outbound};

/// A decision may ask for one service after another (host, destination, mirrors), but not for ever.
const ROUNDS_MAX: usize = 6;

/// What is to be decided.
pub(super) struct Asked<'a> {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) http: Option<HttpRequest<'a>>,
    pub(super) connection: ConnectionFacts<'a>,
    pub(super) claims: Option<&'a Claims>,
    pub(super) entry: Entry,
}

impl Outbound {
    /// The decision for a host and a port on the newest view, after asking for the service; what `explain` prints.
    pub async fn decide(&self, host: &str, port: u16) -> RouteDecision {
        self.0.decide_plain(host, port, &Way::Asked(None)).await
    }

    /// The decision for a request, made as for a real one; nothing is sent.
    pub async fn explain(&self, question: &Question) -> RouteDecision {
        let http = question.http("http");
        let (connection, entry) = (ConnectionFacts::default(), Entry::Workload);
        let host = self.0.host(&question.host);
        self.0.decide(&Asked { host, port: question.port, http: Some(http), connection, claims: None, entry }).await
    }

    /// The decision for a connection whose bytes are not read, but for the name in its ClientHello.
    pub async fn explain_connection(&self, question: &Question) -> RouteDecision {
        let connection = ConnectionFacts { sni: question.sni.as_deref(), ..ConnectionFacts::default() };
        let (host, entry) = (self.0.host(&question.host), Entry::Workload);
        self.0.decide(&Asked { host, port: question.port, http: None, connection, claims: None, entry }).await
    }

    /// The decision for a flow of datagrams.
    pub async fn explain_datagrams(&self, question: &Question) -> RouteDecision {
        let connection = ConnectionFacts { udp: true, ..ConnectionFacts::default() };
        let (host, entry) = (self.0.host(&question.host), Entry::Workload);
        self.0.decide(&Asked { host, port: question.port, http: None, connection, claims: None, entry }).await
    }

    /// The same at a port of a gateway; `http` tells whether it reads requests there or carries bytes.
    pub async fn explain_arrival(&self, question: &Question, arrival: Arrival, http: bool) -> RouteDecision {
        let way = Way::Gateway(Arc::new(arrival));
        let http = http.then(|| question.http(way.scheme()));
        let (connection, entry) = (way.facts(), way.entry());
        let host = self.0.host(&question.host);
        self.0.decide(&Asked { host, port: way.port(), http, connection, claims: way.claims(), entry }).await
    }
}

impl Engine {
    /// A host as the workload means it.
    pub(super) fn host(&self, host: &str) -> Host {
        let view = self.config.directory.view();
        let namespace = view.workload.as_deref().map_or(&self.config.namespace, |workload| &workload.namespace);
        Host::parse(host, namespace)
    }

    /// For a connection without anything that is known of its content.
    pub(super) async fn decide_plain(&self, host: &str, port: u16, way: &Way) -> RouteDecision {
        let (connection, entry) = (way.facts(), way.entry());
        self.decide(&Asked { host: self.host(host), port, http: None, connection, claims: None, entry }).await
    }

    /// For a request.
    pub(super) async fn decide_http(&self, head: &Parts, authority: &Authority, way: &Way) -> RouteDecision {
        let (host, port) = way.target(authority);
        let asked = Asked {
            host: self.host(host),
            port,
            http: Some(facts(head, authority, way)),
            connection: way.facts(),
            claims: way.claims(),
            entry: way.entry(),
        };
        let decision = self.decide(&asked).await;
        match way {
            Way::Addressed(dialled) if !is_known(&decision) => {
                self.decide(&Asked { host: self.host(&dialled.host), ..asked }).await
            }
            _ => decision,
        }
    }

    pub(super) async fn decide(&self, asked: &Asked<'_>) -> RouteDecision {
        self.decide_by(asked, mesh::route).await
    }

    /// For what the proxy itself sends: rules are not looked at.
    pub(super) async fn decide_to(&self, destination: &Destination, asked: &Asked<'_>) -> RouteDecision {
        self.decide_by(asked, |view, request| mesh::route_to(view, destination, request)).await
    }

    async fn decide_by(
        &self,
        asked: &Asked<'_>,
        route: impl Fn(&View, &RouteRequest<'_>) -> RouteDecision,
    ) -> RouteDecision {
        let Asked { host, port, http, connection, claims, entry } = asked;
        if let (Some(service), Entry::Workload) = (host.service(), entry) {
            // Also for services that the view holds: the directory forgets those that nobody asks for.
            self.config.directory.demand(service).await;
        }
        if let (Host::Address(address), Entry::Workload) = (host, entry)
            && !self.config.directory.view().has_address(*address)
        {
            self.config.directory.demand_address(*address).await;
        }
        // The same draw in every round: what a round asks for must not depend on luck.
        let entropy = rand::random();
        let (http, connection, claims) = (http.as_ref(), *connection, *claims);
        let request = RouteRequest { host, port: *port, http, connection, claims, entry: *entry, entropy };
        let mut wanted = None;
        for _ in 0..ROUNDS_MAX {
            let view: Arc<View> = self.config.directory.view();
            let decision = route(&view, &request);
            match &decision.wants {
                Some(service) if wanted.as_ref() != Some(service) => {
                    self.config.directory.demand(service).await;
                    wanted = Some(service.clone());
                }
                _ => return self.remembered(host, decision).await,
            }
        }
        route(&self.config.directory.view(), &request)
    }

    /// Keeps the service of a decision in the view: it was used, even if the host is another one.
    async fn remembered(&self, host: &Host, decision: RouteDecision) -> RouteDecision {
        if let Some(service) = decision.service.as_ref().filter(|service| host.service() != Some(*service))
            && !service.is_entry()
        {
            self.config.directory.demand(service).await;
        }
        decision
    }
}

/// Whether the mesh knows what the decision is about, and serves it on this port.
fn is_known(decision: &RouteDecision) -> bool {
    let unknown = |reason: &Reason| matches!(reason, Reason::NotInMesh | Reason::UnknownPort { .. });
    decision.service.is_some() && !decision.reasons.iter().any(unknown)
}

/// The facts of a request, as decisions see them.
pub(super) fn facts<'a>(head: &'a Parts, authority: &'a Authority, way: &Way) -> HttpRequest<'a> {
    HttpRequest {
        method: head.method.as_str(),
        scheme: way.scheme(),
        authority: authority.as_str(),
        path_and_query: head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
        headers: &head.headers,
    }
}
