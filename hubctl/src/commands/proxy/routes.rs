//! Routes of a view in words: of a sidecar by host, of a gateway by listener and host.

use mesh::{
    GatewayConfig, HostRoutes, HttpAction, HttpMatch, HttpRule, MESH_GATEWAY, Namespace, ServiceConfig, StringMatch,
    TcpMatch, TlsMatch,
};
use serde::Serialize;
use serde_json::Value;

use crate::commands::explain::told::how::{destinations, faults};

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) host: String,
    pub(super) rule: String,
    pub(super) matches: String,
    pub(super) action: String,
}

/// All rules that the proxy would look at, in the order in which it does.
pub(super) fn rows(view: &Value) -> Vec<Row> {
    let gateway = serde_json::from_value::<Option<GatewayConfig>>(view["workload"]["config"]["gateway"].clone());
    if let Ok(Some(gateway)) = gateway {
        return of_gateway(&gateway);
    }
    let namespace = view["workload"]["namespace"].as_str().and_then(|namespace| Namespace::new(namespace).ok());
    let mut rows = Vec::new();
    for kind in ["services", "entries"] {
        for (name, service) in view[kind].as_object().into_iter().flatten() {
            let config = serde_json::from_value::<ServiceConfig>(service["config"].clone()).unwrap_or_default();
            of_host(name, &config.routes, namespace.as_ref(), &mut rows);
            if let Some(routes) = &config.clusterset_routes {
                of_host(&format!("{name} (clusterset)"), routes, namespace.as_ref(), &mut rows);
            }
        }
    }
    rows
}

/// The first object that the client's namespace sees counts, alone.
fn of_host(host: &str, routes: &[std::sync::Arc<HostRoutes>], namespace: Option<&Namespace>, rows: &mut Vec<Row>) {
    let seen = routes.iter().find(|routes| {
        routes.gateways.contains(MESH_GATEWAY) && namespace.is_none_or(|own| routes.visible_to.includes(own))
    });
    match seen {
        Some(routes) => rows.extend(of_object(host, routes)),
        None => rows.push(Row {
            host: host.to_owned(),
            rule: "(default)".to_owned(),
            matches: "everything".to_owned(),
            action: "to the host itself".to_owned(),
        }),
    }
}

fn of_object(host: &str, routes: &HostRoutes) -> Vec<Row> {
    let row = |rule: String, matches: Vec<String>, action: String| {
        let matches = if matches.is_empty() { "everything".to_owned() } else { matches.join(" or ") };
        Row { host: host.to_owned(), rule, matches, action }
    };
    let http = routes
        .http
        .iter()
        .map(|rule| row(rule.origin.to_string(), rule.matches.iter().map(http_match).collect(), action(rule)));
    let tls = routes.tls.iter().map(|rule| {
        row(rule.origin.to_string(), rule.matches.iter().map(tls_match).collect(), destinations(&rule.destinations))
    });
    let tcp = routes.tcp.iter().map(|rule| {
        row(rule.origin.to_string(), rule.matches.iter().map(tcp_match).collect(), destinations(&rule.destinations))
    });
    http.chain(tls).chain(tcp).collect()
}

fn of_gateway(gateway: &GatewayConfig) -> Vec<Row> {
    let mut rows = Vec::new();
    for listener in &gateway.listeners {
        for server in &listener.servers {
            let hosts: Vec<&str> = server.hosts.iter().map(|host| host.host.as_str()).collect();
            let tls = server.tls.as_ref().map(|tls| format!(", TLS {:?}", tls.mode)).unwrap_or_default();
            rows.push(Row {
                host: format!(":{} {}", listener.port, hosts.join(",")),
                rule: server.origin.to_string(),
                matches: format!("{:?}{tls}", server.protocol),
                action: if server.https_redirect { "redirect to https" } else { "" }.to_owned(),
            });
            for host in &server.routes {
                rows.extend(of_object(&format!(":{} {}", listener.port, host.host), &host.routes));
            }
        }
    }
    rows
}

fn http_match(wanted: &HttpMatch) -> String {
    let mut said: Vec<String> = Vec::new();
    let single = [
        ("path", &wanted.uri),
        ("scheme", &wanted.scheme),
        ("method", &wanted.method),
        ("authority", &wanted.authority),
    ];
    said.extend(single.iter().filter_map(|(name, wanted)| Some(text(name, wanted.as_ref()?))));
    said.extend(wanted.headers.iter().map(|(name, wanted)| text(&format!("header {name}"), wanted)));
    said.extend(
        wanted.without_headers.iter().map(|(name, wanted)| format!("not {}", text(&format!("header {name}"), wanted))),
    );
    said.extend(wanted.query_params.iter().map(|(name, wanted)| text(&format!("query {name}"), wanted)));
    said.extend(wanted.port.map(|port| format!("port {port}")));
    said.extend(wanted.source_labels.iter().map(|(key, value)| format!("source {key}={value}")));
    said.extend((!wanted.gateways.is_empty()).then(|| {
        let gateways: Vec<&str> = wanted.gateways.iter().map(String::as_str).collect();
        format!("at {}", gateways.join(","))
    }));
    said.extend(wanted.source_namespace.iter().map(|namespace| format!("source namespace {namespace}")));
    if said.is_empty() { "everything".to_owned() } else { said.join(" and ") }
}

