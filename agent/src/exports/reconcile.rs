//! Brings book and hub in line with the manifests. It takes no input but the current state: an edit, a message of the
//! hub, a timer and a restart run the same function.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::hub::{Key, Kind, Operation, Put, TransactRequest, operation};
use api::trust::Bundle;
use hub_client::{FIRST_BUNDLE_SERIAL, HubClient};
use identity::ClusterCa;
use mesh::{ClusterName, ServiceName};
use prost::Message;
use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::book::{Book, BookError, sign};
use super::{Step, name_of, plan_exports};
use crate::config::GatewayConfig;
use crate::facts::Mirror;
use crate::hub::{first_pause, sleep_jittered};
use crate::imports::FactKind;
use crate::metrics::Metrics;
use config::local::Local;

/// At most one publication of counts per export in this time, and the period of the timer.
const COALESCE: Duration = Duration::from_secs(1);
/// How long the hub's watch may take to show a transaction before it is looked at again.
const SETTLE: Duration = Duration::from_secs(5);
/// Operations of one transaction.
const BATCH: usize = 256;

/// The task that keeps the hub in line.
pub(crate) struct Exporter {
    pub(crate) cluster: ClusterName,
    pub(crate) ca: Arc<ClusterCa>,
    pub(crate) gateways: Vec<GatewayConfig>,
    pub(crate) group_labels: BTreeSet<String>,
    pub(crate) local: watch::Receiver<Arc<Local>>,
    pub(crate) mirror: watch::Receiver<Option<Arc<Mirror>>>,
    pub(crate) client: watch::Receiver<Option<HubClient>>,
    pub(crate) book: watch::Sender<Arc<Book>>,
    pub(crate) metrics: Metrics,
}

impl Exporter {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut published: BTreeMap<ServiceName, Instant> = BTreeMap::new();
        let mut timer = tokio::time::interval(COALESCE);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pause = first_pause();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = timer.tick() => {}
                changed = self.local.changed() => if changed.is_err() { return },
                changed = self.mirror.changed() => if changed.is_err() { return },
            }
            self.local.mark_unchanged();
            self.mirror.mark_unchanged();
            let round = async {
                self.sign(&mut published).await?;
                self.write().await
            };
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = round => outcome,
            };
            match outcome {
                Ok(()) => pause = first_pause(),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the exports are not in line");
                    sleep_jittered(&mut pause).await;
                }
            }
        }
    }

    /// Signs what the manifests want and the book lacks.
    async fn sign(&self, published: &mut BTreeMap<ServiceName, Instant>) -> Result<(), ReconcileError> {
        let local = Arc::clone(&self.local.borrow());
        let mirror = self.mirror.borrow().clone();
        let mut book = Book::clone(&self.book.borrow());
        if let Some(mirror) = &mirror {
            book.catch_up(&self.ca, mirror);
        }
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = Instant::now();
        let mut steps = plan_exports(&self.cluster, &self.group_labels, &local, &book.exports(), unix);
        steps.retain(|step| !may_wait(step, published, now));
        for name in steps.iter().filter_map(published_name) {
            published.insert(name, now);
        }
        published.retain(|_, at| now.saturating_duration_since(*at) < COALESCE);
        book.take(&self.ca, steps).map_err(BookError::Sign)?;
        book.set_gateways(&self.ca, &self.gateways).map_err(BookError::Sign)?;
        if book == **self.book.borrow() {
            return Ok(());
        }
        let saved = book.clone();
        // A task that cannot finish means that the runtime ends.
        if let Ok(outcome) = tokio::task::spawn_blocking(move || saved.save()).await {
            outcome.map_err(BookError::State)?;
            self.book.send_replace(Arc::new(book));
        }
        Ok(())
    }

    /// Writes to the hub what it shows otherwise.
    async fn write(&mut self) -> Result<(), ReconcileError> {
        let (client, mirror) = (self.client.borrow().clone(), self.mirror.borrow().clone());
        let (Some(client), Some(mirror)) = (client, mirror) else { return Ok(()) };
        let mut operations: Vec<Operation> = self.missing_bundle(&mirror)?.into_iter().collect();
        operations.extend(self.book.borrow().differences(&mirror));
        let mut revision = 0;
        for batch in operations.chunks(BATCH) {
            let request_id = format!("{:032x}", rand::rng().random::<u128>());
            let request = TransactRequest { request_id, compare: Vec::new(), operations: batch.to_vec() };
            revision = client.transact(request).await?.revision;
            self.metrics.published(batch.len());
            tracing::info!(facts = batch.len(), revision, "published to the hub");
        }
        if revision > 0 {
            let shown = self.mirror.wait_for(|mirror| mirror.as_ref().is_some_and(|it| it.revision >= revision));
            // Too late or ended: the next round compares again.
            let _late = tokio::time::timeout(SETTLE, shown).await.map(drop);
        }
        Ok(())
    }

    /// Joining registers the bundle; a hub that lost it gets it back.
    fn missing_bundle(&self, mirror: &Mirror) -> Result<Option<Operation>, BookError> {
        let own = self.cluster.as_str();
        let member = mirror.of_kind(Kind::Cluster).any(|(key, _)| key.cluster == own);
        if !member || mirror.of_kind(Kind::Bundle).any(|(key, _)| key.cluster == own) {
            return Ok(None);
        }
        let bundle = Bundle {
            cluster: own.to_owned(),
            trust_domain: self.ca.trust_domain().to_string(),
            serial: FIRST_BUNDLE_SERIAL,
            roots: vec![self.ca.root_der().as_ref().to_vec()],
        };
        let signed = sign(&self.ca, FactKind::Bundle, bundle.encode_to_vec())?;
        let key = Key { kind: Kind::Bundle.into(), cluster: own.to_owned(), name: String::new() };
        let put = Put { key: Some(key), value: signed.encode_to_vec() };
        Ok(Some(Operation { operation: Some(operation::Operation::Put(put)) }))
    }
}

/// Why the hub is not in line.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error("the book of exports is not up to date")]
    Book(#[from] BookError),
    #[error("the hub was not written to")]
    Hub(#[from] hub_client::HubError),
}

fn may_wait(step: &Step, published: &BTreeMap<ServiceName, Instant>, now: Instant) -> bool {
    let Step::Publish { export, only_counts: true } = step else { return false };
    let last = name_of(export).and_then(|name| published.get(&name).copied());
    last.is_some_and(|last| now.saturating_duration_since(last) < COALESCE)
}

fn published_name(step: &Step) -> Option<ServiceName> {
    match step {
        Step::Publish { export, .. } => name_of(export),
        Step::Withdraw(_) => None,
    }
}
