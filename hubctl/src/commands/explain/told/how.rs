//! How a decision is carried out: subset, traffic policy, timeouts, retries, faults, mirrors, changes of the request.

use mesh::{
    AbortWith, Balancer, ClientTls, Destination, FaultInjection, HashKey, HeaderEdits, HttpAction, HttpRule, Share,
    TrafficPolicy, WeightedDestination,
};
use serde_json::{Map, Value};

/// One line each, only for what is there.
pub(super) fn tell(decision: &Map<String, Value>, forwarded: bool) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text.push_str(&format!("{label:<9} {value}\n"));
        }
    };
    let of = |name: &str| decision.get(name).unwrap_or(&Value::Null);
    line("subset", of("subset").as_str().map(str::to_owned));
    let policy = serde_json::from_value::<TrafficPolicy>(of("policy").clone()).ok();
    line("policy", policy.and_then(|policy| self::policy(&policy, of("policy_origin"))));
    let rule = serde_json::from_value::<HttpRule>(of("rule").clone()).ok();
    line("shares", rule.as_ref().and_then(shares));
    line("changes", rule.as_ref().map(changes));
    line("timeout", of("timeout").as_u64().map(|ms| format!("{ms} ms")));
    line("faults", rule.as_ref().and_then(|rule| faults(rule.fault.as_ref()?)));
    line("drawn", rule.as_ref().and_then(|rule| drawn(of("fault"), rule.fault.as_ref())));
    line("mirrors", mirrors(of("mirrors")));
    line(
        "affinity",
        of("affinity")["hash"].as_u64().map(|hash| format!("hash {hash:016x}: equal requests meet one endpoint")),
    );
    line("limits", Some(limits(decision, forwarded)));
    text
}

fn limits(decision: &Map<String, Value>, forwarded: bool) -> String {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
    let connect = format!("connecting may take {} ms", number(decision.get("connect_timeout")));
    let retry = decision.get("retry");
    let attempts = number(retry.and_then(|retry| retry.get("attempts")));
    if !forwarded || attempts == 0 {
        return connect;
    }
    let (on, per_try) = (retry.and_then(|retry| retry.get("on")), retry.and_then(|retry| retry.get("per_try_timeout")));
    let on: Vec<&str> = on.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let what = match retry.and_then(|retry| retry.get("configured")).and_then(Value::as_bool) {
        Some(true) if !on.is_empty() => format!("what fails with {}", on.join(", ")),
        _ => "what may be repeated".to_owned(),
    };
    let each = per_try.and_then(Value::as_u64).map(|ms| format!(", {ms} ms each")).unwrap_or_default();
    let from = number(retry.and_then(|retry| retry.get("backoff")));
    format!("{connect}; {what} is retried up to {attempts} times{each}, from {from} ms")
}

/// What the DestinationRule says that is not the default.
fn policy(policy: &TrafficPolicy, origin: &Value) -> Option<String> {
    let text = |name: &str| origin[name].as_str();
    let object = format!("{} {}/{}", text("kind")?, text("namespace")?, text("name")?);
    let mut said = vec![balancer(&policy.balancer)];
    match &policy.tls {
        ClientTls::Auto => {}
        ClientTls::Disable => said.push("plain text".to_owned()),
        ClientTls::Mutual => said.push("mTLS of the mesh".to_owned()),
        ClientTls::Originate(tls) if tls.mutual => said.push("TLS with a client certificate".to_owned()),
        ClientTls::Originate(_) => said.push("TLS".to_owned()),
    }
    let pool = &policy.pool;
    let limits = [
        ("connections", pool.max_connections),
        ("waiting requests", pool.max_pending_requests),
        ("requests", pool.max_requests),
        ("requests a connection", pool.max_requests_per_connection),
        ("retries", pool.max_retries),
    ];
    said.extend(limits.iter().filter_map(|(what, limit)| Some(format!("at most {} {what}", (*limit)?))));
    if let Some(outlier) = &policy.outlier {
        let after = outlier.consecutive_5xx.map_or(String::new(), |count| format!(" after {count} errors"));
        said.push(format!("ejection{after} for {} s", outlier.base_ejection_time.as_secs()));
    }
    Some(format!("{object}: {}", said.join(", ")))
}

