//! Traffic policies as text.

use std::time::Duration;

use super::language::Words;
use crate::policy::*;

/// `tls=mutual lb=cookie:user:60 locality=failover:us>eu`.
pub(crate) fn policy(words: &Words<'_>) -> TrafficPolicy {
    let tls = match words.get("tls") {
        None => ClientTls::Auto,
        Some("disable") => ClientTls::Disable,
        Some("mutual") => ClientTls::Mutual,
        Some(_) => ClientTls::Originate(Box::default()),
    };
    let balancer = words.get("lb").map(balancer).unwrap_or_default();
    let locality = words.get("locality").map(locality).unwrap_or_default();
    TrafficPolicy { tls, balancer, locality, ..TrafficPolicy::default() }
}

fn balancer(text: &str) -> Balancer {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let key = match kind {
        "passthrough" => return Balancer::Passthrough,
        "header" => HashKey::Header(rest.into()),
        "query" => HashKey::QueryParameter(rest.into()),
        "ip" => HashKey::SourceIp,
        "cookie" => {
            let (name, ttl) = rest.split_once(':').unwrap_or((rest, ""));
            let ttl = ttl.parse().ok().map(Duration::from_secs);
            let attributes = vec![("SameSite".into(), "Strict".into())];
            HashKey::Cookie { name: name.into(), path: Some("/".into()), ttl, attributes }
        }
        other => panic!("no balancer: {other}"),
    };
    Balancer::ConsistentHash { key, table: HashTable::Ring { minimum_size: 1024 } }
}

fn locality(text: &str) -> LocalityPolicy {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let items = || rest.split(',').filter(|item| !item.is_empty());
    let pair =
        |item: &str, mark| item.split_once(mark).map(|(a, b): (&str, &str)| (a.to_owned(), b.to_owned())).unwrap();
    match kind {
        "failover" => LocalityPolicy::Failover { regions: items().map(|item| pair(item, '>')).collect() },
        "priority" => LocalityPolicy::Priority { labels: items().map(str::to_owned).collect() },
        "distribute" => {
            let (from, to) = rest.split_once('>').unwrap();
            let to = to.split(',').map(|item| pair(item, '%')).map(|(place, share)| (place, share.parse().unwrap()));
            LocalityPolicy::Distribute { rules: vec![Distribution { from: from.into(), to: to.collect() }] }
        }
        other => panic!("no locality policy: {other}"),
    }
}
