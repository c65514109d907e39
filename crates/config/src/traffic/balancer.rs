//! `loadBalancer`.

use federation_crds::istio::destination_rule as crd;
use mesh::{Balancer, Distribution, HashKey, HashTable, LocalityPolicy, Warmup};

use super::objects::Notes;
use super::pool::{count, duration};
use crate::analyze::codes;

/// Istio's default for a ring (`minimumRingSize`).
const RING_SIZE: u32 = 1024;
/// Envoy's default for Maglev.
const MAGLEV_SIZE: u32 = 65_537;
/// Where a new endpoint's share begins, in percent.
const WARMUP_MINIMUM: f64 = 10.0;
/// A curve that is a line.
const WARMUP_AGGRESSION: f64 = 1.0;

/// Which endpoint gets a request.
pub(super) fn balancer(found: &crd::LoadBalancer, path: &str, notes: &mut Notes<'_>) -> Balancer {
    if let Some(hash) = &found.consistent_hash {
        let path = format!("{path}.consistentHash");
        let table = table(hash, &path, notes);
        return key(hash, &path, notes).map_or(Balancer::default(), |key| Balancer::ConsistentHash { key, table });
    }
    match found.simple {
        Some(crd::SimpleBalancer::LeastConn) => {
            let path = format!("{path}.simple");
            notes.add(codes::DEPRECATED, path, "LEAST_CONN is deprecated", "use LEAST_REQUEST instead");
            Balancer::LeastRequest
        }
        Some(crd::SimpleBalancer::Random) => Balancer::Random,
        Some(crd::SimpleBalancer::RoundRobin) => Balancer::RoundRobin,
        Some(crd::SimpleBalancer::Passthrough) => Balancer::Passthrough,
        None | Some(crd::SimpleBalancer::Unspecified | crd::SimpleBalancer::LeastRequest) => Balancer::LeastRequest,
    }
}

fn key(hash: &crd::ConsistentHash, path: &str, notes: &mut Notes<'_>) -> Option<HashKey> {
    if let Some(name) = &hash.http_header_name {
        return Some(HashKey::Header(name.to_ascii_lowercase()));
    }
    if let Some(cookie) = &hash.http_cookie {
        return Some(HashKey::Cookie {
            name: cookie.name.clone(),
            path: Some(cookie.path.clone()).filter(|path| !path.is_empty()),
            ttl: duration(&cookie.ttl, &format!("{path}.httpCookie.ttl"), notes),
            attributes: cookie.attributes.iter().map(|it| (it.name.clone(), it.value.clone())).collect(),
        });
    }
    if let Some(name) = &hash.http_query_parameter_name {
        return Some(HashKey::QueryParameter(name.clone()));
    }
    if hash.use_source_ip == Some(false) {
        let hint = "write true, or remove consistentHash";
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.useSourceIp"), "is false, so there is nothing to hash", hint);
    }
    hash.use_source_ip.filter(|used| *used).map(|_| HashKey::SourceIp)
}

fn table(hash: &crd::ConsistentHash, path: &str, notes: &mut Notes<'_>) -> HashTable {
    if let Some(maglev) = &hash.maglev {
        return HashTable::Maglev { size: count(maglev.table_size).unwrap_or(MAGLEV_SIZE) };
    }
    if hash.minimum_ring_size != 0 {
        let hint = "use ringHash: {minimumRingSize: …} instead";
        notes.add(codes::DEPRECATED, format!("{path}.minimumRingSize"), "is deprecated", hint);
    }
    let size = hash.ring_hash.as_ref().map_or(hash.minimum_ring_size, |ring| ring.minimum_ring_size);
    HashTable::Ring { minimum_size: count(size).unwrap_or(RING_SIZE) }
}

/// Localities count when endpoints can be ejected; `distribute` counts always. Without a setting of its own a policy
/// has MeshConfig's, without that one Istio's default: nearest first.
pub(super) fn locality(
    found: Option<&crd::LoadBalancer>,
    of_mesh: Option<&crd::LocalitySetting>,
    ejects: bool,
    path: &str,
    notes: &mut Notes<'_>,
) -> LocalityPolicy {
    if found.and_then(|found| found.zone_aware_lb_setting.as_ref()).is_some() {
        let hint = "use localityLbSetting instead";
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.zoneAwareLbSetting"), "is not implemented", hint);
    }
    let own = found.and_then(|found| found.locality_lb_setting.as_ref());
    if let Some(own) = own
        && !ejects
        && own.distribute.is_empty()
        && own.enabled != Some(false)
    {
        let hint =
            "add outlierDetection: without it an endpoint never counts as failed, so localities are not looked at";
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.localityLbSetting"), "has no effect", hint);
    }
    of_setting(own.or(of_mesh), ejects)
}

/// The same subzone, zone, region first.
pub(super) fn nearest() -> LocalityPolicy {
    LocalityPolicy::Failover { regions: Vec::new() }
}

/// A setting, or the default.
pub(super) fn of_setting(setting: Option<&crd::LocalitySetting>, ejects: bool) -> LocalityPolicy {
    let Some(setting) = setting else {
        return if ejects { nearest() } else { LocalityPolicy::Ignore };
    };
    if setting.enabled == Some(false) {
        return LocalityPolicy::Ignore;
    }
    if !setting.distribute.is_empty() {
        return LocalityPolicy::Distribute { rules: setting.distribute.iter().map(distribution).collect() };
    }
    if !ejects {
        return LocalityPolicy::Ignore;
    }
    if !setting.failover_priority.is_empty() {
        return LocalityPolicy::Priority { labels: setting.failover_priority.clone() };
    }
    let regions = setting.failover.iter().map(|failover| (failover.from.clone(), failover.to.clone()));
    LocalityPolicy::Failover { regions: regions.collect() }
}

fn distribution(found: &crd::Distribute) -> Distribution {
    let to = found.to.iter().map(|(locality, share)| (locality.clone(), u32::try_from(*share).unwrap_or(0)));
    Distribution { from: found.from.clone(), to: to.collect() }
}

/// Slow start.
pub(super) fn warmup(found: &crd::LoadBalancer, path: &str, notes: &mut Notes<'_>) -> Option<Warmup> {
    if found.warmup_duration_secs.is_some() {
        let hint = "use warmup: {duration: …} instead";
        notes.add(codes::DEPRECATED, format!("{path}.warmupDurationSecs"), "is deprecated", hint);
    }
    let new = found.warmup.as_ref();
    if found.consistent_hash.is_some() && (new.is_some() || found.warmup_duration_secs.is_some()) {
        let hint = "a key stays with its endpoint; use simple: LEAST_REQUEST or ROUND_ROBIN for a slow start";
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.warmup"), "has no effect beside consistentHash", hint);
    }
    let text = new.map_or(&found.warmup_duration_secs, |warmup| &warmup.duration);
    Some(Warmup {
        duration: duration(text, &format!("{path}.warmup.duration"), notes)?,
        minimum_percent: new.and_then(|warmup| warmup.minimum_percent).unwrap_or(WARMUP_MINIMUM),
        aggression: new.and_then(|warmup| warmup.aggression).unwrap_or(WARMUP_AGGRESSION),
    })
}
