//! SVIDs: a private key, the certificate that names its holder, and the request that led to it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use mesh::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::chain::PeerError;
use crate::leaf::{self, Leaf};
use crate::{crypto, files};

/// A proof of identity that this process can use: certificate chain and private key. Its `Debug` shows no key.
#[derive(Clone)]
pub struct Svid {
    leaf: Leaf,
    chain: Vec<CertificateDer<'static>>,
    certified: Arc<CertifiedKey>,
    key: Arc<PrivatePkcs8KeyDer<'static>>,
}

/// Why a key and a chain are not an SVID.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// No key could be made, or no request for it.
    #[error("cannot make a private key and its signing request")]
    KeyGeneration(#[source] rcgen::Error),
    /// The chain's first certificate is not that of a workload.
    #[error("the issued certificate is not a workload's")]
    Certificate(#[source] PeerError),
    /// The certificate was issued for another key.
    #[error("the certificate does not belong to the private key")]
    KeyMismatch(#[source] rustls::Error),
    /// The PEM text is of no use.
    #[error("cannot read the SVID")]
    Pem(#[source] files::PemError),
    /// The key is not in the PKCS #8 format.
    #[error("the private key is not in the PKCS #8 format")]
    KeyFormat,
}

impl Svid {
    /// Joins a chain (own certificate first) and a private key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivatePkcs8KeyDer<'static>) -> Result<Self, SvidError> {
        let own = chain.first().ok_or(SvidError::Certificate(PeerError::NoCertificate))?;
        let leaf = leaf::parse_leaf(own).map_err(SvidError::Certificate)?;
        let private = PrivateKeyDer::Pkcs8(key.clone_key());
        let certified = CertifiedKey::from_der(chain.clone(), private, &crypto::provider());
        let certified = Arc::new(certified.map_err(SvidError::KeyMismatch)?);
        Ok(Self { leaf, chain, certified, key: Arc::new(key) })
    }

    /// Reads what [`Svid::chain_pem`] and [`Svid::private_key_pem`] wrote.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, SvidError> {
        let chain = files::certs_from_pem(chain).map_err(SvidError::Pem)?;
        match files::key_from_pem(key).map_err(SvidError::Pem)? {
            PrivateKeyDer::Pkcs8(key) => Self::new(chain, key),
            _ => Err(SvidError::KeyFormat),
        }
    }

    /// Who this proves to be.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// The certificates, own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The key as rustls uses it.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// When the certificate begins to be valid.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// The chain as PEM text.
    pub fn chain_pem(&self) -> String {
        files::certs_to_pem(&self.chain)
    }

    /// **The private key** as PEM text, for a file written by [`files::write_private`] and for nothing else.
    pub fn private_key_pem(&self) -> String {
        files::key_to_pem(self.key.secret_pkcs8_der())
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Svid");
        out.field("id", &self.leaf.id).field("not_after", &self.leaf.not_after);
        out.finish_non_exhaustive()
    }
}

/// A fresh ECDSA P-256 key and the request to certify it; the key never leaves the process.
pub struct KeyRequest {
    key: KeyPair,
    csr: Vec<u8>,
}

impl KeyRequest {
    /// Makes a key. The request names nobody: the issuer decides who its sender is.
    pub fn generate() -> Result<Self, SvidError> {
        let key = KeyPair::generate().map_err(SvidError::KeyGeneration)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(SvidError::KeyGeneration)?;
        Ok(Self { key, csr: csr.der().to_vec() })
    }

    /// The certificate signing request, PKCS #10 DER.
    pub fn csr_der(&self) -> &[u8] {
        &self.csr
    }

    /// Joins the key with the chain (DER, own certificate first) that was issued for it.
    pub fn complete(self, chain: Vec<Vec<u8>>) -> Result<Svid, SvidError> {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Svid::new(chain, PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest").field("csr_bytes", &self.csr.len()).finish_non_exhaustive()
    }
}
