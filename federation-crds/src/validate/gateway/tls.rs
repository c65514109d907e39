//! TLS settings of a server.

use crate::error::FieldErrors;
use crate::istio::gateway::{CIPHER_SUITES, ServerTlsSettings, TlsMode, TlsProtocol, is_cipher_suite};

pub(super) fn check(settings: &ServerTlsSettings, path: &str, errors: &mut FieldErrors) {
    check_versions(settings, path, errors);
    check_cipher_suites(settings, path, errors);
    if settings.insecure_skip_verify == Some(true) {
        let hint = "use OPTIONAL_MUTUAL if clients need no certificate";
        errors.add(format!("{path}.insecureSkipVerify"), "certificates of clients are always verified", hint);
    }
    match settings.mode {
        TlsMode::IstioMutual => check_no_material(settings, path, errors),
        TlsMode::Passthrough | TlsMode::AutoPassthrough => {}
        TlsMode::Simple | TlsMode::Mutual | TlsMode::OptionalMutual => check_material(settings, path, errors),
    }
    for (index, hash) in settings.verify_certificate_hash.iter().enumerate() {
        let digits = hash.bytes().filter(|b| *b != b':').collect::<Vec<u8>>();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            let message = "must be a SHA-256 in hex: 64 digits, with or without colons";
            errors.add(
                format!("{path}.verifyCertificateHash[{index}]"),
                message,
                "write what openssl x509 -noout -fingerprint -sha256 -in <file> prints behind the =",
            );
        }
    }
    for (index, hash) in settings.verify_certificate_spki.iter().enumerate() {
        let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        if hash.len() != 44 || !hash.bytes().all(base64) {
            errors.add(
                format!("{path}.verifyCertificateSpki[{index}]"),
                "must be a SHA-256 in base64: 44 characters",
                "write the SHA-256 of the public key (SubjectPublicKeyInfo in DER) in base64, with its =",
            );
        }
    }
}

fn check_versions(settings: &ServerTlsSettings, path: &str, errors: &mut FieldErrors) {
    let (min, max) = (settings.min_protocol_version, settings.max_protocol_version);
    for (field, version) in [("minProtocolVersion", min), ("maxProtocolVersion", max)] {
        if matches!(version, TlsProtocol::V10 | TlsProtocol::V11) {
            let hint = "TLS 1.0 and 1.1 must not be used (RFC 8996); write TLSV1_2";
            errors.add(format!("{path}.{field}"), "this version does not exist here", hint);
        }
    }
    if min != TlsProtocol::Auto && max != TlsProtocol::Auto && min > max {
        errors.add(
            format!("{path}.minProtocolVersion"),
            "must not be newer than maxProtocolVersion",
            "raise maxProtocolVersion, or leave it out",
        );
    }
}

/// As in Istio suites that do not exist are left out, but something must be left.
fn check_cipher_suites(settings: &ServerTlsSettings, path: &str, errors: &mut FieldErrors) {
    let suites = &settings.cipher_suites;
    if !suites.is_empty() && !suites.iter().any(|suite| is_cipher_suite(suite)) {
        let known = CIPHER_SUITES.map(|(openssl, _)| openssl).join(", ");
        errors.add(format!("{path}.cipherSuites"), "none of these exists here", format!("possible are {known}"));
    }
}

/// Certificates of the mesh's own mTLS come from the mesh.
fn check_no_material(settings: &ServerTlsSettings, path: &str, errors: &mut FieldErrors) {
    let fields = [
        ("serverCertificate", settings.server_certificate.is_some()),
        ("privateKey", settings.private_key.is_some()),
        ("caCertificates", settings.ca_certificates.is_some()),
        ("caCrl", settings.ca_crl.is_some()),
        ("tlsCertificates", !settings.tls_certificates.is_empty()),
        ("credentialName", settings.credential_name.is_some()),
        ("credentialNames", !settings.credential_names.is_empty()),
        ("caCertCredentialName", settings.ca_cert_credential_name.is_some()),
    ];
    for (field, _) in fields.iter().filter(|(_, set)| *set) {
        errors.add(
            format!("{path}.{field}"),
            "must be absent when the mode is ISTIO_MUTUAL",
            "remove it: the certificate is that of the workload; for one of your own write mode: MUTUAL",
        );
    }
}

fn check_material(settings: &ServerTlsSettings, path: &str, errors: &mut FieldErrors) {
    let files = settings.server_certificate.is_some() || settings.private_key.is_some();
    let named = settings.credential_name.as_deref().is_some_and(|name| !name.is_empty());
    let sources = [files, named, !settings.credential_names.is_empty(), !settings.tls_certificates.is_empty()];
    if sources.iter().filter(|set| **set).count() > 1 {
        let message = "only one of credentialName, credentialNames, serverCertificate with privateKey, and tlsCertificates can be set";
        errors.add(path, message, "keep one of them, such as credentialName");
    }
    let secrets = named || !settings.credential_names.is_empty();
    check_credentials(settings, path, errors);
    if settings.ca_crl.is_some() && (secrets || settings.mode == TlsMode::Simple) {
        let hint = "a revocation list is of clients' certificates; with credentialName it is ca.crl of the Secret";
        errors.add(format!("{path}.caCrl"), "is not possible here", hint);
    }
    if secrets {
        return;
    }
    let asks = matches!(settings.mode, TlsMode::Mutual | TlsMode::OptionalMutual);
    let roots = settings.ca_certificates.is_some() || settings.ca_cert_credential_name.is_some();
    if asks && !roots {
        errors.add(
            format!("{path}.caCertificates"),
            "is required to verify clients' certificates",
            "name a file of the clients' authorities, or a Secret in caCertCredentialName",
        );
    }
    if settings.tls_certificates.is_empty() {
        let hint = "or name a Secret in credentialName";
        for (field, value) in
            [("serverCertificate", &settings.server_certificate), ("privateKey", &settings.private_key)]
        {
            if value.as_deref().unwrap_or_default().is_empty() {
                errors.add(format!("{path}.{field}"), "is required", hint);
            }
        }
    }
    for (index, pair) in settings.tls_certificates.iter().enumerate() {
        let path = format!("{path}.tlsCertificates[{index}]");
        for (field, value) in [("serverCertificate", &pair.server_certificate), ("privateKey", &pair.private_key)] {
            if value.as_deref().unwrap_or_default().is_empty() {
                errors.add(format!("{path}.{field}"), "is required", "name the file, or remove the entry");
            }
        }
    }
}

/// Names of Secrets of the gateway's own namespace.
fn check_credentials(settings: &ServerTlsSettings, path: &str, errors: &mut FieldErrors) {
    let single =
        [("credentialName", &settings.credential_name), ("caCertCredentialName", &settings.ca_cert_credential_name)];
    let single = single.into_iter().filter_map(|(field, name)| Some((field.to_owned(), name.as_deref()?)));
    let several = settings.credential_names.iter().enumerate();
    let several = several.map(|(index, name)| (format!("credentialNames[{index}]"), name.as_str()));
    for (field, name) in single.chain(several).filter(|(_, name)| !name.is_empty()) {
        let own = name.strip_prefix("kubernetes://").unwrap_or(name);
        if let Err(wrong) = crate::validate::rules::subdomain(own) {
            let hint = "it is the name of a Secret in the namespace of the gateway's workload";
            errors.add(format!("{path}.{field}"), wrong.message, hint);
        }
    }
}
