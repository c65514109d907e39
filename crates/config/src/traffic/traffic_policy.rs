//! `trafficPolicy`: levels merged as Istio merges them (`MergeSubsetTrafficPolicy`), then compiled.

mod client_tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use federation_crds::istio::destination_rule as crd;
use mesh::{ClientTls, OutlierDetection, PortPolicies, RetryBudget, TrafficPolicy, TunnelSettings};

use super::balancer;
use super::objects::Notes;
use super::pool::{Towards, count, duration, pool};
use crate::analyze::codes;
use crate::mesh_config::MeshConfig;

pub(super) use client_tls::Secrets;

/// A part of a policy and the path where it stands.
#[derive(Clone)]
struct At<'a, T>(&'a T, String);

/// What counts at one port: each part comes from the innermost level that has it.
#[derive(Clone, Default)]
struct Effective<'a> {
    load_balancer: Option<At<'a, crd::LoadBalancer>>,
    connection_pool: Option<At<'a, crd::ConnectionPool>>,
    outlier_detection: Option<At<'a, crd::OutlierDetection>>,
    tls: Option<At<'a, crd::ClientTls>>,
    tunnel: Option<At<'a, crd::Tunnel>>,
    proxy_protocol: Option<At<'a, crd::ProxyProtocol>>,
    retry_budget: Option<At<'a, crd::RetryBudget>>,
}

/// A policy and its path, such as `spec.subsets[0].trafficPolicy`.
pub(super) type Level<'a> = (&'a crd::TrafficPolicy, String);

