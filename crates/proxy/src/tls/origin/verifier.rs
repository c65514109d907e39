//! Whether a server is the one that was wanted.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use crate::tls::names::Names;
use crate::tls::trust::Trust;
use crate::tls::unusual;

/// Checks the chain by roots and revocation lists, then the name: the server's, or one of a list.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    /// `None`: any certificate will do.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that are believed themselves: users name as root what a server shows.
    pinned: Vec<CertificateDer<'static>>,
    /// Empty: the server's name.
    names: Vec<String>,
}

impl ServerVerifier {
    /// Believes anybody.
    pub(super) fn believing() -> Self {
        Self { chain: None, pinned: Vec::new(), names: Vec::new() }
    }

    /// Believes servers of these roots; with a revocation list, only those that it speaks about.
    pub(super) fn new(trust: Trust, names: Vec<String>) -> Result<Self, String> {
        let mut builder = WebPkiServerVerifier::builder_with_provider(trust.roots, identity::provider());
        if !trust.revoked.is_empty() {
            builder =
                builder.with_crls(trust.revoked).only_check_end_entity_revocation().enforce_revocation_expiration();
        }
        let chain = builder.build().map_err(|error| format!("its roots are not usable: {error}"))?;
        Ok(Self { chain: Some(chain), pinned: trust.certificates, names })
    }

    fn judge_names(&self, certificate: &CertificateDer<'_>, server: &ServerName<'_>) -> Result<(), Error> {
        let names = Names::of(certificate);
        let found = match self.names.is_empty() {
            true => names.has(&server.to_str()),
            false => names.has_any(&self.names),
        };
        if found { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if unusual::is_among(end_entity, &self.pinned, now)? {
            self.judge_names(end_entity, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let verified = chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Ok(verified) if self.names.is_empty() => Ok(verified),
            // The name is the last thing that is looked at: the chain is good.
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names.is_empty() => {
                self.judge_names(end_entity, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &identity::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &identity::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        identity::provider().signature_verification_algorithms.supported_schemes()
    }
}
