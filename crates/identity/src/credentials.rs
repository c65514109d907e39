//! The credentials of a process: what it proves itself with and whom it believes, both live.

use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::bundle::TrustBundles;
use crate::crypto::provider;
use crate::policy::PeerPolicy;
use crate::resolver::LiveCertificate;
use crate::svid::Svid;
use crate::verifier::LiveVerifier;

/// Two watches: the own SVID (absent until the first one is issued) and the trust bundles. Every configuration made from
/// them reads both at each handshake, so neither a rotation nor a new bundle needs a new configuration.
#[derive(Debug, Clone)]
pub struct Credentials {
    svid: watch::Receiver<Option<Arc<Svid>>>,
    bundles: watch::Receiver<Arc<TrustBundles>>,
}

/// The TLS library refuses a configuration; no input leads here, only a wrong build of the library.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// rustls refuses.
    #[error("the TLS library refuses the configuration")]
    Tls(#[from] rustls::Error),
    /// The provider lacks the cipher suite that QUIC begins with.
    #[error("the cryptography provider cannot do QUIC")]
    Quic(#[from] NoInitialCipherSuite),
}

impl Credentials {
    /// Follows two watches. When a sender is dropped, its last value stays.
    pub fn new(svid: watch::Receiver<Option<Arc<Svid>>>, bundles: watch::Receiver<Arc<TrustBundles>>) -> Self {
        Self { svid, bundles }
    }

    /// Credentials that never change: for operators and tests.
    pub fn fixed(svid: Svid, bundles: TrustBundles) -> Self {
        Self::new(watch::channel(Some(Arc::new(svid))).1, watch::channel(Arc::new(bundles)).1)
    }

    /// Bundles without an own identity: for whoever has yet to be issued one.
    pub fn anonymous(bundles: TrustBundles) -> Self {
        Self::new(watch::channel(None).1, watch::channel(Arc::new(bundles)).1)
    }

    /// The current SVID.
    pub fn svid(&self) -> Option<Arc<Svid>> {
        self.svid.borrow().clone()
    }

    /// The current bundles.
    pub fn bundles(&self) -> Arc<TrustBundles> {
        Arc::clone(&self.bundles.borrow())
    }

    /// The watch behind [`Credentials::svid`].
    pub fn watch_svid(&self) -> watch::Receiver<Option<Arc<Svid>>> {
        self.svid.clone()
    }

    /// The watch behind [`Credentials::bundles`].
    pub fn watch_bundles(&self) -> watch::Receiver<Arc<TrustBundles>> {
        self.bundles.clone()
    }

    /// Waits until there is an SVID; for ever, if nobody can publish one any more.
    pub async fn ready(&self) {
        let mut svid = self.svid.clone();
        if svid.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// For a listener that demands a client certificate: TLS 1.3 only, no tickets, no early data.
    pub fn server_config(&self, peers: PeerPolicy, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsConfigError> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let verifier = LiveVerifier { bundles: self.bundles.clone(), peers };
        let certificate = LiveCertificate { svid: self.svid.clone(), with_roots: None };
        let config = builder.with_client_cert_verifier(Arc::new(verifier)).with_cert_resolver(Arc::new(certificate));
        Ok(Arc::new(harden_server(config, alpn)))
    }

    /// For a listener that anybody may dial (joining, first certificates): only the server proves itself. The roots of
    /// its trust domain are sent along, so that [`crate::pinned_client_config`] can check them by their hash.
    pub fn server_config_open(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsConfigError> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let certificate = LiveCertificate { svid: self.svid.clone(), with_roots: Some(self.bundles.clone()) };
        let config = builder.with_no_client_auth().with_cert_resolver(Arc::new(certificate));
        Ok(Arc::new(harden_server(config, alpn)))
    }

    /// For dialling a peer that `peers` admits, proving the own identity: TLS 1.3 only, no resumption, no early data, no
    /// server name. Cheap enough to be made for every connection.
    pub fn client_config(&self, peers: PeerPolicy, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let verifier = LiveVerifier { bundles: self.bundles.clone(), peers };
        let certificate = LiveCertificate { svid: self.svid.clone(), with_roots: None };
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        Ok(Arc::new(harden_client(builder.with_client_cert_resolver(Arc::new(certificate)), alpn)))
    }

    /// As [`Credentials::client_config`], but without showing an own certificate.
    pub fn client_config_open(&self, peers: PeerPolicy, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let verifier = LiveVerifier { bundles: self.bundles.clone(), peers };
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        Ok(Arc::new(harden_client(builder.with_no_client_auth(), alpn)))
    }

    /// [`Credentials::server_config`] for QUIC; `quinn::ServerConfig::with_crypto` takes it.
    pub fn quic_server_config(
        &self,
        peers: PeerPolicy,
        alpn: &[&[u8]],
    ) -> Result<Arc<QuicServerConfig>, TlsConfigError> {
        Ok(Arc::new(QuicServerConfig::try_from(self.server_config(peers, alpn)?)?))
    }

    /// [`Credentials::client_config`] for QUIC; `quinn::ClientConfig::new` takes it.
    pub fn quic_client_config(
        &self,
        peers: PeerPolicy,
        alpn: &[&[u8]],
    ) -> Result<Arc<QuicClientConfig>, TlsConfigError> {
        Ok(Arc::new(QuicClientConfig::try_from(self.client_config(peers, alpn)?)?))
    }
}

/// A resumed session would not ask the verifier again, and early data can be replayed: both are off.
fn harden_server(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// As [`harden_server`]; and whom we look for is nobody's business on the way.
pub(crate) fn harden_client(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}
