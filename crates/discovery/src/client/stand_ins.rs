//! SVIDs of the identities under which a gateway speaks for pods without a sidecar.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use dial::Dialer;
use identity::bootstrap::Credential;
use identity::{Credentials, TrustBundles};
use mesh::SpiffeId;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::issue::Issuer;
use super::lock;
use super::metrics::Metrics;

/// Asks the cluster's CA for the identities that are wanted and keeps each fresh; clones share them. The CA decides which
/// of them it issues.
#[derive(Debug, Clone)]
pub struct StandIns(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    credential: Credential,
    bundles: watch::Receiver<Arc<TrustBundles>>,
    metrics: Metrics,
    dialer: Dialer,
    shutdown: CancellationToken,
    issuing: Mutex<BTreeMap<SpiffeId, Issuing>>,
}

#[derive(Debug)]
struct Issuing {
    credentials: Credentials,
    _until_dropped: DropGuard,
}

impl StandIns {
    pub(super) fn new(
        credential: Credential,
        bundles: watch::Receiver<Arc<TrustBundles>>,
        metrics: Metrics,
        dialer: Dialer,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared { credential, bundles, metrics, dialer, shutdown, issuing: Mutex::default() }))
    }

    /// Begins with the identities that are new and forgets those that are no longer wanted, with their keys. Must be called
    /// inside a runtime.
    pub fn follow(&self, wanted: &BTreeSet<SpiffeId>) {
        let mut issuing = lock(&self.0.issuing);
        issuing.retain(|identity, _| wanted.contains(identity));
        for identity in wanted {
            issuing.entry(identity.clone()).or_insert_with(|| self.0.begin(identity));
        }
    }

    /// The credentials of an identity that is followed; they have an SVID once the CA has issued one.
    pub fn credentials(&self, identity: &SpiffeId) -> Option<Credentials> {
        lock(&self.0.issuing).get(identity).map(|issuing| issuing.credentials.clone())
    }
}

impl Shared {
    fn begin(&self, identity: &SpiffeId) -> Issuing {
        let (svid_tx, svid) = watch::channel(None);
        let (bundles, metrics) = (self.bundles.clone(), self.metrics.clone());
        let issuer = Issuer::new(self.credential.clone(), bundles.clone(), svid_tx, metrics, self.dialer);
        let stop = self.shutdown.child_token();
        tokio::spawn(issuer.standing_in(identity.clone()).run(stop.clone()));
        Issuing { credentials: Credentials::new(svid, bundles), _until_dropped: stop.drop_guard() }
    }
}
