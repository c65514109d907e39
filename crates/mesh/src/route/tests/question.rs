//! Rules and requests as text, and decisions as text: the narrow door of the tables.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::language::{Words, destination, namespace};
use crate::host::Host;
use crate::model::View;
use crate::policy::*;
use crate::request::{Claims, ConnectionFacts, HttpRequest};
use crate::retry::RetryPolicy;
use crate::route::{Entry, RequestEdits, RouteDecision, RouteOutcome, RouteRequest, Target, rewrite, route};

/// A request: `GET http://reviews/path user=jason sni=a.example ip=10.0.0.1 @80 #7`, or `tcp reviews:80 ip=…`, `udp …`, with
/// `@<port>` for a gateway's port, `claims=<JSON>` and `#<entropy>`. Words that are not known are headers.
pub(crate) struct Asked {
    method: String,
    scheme: String,
    authority: String,
    path: String,
    port: u16,
    headers: HeaderMap,
    sni: Option<String>,
    source: Option<IpAddr>,
    dialled: Option<IpAddr>,
    gateway: Option<u16>,
    claims: Option<Claims>,
    pub(crate) entropy: u64,
}

impl Asked {
    pub(crate) fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (scheme, rest) = words[1].split_once("://").unwrap_or(("http", words[1]));
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let default = if scheme == "https" { 443 } else { 80 };
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(default);
        let mut asked = Self {
            method: words[0].into(),
            scheme: scheme.into(),
            authority: authority.into(),
            path: path.into(),
            port,
            headers: HeaderMap::new(),
            sni: None,
            source: None,
            dialled: None,
            gateway: None,
            claims: None,
            entropy: 0,
        };
        words[2..].iter().for_each(|word| asked.word(word));
        asked
    }

    fn word(&mut self, word: &str) {
        if let Some(port) = word.strip_prefix('@') {
            self.gateway = port.parse().ok();
        } else if let Some(entropy) = word.strip_prefix('#') {
            self.entropy = entropy.parse().unwrap();
        } else {
            match word.split_once('=').unwrap() {
                ("claims", json) => self.claims = Some(Claims { all: serde_json::from_str(json).unwrap() }),
                ("sni", name) => self.sni = Some(name.into()),
                ("ip", address) => self.source = address.parse().ok(),
                ("to", address) => self.dialled = address.parse().ok(),
                (name, value) => {
                    let name = HeaderName::try_from(name).unwrap();
                    self.headers.append(name, HeaderValue::try_from(value.replace('_', " ")).unwrap());
                }
            }
        }
    }

    /// Decides, and has the decision's rule change the request.
    pub(crate) fn decide(&self, view: &View) -> (RouteDecision, RequestEdits) {
        let decide = |request: &RouteRequest<'_>| route(view, request);
        let decision = self.with_request(view, decide);
        let edits = rewrite(&decision, &self.http());
        (decision, edits)
    }

    /// Lends the request.
    pub(crate) fn with_request<T>(&self, view: &View, use_it: impl FnOnce(&RouteRequest<'_>) -> T) -> T {
        let own = view.workload.as_deref().map_or_else(|| namespace("default"), |own| own.namespace.clone());
        let http = self.http();
        let host = Host::parse(&http.host(), &own);
        let connection = ConnectionFacts {
            source_ip: self.source,
            remote_ip: self.source,
            destination_ip: self.dialled,
            sni: self.sni.as_deref(),
            udp: self.method == "udp",
        };
        use_it(&RouteRequest {
            host: &host,
            port: self.port,
            http: (self.method != "tcp" && self.method != "udp").then_some(&http),
            connection,
            claims: self.claims.as_ref(),
            entry: self.gateway.map_or(Entry::Workload, Entry::Gateway),
            entropy: self.entropy,
        })
    }

    fn http(&self) -> HttpRequest<'_> {
        HttpRequest {
            method: &self.method,
            scheme: &self.scheme,
            authority: &self.authority,
            path_and_query: &self.path,
            headers: &self.headers,
        }
    }
}

/// The narrow door: what is decided on a request, as text.
///
/// `reviews/v1:80 v1-1 v1-2 > west/v1*3` is service, subset, port, and tiers of targets, with `!` for plain text and
/// `*` for weights; then what else is done.
pub(crate) fn check(view: &View, request: &str) -> String {
    let (decision, edits) = Asked::parse(request).decide(view);
    let mut text = outcome(&decision);
    let mut add = |word: String| text.push_str(&format!("; {word}"));
    if let Some(delay) = decision.fault.delay {
        add(format!("delay {}", delay.as_secs()));
    }
    if let Some(abort) = decision.fault.abort {
        add(format!("abort {abort:?}"));
    }
    decision.mirrors.iter().for_each(|mirror| add(format!("mirror {}", super::super::destination::written(mirror))));
    if let Some(timeout) = decision.timeout {
        add(format!("timeout {}", timeout.as_secs()));
    }
    if decision.retry.configured {
        add(format!("retry {}", decision.retry.attempts));
    }
    if let Some(path) = edits.path_and_query {
        add(format!("path {path}"));
    }
    if let Some(authority) = edits.authority {
        add(format!("host {authority}"));
    }
    if let Some(wanted) = decision.wants {
        add(format!("wants {}.{}", wanted.name(), wanted.namespace()));
    }
    text
}

