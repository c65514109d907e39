//! Facts that a cluster signs with its CA key, and the proof that somebody holds that key.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;

use crate::bundle::TrustBundle;
use crate::crypto::sha256;
use crate::leaf;

/// What every signed fact begins with, so that no signature over a fact can pass for a signature over anything else.
pub const SIGNED_CONTEXT: &[u8] = b"isthmus-signed/1\0";

/// A payload with its signature, field by field as the wire message `isthmus.trust.v1.Signed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedParts {
    /// What the payload is, such as `export`; no NUL.
    pub kind: String,
    /// The encoded fact.
    pub payload: Vec<u8>,
    /// ECDSA P-256 with SHA-256, ASN.1, over [`SIGNED_CONTEXT`] + kind + NUL + payload.
    pub signature: Vec<u8>,
    /// SHA-256 of the signing root certificate (DER).
    pub signer: Vec<u8>,
}

/// Why a signature proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The kind has a NUL, so that the signed text could be read in two ways.
    #[error("the kind of a signed fact has a NUL character")]
    Kind,
    /// The bundle has no root with the hash that the fact names.
    #[error("the signer is not among the roots of {0}")]
    UnknownSigner(mesh::TrustDomain),
    /// The root is no certificate or its key is not ECDSA P-256.
    #[error("the signer's certificate has no ECDSA P-256 key")]
    UnusableKey,
    /// The signature is not the signer's, or not over these bytes.
    #[error("the signature does not match")]
    Mismatch,
}

/// Checks that a root of `bundle` signed the fact.
pub fn verify_signed(parts: &SignedParts, bundle: &TrustBundle) -> Result<(), SignatureError> {
    let text = signed_text(&parts.kind, &parts.payload)?;
    let unknown = || SignatureError::UnknownSigner(bundle.trust_domain().clone());
    let root = bundle.roots().iter().find(|der| sha256(der).as_slice() == parts.signer).ok_or_else(unknown)?;
    verify_proof(root, &text, &parts.signature)
}

/// Checks that the holder of the root's key signed `message` (see `ClusterCa::prove`).
pub fn verify_proof(root_der: &[u8], message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    let der = CertificateDer::from(root_der);
    let root = leaf::parse(&der).map_err(|_| SignatureError::UnusableKey)?;
    let point = root.public_key().subject_public_key.data.as_ref();
    // An uncompressed P-256 point has 65 bytes; other curves and RSA do not.
    if point.len() != 65 || point[0] != 4 {
        return Err(SignatureError::UnusableKey);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(message, signature)
        .map_err(|_| SignatureError::Mismatch)
}

/// The bytes that a signature over a fact covers.
pub(crate) fn signed_text(kind: &str, payload: &[u8]) -> Result<Vec<u8>, SignatureError> {
    if kind.contains('\0') {
        return Err(SignatureError::Kind);
    }
    Ok([SIGNED_CONTEXT, kind.as_bytes(), b"\0", payload].concat())
}
