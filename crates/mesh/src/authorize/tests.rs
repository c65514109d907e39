//! One door: `check(policies, request)` gives the decision in words.
//!
//! Policies are lines such as `DENY from principals=a,b to methods=GET when claim:groups!=x; to ports=80`; `;` parts rules
//! and a line is an object. Requests are words such as `peer=default/web method=POST path=/x h:name=value`.

mod conditions;
mod connections;
mod operations;
mod order;
mod properties;
mod sources;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::*;
use crate::host::Host;
use crate::policy::*;

/// Runs a table of `(policies, request, decision)`.
fn check_all(cases: &[(&str, &str, &str)]) {
    for (policies, request, expected) in cases {
        assert_eq!(check(policies, request), *expected, "policies: {policies}\nrequest: {request}");
    }
}

/// `allow` or `deny`, then `audit` if the log marks it and `ask <names>` if somebody is asked first.
fn check(policies: &str, request: &str) -> String {
    let decision = decide(policies, request);
    let mut words = if decision.outcome.is_ok() { "allow".to_owned() } else { "deny".to_owned() };
    if decision.audit {
        words.push_str(" audit");
    }
    for authorizer in &decision.ask {
        words.push_str(" ask ");
        words.push_str(&authorizer.name);
    }
    words
}

fn decide(policies: &str, request: &str) -> AccessDecision {
    let lines = policies.lines().map(str::trim).filter(|line| !line.is_empty());
    let authorization = lines.enumerate().map(|(number, line)| Arc::new(policy(number, line))).collect();
    let policy = InboundPolicy { authorization, ..InboundPolicy::default() };
    Request::read(request).with(|request| authorize(&policy, request))
}

/// Reasons as a user reads them.
fn reasons(policies: &str, request: &str) -> Vec<String> {
    decide(policies, request).reasons.iter().map(ToString::to_string).collect()
}

fn policy(number: usize, line: &str) -> AuthorizationRules {
    let (head, rules) = line.split_once(' ').unwrap_or((line, ""));
    let (action, dry_run) = head.strip_suffix("(dry)").map_or((head, false), |action| (action, true));
    let object =
        ObjectRef { kind: "AuthorizationPolicy".into(), namespace: "default".into(), name: format!("p{number}") };
    let action = match action.split_once(':') {
        Some(("CUSTOM", name)) => AuthorizationAction::Custom(Arc::new(authorizer(name))),
        _ if action == "ALLOW" => AuthorizationAction::Allow,
        _ if action == "DENY" => AuthorizationAction::Deny,
        _ if action == "AUDIT" => AuthorizationAction::Audit,
        _ => panic!("{line}"),
    };
    let origin = |index| Origin { object: Arc::new(object.clone()), path: format!("spec.rules[{index}]"), name: None };
    let texts = rules.split(';').map(str::trim).filter(|text| !text.is_empty());
    let rules = texts.enumerate().map(|(index, text)| rule(text, origin(index))).collect();
    AuthorizationRules { origin: object, action, rules, dry_run }
}

/// `http-…` speaks HTTP, all others gRPC.
fn authorizer(name: &str) -> ExternalAuthorizer {
    let none = Vec::new;
    let protocol = if name.starts_with("http-") {
        ExternalAuthorizerProtocol::Http {
            path_prefix: String::new(),
            include_request_headers: none(),
            add_request_headers: Default::default(),
            upstream_headers: none(),
            downstream_headers_on_deny: none(),
            downstream_headers_on_allow: none(),
        }
    } else {
        ExternalAuthorizerProtocol::Grpc
    };
    let destination = Destination { host: Host::External(name.into()), subset: None, port: Some(9000) };
    ExternalAuthorizer {
        name: name.into(),
        destination,
        timeout: Duration::from_secs(1),
        fail_open: false,
        status_on_error: 403,
        body: None,
        protocol,
    }
}