fn outcome(decision: &RouteDecision) -> String {
    let subset = decision.subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
    let service = decision.service.as_ref().map(|name| format!("{}{subset}:{}", name.name(), decision.port));
    match &decision.outcome {
        RouteOutcome::Forward { tiers } => {
            let tier = |targets: &[Target]| targets.iter().map(target).collect::<Vec<_>>().join(" ");
            let tiers: Vec<String> = tiers.iter().map(|found| tier(&found.targets)).collect();
            format!("{} {}", service.unwrap_or_default(), tiers.join(" > "))
        }
        RouteOutcome::Passthrough => format!("pass {}", service.unwrap_or_default()).trim_end().to_owned(),
        RouteOutcome::Redirect { status, location } => format!("{status} {location}"),
        RouteOutcome::Direct => "direct".to_owned(),
        RouteOutcome::Refuse => format!("refuse {}", decision.denial().expect("a refusal has a name")),
    }
}

fn target(target: &Target) -> String {
    let weight = match target.weight() {
        1 => String::new(),
        weight => format!("*{weight}"),
    };
    match target {
        Target::Local { endpoint, expected, .. } => {
            let plain = if expected.is_none() { "!" } else { "" };
            format!("{endpoint}{plain}{weight}")
        }
        Target::Named { host, port, one_address, .. } => {
            format!("{}{host}:{port}{weight}", if *one_address { "1x" } else { "" })
        }
        Target::Remote { cluster, group, .. } => {
            let version = group.labels.get("version").map(|version| format!("/{version}")).unwrap_or_default();
            format!("{cluster}{version}{weight}")
        }
    }
}

/// Adds `<matches> -> <action> ; <options>` to routes.
pub(crate) fn add_rule(routes: &mut HostRoutes, origin: Origin, line: &str) {
    let (matches, rest) = line.split_once("->").unwrap();
    let (action, options) = rest.split_once(" ; ").unwrap_or((rest, ""));
    let matches = matches.trim();
    if let Some(conditions) = matches.strip_prefix("tls") {
        let rule = TlsRule { origin, matches: vec![tls_match(&Words::of(conditions))], destinations: to(action) };
        routes.tls.push(Arc::new(rule));
    } else if let Some(conditions) = matches.strip_prefix("tcp") {
        let conditions = Some(conditions).filter(|conditions| !conditions.trim().is_empty());
        let matches = conditions.map(|conditions| tcp_match(&Words::of(conditions))).into_iter().collect();
        routes.tcp.push(Arc::new(TcpRule { origin, matches, destinations: to(action) }));
    } else {
        routes.http.push(Arc::new(http_rule(origin, matches, action.trim(), options)));
    }
}

fn http_rule(origin: Origin, matches: &str, action: &str, options: &str) -> HttpRule {
    let options = Words::of(options);
    let percent = |text: &str| Share::of_percent(text.trim_end_matches('%').parse().unwrap()).unwrap();
    let delay = options.get("delay").map(|share| DelayFault { share: percent(share), delay: Duration::from_secs(5) });
    let abort = options.get("abort").map(|share| AbortFault { share: percent(share), with: AbortWith::Http(500) });
    let mirror = options.get("mirror").map(|text| {
        let (host, share) = text.split_once('*').unwrap_or((text, "100"));
        Mirror { destination: destination(host), share: percent(share) }
    });
    let regex = options.get("regex").and_then(|text| text.split_once("=>")).map(|(pattern, substitution)| {
        RegexRewrite { pattern: Pattern::new(pattern).unwrap(), substitution: substitution.into() }
    });
    let rewrite = Rewrite {
        uri: options.get("rewrite").map(str::to_owned),
        authority: options.get("authority").map(str::to_owned),
        regex,
    };
    let mut headers = HeaderOperations::default();
    headers.request.set.extend(options.get("host").map(|host| ("host".to_owned(), host.to_owned())));
    let seconds = |key| options.get(key).map(|text| Duration::from_secs(text.parse().unwrap()));
    HttpRule {
        origin,
        matches: if matches.is_empty() { Vec::new() } else { matches.split(" | ").map(http_match).collect() },
        action: http_action(action),
        rewrite: (rewrite != Rewrite::default()).then_some(rewrite),
        timeout: seconds("timeout"),
        retry: options.get("retry").map(|attempts| RetryPolicy {
            configured: true,
            attempts: attempts.parse().unwrap(),
            ..RetryPolicy::default()
        }),
        fault: (delay.is_some() || abort.is_some()).then_some(FaultInjection { delay, abort }),
        mirrors: mirror.into_iter().collect(),
        cors: None,
        headers,
    }
}

