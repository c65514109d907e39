//! The connection to the hub: find it, watch it, keep the lease. All of it may be absent for as long as it likes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hub_client::{HubClient, HubError, MemberFile};
use identity::{Credentials, Svid, TrustBundles};
use rand::Rng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::facts::Mirror;
use crate::metrics::Metrics;

/// How often `hub.json` is looked for before the cluster has joined.
const LOOK: Duration = Duration::from_millis(500);
/// Bounds of the pause after a failed call.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Without an answer yet, the hub's default lease is assumed.
const LEASE: Duration = Duration::from_secs(10);

/// The task that keeps the connection.
pub(crate) struct HubLink {
    pub(crate) data_dir: PathBuf,
    pub(crate) svid: watch::Receiver<Option<Arc<Svid>>>,
    pub(crate) client: watch::Sender<Option<HubClient>>,
    pub(crate) mirror: watch::Sender<Option<Arc<Mirror>>>,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: CancellationToken,
}

impl HubLink {
    pub(crate) async fn run(self) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(self) {
        let (member, client) = self.join().await;
        self.client.send_replace(Some(client.clone()));
        let lease = keep_lease(client.clone(), self.metrics.clone());
        let addresses = keep_addresses(client.clone(), self.data_dir.clone(), member);
        tokio::join!(lease, addresses, self.watch(client));
    }

    /// Waits until the cluster has joined and the client can be built.
    async fn join(&self) -> (MemberFile, HubClient) {
        let mut last_error = String::new();
        loop {
            match self.try_join() {
                Ok(joined) => return joined,
                Err(error) if error != last_error => {
                    tracing::info!(reason = error, "the hub is not used yet");
                    last_error = error;
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn try_join(&self) -> Result<(MemberFile, HubClient), String> {
        let member = MemberFile::load(&self.data_dir).map_err(|error| error.to_string())?;
        let bundle = member.hub_bundle().map_err(|error| error.to_string())?;
        let (_, bundles) = watch::channel(Arc::new(TrustBundles::from(bundle)));
        let credentials = Credentials::new(self.svid.clone(), bundles);
        let trust_domain = member.hub_trust_domain.clone();
        let client = HubClient::new(member.hub_addresses.clone(), credentials, trust_domain);
        Ok((member, client.map_err(|error| error.to_string())?))
    }

    /// Mirrors the hub for ever, resuming where it broke.
    async fn watch(&self, client: HubClient) {
        let mut mirror = Mirror::default();
        let mut pause = PAUSE;
        loop {
            if let Err(error) = self.watch_once(&client, &mut mirror, &mut pause).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the hub is not watched");
                forgive(&error, &mut pause);
            }
            self.metrics.hub_lost();
            sleep_jittered(&mut pause).await;
        }
    }

    async fn watch_once(&self, client: &HubClient, mirror: &mut Mirror, pause: &mut Duration) -> Result<(), HubError> {
        let mut watch = client.watch(mirror.revision).await?;
        loop {
            let message = watch.next().await?;
            *pause = PAUSE;
            mirror.handle_message(message);
            self.metrics.watching(mirror.revision);
            self.mirror.send_replace(Some(Arc::new(mirror.clone())));
        }
    }
}

/// Renews the lease three times in its life.
async fn keep_lease(client: HubClient, metrics: Metrics) {
    let mut pause = PAUSE;
    loop {
        match client.renew_lease().await {
            Ok(response) => {
                metrics.renewed();
                pause = PAUSE;
                let ttl = if response.ttl_ms > 0 { Duration::from_millis(response.ttl_ms) } else { LEASE };
                tokio::time::sleep(ttl / 3).await;
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the lease is not renewed");
                forgive(&error, &mut pause);
                sleep_jittered(&mut pause).await;
            }
        }
    }
}

/// Writes addresses that the client learnt back to `hub.json`, so that a restart finds nodes that moved.
async fn keep_addresses(client: HubClient, data_dir: PathBuf, mut member: MemberFile) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let addresses = client.addresses();
        if addresses == member.hub_addresses {
            continue;
        }
        member.hub_addresses = addresses;
        let (file, directory) = (member.clone(), data_dir.clone());
        match tokio::task::spawn_blocking(move || file.save(&directory)).await {
            Ok(Ok(())) => tracing::info!(addresses = ?member.hub_addresses, "learnt the hub's addresses"),
            Ok(Err(error)) => tracing::warn!(%error, "the hub's addresses are not kept"),
            Err(_) => {}
        }
    }
}

/// A call that reached nobody has paused between its tries: the next follows soon, so that a hub that is back hears of this
/// cluster at once.
fn forgive(error: &HubError, pause: &mut Duration) {
    if matches!(error, HubError::Unreachable { .. }) {
        *pause = PAUSE;
    }
}

/// Sleeps for a random part of a pause that doubles.
pub(crate) async fn sleep_jittered(pause: &mut Duration) {
    let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
    *pause = (*pause * 2).min(PAUSE_MAX);
    tokio::time::sleep(jittered).await;
}

/// The first pause of a sequence.
pub(crate) fn first_pause() -> Duration {
    PAUSE
}
