//! Which of a server's certificates a client is shown.

use std::sync::Arc;

use mesh::Secret;
use rustls::SignatureAlgorithm;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::tls::material::MaterialError;
use crate::tls::names::Names;
use crate::tls::trust::certified;

/// The certificates of a server: of those that fit the client's algorithms one with the wanted name, ECDSA before RSA.
#[derive(Debug)]
pub(super) struct Certificates(Vec<(Names, Arc<CertifiedKey>)>);

impl Certificates {
    /// All must be usable: a server that shows half of its certificates would fail for half of its clients.
    pub(super) fn new(material: &[Arc<Secret>]) -> Result<Self, MaterialError> {
        let read = |secret: &Arc<Secret>| {
            let certified = certified(secret)?;
            let names = certified.cert.first().map(|leaf| Names::of(leaf)).unwrap_or_default();
            Ok((names, Arc::new(certified)))
        };
        let mut all = material.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            return Err(MaterialError::new("the TLS settings", "no certificate is named (credentialName)"));
        }
        all.sort_by_key(|(_, certified)| certified.key.algorithm() == SignatureAlgorithm::RSA);
        Ok(Self(all))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits =
            || self.0.iter().filter(|(_, certified)| certified.key.choose_scheme(hello.signature_schemes()).is_some());
        let named = hello.server_name().and_then(|wanted| fits().find(|(names, _)| names.has(wanted)));
        named.or_else(|| fits().next()).map(|(_, certified)| certified.clone())
    }
}
