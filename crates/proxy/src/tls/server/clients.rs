//! Clients that prove themselves by a certificate of somebody else's authority.

use std::sync::Arc;

use mesh::{Secret, ServerTls, ServerTlsMode};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::tls::material::MaterialError;
use crate::tls::names::{Names, is_pinned};
use crate::tls::trust::Trust;
use crate::tls::unusual;

/// Checks the chain, then the names and the pins.
#[derive(Debug)]
struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    /// The roots: users name as root what a client shows, and certificates of version 1 are judged by them directly.
    roots: Vec<CertificateDer<'static>>,
    /// There are revocation lists, which only `chain` reads.
    revocation: bool,
    names: Vec<String>,
    certificates: Vec<String>,
    keys: Vec<String>,
}

/// The verifier of a server. Roots are the last material's: those of clients come after the certificates.
pub(super) fn verifier(
    tls: &ServerTls,
    material: &[Arc<Secret>],
) -> Result<Arc<dyn ClientCertVerifier>, MaterialError> {
    let source = match &tls.client_ca {
        Some(_) => material.last(),
        None => material.iter().find(|secret| !secret.ca.is_empty()).or(material.first()),
    };
    let missing = || MaterialError::new("the TLS settings", "no roots for client certificates are named");
    let source = source.ok_or_else(missing)?;
    let trust = Trust::own(source)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(trust.roots, identity::provider());
    let revocation = !trust.revoked.is_empty();
    if revocation {
        builder = builder.with_crls(trust.revoked).only_check_end_entity_revocation().enforce_revocation_expiration();
    }
    if tls.mode == ServerTlsMode::OptionalMutual {
        builder = builder.allow_unauthenticated();
    }
    let chain = builder.build();
    let chain =
        chain.map_err(|error| MaterialError::new(&source.name, format!("its roots are not usable: {error}")))?;
    Ok(Arc::new(ClientVerifier {
        chain,
        roots: trust.certificates,
        revocation,
        names: tls.subject_alt_names.clone(),
        certificates: tls.certificate_hashes.clone(),
        keys: tls.spki_hashes.clone(),
    }))
}

impl ClientVerifier {
    /// Whether the certificate is of one of the authorities.
    fn judge_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let is_first = unusual::is_first_version(end_entity);
        if is_first && self.revocation {
            return Err(CertificateError::UnknownRevocationStatus.into());
        }
        if unusual::is_among(end_entity, &self.roots, now)? {
            return Ok(ClientCertVerified::assertion());
        }
        if is_first {
            return unusual::judge_leaf(end_entity, &self.roots, now).map(|()| ClientCertVerified::assertion());
        }
        self.chain.verify_client_cert(end_entity, intermediates, now)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.judge_chain(end_entity, intermediates, now)?;
        let unpinned = self.certificates.is_empty() && self.keys.is_empty();
        if !unpinned && !is_pinned(end_entity, &self.certificates, &self.keys) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        if !self.names.is_empty() && !Names::of(end_entity).has_any(&self.names) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if unusual::is_first_version(certificate) {
            return unusual::verify_handshake(message, certificate, signed);
        }
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
