//! Certificates that webpki does not take as leaves, and that OpenSSL and BoringSSL do: those of X.509 version 1, which
//! `openssl x509 -req` made of a request without extensions before OpenSSL 3.2, and authorities that show themselves.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// Whether a certificate is of version 1.
pub(super) fn is_first_version(certificate: &CertificateDer<'_>) -> bool {
    read(certificate).is_ok_and(|certificate| certificate.version() == X509Version::V1)
}

/// Whether a certificate is one of these itself, and valid now.
pub(super) fn is_among(
    certificate: &CertificateDer<'_>,
    believed: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<bool, Error> {
    let found = believed.iter().any(|believed| believed.as_ref() == certificate.as_ref());
    if found {
        judge_time(&read(certificate)?, now)?;
    }
    Ok(found)
}

/// Whether one of these authorities signed a leaf itself, and both are valid now. Chains are not followed.
pub(super) fn judge_leaf(
    leaf: &CertificateDer<'_>,
    authorities: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    let leaf = read(leaf)?;
    judge_time(&leaf, now)?;
    // As webpki has them: no MD5, no SHA-1.
    let strong = [
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
    ];
    if !strong.contains(&leaf.signature_algorithm.algorithm) {
        return Err(CertificateError::BadSignature.into());
    }
    for authority in authorities {
        let authority = read(authority)?;
        if authority.subject() == leaf.issuer()
            && authority.is_ca()
            && leaf.verify_signature(Some(authority.public_key())).is_ok()
        {
            return judge_time(&authority, now);
        }
    }
    Err(CertificateError::UnknownIssuer.into())
}

/// The signature of a handshake by the key in a certificate of version 1. There is no such check for TLS 1.2.
pub(super) fn verify_handshake(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = read(certificate)?;
    let key = SubjectPublicKeyInfoDer::from(certificate.public_key().raw);
    let algorithms = &identity::provider().signature_verification_algorithms;
    verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
}

fn read<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(certificate)
}

fn judge_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}
