//! What a request or connection that enters at a gateway meets: the server that it is for, and the routes bound to it.

use std::sync::Arc;

use super::context::Context;
use super::decision::{RouteDecision, RouteOutcome};
use super::matching::is_met_by_all;
use super::rules::{self, Selected};
use super::{destination, opaque};
use crate::host::Host;
use crate::names::Namespace;
use crate::policy::{
    Destination, HostPattern, HostRoutes, Listener, Server, ServerProtocol, ServerTlsMode, VirtualHost,
};
use crate::reason::Reason;
use crate::request::HttpRequest;

/// Routes, with the gateway whose name their matches may use.
type Bound<'a> = (&'a str, &'a HostRoutes);

pub(super) fn decide(context: &Context<'_>, port: u16, decision: &mut RouteDecision) {
    decision.service = None;
    let config = context.workload().and_then(|workload| workload.config.gateway.as_ref());
    let Some(listener) = config.and_then(|config| config.listener(port)) else { return decision.no_route(None) };
    match context.request.http {
        Some(http) => request(context, listener, http, decision),
        None => connection(context, listener, decision),
    }
}

fn request(context: &Context<'_>, listener: &Listener, http: &HttpRequest<'_>, decision: &mut RouteDecision) {
    let host = http.host();
    let servers = http_servers(context, listener, http);
    let redirects = |server: &Server| server.https_redirect && http.scheme != "https";
    let hosts = servers.iter().flat_map(|server| {
        let own = server.hosts.iter().filter(|_| redirects(server)).map(|own| &own.host);
        visible(context, server).map(|virtual_host| &virtual_host.host).chain(own)
    });
    let Some(host) = hosts.filter(|pattern| pattern.matches(&host)).max_by_key(|pattern| pattern.specificity()) else {
        return decision.no_route(None);
    };
    let has = |server: &Server| {
        server.hosts.iter().any(|own| own.host == *host) || server.routes.iter().any(|routes| routes.host == *host)
    };
    if let Some(server) = servers.iter().find(|server| redirects(server) && has(server)) {
        decision.reasons.push(Reason::Rule { origin: server.origin.clone() });
        let location = format!("https://{}{}", http.authority, http.path_and_query);
        decision.outcome = RouteOutcome::Redirect { status: 301, location };
        return;
    }
    let bound: Vec<Bound<'_>> = bound_to(context, &servers, host).collect();
    match select(context, http, &bound) {
        Some(selected) => rules::apply(context, &selected, None, decision),
        None => decision.no_route(bound.first().map(|(_, routes)| &routes.origin)),
    }
}

/// Servers in plain text share one table of hosts; those with TLS have one each, found by the name in the ClientHello.
fn http_servers<'a>(context: &Context<'_>, listener: &'a Listener, http: &HttpRequest<'_>) -> Vec<&'a Server> {
    let servers = || listener.servers.iter().map(Arc::as_ref).filter(|server| server.protocol == ServerProtocol::Http);
    let sni = context.request.connection.sni;
    if sni.is_some() || http.scheme == "https" {
        let encrypted = most_specific(servers().filter(|server| server.tls.is_some()), sni);
        if !encrypted.is_empty() {
            return encrypted;
        }
    }
    let plain: Vec<&Server> = servers().filter(|server| server.tls.is_none()).collect();
    if !plain.is_empty() {
        return plain;
    }
    // What arrives by mTLS of the mesh names no server in its ClientHello.
    servers().filter(|server| has_mode(server, ServerTlsMode::IstioMutual)).collect()
}

/// The servers with the most specific host that a name in a ClientHello has; without a name those for any host.
fn most_specific<'a>(servers: impl Iterator<Item = &'a Server>, sni: Option<&str>) -> Vec<&'a Server> {
    let name = sni.unwrap_or_default().to_ascii_lowercase();
    let matches = |host: &HostPattern| if name.is_empty() { host.as_str() == "*" } else { host.matches(&name) };
    let mut best: ((bool, usize), Vec<&'a Server>) = ((false, 0), Vec::new());
    for server in servers {
        let hosts = server.hosts.iter().map(|own| &own.host).filter(|host| matches(host));
        let Some(specificity) = hosts.map(HostPattern::specificity).max() else { continue };
        if specificity > best.0 {
            best = (specificity, Vec::new());
        }
        if specificity == best.0 {
            best.1.push(server);
        }
    }
    best.1
}

