//! The first contact with a hub: the operator handed over the hash of its root, and the join listener presents leaf
//! and root. The root is believed because of its hash, the leaf because the root signed it; nothing else is.

use std::io;

use identity::{PeerPolicy, TlsError};
use mesh::{MeshId, NameError, TrustDomain};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::HUB_ACCOUNT;
use crate::connection::{ALPN_H2, TLS_TIMEOUT, dial};

/// The trust domain of a mesh's hub is this and the mesh id.
const HUB_PREFIX: &str = "hub.";

/// A hub whose root is the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PinnedHub {
    /// The trust domain that its node claims and its root vouches for.
    pub(crate) trust_domain: TrustDomain,
    /// The root certificate.
    pub(crate) root: CertificateDer<'static>,
}

impl PinnedHub {
    /// The mesh that it is the hub of.
    pub(crate) fn mesh_id(&self) -> Result<MeshId, NameError> {
        MeshId::new(self.trust_domain.as_str().strip_prefix(HUB_PREFIX).unwrap_or_default())
    }
}

/// A verified connection.
pub(crate) struct HubConnection {
    pub(crate) io: TlsStream<TcpStream>,
    pub(crate) hub: PinnedHub,
}

/// Why there is no verified connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContactError {
    /// Nobody answered; someone may later.
    #[error("{0}")]
    Passing(String),
    /// Somebody answered who is not the hub.
    #[error("{0}")]
    NotTheHub(String),
}

/// Connects to a join listener and makes sure that a node of the hub with this root hash is behind it.
pub(crate) async fn contact(address: &str, ca_hash: &str) -> Result<HubConnection, ContactError> {
    let peers = PeerPolicy::System { account: HUB_ACCOUNT, trust_domain: None };
    let config = identity::pinned_client_config(ca_hash, peers, ALPN_H2)
        .map_err(|error| ContactError::NotTheHub(error.to_string()))?;
    let tcp = dial(address).await.map_err(|error: io::Error| ContactError::Passing(error.to_string()))?;
    let (io, peer) = identity::connect_tls(config, tcp, TLS_TIMEOUT).await.map_err(|error| match error {
        TlsError::Peer(reason) => ContactError::NotTheHub(reason.to_string()),
        TlsError::NoProtocol => ContactError::NotTheHub("it speaks no HTTP/2".to_owned()),
        passing => ContactError::Passing(passing.to_string()),
    })?;
    let trust_domain = peer.id.trust_domain().clone();
    if !trust_domain.as_str().starts_with(HUB_PREFIX) {
        return Err(ContactError::NotTheHub(format!("it claims to be {}", peer.id)));
    }
    // The verifier found it there; the chain cannot lack it now.
    let root = peer.chain().iter().find(|der| identity::root_hash(der) == ca_hash).cloned();
    let root = root.ok_or_else(|| ContactError::NotTheHub("its chain lacks the root".to_owned()))?;
    Ok(HubConnection { io, hub: PinnedHub { trust_domain, root } })
}
