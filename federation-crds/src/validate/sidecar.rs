//! Sidecar.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::destination_rule::check_pool;
use super::{rules, traffic};
use crate::error::FieldErrors;
use crate::istio::Sidecar;
use crate::istio::service_entry::EntryPort;
use crate::istio::sidecar::{
    CaptureMode, EgressListener, IngressListener, ListenerTls, ListenerTlsMode, OutboundMode, OutboundTrafficPolicy,
};

pub(super) fn check(object: &Sidecar, errors: &mut FieldErrors) {
    let spec = &object.spec;
    if let Some(selector) = &spec.workload_selector {
        traffic::labels("spec.workloadSelector.labels", &selector.labels, errors);
    }
    let nothing = spec.ingress.is_empty()
        && spec.egress.is_empty()
        && spec.outbound_traffic_policy.is_none()
        && spec.inbound_connection_pool.is_none();
    if nothing {
        errors.add(
            "spec",
            "egress, ingress, outboundTrafficPolicy or inboundConnectionPool is required",
            "add egress: [{hosts: [\"./*\"]}], for the services of the own namespace",
        );
    }
    let mut ports = BTreeSet::new();
    for (index, listener) in spec.ingress.iter().enumerate() {
        check_ingress(&format!("spec.ingress[{index}]"), listener, &mut ports, errors);
    }
    check_pool("spec.inboundConnectionPool", &spec.inbound_connection_pool, errors);
    check_egress(&spec.egress, errors);
    if let Some(policy) = &spec.outbound_traffic_policy {
        check_outbound(policy, errors);
    }
}

fn check_ingress(path: &str, listener: &IngressListener, ports: &mut BTreeSet<i64>, errors: &mut FieldErrors) {
    let Some(port) = &listener.port else {
        return errors.add(format!("{path}.port"), "is required", "add port: {number: …, name: …, protocol: …}");
    };
    check_port(&format!("{path}.port"), port, errors);
    traffic::port(format!("{path}.port.number"), port.number, errors);
    if !ports.insert(port.number) {
        errors.add(
            format!("{path}.port.number"),
            format!("{} is used twice", port.number),
            "put both into one listener, or give each a port of its own",
        );
    }
    check_bind(path, &listener.bind, errors);
    check_default_endpoint(&format!("{path}.defaultEndpoint"), &listener.default_endpoint, errors);
    if let Some(tls) = &listener.tls {
        check_tls(&format!("{path}.tls"), tls, errors);
    }
    check_pool(&format!("{path}.connectionPool"), &listener.connection_pool, errors);
}

fn check_port(path: &str, port: &EntryPort, errors: &mut FieldErrors) {
    if !port.name.is_empty() {
        errors.check(format!("{path}.name"), rules::label(&port.name));
    }
    traffic::protocol(format!("{path}.protocol"), &port.protocol, errors);
    if port.target_port > 0 {
        errors.add(
            format!("{path}.targetPort"),
            "has no meaning in a Sidecar",
            "remove it; defaultEndpoint of an ingress listener says where requests go",
        );
    }
}

fn check_bind(path: &str, bind: &str, errors: &mut FieldErrors) {
    if !bind.is_empty() {
        errors.check(format!("{path}.bind"), rules::ip(bind).map(|_| ()));
    }
}

/// `127.0.0.1:<port>`, `0.0.0.0:<port>`, `[::1]:<port>`, `[::]:<port>`, `:<port>` or a socket.
fn check_default_endpoint(path: &str, endpoint: &str, errors: &mut FieldErrors) {
    if endpoint.is_empty() || endpoint.starts_with("unix:///") || endpoint.starts_with("unix://@") {
        return;
    }
    let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let own = host.is_empty() || host.parse::<IpAddr>().is_ok_and(|it| it.is_unspecified() || it.is_loopback());
    if !own || port.parse::<u16>().map_or(true, |port| port == 0) {
        let hint = "127.0.0.1:<port>, 0.0.0.0:<port>, [::1]:<port>, [::]:<port> or unix://<path>";
        errors.add(path, format!("{endpoint:?} is no endpoint of the workload"), hint);
    }
}

