//! The one cryptography provider, and the few primitives that are used directly.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::{digest, rand};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// The cryptography provider that every configuration of this crate uses: aws-lc-rs with its default, post-quantum
/// preferring, key exchanges.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Makes [`provider`] the default of the process, for libraries that take no provider as an argument. Calling it again,
/// or after somebody else installed one, changes nothing.
pub fn install_crypto() {
    // An error only says that a provider is there already, which is what was asked for.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The signature algorithms accepted in certificates and handshakes.
pub(crate) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &PROVIDER.signature_verification_algorithms
}

/// What every verifier does alike: handshakes are signed with the algorithms of the provider.
macro_rules! verify_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, certificate, signed, $crate::crypto::algorithms())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, certificate, signed, $crate::crypto::algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            $crate::crypto::algorithms().supported_schemes()
        }
    };
}
pub(crate) use verify_signatures;

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Fills an array from the system's random number generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut out = [0; N];
    rand::fill(&mut out).map_err(|_| RandomError)?;
    Ok(out)
}

/// The system gave no random bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system's random number generator failed")]
pub struct RandomError;

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}
