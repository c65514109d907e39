//! DestinationRule.

mod load_balancer;
mod pool;

use std::collections::BTreeSet;

use super::rules;
use super::traffic::{self, Exporter};
use crate::error::FieldErrors;
use crate::istio::DestinationRule;
use crate::istio::destination_rule::{
    ClientTls, ClientTlsMode, OutlierDetection, PortTrafficPolicy, RetryBudget, TrafficPolicy, Tunnel,
};

pub(super) use pool::check as check_pool;

pub(super) fn check(object: &DestinationRule, errors: &mut FieldErrors) {
    let spec = &object.spec;
    errors.check("spec.host", traffic::wildcard_domain(&spec.host));
    check_policy("spec.trafficPolicy", &spec.traffic_policy, errors);
    let mut names = BTreeSet::new();
    for (index, subset) in spec.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        errors.check(format!("{path}.name"), rules::label(&subset.name));
        if !names.insert(&subset.name) {
            errors.add(
                format!("{path}.name"),
                format!("the name {:?} is used twice", subset.name),
                "give each a name of its own",
            );
        }
        traffic::labels(&format!("{path}.labels"), &subset.labels, errors);
        check_policy(&format!("{path}.trafficPolicy"), &subset.traffic_policy, errors);
    }
    let exporter = if spec.workload_selector.is_some() { Exporter::Selective } else { Exporter::Other };
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    traffic::export_to(namespace, &spec.export_to, exporter, errors);
    if let Some(selector) = &spec.workload_selector {
        traffic::labels("spec.workloadSelector.matchLabels", &selector.match_labels, errors);
    }
}

fn check_policy(path: &str, policy: &Option<TrafficPolicy>, errors: &mut FieldErrors) {
    let Some(policy) = policy else { return };
    if *policy == TrafficPolicy::default() {
        let hint = "add loadBalancer, connectionPool, outlierDetection, tls or portLevelSettings, or remove the field";
        return errors.add(path, "must have at least one field", hint);
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        errors.add(
            format!("{path}.proxyProtocol"),
            "must be absent beside tunnel",
            "keep one of tunnel and proxyProtocol",
        );
    }
    if let Some(balancer) = &policy.load_balancer {
        load_balancer::check(&format!("{path}.loadBalancer"), balancer, errors);
    }
    check_pool(&format!("{path}.connectionPool"), &policy.connection_pool, errors);
    check_outlier(&format!("{path}.outlierDetection"), &policy.outlier_detection, errors);
    check_tls(&format!("{path}.tls"), &policy.tls, errors);
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        check_port(&format!("{path}.portLevelSettings[{index}]"), settings, errors);
    }
    check_tunnel(&format!("{path}.tunnel"), &policy.tunnel, errors);
    check_budget(&format!("{path}.retryBudget"), &policy.retry_budget, errors);
}

fn check_port(path: &str, settings: &PortTrafficPolicy, errors: &mut FieldErrors) {
    match &settings.port {
        Some(port) => traffic::port(format!("{path}.port.number"), port.number, errors),
        None => errors.add(
            format!("{path}.port"),
            "is required",
            "add port: {number: …}; what is for all ports stands above portLevelSettings",
        ),
    }
    let without_port = PortTrafficPolicy { port: None, ..settings.clone() };
    if without_port == PortTrafficPolicy::default() {
        let hint = "add loadBalancer, connectionPool, outlierDetection or tls, or remove the entry";
        return errors.add(path, "must have at least one field beside port", hint);
    }
    if let Some(balancer) = &settings.load_balancer {
        load_balancer::check(&format!("{path}.loadBalancer"), balancer, errors);
    }
    check_pool(&format!("{path}.connectionPool"), &settings.connection_pool, errors);
    check_outlier(&format!("{path}.outlierDetection"), &settings.outlier_detection, errors);
    check_tls(&format!("{path}.tls"), &settings.tls, errors);
}

