//! TLS towards servers, as DestinationRules ask for it.

mod verifier;

use std::sync::{Arc, Mutex, PoisonError};

use mesh::{CONNECT_TIMEOUT, OriginateTls, Secret, View};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::material::{MaterialError, Materials};
use super::trust::{Trust, certified};
use crate::fault::Fault;
use verifier::ServerVerifier;

/// Configurations that are kept; a proxy has one for each destination with TLS and each list of protocols.
const CONFIGS_MAX: usize = 256;

/// Opens TLS as a client; clones share what was read.
#[derive(Debug, Clone, Default)]
pub struct Originator {
    materials: Materials,
    configs: Arc<Mutex<Vec<Built>>>,
}

/// A configuration and what it was made of.
#[derive(Debug)]
struct Built {
    tls: OriginateTls,
    alpn: Vec<Vec<u8>>,
    material: Arc<Secret>,
    config: Arc<ClientConfig>,
}

impl Originator {
    /// Nothing is read before it is needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does the handshake on a connected stream, offering the protocols of `alpn`. `host` is the destination's: the
    /// server's name unless `tls` says another one. Nothing of a request was sent when this fails.
    pub async fn connect(
        &self,
        stream: TcpStream,
        tls: &OriginateTls,
        host: &str,
        view: &View,
        alpn: &[&[u8]],
    ) -> Result<TlsStream<TcpStream>, Fault> {
        let name = tls.sni.as_deref().unwrap_or(host).trim_start_matches('[').trim_end_matches(']');
        let server = ServerName::try_from(name.to_owned())
            .map_err(|_| Fault::connect(format!("TLS with {host}: {name:?} is no name of a server")))?;
        let config =
            self.config(tls, view, alpn).map_err(|error| Fault::connect(format!("TLS with {host}: {error}")))?;
        let handshake = TlsConnector::from(config).connect(server, stream);
        match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Fault::connect(format!("TLS with {host}: {error}"))),
            Err(_) => Err(Fault::connect_timeout(host)),
        }
    }

    /// The configuration for the material of now; one of other material was for other connections.
    fn config(&self, tls: &OriginateTls, view: &View, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, MaterialError> {
        let material = self.materials.load(&tls.material, view)?;
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = configs.iter().position(|built| built.tls == *tls && built.alpn == alpn);
        if let Some(built) = known.and_then(|at| configs.get(at)).filter(|built| built.material == material) {
            return Ok(built.config.clone());
        }
        let config = Arc::new(build(tls, &material, alpn)?);
        if let Some(at) = known {
            configs.swap_remove(at);
        }
        if configs.len() >= CONFIGS_MAX {
            configs.clear();
        }
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        configs.push(Built { tls: tls.clone(), alpn, material, config: config.clone() });
        Ok(config)
    }
}

fn build(tls: &OriginateTls, material: &Secret, alpn: &[&[u8]]) -> Result<ClientConfig, MaterialError> {
    let refused = |error: rustls::Error| MaterialError::new(&material.name, error.to_string());
    let builder = ClientConfig::builder_with_provider(identity::provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(refused)?;
    let verifier = if tls.insecure_skip_verify {
        ServerVerifier::believing()
    } else {
        ServerVerifier::new(Trust::or_system(material)?, tls.subject_alt_names.clone())
            .map_err(|why| MaterialError::new(&material.name, why))?
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = if tls.mutual {
        builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(material)?)))
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}
