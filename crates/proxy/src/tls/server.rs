//! TLS that ends at a gateway, as `Gateway.servers[].tls` asks for it.

mod certificates;
mod clients;
mod suites;

use std::sync::{Arc, Mutex, PoisonError};

use identity::{Credentials, PeerPolicy};
use mesh::{Secret, ServerTls, ServerTlsMode, TlsVersion, View};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::material::{MaterialError, Materials};
use certificates::Certificates;

/// Configurations that are kept; a gateway has one for each server and each list of protocols.
const CONFIGS_MAX: usize = 1024;

/// Gives each handshake the configuration of its server; clones share what was read.
#[derive(Clone)]
pub struct ServerConfigs(Arc<Shared>);

struct Shared {
    credentials: Credentials,
    materials: Materials,
    configs: Mutex<Vec<Built>>,
}

/// A configuration and what it was made of. Sessions live inside a configuration, so that none is resumed under
/// another one.
struct Built {
    tls: ServerTls,
    alpn: Vec<Vec<u8>>,
    material: Vec<Arc<Secret>>,
    config: Arc<ServerConfig>,
}

impl ServerConfigs {
    /// The credentials are those of the mesh, for [`ServerTlsMode::IstioMutual`].
    pub fn new(credentials: Credentials) -> Self {
        let (materials, configs) = (Materials::default(), Mutex::default());
        Self(Arc::new(Shared { credentials, materials, configs }))
    }

    /// The configuration of a server with the material of now. Must not be called for servers that pass TLS through.
    pub fn select(&self, tls: &ServerTls, view: &View, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, MaterialError> {
        let material = self.material(tls, view)?;
        let mut configs = self.0.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = configs.iter().position(|built| built.tls == *tls && built.alpn == alpn);
        if let Some(built) = known.and_then(|at| configs.get(at)).filter(|built| built.material == material) {
            return Ok(built.config.clone());
        }
        let config = self.build(tls, &material, alpn)?;
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

    /// Of the certificates in their order, then of the roots for clients if they have their own.
    fn material(&self, tls: &ServerTls, view: &View) -> Result<Vec<Arc<Secret>>, MaterialError> {
        tls.certificates.iter().chain(&tls.client_ca).map(|from| self.0.materials.load(from, view)).collect()
    }

    fn build(
        &self,
        tls: &ServerTls,
        material: &[Arc<Secret>],
        alpn: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, MaterialError> {
        let refused = |why: String| MaterialError::new("the TLS settings", why);
        match tls.mode {
            ServerTlsMode::IstioMutual => {
                let config = self.0.credentials.server_config(PeerPolicy::AnyKnown, alpn);
                return config.map_err(|error| refused(error.to_string()));
            }
            ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
                return Err(refused("TLS does not end here".to_owned()));
            }
            ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {}
        }
        let own = &material[..tls.certificates.len().min(material.len())];
        let certificates = Certificates::new(own)?;
        let provider = suites::provider(&tls.cipher_suites).map_err(refused)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&versions(tls)).map_err(|error| refused(error.to_string()))?;
        let (verifier, proves): (Arc<dyn ClientCertVerifier>, _) = match tls.mode {
            ServerTlsMode::Simple => (Arc::new(NoClientAuth), false),
            // The last one: the roots of their own, or else those beside the certificate.
            _ => (clients::verifier(tls, material)?, true),
        };
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(certificates));
        if proves {
            // A resumed session would not prove again who the client is.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// Istio's default is 1.2 and newer.
fn versions(tls: &ServerTls) -> Vec<&'static SupportedProtocolVersion> {
    let minimum = tls.min_version.unwrap_or(TlsVersion::V12);
    let maximum = tls.max_version.unwrap_or(TlsVersion::V13);
    let all = [(TlsVersion::V12, &TLS12), (TlsVersion::V13, &TLS13)];
    all.into_iter().filter(|(version, _)| (minimum..=maximum).contains(version)).map(|(_, known)| known).collect()
}