fn visible<'a>(context: &Context<'_>, server: &'a Server) -> impl Iterator<Item = &'a VirtualHost> {
    server.routes.iter().filter(|virtual_host| context.sees(&virtual_host.routes.visible_to))
}

fn bound_to<'a>(context: &Context<'_>, servers: &[&'a Server], host: &HostPattern) -> impl Iterator<Item = Bound<'a>> {
    servers.iter().flat_map(move |server| {
        let of_host = visible(context, server).filter(move |virtual_host| virtual_host.host == *host);
        of_host.map(|virtual_host| (server.gateway.as_str(), virtual_host.routes.as_ref()))
    })
}

/// The rules of several objects for one host are joined, in order; what is for every request comes last.
fn select<'a>(context: &Context<'_>, http: &HttpRequest<'_>, bound: &[Bound<'a>]) -> Option<Selected<'a>> {
    let mut last = None;
    for (gateway, routes) in bound {
        let Some(selected) = rules::select(context, gateway, http, &routes.http) else { continue };
        let condition = selected.matched.and_then(|index| selected.rule.matches.get(index));
        if condition.is_some_and(|condition| !is_met_by_all(condition)) {
            return Some(selected);
        }
        last = last.or(Some(selected));
    }
    last
}

fn connection(context: &Context<'_>, listener: &Listener, decision: &mut RouteDecision) {
    let servers = || listener.servers.iter().map(Arc::as_ref);
    let sni = context.request.connection.sni;
    let encrypted = most_specific(servers().filter(|server| sni.is_some() && server.tls.is_some()), sni);
    let auto = encrypted.iter().any(|server| has_mode(server, ServerTlsMode::AutoPassthrough));
    if let Some(destination) = sni.filter(|_| auto).and_then(named_by_sni) {
        return destination::decide(context, &destination, None, decision);
    }
    let (passed, ended): (Vec<&Server>, Vec<&Server>) =
        encrypted.into_iter().partition(|server| has_mode(server, ServerTlsMode::Passthrough));
    if let Some(rule) = opaque::tls_rule(context, all_bound(context, &passed).flat_map(tls_of)) {
        return opaque::apply_tls(context, rule, None, decision);
    }
    let plain = servers().filter(|server| {
        let mesh = sni.is_none() && has_mode(server, ServerTlsMode::IstioMutual);
        server.protocol == ServerProtocol::Tcp && (server.tls.is_none() || mesh)
    });
    let candidates: Vec<&Server> = ended.into_iter().chain(plain).collect();
    match opaque::tcp_rule(context, all_bound(context, &candidates).flat_map(tcp_of)) {
        Some(rule) => opaque::apply_tcp(context, rule, None, decision),
        None => decision.no_route(None),
    }
}

fn all_bound<'a>(context: &Context<'_>, servers: &[&'a Server]) -> impl Iterator<Item = Bound<'a>> {
    servers.iter().flat_map(move |server| {
        visible(context, server).map(|virtual_host| (server.gateway.as_str(), virtual_host.routes.as_ref()))
    })
}

fn tls_of<'a>((gateway, routes): Bound<'a>) -> impl Iterator<Item = (&'a str, &'a Arc<crate::policy::TlsRule>)> {
    routes.tls.iter().map(move |rule| (gateway, rule))
}

fn tcp_of<'a>((gateway, routes): Bound<'a>) -> impl Iterator<Item = (&'a str, &'a Arc<crate::policy::TcpRule>)> {
    routes.tcp.iter().map(move |rule| (gateway, rule))
}

fn has_mode(server: &Server, mode: ServerTlsMode) -> bool {
    server.tls.as_ref().is_some_and(|tls| tls.mode == mode)
}

/// `outbound_.<port>_.<subset>_.<host>`, the name that Istio's clients use at a gateway that passes everything through.
fn named_by_sni(sni: &str) -> Option<Destination> {
    let (port, rest) = sni.strip_prefix("outbound_.")?.split_once("_.")?;
    let (subset, host) = rest.split_once("_.")?;
    let host = Host::parse(host, &Namespace::new("default").ok()?);
    let subset = Some(subset.to_owned()).filter(|subset| !subset.is_empty());
    Some(Destination { host, subset, port: Some(port.parse().ok()?) })
}
