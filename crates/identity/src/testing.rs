//! Fixtures of this crate's tests: certificates are minted here, right and wrong ones.

use std::time::{Duration, SystemTime};

use mesh::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

use crate::{ClusterCa, Credentials, Svid, TrustBundle, TrustBundles};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// A CA in a directory that goes away with it.
pub(crate) struct TestCa {
    pub(crate) ca: ClusterCa,
    pub(crate) directory: TempDir,
}

impl TestCa {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = ClusterCa::create(directory.path(), &domain(trust_domain)).unwrap();
        Self { ca, directory }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        self.ca.bundle(1).unwrap()
    }

    pub(crate) fn svid(&self, name: &str) -> Svid {
        self.ca.issue_self(&id(name), HOUR, SystemTime::now()).unwrap()
    }

    /// Credentials of `name`, which trusts these bundles.
    pub(crate) fn credentials(&self, name: &str, bundles: &TrustBundles) -> Credentials {
        Credentials::fixed(self.svid(name), bundles.clone())
    }
}

pub(crate) fn bundles<'a>(cas: impl IntoIterator<Item = &'a TestCa>) -> TrustBundles {
    cas.into_iter().map(TestCa::bundle).collect()
}

/// A root made by hand, for certificates that `ClusterCa` would never issue.
pub(crate) type HandmadeCa = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn handmade_root(trust_domain: &str) -> HandmadeCa {
    CertifiedIssuer::self_signed(ca_params(trust_domain, "root", 2), KeyPair::generate().unwrap()).unwrap()
}

/// An intermediate whose URI SAN is `names`.
pub(crate) fn handmade_intermediate(names: &str, above: &HandmadeCa) -> HandmadeCa {
    CertifiedIssuer::signed_by(ca_params(names, "intermediate", 0), KeyPair::generate().unwrap(), above).unwrap()
}

fn ca_params(trust_domain: &str, what: &str, path: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} {what}"));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

pub(crate) fn handmade_bundle(trust_domain: &str, root: &HandmadeCa) -> TrustBundle {
    TrustBundle::new(domain(trust_domain), 1, vec![root.der().clone()]).unwrap()
}

/// What a proper leaf says; tests change one thing.
pub(crate) fn leaf_params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// The certificate that `issuer` makes of `params`, and its key.
pub(crate) fn mint(
    params: &CertificateParams,
    issuer: &HandmadeCa,
) -> (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    (certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}
