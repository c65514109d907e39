//! Trust on a hash: the first contact with a hub of which only the root's fingerprint is known.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::version::TLS13;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::bundle::{TrustBundle, TrustBundles, root_hash};
use crate::chain::{PeerError, PeerUsage, peer_identity};
use crate::credentials::{TlsConfigError, harden_client};
use crate::crypto::{provider, verify_signatures};
use crate::policy::PeerPolicy;
use crate::verifier::{judge, refuse};

/// For dialling a server (made by `Credentials::server_config_open`) whose root is known only by its hash,
/// `sha256:<hex>`. The server must send that root along and be vouched for by it; everything else is as strict as ever.
/// No own certificate is shown. After the handshake the root is the certificate of the peer's chain with that hash.
pub fn pinned_client_config(
    ca_hash: &str,
    peers: PeerPolicy,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let verifier = PinnedVerifier { ca_hash: ca_hash.to_owned(), peers };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(Arc::new(harden_client(builder.with_no_client_auth(), alpn)))
}

#[derive(Debug)]
struct PinnedVerifier {
    ca_hash: String,
    peers: PeerPolicy,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let claimed = peer_identity(std::slice::from_ref(end_entity)).map_err(refuse)?.id;
        let not_vouched = || refuse(PeerError::NotVouched { id: claimed.clone() });
        let root = intermediates.iter().find(|der| root_hash(der) == self.ca_hash).ok_or_else(not_vouched)?;
        let bundle = TrustBundle::new(claimed.trust_domain().clone(), 0, vec![root.clone().into_owned()]);
        let bundles = TrustBundles::from(bundle.map_err(|_| not_vouched())?);
        judge(end_entity, intermediates, &bundles, &self.peers, PeerUsage::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    verify_signatures!();
}
