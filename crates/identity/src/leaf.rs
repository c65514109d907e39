//! What a single certificate says about itself, before anybody asks who signed it.

use std::time::{Duration, SystemTime};

use mesh::SpiffeId;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::chain::PeerError;

/// The facts of an end-entity certificate that obeys the X.509-SVID rules (SPIFFE X509-SVID §4 and §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The one identity that it claims.
    pub(crate) id: SpiffeId,
    /// The first moment at which it is valid.
    pub(crate) not_before: SystemTime,
    /// The last second in which it is valid.
    pub(crate) not_after: SystemTime,
}

/// Parses an end-entity certificate strictly: exactly one URI SAN that is a workload identity, not a CA, key usage
/// present with `digitalSignature` and neither `keyCertSign` nor `cRLSign`.
pub(crate) fn parse_leaf(der: &CertificateDer<'_>) -> Result<Leaf, PeerError> {
    let certificate = parse(der)?;
    if certificate.is_ca() {
        return Err(PeerError::IsCa);
    }
    let usage = certificate.key_usage().map_err(|_| PeerError::Malformed)?.ok_or(PeerError::KeyUsage)?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(PeerError::KeyUsage);
    }
    let uris = uri_names(&certificate)?;
    let [uri] = uris.as_slice() else {
        return Err(PeerError::UriNames { found: uris.len() });
    };
    let id = uri.parse::<SpiffeId>().map_err(PeerError::Name)?;
    let (not_before, not_after) = validity(&certificate);
    Ok(Leaf { id, not_before, not_after })
}

/// Parses a certificate, refusing trailing bytes.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(der.as_ref()) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(PeerError::Malformed),
    }
}

/// The URI subject alternative names. Two SAN extensions are an error, not a choice.
pub(crate) fn uri_names<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, PeerError> {
    let san = certificate.subject_alternative_name().map_err(|_| PeerError::Malformed)?;
    let names = san.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    Ok(names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect())
}

/// The trust domain part of a `spiffe://` URI, as text; `None` for any other URI.
pub(crate) fn trust_domain_of(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("spiffe://")?;
    Some(rest.split_once('/').map_or(rest, |(trust_domain, _)| trust_domain))
}

/// `notBefore` and `notAfter`.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = certificate.validity();
    (from_unix(validity.not_before.timestamp()), from_unix(validity.not_after.timestamp()))
}

/// Times before 1970 are of no use to anybody here and become 1970.
fn from_unix(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