/// `any` stands for a rule without demands.
fn rule(text: &str, origin: Origin) -> AuthorizationRule {
    let mut rule = AuthorizationRule { origin, from: Vec::new(), to: Vec::new(), when: Vec::new() };
    let mut part = "";
    for word in text.split_whitespace() {
        match word {
            "any" => continue,
            "from" => rule.from.push(SourceMatch::default()),
            "to" => rule.to.push(OperationMatch::default()),
            _ => {}
        }
        if matches!(word, "from" | "to" | "when") {
            part = word;
            continue;
        }
        let at = word.find('=').unwrap_or_else(|| panic!("{word}"));
        let (key, values) = (word[..at].trim_end_matches('!'), &word[at + 1..]);
        let negated = word[..at].ends_with('!');
        match part {
            "from" => source(rule.from.last_mut().unwrap(), key, values, negated),
            "to" => operation(rule.to.last_mut().unwrap(), key, values, negated),
            _ => rule.when.push(condition(key, values, negated)),
        }
    }
    rule
}

fn put<T>(list: &mut AnyNot<T>, negated: bool, values: &str, read: impl Fn(&str) -> T) {
    let side = if negated { &mut list.not } else { &mut list.any };
    side.extend(values.split(',').map(read));
}

fn source(source: &mut SourceMatch, key: &str, values: &str, negated: bool) {
    let text = StringMatch::of_policy_value;
    match key {
        "principals" => put(&mut source.principals, negated, values, text),
        "requestPrincipals" => put(&mut source.request_principals, negated, values, text),
        "namespaces" => put(&mut source.namespaces, negated, values, text),
        "serviceAccounts" => put(&mut source.service_accounts, negated, values, text),
        "trustDomains" => put(&mut source.trust_domains, negated, values, text),
        "ipBlocks" => put(&mut source.ip_blocks, negated, values, block),
        "remoteIpBlocks" => put(&mut source.remote_ip_blocks, negated, values, block),
        _ => panic!("{key}"),
    }
}

fn operation(operation: &mut OperationMatch, key: &str, values: &str, negated: bool) {
    let text = StringMatch::of_policy_value;
    match key {
        "hosts" => put(&mut operation.hosts, negated, values, text),
        "ports" => put(&mut operation.ports, negated, values, |port| port.parse().unwrap()),
        "methods" => put(&mut operation.methods, negated, values, text),
        "paths" => put(&mut operation.paths, negated, values, path),
        _ => panic!("{key}"),
    }
}

fn path(value: &str) -> PathMatch {
    if !value.contains('{') {
        return PathMatch::Text(StringMatch::of_policy_value(value));
    }
    let segment = |text: &str| match text {
        "{*}" => TemplateSegment::One,
        "{**}" => TemplateSegment::Many,
        text => TemplateSegment::Literal(text.into()),
    };
    PathMatch::Template(value.trim_start_matches('/').split('/').map(segment).collect())
}

fn block(text: &str) -> ipnet::IpNet {
    text.parse().or_else(|_| text.parse::<IpAddr>().map(Into::into)).unwrap()
}