/// The policies of a destination (one level) or a subset (the destination's, then its own).
pub(super) fn policies(levels: &[Level<'_>], secrets: &mut Secrets<'_>, notes: &mut Notes<'_>) -> PortPolicies {
    let ports: BTreeSet<u16> = levels
        .iter()
        .flat_map(|(policy, _)| &policy.port_level_settings)
        .filter_map(|settings| u16::try_from(settings.port.as_ref()?.number).ok())
        .collect();
    let mut of_port = |port: Option<u16>| {
        let effective = levels.iter().fold(Effective::default(), |outer, level| outer.narrowed(level, port));
        Arc::new(effective.compile(secrets, notes))
    };
    PortPolicies {
        any: of_port(None),
        ports: ports.into_iter().map(|port| (port, of_port(Some(port)))).collect::<BTreeMap<_, _>>(),
    }
}

/// The policies for a Service whose nearest endpoints come first (`trafficDistribution`): a `localityLbSetting` of a rule
/// goes before it, one of MeshConfig does not (istiod's `GetLocalityLbSetting`).
pub(super) fn nearest_first(policies: &PortPolicies, levels: &[Level<'_>]) -> PortPolicies {
    let of_port = |port: Option<u16>, policy: &Arc<TrafficPolicy>| {
        let effective = levels.iter().fold(Effective::default(), |outer, level| outer.narrowed(level, port));
        match effective.load_balancer.is_some_and(|At(it, _)| it.locality_lb_setting.is_some()) {
            true => Arc::clone(policy),
            false => Arc::new(TrafficPolicy { locality: balancer::nearest(), ..TrafficPolicy::clone(policy) }),
        }
    };
    PortPolicies {
        any: of_port(None, &policies.any),
        ports: policies.ports.iter().map(|(port, policy)| (*port, of_port(Some(*port), policy))).collect(),
    }
}

impl<'a> Effective<'a> {
    fn narrowed(mut self, (policy, path): &Level<'a>, port: Option<u16>) -> Self {
        let at = |field: &str| format!("{path}.{field}");
        self.load_balancer = policy.load_balancer.as_ref().map(|it| At(it, at("loadBalancer"))).or(self.load_balancer);
        self.connection_pool =
            policy.connection_pool.as_ref().map(|it| At(it, at("connectionPool"))).or(self.connection_pool);
        self.outlier_detection =
            policy.outlier_detection.as_ref().map(|it| At(it, at("outlierDetection"))).or(self.outlier_detection);
        self.tls = policy.tls.as_ref().map(|it| At(it, at("tls"))).or(self.tls);
        self.tunnel = policy.tunnel.as_ref().map(|it| At(it, at("tunnel"))).or(self.tunnel);
        self.proxy_protocol =
            policy.proxy_protocol.as_ref().map(|it| At(it, at("proxyProtocol"))).or(self.proxy_protocol);
        self.retry_budget = policy.retry_budget.as_ref().map(|it| At(it, at("retryBudget"))).or(self.retry_budget);
        let settings = policy.port_level_settings.iter().enumerate().find(|(_, settings)| {
            port.is_some() && settings.port.as_ref().and_then(|it| u16::try_from(it.number).ok()) == port
        });
        if let Some((index, settings)) = settings {
            // A port inherits nothing of these four: what it leaves out is the default.
            let at = |field: &str| format!("{path}.portLevelSettings[{index}].{field}");
            self.load_balancer = settings.load_balancer.as_ref().map(|it| At(it, at("loadBalancer")));
            self.connection_pool = settings.connection_pool.as_ref().map(|it| At(it, at("connectionPool")));
            self.outlier_detection = settings.outlier_detection.as_ref().map(|it| At(it, at("outlierDetection")));
            self.tls = settings.tls.as_ref().map(|it| At(it, at("tls")));
        }
        self
    }

    fn compile(self, secrets: &mut Secrets<'_>, notes: &mut Notes<'_>) -> TrafficPolicy {
        let ejects = self.outlier_detection.is_some();
        let balancing = self.load_balancer.as_ref();
        let path = balancing.map_or("", |At(_, path)| path.as_str());
        let of_mesh = default_tls(secrets.mesh_config);
        let towards = secrets.towards;
        self.note_shared(towards, notes);
        TrafficPolicy {
            balancer: balancing.map(|At(it, path)| balancer::balancer(it, path, notes)).unwrap_or_default(),
            locality: balancer::locality(
                balancing.map(|At(it, _)| *it),
                secrets.mesh_config.locality.as_ref(),
                ejects,
                path,
                notes,
            ),
            warmup: balancing.and_then(|At(it, path)| balancer::warmup(it, path, notes)),
            pool: self.connection_pool.map(|At(it, path)| pool(it, &path, towards, notes)).unwrap_or_default(),
            outlier: self.outlier_detection.map(|At(it, path)| outlier(it, &path, notes)),
            tls: self.tls.map(|At(it, path)| client_tls::client_tls(it, &path, secrets, notes)).unwrap_or(of_mesh),
            retry_budget: self.retry_budget.map(|At(it, path)| retry_budget(it, &path, notes)),
            proxy_protocol: self.proxy_protocol.map(|At(it, _)| match it.version {
                crd::ProxyProtocolVersion::V1 => 1,
                crd::ProxyProtocolVersion::V2 => 2,
            }),
            tunnel: self.tunnel.and_then(|At(it, _)| tunnel(it)),
        }
    }
}

impl Effective<'_> {
    /// Names what is not done on connections between sidecars.
    fn note_shared(&self, towards: Towards, notes: &mut Notes<'_>) {
        let paths = [self.tunnel.as_ref().map(|it| &it.1), self.proxy_protocol.as_ref().map(|it| &it.1)];
        for path in paths.into_iter().flatten().filter(|_| towards == Towards::Sidecars) {
            let hint = "it counts for endpoints without a sidecar";
            notes.add(codes::WITHOUT_EFFECT, path, "has no effect between sidecars", hint);
        }
    }
}

/// The policy of destinations without a rule, where MeshConfig says something else than the default.
pub(super) fn of_mesh(mesh_config: &MeshConfig) -> Option<TrafficPolicy> {
    let policy = TrafficPolicy {
        tls: default_tls(mesh_config),
        locality: balancer::of_setting(mesh_config.locality.as_ref(), false),
        ..TrafficPolicy::default()
    };
    (policy != TrafficPolicy::default()).then_some(policy)
}

/// The policy of a Service whose nearest endpoints come first, without a rule.
pub(super) fn of_service(mesh_config: &MeshConfig) -> TrafficPolicy {
    let (tls, locality) = (default_tls(mesh_config), balancer::nearest());
    TrafficPolicy { tls, locality, ..TrafficPolicy::default() }
}

/// Where no rule says anything about TLS.
fn default_tls(mesh_config: &MeshConfig) -> ClientTls {
    if mesh_config.auto_mtls { ClientTls::Auto } else { ClientTls::Disable }
}

fn outlier(found: &crd::OutlierDetection, path: &str, notes: &mut Notes<'_>) -> OutlierDetection {
    let default = OutlierDetection::default();
    if found.consecutive_errors != 0 {
        let hint = "use consecutiveGatewayErrors or consecutive5xxErrors instead";
        notes.add(codes::DEPRECATED, format!("{path}.consecutiveErrors"), "is deprecated", hint);
    }
    // A count of zero switches its detector off, one that is absent has its default.
    let detector = |found: Option<i64>, default: Option<u32>| found.map_or(default, count);
    let old = Some(found.consecutive_errors).filter(|errors| *errors != 0);
    let interval = duration(&found.interval, &format!("{path}.interval"), notes);
    let ejection = duration(&found.base_ejection_time, &format!("{path}.baseEjectionTime"), notes);
    OutlierDetection {
        consecutive_5xx: detector(found.consecutive_5xx_errors, default.consecutive_5xx),
        consecutive_gateway: detector(found.consecutive_gateway_errors.or(old), default.consecutive_gateway),
        consecutive_local_origin: detector(found.consecutive_local_origin_failures, default.consecutive_local_origin),
        split_local_origin: found.split_external_local_origin_errors,
        interval: interval.unwrap_or(default.interval),
        base_ejection_time: ejection.unwrap_or(default.base_ejection_time),
        max_ejection_percent: found.max_ejection_percent.and_then(count).unwrap_or(default.max_ejection_percent),
        min_health_percent: u32::try_from(found.min_health_percent).unwrap_or(default.min_health_percent),
        error_codes: found.outlier_detection_http_error_codes.iter().filter_map(|it| u16::try_from(*it).ok()).collect(),
    }
}

fn retry_budget(found: &crd::RetryBudget, path: &str, notes: &mut Notes<'_>) -> RetryBudget {
    RetryBudget {
        percent: found.percent.unwrap_or(20.0),
        min_concurrency: count(found.min_retry_concurrency).unwrap_or(3),
        interval: duration(&found.budget_interval, &format!("{path}.budgetInterval"), notes).unwrap_or(Duration::ZERO),
    }
}

fn tunnel(found: &crd::Tunnel) -> Option<TunnelSettings> {
    let port = u16::try_from(found.target_port).ok()?;
    Some(TunnelSettings { post: found.protocol == "POST", host: found.target_host.clone(), port })
}
