//! Keys and roots as rustls takes them.

use std::sync::{Arc, LazyLock};

use mesh::Secret;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::material::MaterialError;

/// The machine's roots. They are the operating system's and not a list built in: whoever runs the machine says whom it
/// trusts (also with `SSL_CERT_FILE` and `SSL_CERT_DIR`), and distrusts without a new build. Istio's proxies do the same.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's roots cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(taken, "the system's roots were read");
    Arc::new(roots)
});

/// Whom to believe, and which of their certificates not.
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    /// The same as certificates; none for the system's.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Trust {
    /// The roots of the material, or the system's when it has none.
    pub(super) fn or_system(material: &Secret) -> Result<Self, MaterialError> {
        if material.ca.is_empty() {
            let revoked = revocations(material)?;
            return Ok(Self { roots: SYSTEM.clone(), certificates: Vec::new(), revoked });
        }
        Self::own(material)
    }

    /// The roots of the material.
    pub(super) fn own(material: &Secret) -> Result<Self, MaterialError> {
        let certificates = certificates(&material.ca)
            .ok_or_else(|| MaterialError::new(&material.name, "it has no roots in PEM (ca.crt)"))?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|error| MaterialError::new(&material.name, format!("a root is not usable: {error}")))?;
        }
        Ok(Self { roots: Arc::new(roots), certificates, revoked: revocations(material)? })
    }
}

fn revocations(material: &Secret) -> Result<Vec<CertificateRevocationListDer<'static>>, MaterialError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(&material.crl).collect::<Result<Vec<_>, _>>();
    match lists {
        Ok(lists) if material.crl.is_empty() || !lists.is_empty() => Ok(lists),
        _ => Err(MaterialError::new(&material.name, "its revocation list is not PEM (ca.crl)")),
    }
}

/// At least one certificate, or none at all if the text is wrong anywhere.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    Some(certificates).filter(|certificates| !certificates.is_empty())
}

/// A chain and its key. rustls' own check that they belong together refuses X.509 version 1, which `openssl x509 -req`
/// makes of a request without extensions; a server may show such a certificate.
pub(super) fn certified(material: &Secret) -> Result<CertifiedKey, MaterialError> {
    let wrong = |why: String| MaterialError::new(&material.name, why);
    let chain = certificates(&material.certificate)
        .ok_or_else(|| wrong("it has no certificate chain in PEM (tls.crt)".to_owned()))?;
    let key = PrivateKeyDer::from_pem_slice(&material.private_key)
        .map_err(|_| wrong("it has no private key in PEM (tls.key)".to_owned()))?;
    let key = identity::provider().key_provider.load_private_key(key);
    let key = key.map_err(|error| wrong(format!("its private key is not usable: {error}")))?;
    let leaf = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let (_, leaf) = leaf.ok_or_else(|| wrong("its certificate is not X.509".to_owned()))?;
    if key.public_key().is_none_or(|public| public.as_ref() != leaf.public_key().raw) {
        return Err(wrong("its private key does not belong to its certificate".to_owned()));
    }
    Ok(CertifiedKey::new(chain.clone(), key))
}
