//! The two rustls verifiers. Both read the bundles of the moment and ask [`validate_chain`], then the policy.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, OtherError};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::watch;

use crate::bundle::TrustBundles;
use crate::chain::{PeerError, PeerUsage, validate_chain};
use crate::crypto::verify_signatures;
use crate::policy::PeerPolicy;

/// Judges peers against whatever bundles are published when they arrive.
#[derive(Debug)]
pub(crate) struct LiveVerifier {
    /// The bundles, live.
    pub(crate) bundles: watch::Receiver<Arc<TrustBundles>>,
    /// Who is expected.
    pub(crate) peers: PeerPolicy,
}

impl LiveVerifier {
    fn judge(
        &self,
        own: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        usage: PeerUsage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let bundles = Arc::clone(&self.bundles.borrow());
        judge(own, rest, &bundles, &self.peers, usage, now)
    }
}

/// Validates a chain and asks the policy; an error carries the [`PeerError`].
pub(crate) fn judge(
    own: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    peers: &PeerPolicy,
    usage: PeerUsage,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let chain = std::iter::once(own).chain(rest).cloned().collect::<Vec<_>>();
    let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
    let peer = validate_chain(&chain, bundles, usage, now).map_err(refuse)?;
    if !peers.admits(&peer.id) {
        return Err(refuse(PeerError::NotExpected { id: peer.id }));
    }
    Ok(())
}

/// A refusal as rustls knows it; [`crate::TlsError`] finds the reason again.
pub(crate) fn refuse(error: PeerError) -> rustls::Error {
    tracing::debug!(%error, "refused a peer");
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

impl ServerCertVerifier for LiveVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The name is a dummy: who the server must be is said by the policy.
        self.judge(end_entity, intermediates, PeerUsage::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    verify_signatures!();
}

impl ClientCertVerifier for LiveVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A hint would tell strangers which trust domains are known.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, PeerUsage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    verify_signatures!();
}
