//! How TLS ends at a server, and which material it needs.

use federation_crds::istio::gateway::{ServerTlsSettings, TlsMode, TlsProtocol, is_cipher_suite};
use mesh::{ServerTls, ServerTlsMode, TlsMaterial, TlsVersion};

use super::secrets::{self, Need};
use super::{Context, Own};
use crate::analyze::codes;
use crate::compile::Compiled;
use crate::object;

/// What Istio appends to a credential's name to find the roots for client certificates.
const CA_SUFFIX: &str = "-cacert";

/// Compiles the settings of one server. A Secret that is missing is found; the server then refuses handshakes.
pub(super) fn compile(
    context: &Context<'_>,
    own: &Own<'_>,
    path: &str,
    settings: &ServerTlsSettings,
    compiled: &mut Compiled,
) -> ServerTls {
    let mode = mode(settings.mode);
    let ends_here = matches!(mode, ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    let mut material = Material { context, own, path, compiled };
    let certificates = if ends_here { material.certificates(settings) } else { Vec::new() };
    let asks = matches!(mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    let client_ca = if asks { material.client_ca(settings) } else { None };
    ServerTls {
        mode,
        certificates,
        client_ca,
        subject_alt_names: settings.subject_alt_names.clone(),
        certificate_hashes: settings.verify_certificate_hash.iter().map(|hash| plain_hash(hash)).collect(),
        spki_hashes: settings.verify_certificate_spki.clone(),
        min_version: version(settings.min_protocol_version),
        max_version: version(settings.max_protocol_version),
        cipher_suites: cipher_suites(own, path, settings, compiled),
    }
}

fn mode(mode: TlsMode) -> ServerTlsMode {
    match mode {
        TlsMode::Passthrough => ServerTlsMode::Passthrough,
        TlsMode::AutoPassthrough => ServerTlsMode::AutoPassthrough,
        TlsMode::Simple => ServerTlsMode::Simple,
        TlsMode::Mutual => ServerTlsMode::Mutual,
        TlsMode::OptionalMutual => ServerTlsMode::OptionalMutual,
        TlsMode::IstioMutual => ServerTlsMode::IstioMutual,
    }
}

fn version(version: TlsProtocol) -> Option<TlsVersion> {
    match version {
        TlsProtocol::V12 => Some(TlsVersion::V12),
        TlsProtocol::V13 => Some(TlsVersion::V13),
        // The validator refuses 1.0 and 1.1.
        TlsProtocol::Auto | TlsProtocol::V10 | TlsProtocol::V11 => None,
    }
}

/// Lower case and without the colons that `openssl x509 -fingerprint` writes.
fn plain_hash(hash: &str) -> String {
    hash.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase()
}

fn cipher_suites(own: &Own<'_>, path: &str, settings: &ServerTlsSettings, compiled: &mut Compiled) -> Vec<String> {
    let mut suites = Vec::new();
    for (index, suite) in settings.cipher_suites.iter().enumerate() {
        if is_cipher_suite(suite) {
            suites.push(suite.clone());
            continue;
        }
        let path = format!("{path}.cipherSuites[{index}]");
        let message = format!("{suite} does not exist here");
        let finding = object::finding(&own.origin, path, codes::WITHOUT_EFFECT, message);
        compiled.findings.push(finding.hint("only suites with ECDHE and an AEAD cipher exist"));
    }
    suites
}

/// Finds Secrets and files of one server.
struct Material<'a, 'b> {
    context: &'a Context<'a>,
    own: &'a Own<'a>,
    path: &'a str,
    compiled: &'b mut Compiled,
}

impl Material<'_, '_> {
    fn certificates(&mut self, settings: &ServerTlsSettings) -> Vec<TlsMaterial> {
        if let Some(name) = credential(settings) {
            return vec![self.secret(name, "credentialName", Need::Pair)];
        }
        let named = settings.credential_names.iter().enumerate();
        let named: Vec<_> = named.map(|(index, name)| (format!("credentialNames[{index}]"), name)).collect();
        if !named.is_empty() {
            return named.into_iter().map(|(field, name)| self.secret(name, &field, Need::Pair)).collect();
        }
        if !settings.tls_certificates.is_empty() {
            let files = settings.tls_certificates.iter().map(|pair| TlsMaterial::Files {
                certificate: pair.server_certificate.clone(),
                private_key: pair.private_key.clone(),
                ca: pair.ca_certificates.clone(),
                crl: None,
            });
            return files.collect();
        }
        vec![TlsMaterial::Files {
            certificate: settings.server_certificate.clone(),
            private_key: settings.private_key.clone(),
            ca: settings.ca_certificates.clone(),
            crl: settings.ca_crl.clone(),
        }]
    }

    /// Roots that are not part of the certificate's own material.
    fn client_ca(&mut self, settings: &ServerTlsSettings) -> Option<TlsMaterial> {
        if let Some(name) = &settings.ca_cert_credential_name {
            return Some(self.secret(name, "caCertCredentialName", Need::Roots));
        }
        let first = credential(settings).or(settings.credential_names.first().map(String::as_str));
        let Some(name) = first else {
            let files = settings.ca_certificates.clone().filter(|_| !settings.tls_certificates.is_empty())?;
            let ca = Some(files);
            return Some(TlsMaterial::Files { certificate: None, private_key: None, ca, crl: settings.ca_crl.clone() });
        };
        let separate = format!("{name}{CA_SUFFIX}");
        if secrets::exists(self.context.input, &self.key(&separate)) {
            return Some(self.secret(&separate, "credentialName", Need::Roots));
        }
        let field = if settings.credential_names.is_empty() { "credentialName" } else { "credentialNames[0]" };
        self.secret(name, field, Need::Roots);
        None
    }

    fn key(&self, name: &str) -> String {
        let name = name.strip_prefix("kubernetes://").unwrap_or(name);
        format!("{}/{name}", self.context.workload.namespace)
    }

    /// A Secret of the gateway's namespace, which the gateway then gets.
    fn secret(&mut self, name: &str, field: &str, need: Need) -> TlsMaterial {
        let key = self.key(name);
        let problem = secrets::share(self.context.input, &key, &secrets::edge(self.context.key), need, self.compiled);
        if let Some((code, message)) = problem {
            let path = format!("{}.{field}", self.path);
            let hint = "until there is one, handshakes are refused";
            self.compiled.findings.push(object::finding(&self.own.origin, path, code, message).hint(hint));
        }
        TlsMaterial::Secret(key)
    }
}

fn credential(settings: &ServerTlsSettings) -> Option<&str> {
    settings.credential_name.as_deref().filter(|name| !name.is_empty())
}