fn condition(key: &str, values: &str, negated: bool) -> Condition {
    let text = |value: &str| ConditionValue::Text(StringMatch::of_policy_value(value));
    let address = |value: &str| ConditionValue::Block(block(value));
    let (key, read): (ConditionKey, &dyn Fn(&str) -> ConditionValue) = match key {
        "source.ip" => (ConditionKey::SourceIp, &address),
        "remote.ip" => (ConditionKey::RemoteIp, &address),
        "destination.ip" => (ConditionKey::DestinationIp, &address),
        "source.namespace" => (ConditionKey::SourceNamespace, &text),
        "source.principal" => (ConditionKey::SourcePrincipal, &text),
        "source.serviceAccount" => (ConditionKey::SourceServiceAccount, &text),
        "source.trustDomain" => (ConditionKey::SourceTrustDomain, &text),
        "request.auth.principal" => (ConditionKey::RequestPrincipal, &text),
        "request.auth.audiences" => (ConditionKey::Audiences, &text),
        "request.auth.presenter" => (ConditionKey::Presenter, &text),
        "destination.port" => (ConditionKey::DestinationPort, &|value| ConditionValue::Port(value.parse().unwrap())),
        "connection.sni" => (ConditionKey::Sni, &text),
        _ => match key.split_once(':') {
            Some(("header", name)) => (ConditionKey::Header(name.into()), &text),
            Some(("claim", path)) => (ConditionKey::Claim(path.split('/').map(Into::into).collect()), &text),
            _ => panic!("{key}"),
        },
    };
    let mut list = AnyNot::default();
    put(&mut list, negated, values, read);
    Condition { key, values: list }
}

/// A request as words: `peer=<namespace>/<account>` of east.demo, or `peer=<trust domain>/<namespace>/<account>`.
struct Request {
    peer: Option<SpiffeId>,
    port: u16,
    opaque: bool,
    method: String,
    host: String,
    path: String,
    headers: HeaderMap,
    claims: Option<Claims>,
    source_ip: Option<IpAddr>,
    remote_ip: Option<IpAddr>,
    destination_ip: Option<IpAddr>,
    sni: Option<String>,
}

impl Request {
    fn read(text: &str) -> Self {
        let mut request = Self {
            peer: None,
            port: 9080,
            opaque: false,
            method: "GET".into(),
            host: "reviews:9080".into(),
            path: "/".into(),
            headers: HeaderMap::new(),
            claims: None,
            source_ip: None,
            remote_ip: None,
            destination_ip: None,
            sni: None,
        };
        text.split_whitespace().for_each(|word| request.word(word));
        request
    }

    fn word(&mut self, word: &str) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "peer" => {
                let parts: Vec<&str> = value.split('/').collect();
                let [trust_domain, namespace, account] = match parts[..] {
                    [namespace, account] => ["east.demo", namespace, account],
                    [trust_domain, namespace, account] => [trust_domain, namespace, account],
                    _ => panic!("{word}"),
                };
                self.peer = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}").parse().ok();
                assert!(self.peer.is_some(), "{word}");
            }
            "port" => self.port = value.parse().unwrap(),
            "tcp" => self.opaque = true,
            "method" => self.method = value.into(),
            "host" => self.host = value.into(),
            // As a request is admitted before policies look at it.
            "path" => self.path = crate::normalize_target(value, Default::default()).unwrap().into_owned(),
            "ip" => self.source_ip = value.parse().ok(),
            "remote" => self.remote_ip = value.parse().ok(),
            "dst" => self.destination_ip = value.parse().ok(),
            "sni" => self.sni = Some(value.into()),
            "claims" => {
                let all: Map<String, Value> = serde_json::from_str(value).unwrap_or_else(|_| panic!("{word}"));
                self.claims = Some(Claims { all });
            }
            _ => {
                let name = key.strip_prefix("h:").unwrap_or_else(|| panic!("{word}"));
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                self.headers.append(name, HeaderValue::from_str(value).unwrap());
            }
        }
    }

    fn with<T>(&self, decide: impl FnOnce(&AccessRequest<'_>) -> T) -> T {
        let http = HttpRequest {
            method: &self.method,
            scheme: "http",
            authority: &self.host,
            path_and_query: &self.path,
            headers: &self.headers,
        };
        let connection = ConnectionFacts {
            source_ip: self.source_ip,
            remote_ip: self.remote_ip,
            destination_ip: self.destination_ip,
            sni: self.sni.as_deref(),
            udp: false,
        };
        decide(&AccessRequest {
            peer: self.peer.as_ref(),
            port: self.port,
            http: (!self.opaque).then_some(&http),
            claims: self.claims.as_ref(),
            connection,
        })
    }
}