fn check_tls(path: &str, tls: &ListenerTls, errors: &mut FieldErrors) {
    let refused = [
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ("httpsRedirect", tls.https_redirect),
        ("credentialName", !tls.credential_name.is_empty()),
    ];
    for (field, _) in refused.into_iter().filter(|(_, given)| *given) {
        errors.add(format!("{path}.{field}"), "is not supported in a Sidecar", "remove it; it is for Gateways");
    }
    if matches!(tls.mode, ListenerTlsMode::IstioMutual | ListenerTlsMode::AutoPassthrough) {
        errors.add(
            format!("{path}.mode"),
            "is not possible in a Sidecar",
            "write SIMPLE, MUTUAL or OPTIONAL_MUTUAL; mTLS of the mesh is set by PeerAuthentication",
        );
    }
    if matches!(tls.mode, ListenerTlsMode::Simple | ListenerTlsMode::Mutual | ListenerTlsMode::OptionalMutual) {
        for (field, file) in [("serverCertificate", &tls.server_certificate), ("privateKey", &tls.private_key)] {
            if file.is_empty() {
                errors.add(format!("{path}.{field}"), "is required", "name the file in the sidecar's container");
            }
        }
    }
}

fn check_egress(listeners: &[EgressListener], errors: &mut FieldErrors) {
    let (mut ports, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    for (index, listener) in listeners.iter().enumerate() {
        let path = format!("spec.egress[{index}]");
        match &listener.port {
            None if index + 1 < listeners.len() => {
                errors.add(&path, "only the last listener may be without a port", "put it last, or give it a port");
            }
            None => {}
            Some(port) => {
                check_egress_port(&path, listener, port, errors);
                let fresh = if port.number == 0 { sockets.insert(&listener.bind) } else { ports.insert(port.number) };
                if !fresh {
                    errors.add(
                        format!("{path}.port"),
                        "two listeners have the same port",
                        "put the hosts of both into one listener, or give each a port of its own",
                    );
                }
            }
        }
        if listener.hosts.is_empty() {
            errors.add(format!("{path}.hosts"), "at least one host is required", "*/* means all");
        }
        for (inner, host) in listener.hosts.iter().enumerate() {
            check_host(&format!("{path}.hosts[{inner}]"), host, errors);
        }
    }
}

fn check_egress_port(path: &str, listener: &EgressListener, port: &EntryPort, errors: &mut FieldErrors) {
    check_port(&format!("{path}.port"), port, errors);
    if port.number != 0 {
        traffic::port(format!("{path}.port.number"), port.number, errors);
        return check_bind(path, &listener.bind, errors);
    }
    if !listener.bind.starts_with("unix://") {
        errors.add(
            format!("{path}.port.number"),
            "0 is for listeners whose bind is unix://<path>",
            "write the number of a port, or bind: unix:///<path>",
        );
    }
    if listener.capture_mode == CaptureMode::Iptables {
        errors.add(format!("{path}.captureMode"), "must be DEFAULT or NONE for a socket", "write captureMode: NONE");
    }
}

/// `<namespace>/<host>`.
fn check_host(path: &str, value: &str, errors: &mut FieldErrors) {
    let Some((namespace, host)) = value.split_once('/') else {
        let hint = format!("write ./{value}, */{value} or <namespace>/{value}");
        return errors.add(path, format!("{value:?} must be <namespace>/<host>"), hint);
    };
    if !matches!(namespace, "*" | "." | "~") {
        errors.check(path, rules::label(namespace));
    }
    errors.check(path, traffic::wildcard_domain(host));
}

fn check_outbound(policy: &OutboundTrafficPolicy, errors: &mut FieldErrors) {
    let path = "spec.outboundTrafficPolicy";
    let Some(proxy) = &policy.egress_proxy else { return };
    if policy.mode != OutboundMode::AllowAny {
        let hint = "add mode: ALLOW_ANY";
        return errors.add(format!("{path}.egressProxy"), "is for mode ALLOW_ANY only", hint);
    }
    errors.check(format!("{path}.egressProxy.host"), traffic::fqdn(&proxy.host));
    if proxy.port.is_none() {
        errors.add(format!("{path}.egressProxy.port"), "is required", "add port: {number: …}");
    }
    traffic::destination(&format!("{path}.egressProxy"), proxy, errors);
}