fn check_outlier(path: &str, outlier: &Option<OutlierDetection>, errors: &mut FieldErrors) {
    let Some(outlier) = outlier else { return };
    traffic::duration(format!("{path}.interval"), &outlier.interval, errors);
    traffic::duration(format!("{path}.baseEjectionTime"), &outlier.base_ejection_time, errors);
    let counts = [
        ("consecutive5xxErrors", outlier.consecutive_5xx_errors),
        ("consecutiveGatewayErrors", outlier.consecutive_gateway_errors),
        ("consecutiveLocalOriginFailures", outlier.consecutive_local_origin_failures),
        ("consecutiveErrors", Some(outlier.consecutive_errors)),
    ];
    for (field, count) in counts {
        traffic::count(format!("{path}.{field}"), count.unwrap_or(0), errors);
    }
    if !outlier.split_external_local_origin_errors && outlier.consecutive_local_origin_failures.unwrap_or(0) > 0 {
        let message = "has no effect unless splitExternalLocalOriginErrors is true";
        let hint = "add splitExternalLocalOriginErrors: true";
        errors.add(format!("{path}.consecutiveLocalOriginFailures"), message, hint);
    }
    let percents = [
        ("maxEjectionPercent", outlier.max_ejection_percent.unwrap_or(0)),
        ("minHealthPercent", outlier.min_health_percent),
    ];
    for (field, percent) in percents {
        if !(0..=100).contains(&percent) {
            errors.add(
                format!("{path}.{field}"),
                format!("{percent} must be a percentage, 0 to 100"),
                "write a whole number, such as 50",
            );
        }
    }
    for (index, status) in outlier.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(status) {
            let path = format!("{path}.outlierDetectionHttpErrorCodes[{index}]");
            errors.add(
                path,
                format!("{status} must be a status, 100 to 599"),
                "write a status that a server answers with, such as 503",
            );
        }
    }
}

fn check_tls(path: &str, tls: &Option<ClientTls>, errors: &mut FieldErrors) {
    let Some(tls) = tls else { return };
    if !matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) {
        return;
    }
    let mutual = tls.mode == ClientTlsMode::Mutual;
    if tls.insecure_skip_verify == Some(true) {
        let verified = [
            ("caCertificates", !tls.ca_certificates.is_empty()),
            ("subjectAltNames", !tls.subject_alt_names.is_empty()),
            ("credentialName", !mutual && !tls.credential_name.is_empty()),
        ];
        for (field, _) in verified.into_iter().filter(|(_, given)| *given) {
            errors.add(
                format!("{path}.{field}"),
                "must be absent when insecureSkipVerify is true",
                "remove it, or write insecureSkipVerify: false to verify the server",
            );
        }
    }
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("caCrl", &tls.ca_crl),
    ];
    if !tls.credential_name.is_empty() {
        for (field, _) in files.into_iter().filter(|(_, file)| !file.is_empty()) {
            errors.add(
                format!("{path}.{field}"),
                "must be absent beside credentialName",
                "keep credentialName, with the files in its Secret, or the files",
            );
        }
        return;
    }
    for (field, _) in files.into_iter().take(2).filter(|(_, file)| mutual && file.is_empty()) {
        errors.add(format!("{path}.{field}"), "is required with MUTUAL", "or use credentialName");
    }
}

fn check_tunnel(path: &str, tunnel: &Option<Tunnel>, errors: &mut FieldErrors) {
    let Some(tunnel) = tunnel else { return };
    if tunnel.protocol == "POST" {
        let hint = "write CONNECT, which every HTTP proxy knows";
        errors.add(format!("{path}.protocol"), "POST is not implemented", hint);
    } else if !matches!(tunnel.protocol.as_str(), "" | "CONNECT") {
        errors.add(
            format!("{path}.protocol"),
            format!("{:?} must be CONNECT", tunnel.protocol),
            "write protocol: CONNECT, or leave it out",
        );
    }
    if tunnel.target_host.parse::<std::net::IpAddr>().is_err() {
        errors.check(format!("{path}.targetHost"), traffic::fqdn(&tunnel.target_host));
    }
    traffic::port(format!("{path}.targetPort"), tunnel.target_port, errors);
}

fn check_budget(path: &str, budget: &Option<RetryBudget>, errors: &mut FieldErrors) {
    let Some(budget) = budget else { return };
    if let Some(percent) = budget.percent {
        traffic::percent(format!("{path}.percent"), percent, errors);
    }
    traffic::count(format!("{path}.minRetryConcurrency"), budget.min_retry_concurrency, errors);
    traffic::duration(format!("{path}.budgetInterval"), &budget.budget_interval, errors);
}