pub(in crate::commands) fn balancer(balancer: &Balancer) -> String {
    match balancer {
        Balancer::LeastRequest => "least-request".to_owned(),
        Balancer::RoundRobin => "round-robin".to_owned(),
        Balancer::Random => "random".to_owned(),
        Balancer::Passthrough => "the address that was dialled".to_owned(),
        Balancer::ConsistentHash { key, .. } => match key {
            HashKey::Header(name) => format!("hash of header {name}"),
            HashKey::Cookie { name, .. } => format!("hash of cookie {name}"),
            HashKey::SourceIp => "hash of the client's address".to_owned(),
            HashKey::QueryParameter(name) => format!("hash of query parameter {name}"),
        },
    }
}

/// Among whom the rule divides requests, when there are several: the decision shows one draw.
fn shares(rule: &HttpRule) -> Option<String> {
    let HttpAction::Route(places) = &rule.action else { return None };
    (places.len() > 1).then(|| format!("{}; one was drawn", destinations(places)))
}

/// Destinations of a rule, with their weights if there are several.
pub(in crate::commands) fn destinations(places: &[WeightedDestination]) -> String {
    let weighted = places.len() > 1;
    let place = |place: &WeightedDestination| match weighted {
        true => format!("{} ({})", destination(&place.destination), place.weight),
        false => destination(&place.destination),
    };
    places.iter().map(place).collect::<Vec<_>>().join(", ")
}

/// What a rule puts in, and how often.
pub(in crate::commands) fn faults(fault: &FaultInjection) -> Option<String> {
    let percent = |share: Share| match share.percent() {
        100.0 => String::new(),
        percent => format!(" for {percent} %"),
    };
    let delay = fault.delay.map(|delay| format!("delay of {} ms{}", delay.delay.as_millis(), percent(delay.share)));
    let abort = fault.abort.map(|abort| {
        let with = match abort.with {
            AbortWith::Http(status) => format!("status {status}"),
            AbortWith::Grpc(status) => format!("gRPC status {status}"),
        };
        format!("abort with {with}{}", percent(abort.share))
    });
    let both: Vec<String> = delay.into_iter().chain(abort).collect();
    (!both.is_empty()).then(|| both.join(", "))
}

fn changes(rule: &HttpRule) -> String {
    let mut said = Vec::new();
    if let Some(rewrite) = &rule.rewrite {
        said.extend(rewrite.uri.iter().map(|uri| format!("path becomes {uri}")));
        said.extend(
            rewrite
                .regex
                .iter()
                .map(|regex| format!("path: {} becomes {}", regex.pattern.as_str(), regex.substitution)),
        );
        said.extend(rewrite.authority.iter().map(|authority| format!("host becomes {authority}")));
    }
    said.extend(edits("request", &rule.headers.request));
    said.extend(edits("response", &rule.headers.response));
    if rule.cors.is_some() {
        said.push("cross-origin rules apply".to_owned());
    }
    said.join("; ")
}

fn edits(which: &str, edits: &HeaderEdits) -> Option<String> {
    let mut said: Vec<String> = edits.set.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    said.extend(edits.add.iter().map(|(name, value)| format!("+{name}: {value}")));
    said.extend(edits.remove.iter().map(|name| format!("-{name}")));
    (!said.is_empty()).then(|| format!("{which} headers {}", said.join(", ")))
}

/// What this one draw met.
fn drawn(fault: &Value, faults: Option<&FaultInjection>) -> Option<String> {
    faults?;
    let hit = |name: &str| fault.get(name).is_some_and(|hit| !hit.is_null());
    let hits: Vec<&str> = ["delay", "abort"].into_iter().filter(|name| hit(name)).collect();
    Some(if hits.is_empty() { "no fault this time".to_owned() } else { format!("{} this time", hits.join(" and ")) })
}

fn mirrors(mirrors: &Value) -> Option<String> {
    let mirrors = serde_json::from_value::<Vec<Destination>>(mirrors.clone()).ok()?;
    Some(mirrors.iter().map(destination).collect::<Vec<_>>().join(", "))
}

/// A destination as its author writes it.
pub(in crate::commands) fn destination(destination: &Destination) -> String {
    let host = destination.host.text();
    let port = destination.port.map(|port| format!(":{port}")).unwrap_or_default();
    let subset = destination.subset.as_ref().map(|subset| format!(" subset {subset}")).unwrap_or_default();
    format!("{host}{port}{subset}")
}