fn tls_match(wanted: &TlsMatch) -> String {
    let hosts: Vec<&str> = wanted.sni_hosts.iter().map(mesh::HostPattern::as_str).collect();
    let port = wanted.port.map(|port| format!(" and port {port}")).unwrap_or_default();
    format!("SNI {}{port}", hosts.join(","))
}

fn tcp_match(wanted: &TcpMatch) -> String {
    let mut said: Vec<String> = wanted.port.iter().map(|port| format!("port {port}")).collect();
    said.extend(wanted.destination_subnets.iter().map(|subnet| format!("to {subnet}")));
    said.extend(wanted.source_subnet.iter().map(|subnet| format!("from {subnet}")));
    if said.is_empty() { "everything".to_owned() } else { said.join(" and ") }
}

pub(super) fn text(name: &str, wanted: &StringMatch) -> String {
    match wanted {
        StringMatch::Exact(text) => format!("{name} = {text}"),
        StringMatch::Prefix(text) => format!("{name} {text}*"),
        StringMatch::Suffix(text) => format!("{name} *{text}"),
        StringMatch::Contains(text) => format!("{name} *{text}*"),
        StringMatch::Present => format!("{name} is there"),
        StringMatch::Regex(pattern) => format!("{name} ~ {}", pattern.as_str()),
    }
}

fn action(rule: &HttpRule) -> String {
    let mut said = match &rule.action {
        HttpAction::Route(places) => destinations(places),
        HttpAction::Redirect(redirect) => format!("redirect {}", redirect.status),
        HttpAction::Direct(direct) => format!("answer {}", direct.status),
    };
    let timeout = rule.timeout.map(|timeout| format!("timeout {} ms", timeout.as_millis()));
    let retries = rule.retry.as_ref().map(|retry| match retry.attempts {
        0 => "no retries".to_owned(),
        attempts => format!("{attempts} retries"),
    });
    let fault = rule.fault.as_ref().and_then(faults);
    let others = [
        (!rule.mirrors.is_empty(), "mirror"),
        (rule.rewrite.is_some(), "rewrite"),
        (rule.cors.is_some(), "cors"),
        (!rule.headers.is_empty(), "headers"),
    ];
    let others = others.iter().filter(|(there, _)| *there).map(|(_, name)| (*name).to_owned());
    let extras: Vec<String> = timeout.into_iter().chain(retries).chain(fault).chain(others).collect();
    if !extras.is_empty() {
        said.push_str(&format!(" [{}]", extras.join(", ")));
    }
    said
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_read_as_their_author_would_say_them() {
        let origin = |path: &str| json!({"object": {"kind": "VirtualService", "namespace": "default", "name": "reviews"}, "path": path});
        let to = |subset: &str, weight: u32| json!({"destination": {"host": {"cluster": "default/reviews"}, "subset": subset}, "weight": weight});
        let routes = json!({
            "origin": origin("")["object"], "gateways": ["mesh"],
            "http": [
                {"origin": origin("spec.http[0]"), "matches": [{"headers": {"end-user": {"exact": "jason"}}}],
                 "action": {"route": [to("v2", 0)]}, "timeout": 1000},
                {"origin": origin("spec.http[1]"), "action": {"route": [to("v1", 90), to("v2", 10)]}},
            ],
        });
        serde_json::from_value::<HostRoutes>(routes.clone()).expect("routes");
        let view = json!({"workload": {"namespace": "default", "config": {}}, "services": {
            "default/ratings": {"config": {}}, "default/reviews": {"config": {"routes": [routes]}}}});
        let told: Vec<String> =
            rows(&view).iter().map(|row| format!("{}: {} -> {}", row.host, row.matches, row.action)).collect();
        assert_eq!(
            told,
            [
                "default/ratings: everything -> to the host itself",
                "default/reviews: header end-user = jason -> reviews.default.svc.cluster.local subset v2 [timeout 1000 ms]",
                "default/reviews: everything -> reviews.default.svc.cluster.local subset v1 (90), reviews.default.svc.cluster.local subset v2 (10)",
            ]
        );
    }
}
