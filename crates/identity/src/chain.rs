//! Whether a certificate chain proves the identity that it claims: the decision behind every handshake, as a pure
//! function of chain, bundles and time.

use std::time::{Duration, SystemTime};

use mesh::{NameError, SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::bundle::{TrustBundle, TrustBundles};
use crate::crypto::{algorithms, sha256};
use crate::leaf::{self, Leaf};

/// The longest chain that is looked at. Ours have one or two certificates; a bring-your-own CA may add a few.
const MAX_CHAIN: usize = 8;

/// Who is at the other end, as its certificate says. Only a chain that [`validate_chain`] accepted, or that a handshake
/// of this crate carried, proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The workload or component.
    pub id: SpiffeId,
    /// When the peer's own certificate ends.
    pub not_after: SystemTime,
    /// SHA-256 of the peer's own certificate (DER).
    pub fingerprint: [u8; 32],
    chain: Vec<CertificateDer<'static>>,
}

impl PeerIdentity {
    /// The certificates as the peer sent them, its own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

/// In which part the peer presents its certificate; its extended key usage must allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerUsage {
    /// The peer dialled us.
    Client,
    /// We dialled the peer.
    Server,
    /// Either will do: for chains that a handshake has judged once already.
    Any,
}

/// Why a peer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It sent no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// It sent more certificates than anybody needs.
    #[error("the peer presented {0} certificates")]
    TooLong(usize),
    /// A certificate is not DER or contradicts itself.
    #[error("a certificate of the peer is malformed")]
    Malformed,
    /// The peer's own certificate is a CA's.
    #[error("the peer presented a CA certificate as its own")]
    IsCa,
    /// Key usage is missing, lacks `digitalSignature`, or allows signing certificates.
    #[error("the peer's certificate has a key usage that no workload may have")]
    KeyUsage,
    /// Not exactly one URI SAN.
    #[error("the peer's certificate has {found} URI names instead of one")]
    UriNames {
        /// How many there are.
        found: usize,
    },
    /// The URI SAN is no workload identity.
    #[error("the peer's certificate names no workload identity")]
    Name(#[source] NameError),
    /// There is no bundle for the claimed trust domain.
    #[error("{id} belongs to a trust domain that is not known here")]
    UnknownTrustDomain {
        /// The claimed identity.
        id: SpiffeId,
    },
    /// No root of the claimed trust domain vouches for the chain.
    #[error("no root of the trust domain of {id} vouches for its certificate")]
    NotVouched {
        /// The claimed identity.
        id: SpiffeId,
    },
    /// A certificate on the way to the root belongs to another trust domain.
    #[error("the certificate of {id} was issued through a CA of another trust domain")]
    ForeignIntermediate {
        /// The claimed identity.
        id: SpiffeId,
    },
    /// The certificate, or one above it, has expired.
    #[error("the certificate of {id} has expired")]
    Expired {
        /// The claimed identity.
        id: SpiffeId,
    },
    /// The certificate, or one above it, is not valid yet.
    #[error("the certificate of {id} is not valid yet")]
    NotYetValid {
        /// The claimed identity.
        id: SpiffeId,
    },
    /// The extended key usage does not allow the part in which the peer presents the certificate.
    #[error("the certificate of {id} may not be used in this part of a connection")]
    WrongUsage {
        /// The claimed identity.
        id: SpiffeId,
    },
    /// The chain is sound, but this peer is not one that is expected here.
    #[error("{id} is not a peer that is expected here")]
    NotExpected {
        /// The proven identity.
        id: SpiffeId,
    },
}

/// Reads the identity out of a chain strictly, **without** asking who signed it. Use it on chains that a handshake has
/// verified (such as those of a QUIC connection).
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, PeerError> {
    let own = chain.first().ok_or(PeerError::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(PeerError::TooLong(chain.len()));
    }
    let Leaf { id, not_after, .. } = leaf::parse_leaf(own)?;
    let fingerprint = sha256(own.as_ref());
    let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
    Ok(PeerIdentity { id, not_after, fingerprint, chain })
}

