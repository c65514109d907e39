//! Gateway.

mod host;
mod tls;

use std::collections::BTreeSet;

use super::metadata::check_labels;
use super::rules;
use crate::error::FieldErrors;
use crate::istio::Gateway;
use crate::istio::gateway::{Port, Server, TlsMode};

/// What a port may speak (Istio's names; case does not matter).
const PROTOCOLS: [&str; 10] = ["HTTP", "HTTP2", "HTTPS", "GRPC", "GRPC-WEB", "TLS", "TCP", "MONGO", "MYSQL", "REDIS"];

pub(super) fn check(object: &Gateway, errors: &mut FieldErrors) {
    if let Some(name) = object.metadata.name.as_deref() {
        errors.check("metadata.name", rules::label(name));
    }
    check_labels(&object.spec.selector, "spec.selector", errors);
    if object.spec.servers.is_empty() {
        errors.add(
            "spec.servers",
            "at least one server is required",
            "add servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]",
        );
    }
    let mut names = BTreeSet::new();
    for (index, server) in object.spec.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        check_server(server, &path, errors);
        if !server.port.name.is_empty() && !names.insert(server.port.name.as_str()) {
            let message = format!("the name {:?} is used twice", server.port.name);
            errors.add(format!("{path}.port.name"), message, "give each a name of its own");
        }
    }
    check_shared_ports(&object.spec.servers, errors);
}

fn check_server(server: &Server, path: &str, errors: &mut FieldErrors) {
    if server.hosts.is_empty() {
        errors.add(
            format!("{path}.hosts"),
            "at least one host is required",
            "add hosts: [\"*\"], or the names that are served",
        );
    }
    for (index, text) in server.hosts.iter().enumerate() {
        errors.check(format!("{path}.hosts[{index}]"), host::namespaced(text));
    }
    check_port(&server.port, &format!("{path}.port"), errors);
    if server.default_endpoint.as_deref().is_some_and(|endpoint| !endpoint.is_empty()) {
        let hint = "bind a VirtualService to the Gateway";
        errors.add(format!("{path}.defaultEndpoint"), "has no effect", hint);
    }
    match server.bind.as_deref() {
        Some(bind) if bind.starts_with("unix://") => {
            errors.add(
                format!("{path}.bind"),
                "a gateway does not listen on Unix sockets here",
                "write an address, or leave bind out to listen on all",
            );
        }
        Some(bind) if !bind.is_empty() => errors.check(format!("{path}.bind"), rules::ip(bind).map(|_| ())),
        _ => {}
    }
    check_tls(server, path, errors);
}

fn check_port(port: &Port, path: &str, errors: &mut FieldErrors) {
    errors.check(format!("{path}.number"), rules::port(port.number));
    let protocol = port.protocol.to_ascii_uppercase();
    if !PROTOCOLS.contains(&protocol.as_str()) {
        errors.check(format!("{path}.protocol"), rules::one_of(&port.protocol, &PROTOCOLS));
    }
    if port.name.is_empty() {
        errors.add(format!("{path}.name"), "is required", "write a name such as http or https-web");
    }
    if port.target_port.is_some_and(|target| target != 0) {
        let hint = "the Service of the gateway says where its ports lead";
        errors.add(format!("{path}.targetPort"), "has no effect on a Gateway", hint);
    }
}

/// HTTPS and TLS need settings; plain HTTP may only redirect; other protocols have none.
fn check_tls(server: &Server, path: &str, errors: &mut FieldErrors) {
    let protocol = server.port.protocol.to_ascii_uppercase();
    let encrypted = matches!(protocol.as_str(), "HTTPS" | "TLS");
    let http = matches!(protocol.as_str(), "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB");
    let path = format!("{path}.tls");
    let Some(settings) = &server.tls else {
        if encrypted {
            errors.add(
                path,
                format!("is required when the protocol is {protocol}"),
                "add tls: {mode: SIMPLE, credentialName: …}, or mode: PASSTHROUGH",
            );
        }
        return;
    };
    let passes = matches!(settings.mode, TlsMode::Passthrough | TlsMode::AutoPassthrough);
    if encrypted {
        tls::check(settings, &path, errors);
    } else if http {
        let files = settings.ca_certificates.is_some()
            || settings.private_key.is_some()
            || settings.server_certificate.is_some();
        if !passes || files || settings.credential_name.is_some() {
            let hint = "only httpsRedirect may stand here; for TLS the protocol is HTTPS";
            errors.add(path, "a port of plain HTTP has no TLS", hint);
        }
    } else {
        let hint = "for TLS the protocol is TLS";
        errors.add(path, format!("a port of {protocol} has no TLS"), hint);
    }
}

/// Servers on one number speak the same: all plain HTTP, or all TLS.
fn check_shared_ports(servers: &[Server], errors: &mut FieldErrors) {
    let class = |server: &Server| match server.port.protocol.to_ascii_uppercase().as_str() {
        "HTTPS" | "TLS" => "TLS",
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => "plain HTTP",
        _ => "TCP",
    };
    for (index, server) in servers.iter().enumerate() {
        let same = servers[..index].iter().position(|other| other.port.number == server.port.number);
        let Some(first) = same else { continue };
        if class(server) != class(&servers[first]) || class(server) == "TCP" {
            let message = format!(
                "{} on port {} cannot be shared with {} of spec.servers[{first}]",
                class(server),
                server.port.number,
                class(&servers[first])
            );
            errors.add(format!("spec.servers[{index}].port"), message, "give one of them another port");
        }
    }
}
