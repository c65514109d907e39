//! The certificate authority of one cluster (or of the hub): one root, its key, and what it issues and signs.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mesh::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SigningKey, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::bundle::{BundleError, TrustBundle};
use crate::crypto::{self, sha256};
use crate::files::{self, FileError};
use crate::leaf;
use crate::signed::{SIGNED_CONTEXT, SignatureError, SignedParts, signed_text};
use crate::svid::{Svid, SvidError};

/// How far before "now" a certificate begins, so that a peer whose clock is behind believes it: clocks may be 10 minutes ahead or
/// behind, the issuer's and the peer's 20 minutes apart.
/// What is ahead of its issuer by more than the rest of a certificate's life finds it expired.
pub const NOT_BEFORE_ALLOWANCE: Duration = Duration::from_secs(25 * 60);

/// What SVIDs of workloads are for.
const BOTH_ENDS: [ExtendedKeyUsagePurpose; 2] =
    [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];

/// How long a root made here lives: ten years.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3652 * 24 * 3600);

/// The CA of one trust domain. Its directory (0700) holds `ca.crt` and `ca.key` (0600). Its `Debug` shows no key.
pub struct ClusterCa {
    trust_domain: TrustDomain,
    root: CertificateDer<'static>,
    root_not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// Why a CA cannot be created or loaded.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of the CA's directory cannot be read or written.
    #[error("the CA's files are not usable")]
    File(#[from] FileError),
    /// There is a CA already.
    #[error("there is a CA in {0} already; hint: load it, or choose another directory")]
    Exists(String),
    /// `ca.crt` or `ca.key` is not what it should be.
    #[error("{file} in {directory} is not valid: {why}")]
    Invalid {
        /// Which file.
        file: &'static str,
        /// Where.
        directory: String,
        /// What is wrong.
        why: String,
    },
    /// Another trust domain's CA is in the directory.
    #[error("the CA in {directory} belongs to {found}, not to {wanted}")]
    WrongTrustDomain {
        /// Where.
        directory: String,
        /// Whose CA it is.
        found: TrustDomain,
        /// Whose was asked for.
        wanted: TrustDomain,
    },
    /// No key or root certificate could be made.
    #[error("cannot make a root")]
    Generation(#[source] rcgen::Error),
}

/// Why nothing was issued or signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request is not a PKCS #10 request with an ECDSA P-256 key.
    #[error("the certificate signing request is malformed or its key is not ECDSA P-256")]
    BadRequest,
    /// Its sender does not hold the key.
    #[error("the signature of the certificate signing request is not valid")]
    BadRequestSignature,
    /// The CA vouches for its own trust domain only.
    #[error("{id} is outside of the trust domain {trust_domain} of this CA")]
    ForeignTrustDomain {
        /// Who was to be named.
        id: SpiffeId,
        /// Whose CA this is.
        trust_domain: TrustDomain,
    },
    /// The certificate would end before it begins, or after its root.
    #[error("a certificate with this validity cannot be issued")]
    Validity,
    /// The signed bytes would be ambiguous.
    #[error("these bytes cannot be signed")]
    Ambiguous(#[source] SignatureError),
    /// The cryptography library failed.
    #[error("signing failed")]
    Signing(#[source] rcgen::Error),
    /// No key could be made or used.
    #[error("cannot make an SVID")]
    Svid(#[source] SvidError),
    /// No random bytes for a serial number.
    #[error("cannot choose a serial number")]
    Random(#[source] crypto::RandomError),
}

impl ClusterCa {
    /// Makes a root for `trust_domain` in `directory`. A CA that is there already is an error and stays as it is. A key
    /// without a certificate is what an interrupted call leaves; the root is then made with that key.
    pub fn create(directory: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        files::create_private_dir(directory)?;
        let certificate_path = directory.join("ca.crt");
        if certificate_path.exists() {
            return Err(CaError::Exists(directory.display().to_string()));
        }
        let key = Self::new_or_orphaned_key(directory)?;
        let root = root_params(trust_domain, SystemTime::now()).and_then(|params| params.self_signed(&key));
        let root = root.map_err(CaError::Generation)?;
        match files::write_private_new(&certificate_path, files::certs_to_pem([root.der()]).as_bytes()) {
            Err(error) if error.is_already_there() => Err(CaError::Exists(directory.display().to_string())),
            Err(error) => Err(error.into()),
            Ok(()) => Self::load(directory),
        }
    }

    /// Loads the CA of a directory. The root's URI SAN says whose it is.
    pub fn load(directory: &Path) -> Result<Self, CaError> {
        let invalid = |file, why: String| CaError::Invalid { file, directory: directory.display().to_string(), why };
        let pem = files::read_text(&directory.join("ca.crt"))?;
        let root = files::certs_from_pem(&pem).map_err(|error| invalid("ca.crt", error.to_string()))?;
        let root = root.into_iter().next().ok_or_else(|| invalid("ca.crt", "it is empty".to_owned()))?;
        let certificate = leaf::parse(&root).map_err(|error| invalid("ca.crt", error.to_string()))?;
        if !certificate.is_ca() {
            return Err(invalid("ca.crt", "it is not a CA certificate".to_owned()));
        }
        let uris = leaf::uri_names(&certificate).map_err(|error| invalid("ca.crt", error.to_string()))?;
        let trust_domain = match uris.as_slice() {
            [uri] => leaf::trust_domain_of(uri).and_then(|name| TrustDomain::new(name).ok()),
            _ => None,
        };
        let no_domain = || invalid("ca.crt", "it has no URI SAN spiffe://<trust domain>".to_owned());
        let trust_domain = trust_domain.ok_or_else(no_domain)?;
        let key = load_key(&directory.join("ca.key"))?.map_err(|why| invalid("ca.key", why))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(invalid("ca.key", "it is not the key of ca.crt".to_owned()));
        }
        let root_not_after = leaf::validity(&certificate).1;
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(|error| invalid("ca.crt", error.to_string()))?;
        Ok(Self { trust_domain, root_not_after, issuer, root })
    }

    /// Loads the CA of a directory, or makes it if there is none. Another trust domain's CA is an error.
    pub fn load_or_create(directory: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let ca = match Self::load(directory) {
            Err(CaError::File(error)) if error.is_not_found() && !directory.join("ca.crt").exists() => {
                Self::create(directory, trust_domain)?
            }
            other => other?,
        };
        if ca.trust_domain != *trust_domain {
            let directory = directory.display().to_string();
            return Err(CaError::WrongTrustDomain { directory, found: ca.trust_domain, wanted: trust_domain.clone() });
        }
        Ok(ca)
    }

    fn new_or_orphaned_key(directory: &Path) -> Result<KeyPair, CaError> {
        let path = directory.join("ca.key");
        if path.exists() {
            let invalid = |why| CaError::Invalid { file: "ca.key", directory: directory.display().to_string(), why };
            return load_key(&path)?.map_err(invalid);
        }
        let key = KeyPair::generate().map_err(CaError::Generation)?;
        files::write_private_new(&path, files::key_to_pem(key.serialized_der()).as_bytes())?;
        Ok(key)
    }

    /// Whose CA this is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificate, DER.
    pub fn root_der(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The bundle that consists of this root, at a serial.
    pub fn bundle(&self, serial: u64) -> Result<TrustBundle, BundleError> {
        TrustBundle::new(self.trust_domain.clone(), serial, vec![self.root.clone()])
    }

    /// Certifies the key of a request (PKCS #10 DER) as `id`. The request's signature must prove that its sender holds
    /// the key; the names and extensions that it asks for are ignored. The chain is the certificate alone; it is valid
    /// from [`NOT_BEFORE_ALLOWANCE`] before `now` for `ttl` after it, and never longer than the root.
    pub fn issue(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        self.issue_with_uses(csr_der, id, &BOTH_ENDS, ttl, now)
    }

    /// As [`ClusterCa::issue`], for the server's end of connections only: nobody takes the certificate from a client.
    pub fn issue_to_server(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        self.issue_with_uses(csr_der, id, &[ExtendedKeyUsagePurpose::ServerAuth], ttl, now)
    }

    fn issue_with_uses(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        uses: &[ExtendedKeyUsagePurpose],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        self.check_domain(id)?;
        let key = request_key(csr_der)?;
        let validity = self.window(ttl, now)?;
        Ok(vec![self.certify(&key, id, uses, validity)?])
    }

    /// Makes a key here and certifies it as `id`: for the agent itself, for hub nodes and for operators.
    pub fn issue_self(&self, id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<Svid, IssueError> {
        self.check_domain(id)?;
        let (not_before, not_after) = self.window(ttl, now)?;
        self.issue_with_validity(id, not_before, not_after)
    }

    /// As [`ClusterCa::issue_self`], with a chosen validity and for **any** identity, also one outside of the trust
    /// domain. Who holds a CA key can mint such certificates anyway; tests mint them here to see them refused.
    pub fn issue_with_validity(
        &self,
        id: &SpiffeId,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<Svid, IssueError> {
        let key = KeyPair::generate().map_err(IssueError::Signing)?;
        let certificate = self.certify(&key, id, &BOTH_ENDS, (not_before, not_after))?;
        Svid::new(vec![certificate], PrivatePkcs8KeyDer::from(key.serialize_der())).map_err(IssueError::Svid)
    }

    /// Signs a fact of this cluster. `kind` says what the payload is, so that it cannot pass for another kind.
    pub fn sign(&self, kind: &str, payload: Vec<u8>) -> Result<SignedParts, IssueError> {
        let text = signed_text(kind, &payload).map_err(IssueError::Ambiguous)?;
        let signature = self.issuer.key().sign(&text).map_err(IssueError::Signing)?;
        Ok(SignedParts { kind: kind.to_owned(), payload, signature, signer: sha256(&self.root).to_vec() })
    }

    /// Proves possession of the CA key by signing `message`, which must begin with a context of its own (such as
    /// `isthmus-join/1\0`) and can be neither a certificate nor a signed fact.
    pub fn prove(&self, message: &[u8]) -> Result<Vec<u8>, IssueError> {
        const DER_SEQUENCE: u8 = 0x30;
        if message.starts_with(SIGNED_CONTEXT) || message.first().is_none_or(|first| *first == DER_SEQUENCE) {
            return Err(IssueError::Ambiguous(SignatureError::Kind));
        }
        self.issuer.key().sign(message).map_err(IssueError::Signing)
    }

    fn check_domain(&self, id: &SpiffeId) -> Result<(), IssueError> {
        if *id.trust_domain() == self.trust_domain {
            return Ok(());
        }
        Err(IssueError::ForeignTrustDomain { id: id.clone(), trust_domain: self.trust_domain.clone() })
    }

    fn window(&self, ttl: Duration, now: SystemTime) -> Result<(SystemTime, SystemTime), IssueError> {
        let not_before = now.checked_sub(NOT_BEFORE_ALLOWANCE).ok_or(IssueError::Validity)?;
        let not_after = now.checked_add(ttl).ok_or(IssueError::Validity)?.min(self.root_not_after);
        if not_after <= now {
            return Err(IssueError::Validity);
        }
        Ok((not_before, not_after))
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        uses: &[ExtendedKeyUsagePurpose],
        (not_before, not_after): (SystemTime, SystemTime),
    ) -> Result<CertificateDer<'static>, IssueError> {
        if not_after <= not_before {
            return Err(IssueError::Validity);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(&id.to_string()).map_err(IssueError::Signing)?];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = uses.to_vec();
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.serial_number = Some(serial_number().map_err(IssueError::Random)?);
        let certificate = params.signed_by(key, &self.issuer).map_err(IssueError::Signing)?;
        Ok(certificate.der().clone())
    }
}

impl fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ClusterCa");
        out.field("trust_domain", &self.trust_domain).field("root", &crate::root_hash(&self.root));
        out.finish_non_exhaustive()
    }
}

/// The outer result says whether the file could be read, the inner one whether it holds a P-256 key.
fn load_key(path: &Path) -> Result<Result<KeyPair, String>, CaError> {
    let pem = files::read_text(path)?;
    let key = files::key_from_pem(&pem).map_err(|error| error.to_string());
    Ok(key.and_then(|der| {
        KeyPair::from_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| "it is not an ECDSA P-256 key".to_owned())
    }))
}

fn root_params(trust_domain: &TrustDomain, now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Isthmus");
    params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} root"));
    // SPIFFE X509-SVID §3: a signing certificate is itself an SVID whose id has no path.
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    // Without digitalSignature the root could not sign facts.
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = (now - NOT_BEFORE_ALLOWANCE).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.serial_number = Some(serial_number().map_err(|_| rcgen::Error::RingUnspecified)?);
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.try_into()?))
}

/// 127 random bits: unique without a counter, and positive as RFC 5280 §4.1.2.2 demands.
fn serial_number() -> Result<SerialNumber, crypto::RandomError> {
    let mut bytes = crypto::random::<16>()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Takes the public key out of a request whose signature proves possession of it.
fn request_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, IssueError> {
    let Ok(([], request)) = X509CertificationRequest::from_der(csr_der) else {
        return Err(IssueError::BadRequest);
    };
    request.verify_signature().map_err(|_| IssueError::BadRequestSignature)?;
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| IssueError::BadRequest)?;
    if *key.algorithm() != rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(IssueError::BadRequest);
    }
    Ok(key)
}

#[cfg(test)]
mod tests;
