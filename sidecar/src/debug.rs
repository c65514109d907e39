//! What an operator may ask the sidecar: readiness, figures, and what it would decide.

use discovery::Client;
use mesh::PortScope;
use proxy::debug::{self, Described, to_json};
use proxy::outbound::Outbound;
use serde_json::{Value, json};
use telemetry::{Admin, Query, Readiness, Registry};

const EXPLAIN_HINT: &str = "/debug/explain?host=reviews.default&port=9080; more: method=, path=, headers= (one `name: value` a line), sni=, transport=udp";
const AUTHORIZE_HINT: &str = "/debug/authorize?port=9080&peer=spiffe://…; more: host=, method=, path=, headers=, transport=udp, claims= (a JSON object)";

/// The admin API of a sidecar.
pub(crate) fn admin_api(
    client: &Client,
    outbound: &Outbound,
    scope: PortScope,
    registry: Registry,
    readiness: Readiness,
) -> Admin {
    let (explained, explaining) = (client.clone(), outbound.clone());
    let (authorized, viewed) = (client.clone(), client.clone());
    let (pooled, endpoints) = (outbound.clone(), outbound.clone());
    Admin::new(registry, readiness)
        .route("/debug/explain", move |query| {
            let (client, outbound) = (explained.clone(), explaining.clone());
            async move { explain(&client, &outbound, &query).await }
        })
        .route("/debug/authorize", move |query| {
            let client = authorized.clone();
            async move {
                let view = client.view().borrow().clone();
                match Described::read(&query, view.paths()) {
                    Ok(described) => debug::authorized(&view, &described, scope),
                    Err(error) => debug::refused(error, AUTHORIZE_HINT),
                }
            }
        })
        .route("/debug/view", move |_| {
            let client = viewed.clone();
            async move {
                let view = client.view().borrow().clone();
                json!({"age_ms": age(&client), "view": to_json(&*view)})
            }
        })
        .route("/debug/endpoints", move |_| {
            let outbound = endpoints.clone();
            async move { to_json(&outbound.endpoints()) }
        })
        .route("/debug/pools", move |_| {
            let outbound = pooled.clone();
            async move { to_json(&outbound.pools()) }
        })
}

/// What the workload's next request to a host would meet. A request without method and path is a connection, unless the
/// port speaks HTTP: then it is `GET /`. With the name of a ClientHello it is a connection that speaks TLS.
async fn explain(client: &Client, outbound: &Outbound, query: &Query) -> Value {
    let described = match Described::read(query, client.view().borrow().paths()) {
        Ok(described) => described,
        Err(error) => return debug::refused(error, EXPLAIN_HINT),
    };
    let question = &described.question;
    if question.host.is_empty() {
        return debug::refused("host is needed", EXPLAIN_HINT);
    }
    if described.udp {
        let decision = outbound.explain_datagrams(question).await;
        return debug::decided(&described, &decision, false, age(client));
    }
    let plain = outbound.decide(&question.host, question.port).await;
    let tls = question.sni.is_some() && !described.http;
    let http = !tls && (described.http || plain.protocol.is_http() || plain.service.is_none());
    let decision = match (tls, http) {
        (true, _) => outbound.explain_connection(question).await,
        (_, true) => outbound.explain(question).await,
        (false, false) => plain,
    };
    let mut answer = debug::decided(&described, &decision, http, age(client));
    answer["division"] = to_json(&outbound.division(&decision));
    answer
}

fn age(client: &Client) -> Option<u64> {
    client.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}
