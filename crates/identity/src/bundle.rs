//! Trust bundles: the roots of a trust domain, and the bundles of all trust domains that this process knows.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mesh::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::chain::PeerError;
use crate::crypto::{hex, sha256};
use crate::{files, leaf};

/// The roots of one trust domain at one serial. Invariant: at least one root, each a CA certificate that names no other
/// trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    serial: u64,
    ders: Vec<CertificateDer<'static>>,
    roots: Vec<Root>,
}

/// A root as the path builder needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// Subject and public key.
    pub(crate) anchor: TrustAnchor<'static>,
    /// webpki does not look at an anchor's own validity, so it is kept here.
    pub(crate) not_before: SystemTime,
    /// The last second in which the root is valid.
    pub(crate) not_after: SystemTime,
}

/// Why some certificates are not a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No certificate at all.
    #[error("the bundle of {0} has no root certificate")]
    Empty(TrustDomain),
    /// A root cannot be parsed.
    #[error("root {index} of {trust_domain} is not a certificate")]
    Malformed {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Which root, from 0.
        index: usize,
    },
    /// A root is an end-entity certificate.
    #[error("root {index} of {trust_domain} is not a CA certificate")]
    NotCa {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Which root, from 0.
        index: usize,
    },
    /// A root says that it belongs to another trust domain.
    #[error("root {index} of {trust_domain} names the trust domain {names:?}")]
    Foreign {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Which root, from 0.
        index: usize,
        /// What its URI SAN says.
        names: String,
    },
}

impl TrustBundle {
    /// Checks and keeps the roots (DER) of `trust_domain`. The serial grows with every change of the bundle.
    pub fn new(
        trust_domain: TrustDomain,
        serial: u64,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        if roots.is_empty() {
            return Err(BundleError::Empty(trust_domain));
        }
        let parsed = roots.iter().enumerate().map(|(index, der)| parse_root(&trust_domain, index, der));
        let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { trust_domain, serial, ders: roots, roots: parsed })
    }

    /// As [`TrustBundle::new`], from the certificates in a PEM text.
    pub fn from_pem(trust_domain: TrustDomain, serial: u64, pem: &str) -> Result<Self, BundleError> {
        let roots = files::certs_from_pem(pem)
            .map_err(|_| BundleError::Malformed { trust_domain: trust_domain.clone(), index: 0 })?;
        Self::new(trust_domain, serial, roots)
    }

    /// The roots as PEM text.
    pub fn to_pem(&self) -> String {
        files::certs_to_pem(&self.ders)
    }

    /// Whose roots these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Which version of the bundle this is.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The root certificates, at least one.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.ders
    }

    /// The roots that are valid at a moment.
    pub(crate) fn anchors_at(&self, now: SystemTime) -> Vec<&Root> {
        self.roots.iter().filter(|root| root.not_before <= now && now <= root.not_after).collect()
    }
}

fn parse_root(trust_domain: &TrustDomain, index: usize, der: &CertificateDer<'_>) -> Result<Root, BundleError> {
    let malformed = |_: PeerError| BundleError::Malformed { trust_domain: trust_domain.clone(), index };
    let certificate = leaf::parse(der).map_err(malformed)?;
    if !certificate.is_ca() {
        return Err(BundleError::NotCa { trust_domain: trust_domain.clone(), index });
    }
    let uris = leaf::uri_names(&certificate).map_err(malformed)?;
    if let Some(foreign) = uris.iter().find(|uri| leaf::trust_domain_of(uri) != Some(trust_domain.as_str())) {
        let names = (*foreign).to_owned();
        return Err(BundleError::Foreign { trust_domain: trust_domain.clone(), index, names });
    }
    let anchor = webpki::anchor_from_trusted_cert(der)
        .map_err(|_| BundleError::Malformed { trust_domain: trust_domain.clone(), index })?
        .to_owned();
    let (not_before, not_after) = leaf::validity(&certificate);
    Ok(Root { anchor, not_before, not_after })
}

/// The bundles of all known trust domains. A peer is only ever checked against the one that it claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundles(BTreeMap<TrustDomain, TrustBundle>);

impl TrustBundles {
    /// No trust domain is known, so nobody is trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bundle of a trust domain, if it is known.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&TrustBundle> {
        self.0.get(trust_domain)
    }

    /// Sets the bundle of its trust domain and gives back the one before it. Serials are not compared here: whoever
    /// imports bundles does that, against a serial that outlives the process.
    pub fn insert(&mut self, bundle: TrustBundle) -> Option<TrustBundle> {
        self.0.insert(bundle.trust_domain.clone(), bundle)
    }

    /// Forgets a trust domain.
    pub fn remove(&mut self, trust_domain: &TrustDomain) -> Option<TrustBundle> {
        self.0.remove(trust_domain)
    }

    /// All bundles, ordered by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.0.values()
    }

    /// How many trust domains are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no trust domain is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<TrustBundle> for TrustBundles {
    fn from_iter<I: IntoIterator<Item = TrustBundle>>(bundles: I) -> Self {
        let mut all = Self::new();
        for bundle in bundles {
            all.insert(bundle);
        }
        all
    }
}

impl From<TrustBundle> for TrustBundles {
    fn from(bundle: TrustBundle) -> Self {
        [bundle].into_iter().collect()
    }
}

/// `sha256:<hex>` of a root certificate's DER: the fingerprint that operators compare.
pub fn root_hash(der: &[u8]) -> String {
    format!("sha256:{}", hex(&sha256(der)))
}
