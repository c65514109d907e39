//! What an operator may ask a gateway of the edge.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mesh::{Listener, ServerProtocol, ServerTlsMode};
use proxy::debug::{self, Described, to_json};
use proxy::outbound::{Arrival, Judged};
use serde_json::{Value, json};
use telemetry::{Admin, Query};

use super::Edge;
use super::connection::{chosen, listener};

const EXPLAIN_HINT: &str =
    "/debug/explain?host=shop.example.com&port=443; more: method=, path=, headers= (one `name: value` a line), claims=";

impl Edge {
    /// Adds the debug pages.
    pub(super) fn admin(self: &Arc<Self>, admin: Admin) -> Admin {
        let [listed, viewed, ranked, pooled] = [self.clone(), self.clone(), self.clone(), self.clone()];
        let explaining = self.clone();
        admin
            .route("/debug/explain", move |query| {
                let edge = explaining.clone();
                async move { edge.explain(&query).await }
            })
            .route("/debug/listeners", move |_| {
                let rows = listed.rows();
                async move { to_json(&rows) }
            })
            .route("/debug/view", move |_| {
                let view = viewed.view();
                async move { json!({"view": to_json(&*view)}) }
            })
            .route("/debug/endpoints", move |_| {
                let rows = ranked.outbound.endpoints();
                async move { to_json(&rows) }
            })
            .route("/debug/pools", move |_| {
                let rows = pooled.outbound.pools();
                async move { to_json(&rows) }
            })
    }

    /// What a request of a client at a port would meet: the gateway's own policies, then the rules. Its address is not
    /// known, so rules about addresses do not match.
    async fn explain(&self, query: &Query) -> Value {
        let view = self.view();
        let described = match Described::read(query, view.paths()) {
            Ok(described) => described,
            Err(error) => return debug::refused(error, EXPLAIN_HINT),
        };
        let port = described.question.port;
        let Some(workload) = view.workload.clone() else { return debug::refused("there is no view yet", "") };
        let Some(listener) = listener(&view, port) else {
            return debug::refused(format!("no Gateway opens port {port}"), "ports are those of Gateways, such as 443");
        };
        let spoken = match Spoken::at(listener, &described.question.host) {
            Ok(spoken) => spoken,
            Err(error) => return debug::refused(error, "add the host to a server of a Gateway"),
        };
        let arrival = Arrival {
            port,
            source: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            remote_ip: None,
            destination_ip: None,
            sni: spoken.tls.then(|| Arc::from(described.question.host.as_str())),
            scheme: spoken.scheme.unwrap_or("http"),
            peer: None,
            judged: Judged::default(),
            claims: None,
        };
        let http = spoken.scheme.is_some();
        let decision = self.outbound.explain_arrival(&described.question, arrival, http).await;
        let mut answer = debug::decided(&described, &decision, http, None);
        answer["admission"] = debug::admitted(view.revision, &workload, &described, port, spoken.scheme);
        answer
    }
}

/// What is spoken at a port by a client that names a host.
struct Spoken {
    tls: bool,
    /// Of requests, if they are read.
    scheme: Option<&'static str>,
}

impl Spoken {
    fn at(listener: &Listener, host: &str) -> Result<Self, String> {
        if listener.servers.iter().all(|server| server.tls.is_none()) {
            let http = listener.servers.first().is_some_and(|server| server.protocol == ServerProtocol::Http);
            return Ok(Self { tls: false, scheme: http.then_some("http") });
        }
        let server = chosen(listener, Some(host)).ok_or_else(|| {
            format!("no server of port {} has the name {host}: handshakes are refused", listener.port)
        })?;
        let passed = [ServerTlsMode::Passthrough, ServerTlsMode::AutoPassthrough];
        let ended = server.tls.as_ref().is_some_and(|tls| !passed.contains(&tls.mode));
        Ok(Self { tls: true, scheme: (ended && server.protocol == ServerProtocol::Http).then_some("https") })
    }
}