fn http_action(action: &str) -> HttpAction {
    let words = Words::of(action);
    let text = |key| words.get(key).map(str::to_owned);
    match words.plain().next() {
        Some("direct") => HttpAction::Direct(DirectResponse { status: 404, body: Vec::new() }),
        Some("redirect") => HttpAction::Redirect(Redirect {
            uri: text("uri"),
            prefix_rewrite: text("prefix"),
            authority: text("authority"),
            scheme: text("scheme"),
            port: match words.get("port") {
                None => RedirectPort::AsRequested,
                Some("default") => RedirectPort::ProtocolDefault,
                Some("request") => RedirectPort::FromRequest,
                Some(number) => RedirectPort::Number(number.parse().unwrap()),
            },
            status: words.get("status").map_or(301, |status| status.parse().unwrap()),
        }),
        _ => HttpAction::Route(to(action)),
    }
}

/// `reviews v1 90, reviews v2 10`; a last word that is a number is the weight.
fn to(action: &str) -> Vec<WeightedDestination> {
    let one = |text: &str| {
        let text = text.trim();
        let (place, weight) = match text.rsplit_once(' ').map(|(place, last)| (place, last.parse())) {
            Some((place, Ok(weight))) => (place, weight),
            _ => (text, 0),
        };
        WeightedDestination { destination: destination(place), weight, headers: HeaderOperations::default() }
    };
    action.split(',').map(one).collect()
}

/// `name=value`, `name^=value`, `name~=value`, or `name` alone.
fn condition(word: &str) -> (&str, StringMatch) {
    let Some((name, value)) = word.split_once('=') else { return (word, StringMatch::Present) };
    let value = value.to_owned();
    match (name.strip_suffix('^'), name.strip_suffix('~')) {
        (Some(name), _) => (name, StringMatch::Prefix(value)),
        (_, Some(name)) => (name, StringMatch::Regex(Pattern::new(value).unwrap())),
        _ => (name, StringMatch::Exact(value)),
    }
}

fn http_match(text: &str) -> HttpMatch {
    let mut made = HttpMatch::default();
    for word in text.split_whitespace() {
        let (name, wanted) = condition(word);
        let (kind, key) = name.split_once(':').unwrap_or((name, ""));
        let (key, value) = (key.to_owned(), word.split_once('=').map_or("", |(_, value)| value));
        match kind {
            "path" => made.uri = Some(wanted),
            "PATH" => (made.uri, made.ignore_uri_case) = (Some(wanted), true),
            "method" => made.method = Some(wanted),
            "scheme" => made.scheme = Some(wanted),
            "authority" => made.authority = Some(wanted),
            "claim" => made.claims.push(ClaimMatch { path: ClaimMatch::path_of(&key).unwrap(), value: wanted }),
            "without-claim" => {
                made.without_claims.push(ClaimMatch { path: ClaimMatch::path_of(&key).unwrap(), value: wanted });
            }
            "header" => drop(made.headers.insert(key, wanted)),
            "without" => drop(made.without_headers.insert(key, wanted)),
            "query" => drop(made.query_params.insert(key, wanted)),
            "label" => drop(made.source_labels.insert(key, value.into())),
            "ns" => made.source_namespace = Some(namespace(value)),
            "port" => made.port = value.parse().ok(),
            "gateway" => drop(made.gateways.insert(value.into())),
            other => panic!("no condition: {other}"),
        }
    }
    made
}

fn tls_match(words: &Words<'_>) -> TlsMatch {
    let sni_hosts = words.get("sni").unwrap().split(',').map(|host| host.parse().unwrap()).collect();
    let networks = words.get("to").map(|network| network.parse().unwrap()).into_iter().collect();
    TlsMatch {
        sni_hosts,
        destination_subnets: networks,
        port: words.get("port").and_then(|port| port.parse().ok()),
        source_namespace: words.get("ns").map(namespace),
        ..TlsMatch::default()
    }
}

fn tcp_match(words: &Words<'_>) -> TcpMatch {
    TcpMatch {
        destination_subnets: words.get("to").map(|network| network.parse().unwrap()).into_iter().collect(),
        port: words.get("port").and_then(|port| port.parse().ok()),
        source_subnet: words.get("from").map(|network| network.parse().unwrap()),
        source_namespace: words.get("ns").map(namespace),
        ..TcpMatch::default()
    }
}
