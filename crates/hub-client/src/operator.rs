//! The operator's credential: one private file with everything that `hubctl` needs to reach and to trust the hub.

use std::fmt;
use std::path::{Path, PathBuf};

use identity::{Credentials, Svid, TrustBundle, TrustBundles, files};
use mesh::{MeshId, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::client::HubClient;
use crate::error::HubError;

/// `operator.json`, as [`init`](crate::init) writes it (0600).
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorCredential {
    /// The mesh that the hub is of.
    pub mesh_id: MeshId,
    /// The hub's trust domain, `hub.<mesh-id>`.
    pub hub_trust_domain: TrustDomain,
    /// The hub's roots, PEM.
    pub hub_roots_pem: String,
    /// The operator's certificate, leaf first, PEM.
    pub cert_pem: String,
    /// The operator's private key, PKCS#8 PEM.
    pub key_pem: String,
    /// `host:port` of the nodes' API listeners.
    pub api_addresses: Vec<String>,
    /// `host:port` of the nodes' join listeners.
    pub join_addresses: Vec<String>,
}

/// Never prints the key.
impl fmt::Debug for OperatorCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperatorCredential")
            .field("mesh_id", &self.mesh_id)
            .field("hub_trust_domain", &self.hub_trust_domain)
            .field("api_addresses", &self.api_addresses)
            .field("join_addresses", &self.join_addresses)
            .finish_non_exhaustive()
    }
}

/// Why an operator's credential cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The file cannot be read or written.
    #[error("the operator's credential is not usable\nhint: `isthmus-hub init` writes operator.json")]
    File(#[from] files::FileError),
    /// The file is not what it should be.
    #[error("the operator's credential {} is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// Its certificate or key is not usable.
    #[error("the operator's credential holds no usable certificate and key")]
    Svid(#[from] identity::SvidError),
    /// Its roots are not usable.
    #[error("the operator's credential holds no usable roots of the hub")]
    Bundle(#[from] identity::BundleError),
}

impl OperatorCredential {
    /// Reads the credential from its file.
    pub fn load(path: &Path) -> Result<Self, OperatorError> {
        let text = files::read_text(path)?;
        serde_json::from_str(&text).map_err(|source| OperatorError::Malformed { path: path.to_owned(), source })
    }

    /// Writes the credential to its file, 0600.
    pub fn save(&self, path: &Path) -> Result<(), OperatorError> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| OperatorError::Malformed { path: path.to_owned(), source })?;
        Ok(files::write_private(path, &text)?)
    }

    /// The operator's identity and the hub's bundle, for TLS.
    pub fn to_credentials(&self) -> Result<Credentials, OperatorError> {
        let svid = Svid::from_pem(&self.cert_pem, &self.key_pem)?;
        let bundle = TrustBundle::from_pem(self.hub_trust_domain.clone(), 0, &self.hub_roots_pem)?;
        Ok(Credentials::fixed(svid, TrustBundles::from(bundle)))
    }

    /// A client of the hub that acts as this operator.
    pub fn client(&self) -> Result<HubClient, OperatorClientError> {
        let credentials = self.to_credentials()?;
        Ok(HubClient::new(self.api_addresses.clone(), credentials, self.hub_trust_domain.clone())?)
    }
}

/// Why an operator's client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OperatorClientError {
    /// The credential is not usable.
    #[error(transparent)]
    Credential(#[from] OperatorError),
    /// Its addresses are not usable.
    #[error(transparent)]
    Hub(#[from] HubError),
}
