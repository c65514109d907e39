//! Balancing.

use crate::error::FieldErrors;
use crate::istio::destination_rule::{ConsistentHash, LoadBalancer, LocalitySetting};
use crate::validate::traffic::{self, header_name};

/// Maglev tables end below this (Envoy).
const MAGLEV_END: i64 = 5_000_011;
/// Envoy's bound of a ring.
const RING_MAX: i64 = 8_388_608;
const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

pub(super) fn check(path: &str, balancer: &LoadBalancer, errors: &mut FieldErrors) {
    if balancer.simple.is_some() && balancer.consistent_hash.is_some() {
        errors.add(
            format!("{path}.consistentHash"),
            "must be absent beside simple",
            "keep one of simple and consistentHash",
        );
    }
    if let Some(hash) = &balancer.consistent_hash {
        check_hash(&format!("{path}.consistentHash"), hash, errors);
    }
    if let Some(locality) = &balancer.locality_lb_setting {
        check_locality(&format!("{path}.localityLbSetting"), locality, errors);
    }
    traffic::duration(format!("{path}.warmupDurationSecs"), &balancer.warmup_duration_secs, errors);
    let Some(warmup) = &balancer.warmup else { return };
    if warmup.duration.is_none() {
        errors.add(format!("{path}.warmup.duration"), "is required", "add duration, such as 60s, or remove warmup");
    }
    traffic::duration(format!("{path}.warmup.duration"), &warmup.duration, errors);
    if let Some(percent) = warmup.minimum_percent {
        traffic::percent(format!("{path}.warmup.minimumPercent"), percent, errors);
    }
    if let Some(aggression) = warmup.aggression.filter(|aggression| !(*aggression >= 1.0 && aggression.is_finite())) {
        errors.add(
            format!("{path}.warmup.aggression"),
            format!("{aggression} must be 1 or more"),
            "write 1 for a load that grows evenly, more for one that grows early",
        );
    }
}

fn check_hash(path: &str, hash: &ConsistentHash, errors: &mut FieldErrors) {
    let keys = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip.is_some(),
        hash.http_query_parameter_name.is_some(),
    ];
    match keys.into_iter().filter(|given| *given).count() {
        0 => errors.add(
            path,
            "httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName is required",
            "add one of them, such as useSourceIp: true",
        ),
        1 => {}
        _ => errors.add(
            path,
            "only one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName may be given",
            "keep the one that tells clients apart best",
        ),
    }
    if let Some(name) = &hash.http_header_name {
        errors.check(format!("{path}.httpHeaderName"), header_name(name));
    }
    if let Some(cookie) = &hash.http_cookie {
        if cookie.name.is_empty() {
            errors.add(
                format!("{path}.httpCookie.name"),
                "is required",
                "add name: …; the proxy makes a cookie of that name for clients that have none",
            );
        }
        // A lifetime of nothing is how one asks for a cookie of the session.
        if !matches!(cookie.ttl.as_deref(), Some("0s" | "0")) {
            traffic::duration(format!("{path}.httpCookie.ttl"), &cookie.ttl, errors);
        }
    }
    check_table(path, hash, errors);
}

fn check_table(path: &str, hash: &ConsistentHash, errors: &mut FieldErrors) {
    let sizes = [hash.minimum_ring_size, hash.ring_hash.as_ref().map_or(0, |ring| ring.minimum_ring_size)];
    if let Some(size) = sizes.into_iter().find(|size| !(0..=RING_MAX).contains(size)) {
        errors.add(
            format!("{path}.ringHash.minimumRingSize"),
            format!("{size} must be 0 to {RING_MAX}"),
            "write 1024, or leave it out",
        );
    }
    if hash.minimum_ring_size != 0 && (hash.ring_hash.is_some() || hash.maglev.is_some()) {
        errors.add(
            format!("{path}.minimumRingSize"),
            "must be absent beside ringHash and maglev",
            "move it into ringHash, or remove it",
        );
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        errors.add(format!("{path}.maglev"), "must be absent beside ringHash", "keep one of ringHash and maglev");
    }
    let Some(maglev) = &hash.maglev else { return };
    let size = maglev.table_size;
    if !(2..MAGLEV_END).contains(&size) || !is_prime(size) {
        let message = format!("{size} must be a prime number below {MAGLEV_END}");
        errors.add(format!("{path}.maglev.tableSize"), message, "65537 is a common choice");
    }
}

fn is_prime(number: i64) -> bool {
    number >= 2 && (2..).take_while(|factor| factor * factor <= number).all(|factor| number % factor != 0)
}

fn check_locality(path: &str, setting: &LocalitySetting, errors: &mut FieldErrors) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        errors.add(
            format!("{path}.failover"),
            "must be absent beside distribute",
            "keep one of distribute and failover",
        );
    }
    if !setting.distribute.is_empty() && !setting.failover_priority.is_empty() {
        errors.add(
            format!("{path}.failoverPriority"),
            "must be absent beside distribute",
            "keep one of distribute and failoverPriority",
        );
    }
    if !setting.failover.is_empty()
        && let Some(index) = setting.failover_priority.iter().position(|label| TOPOLOGY.contains(&label.as_str()))
    {
        errors.add(
            format!("{path}.failoverPriority[{index}]"),
            "names a topology, and so does failover",
            "remove the topology from failoverPriority, or the rules of failover",
        );
    }
    for (index, rule) in setting.distribute.iter().enumerate() {
        let path = format!("{path}.distribute[{index}]");
        check_pattern(&format!("{path}.from"), &rule.from, errors);
        for (locality, share) in &rule.to {
            check_pattern(&format!("{path}.to[{locality:?}]"), locality, errors);
            if !(1..=100).contains(share) {
                errors.add(
                    format!("{path}.to[{locality:?}]"),
                    format!("{share} must be 1 to 100"),
                    "write a whole number of percent, and leave out localities that shall get nothing",
                );
            }
        }
        let sum = rule.to.values().fold(0_i64, |sum, share| sum.saturating_add(*share));
        if sum != 100 {
            errors.add(
                format!("{path}.to"),
                format!("the sum is {sum} and must be 100"),
                "change the shares, which are percent, so that they add up to 100",
            );
        }
    }
    for (index, failover) in setting.failover.iter().enumerate() {
        let path = format!("{path}.failover[{index}]");
        if failover.from == failover.to {
            errors.add(
                format!("{path}.to"),
                "must be another region than from",
                "name the region to turn to, or remove the rule",
            );
        }
        if [&failover.from, &failover.to].into_iter().any(|region| region.contains(['/', '*'])) {
            errors.add(path, "must name regions", "a region is the part before the first '/'");
        }
    }
}

/// `region/zone/subzone`; a `*` stands at the end, as a whole part.
fn check_pattern(path: &str, locality: &str, errors: &mut FieldErrors) {
    let parts: Vec<&str> = locality.split('/').collect();
    let star = parts.iter().position(|part| part.contains('*'));
    let holds = parts.len() <= 3
        && parts.iter().all(|part| !part.is_empty())
        && star.is_none_or(|at| at + 1 == parts.len() && parts[at] == "*");
    if !holds {
        let hint = "region/zone/subzone, with * for the last part at most";
        errors.add(path, format!("{locality:?} is no locality"), hint);
    }
}