/// Decides whether `chain` proves its identity at `now`: strict parsing, then a path to a root of **the trust domain that
/// it claims** and no other, valid throughout, with the right extended key usage and no foreign CA in between.
pub fn validate_chain(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    usage: PeerUsage,
    now: SystemTime,
) -> Result<PeerIdentity, PeerError> {
    validate(chain, bundles, usage, now).map(|valid| valid.peer)
}

/// A validated peer, and until when the verdict holds if the bundles stay as they are.
pub(crate) struct Valid {
    /// The proven identity.
    pub(crate) peer: PeerIdentity,
    /// The earliest end of any certificate that the verdict rests on.
    pub(crate) until: SystemTime,
}

/// As [`validate_chain`], with the end of the verdict.
pub(crate) fn validate(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    usage: PeerUsage,
    now: SystemTime,
) -> Result<Valid, PeerError> {
    let peer = peer_identity(chain)?;
    let unknown = || PeerError::UnknownTrustDomain { id: peer.id.clone() };
    let bundle = bundles.get(peer.id.trust_domain()).ok_or_else(unknown)?;
    let usages: &[KeyUsage] = match usage {
        PeerUsage::Client => &[KeyUsage::client_auth()],
        PeerUsage::Server => &[KeyUsage::server_auth()],
        PeerUsage::Any => &[KeyUsage::client_auth(), KeyUsage::server_auth()],
    };
    let mut verdict = Err(PeerError::WrongUsage { id: peer.id.clone() });
    for usage in usages {
        verdict = check_path(&peer, bundle, *usage, now);
        if !matches!(verdict, Err(PeerError::WrongUsage { .. })) {
            break;
        }
    }
    let until = verdict?;
    Ok(Valid { peer, until })
}

/// Builds a path to a root of `bundle` and says when the first certificate on it ends.
fn check_path(
    peer: &PeerIdentity,
    bundle: &TrustBundle,
    usage: KeyUsage,
    now: SystemTime,
) -> Result<SystemTime, PeerError> {
    let id = &peer.id;
    let roots = bundle.anchors_at(now);
    let anchors = roots.iter().map(|root| root.anchor.clone()).collect::<Vec<_>>();
    let (own, intermediates) = peer.chain.split_first().ok_or(PeerError::NoCertificate)?;
    let certificate = EndEntityCert::try_from(own).map_err(|_| PeerError::Malformed)?;
    let foreign = |path: &VerifiedPath<'_>| refuse_foreign(path, id.trust_domain());
    let path = certificate
        .verify_for_usage(algorithms().all, &anchors, intermediates, unix(now), usage, None, Some(&foreign))
        .map_err(|error| explain(id, error))?;

    let mut until = peer.not_after;
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        until = until.min(leaf::validity(&leaf::parse(&der)?).1);
    }
    let anchor = path.anchor();
    let root_end = roots.iter().find(|root| root.anchor == *anchor).map(|root| root.not_after);
    Ok(root_end.map_or(until, |end| until.min(end)))
}

/// Refuses a path through a CA that names another trust domain (an intermediate's URI SAN, if it has one, must name the
/// leaf's).
fn refuse_foreign(path: &VerifiedPath<'_>, trust_domain: &TrustDomain) -> Result<(), webpki::Error> {
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let certificate = leaf::parse(&der).map_err(|_| webpki::Error::BadDer)?;
        let uris = leaf::uri_names(&certificate).map_err(|_| webpki::Error::BadDer)?;
        if uris.iter().any(|uri| leaf::trust_domain_of(uri) != Some(trust_domain.as_str())) {
            return Err(webpki::Error::NameConstraintViolation);
        }
    }
    Ok(())
}

fn explain(id: &SpiffeId, error: webpki::Error) -> PeerError {
    use webpki::Error;
    let id = id.clone();
    match error {
        Error::CertExpired { .. } => PeerError::Expired { id },
        Error::CertNotValidYet { .. } => PeerError::NotYetValid { id },
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => PeerError::WrongUsage { id },
        Error::NameConstraintViolation => PeerError::ForeignIntermediate { id },
        Error::BadDer | Error::TrailingData(_) | Error::MalformedExtensions => PeerError::Malformed,
        _ => PeerError::NotVouched { id },
    }
}

fn unix(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests;
