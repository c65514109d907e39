//! The names in a certificate.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// The subject alternative names of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    dns: Vec<String>,
    uris: Vec<String>,
    ips: Vec<IpAddr>,
}

impl Names {
    /// Of a certificate; none if it cannot be read.
    pub(super) fn of(der: &[u8]) -> Self {
        let mut names = Self::default();
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return names };
        let Ok(Some(extension)) = certificate.subject_alternative_name() else { return names };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.dns.push(name.to_ascii_lowercase()),
                GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => names.ips.extend(ip(bytes)),
                _ => {}
            }
        }
        names
    }

    /// Whether one of them is `wanted`: URIs and addresses exactly, DNS names also by the certificate's wildcard for
    /// one label.
    pub(super) fn has(&self, wanted: &str) -> bool {
        if let Ok(ip) = wanted.parse::<IpAddr>() {
            return self.ips.contains(&ip);
        }
        let host = wanted.to_ascii_lowercase();
        self.uris.iter().any(|uri| uri == wanted) || self.dns.iter().any(|name| covers(name, &host))
    }

    /// Whether one of them is one of `wanted`.
    pub(super) fn has_any(&self, wanted: &[String]) -> bool {
        wanted.iter().any(|wanted| self.has(wanted))
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
        None => name == host,
    }
}

/// Whether a certificate is one of the pinned ones, by its own SHA-256 (hexadecimal) or that of its key (base64).
pub(super) fn is_pinned(der: &[u8], certificates: &[String], keys: &[String]) -> bool {
    if certificates.contains(&hex(digest(&SHA256, der).as_ref())) {
        return true;
    }
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    keys.contains(&STANDARD.encode(digest(&SHA256, certificate.public_key().raw)))
}

/// The `x-forwarded-client-cert` element of a client's certificate, with what Istio's gateways put in it: hash,
/// certificate, subject, and the URI and DNS names.
pub fn client_cert_header(der: &[u8]) -> String {
    let mut elements = vec![format!("Hash={}", hex(digest(&SHA256, der).as_ref()))];
    elements.push(format!("Cert=\"{}\"", escaped_pem(der)));
    if let Ok((_, certificate)) = X509Certificate::from_der(der) {
        elements.push(format!("Subject=\"{}\"", subject(certificate.subject()).replace('"', "\\\"")));
    }
    let names = Names::of(der);
    elements.extend(names.uris.iter().map(|uri| format!("URI={}", quoted(uri))));
    elements.extend(names.dns.iter().map(|name| format!("DNS={}", quoted(name))));
    elements.join(";")
}

/// A value that contains a separator is quoted.
fn quoted(value: &str) -> String {
    if value.contains([',', ';', '=', '"']) { format!("\"{}\"", value.replace('"', "\\\"")) } else { value.to_owned() }
}

/// RFC 2253: the most specific part first.
fn subject(name: &X509Name<'_>) -> String {
    let parts = name.iter_attributes().map(|part| {
        let kind = oid2abbrev(part.attr_type(), oid_registry()).unwrap_or("OID");
        format!("{kind}={}", part.as_str().unwrap_or_default())
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn escaped_pem(der: &[u8]) -> String {
    let pem = identity::files::certs_to_pem([&der]);
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    pem.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
