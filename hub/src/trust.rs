//! Whom this node believes: its own root, and the bundle of every member.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hub_state::{Key, Kind, Resource};
use identity::{Svid, TrustBundle, TrustBundles, files};
use mesh::{MeshId, SpiffeId, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::facts;
use crate::storage::Replica;

/// How often the node's certificate files are looked at again.
const RELOAD: Duration = Duration::from_secs(30);

/// The files `node.crt`, `node.key` and `hub-ca.crt` of a node.
#[derive(Debug, Clone)]
pub(crate) struct NodeFiles {
    directory: PathBuf,
    trust_domain: TrustDomain,
}

impl NodeFiles {
    pub(crate) fn new(data_dir: &Path, mesh: &MeshId) -> Self {
        Self { directory: data_dir.join("tls"), trust_domain: TrustDomain::of_hub(mesh) }
    }

    /// The node's certificate and key.
    pub(crate) fn svid(&self) -> anyhow::Result<Svid> {
        let chain = files::read_text(&self.directory.join("node.crt"))?;
        let key = files::read_text(&self.directory.join("node.key"))?;
        let svid = Svid::from_pem(&chain, &key).context("tls/node.crt and tls/node.key do not fit")?;
        let expected = SpiffeId::system(self.trust_domain.clone(), "hub")?;
        anyhow::ensure!(
            *svid.id() == expected,
            "tls/node.crt is for {}, not {expected}; hint: is mesh_id right?",
            svid.id()
        );
        Ok(svid)
    }

    /// The hub's own root.
    pub(crate) fn bundle(&self) -> anyhow::Result<TrustBundle> {
        let roots = files::read_text(&self.directory.join("hub-ca.crt"))?;
        TrustBundle::from_pem(self.trust_domain.clone(), 0, &roots).context("tls/hub-ca.crt is not usable")
    }

    /// Publishes a renewed certificate without a restart.
    pub(crate) async fn keep_fresh(self, svid: watch::Sender<Option<Arc<Svid>>>, ended: CancellationToken) {
        while ended.run_until_cancelled(tokio::time::sleep(RELOAD)).await.is_some() {
            match self.svid() {
                Ok(fresh) => {
                    let differs = |old: &Option<Arc<Svid>>| {
                        old.as_ref().is_none_or(|old| old.chain().first() != fresh.chain().first())
                    };
                    if differs(&svid.borrow()) {
                        tracing::info!("the node's certificate was renewed");
                        svid.send_replace(Some(Arc::new(fresh)));
                    }
                }
                Err(error) => tracing::warn!(%error, "the node's certificate cannot be read again"),
            }
        }
    }
}

/// The bundles that follow from the state.
pub(crate) fn bundles(own: &TrustBundle, replica: &Replica) -> TrustBundles {
    let mut bundles: TrustBundles = stored(replica)
        .iter()
        .filter_map(|(_, resource)| resource.value.signed().and_then(facts::stored_bundle))
        .filter(|bundle| bundle.trust_domain() != own.trust_domain())
        .collect();
    bundles.insert(own.clone());
    bundles
}

/// Keeps the bundles in step with the state.
pub(crate) async fn follow(
    own: TrustBundle,
    replica: Replica,
    publish: watch::Sender<Arc<TrustBundles>>,
    ended: CancellationToken,
) {
    let mut position = replica.position();
    let mut known = stored(&replica);
    loop {
        let changed = ended.run_until_cancelled(position.changed()).await;
        if !matches!(changed, Some(Ok(()))) {
            return;
        }
        let now = stored(&replica);
        if now != known {
            publish.send_replace(Arc::new(bundles(&own, &replica)));
            known = now;
        }
    }
}

fn stored(replica: &Replica) -> Vec<(Key, Resource)> {
    replica.read(|state| {
        let bundles = state.resources().iter().filter(|(key, _)| key.kind() == Kind::Bundle);
        bundles.map(|(key, resource)| (key.clone(), resource.clone())).collect()
    })
}
