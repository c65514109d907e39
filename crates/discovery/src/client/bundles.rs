//! Which roots the proxy trusts: those of its credential until the agent says more, and those of the view.

use std::sync::Mutex;

use identity::bootstrap::Credential;
use identity::{TrustBundle, TrustBundles};
use mesh::{TrustDomain, View};

use super::{StartError, lock};

/// The roots that came with the credential, and the last good bundle of everyone.
#[derive(Debug)]
pub(super) struct Anchors {
    own: TrustBundle,
    /// Kept so that one bad bundle does not take a good one away.
    last_good: Mutex<TrustBundles>,
}

impl Anchors {
    pub(super) fn new(credential: &Credential) -> Result<Self, StartError> {
        let own = credential.bundle().map_err(StartError::Credential)?;
        Ok(Self { own, last_good: Mutex::new(TrustBundles::default()) })
    }

    /// The own trust domain.
    pub(super) fn trust_domain(&self) -> &TrustDomain {
        self.own.trust_domain()
    }

    /// The bundles that a view stands for.
    pub(super) fn bundles(&self, view: &View) -> TrustBundles {
        let own = view.mesh.iter().map(|mesh| (&mesh.trust_domain, mesh.bundle_serial, &mesh.roots));
        let others = view.clusters.values().map(|it| (&it.trust_domain, it.bundle_serial, &it.roots));
        let mut last_good = lock(&self.last_good);
        let mut bundles = TrustBundles::default();
        bundles.insert(self.own.clone());
        for (trust_domain, serial, roots) in others.chain(own) {
            // Another member can never speak for the own trust domain: the own mesh facts come last and win.
            let roots = roots.iter().map(|der| der.clone().into()).collect();
            match TrustBundle::new(trust_domain.clone(), serial, roots) {
                Ok(bundle) => drop(bundles.insert(bundle)),
                Err(error) => {
                    tracing::error!(%trust_domain, serial, %error, "a bundle cannot be used; the previous one stays");
                    if let Some(bundle) = last_good.get(trust_domain) {
                        bundles.insert(bundle.clone());
                    }
                }
            }
        }
        *last_good = bundles.clone();
        bundles
    }
}
