//! The own certificate, read anew for every handshake, so that a rotation needs no new configuration.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use crate::bundle::TrustBundles;
use crate::svid::Svid;

/// Presents the current SVID; without one the handshake ends.
pub(crate) struct LiveCertificate {
    /// The SVID, live.
    pub(crate) svid: watch::Receiver<Option<Arc<Svid>>>,
    /// If present, the own trust domain's roots are sent along, for a client that knows the root only by its hash.
    pub(crate) with_roots: Option<watch::Receiver<Arc<TrustBundles>>>,
}

impl LiveCertificate {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let svid = self.svid.borrow().clone()?;
        let Some(bundles) = &self.with_roots else {
            return Some(Arc::clone(svid.certified()));
        };
        let bundles = Arc::clone(&bundles.borrow());
        let mut certified = CertifiedKey::clone(svid.certified());
        if let Some(own) = bundles.get(svid.id().trust_domain()) {
            certified.cert.extend(own.roots().iter().take(MAX_ROOTS_SENT).cloned());
        }
        Some(Arc::new(certified))
    }
}

/// During a rotation there are two roots; more would only make the handshake larger.
const MAX_ROOTS_SENT: usize = 4;

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for LiveCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.svid.borrow().is_some()
    }
}

impl fmt::Debug for LiveCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveCertificate").field("svid", &*self.svid.borrow()).finish_non_exhaustive()
    }
}
