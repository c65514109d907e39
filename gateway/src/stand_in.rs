//! Servers without a sidecar: the gateway ends the inner mTLS of their flows, and does what their sidecars would do.
//!
//! Each pod has an inbound engine of its own, with the pod's policies and the identity that its export names. The engine
//! authorises the *workload* that the inner mTLS proves; what the tunnel's header claims plays no part in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dial::Dialer;
use identity::Credentials;
use mesh::{Candidate, Denial, Namespace, Protocol, ServiceName, SpiffeId, View};
use proxy::access::{self, Recorder};
use proxy::guard::Guard;
use proxy::inbound::{AppPort, Inbound, InboundConfig};
use proxy::listen::{Lifecycle, Limits};
use proxy::outbound::{Directory, Outbound};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a flow waits for the first certificate of an identity.
const CERTIFICATE_TIMEOUT: Duration = Duration::from_secs(3);

/// Who has certificates of the identities under which the gateway speaks for others.
pub trait Identities: Send + Sync + 'static {
    /// Gets those that are wanted, and keeps no others.
    fn follow(&self, wanted: &BTreeSet<SpiffeId>);
    /// The credentials of one that is followed.
    fn credentials(&self, identity: &SpiffeId) -> Option<Credentials>;
}

impl Identities for discovery::StandIns {
    fn follow(&self, wanted: &BTreeSet<SpiffeId>) {
        Self::follow(self, wanted);
    }

    fn credentials(&self, identity: &SpiffeId) -> Option<Credentials> {
        Self::credentials(self, identity)
    }
}

/// What all engines share.
pub(crate) struct Ground {
    pub(crate) identities: Arc<dyn Identities>,
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) recorder: Recorder,
    pub(crate) life: Lifecycle,
    /// Asked for what policies need from elsewhere, such as keys of tokens.
    pub(crate) outbound: Outbound,
    /// The gateway's own name.
    pub(crate) name: String,
}

/// The engines of pods, made when the first flow comes.
pub(crate) struct StandIns {
    ground: Ground,
    /// Never held across an await.
    engines: Mutex<BTreeMap<Key, Engine>>,
}

/// The pod, `<namespace>/<name>`, and the identity that is spoken under.
type Key = (String, SpiffeId);

struct Engine {
    /// Port of the pod → where it is. When it moves, another engine takes over.
    ports: BTreeMap<u16, SocketAddr>,
    inbound: Inbound,
}

impl StandIns {
    pub(crate) fn new(ground: Ground) -> Self {
        Self { ground, engines: Mutex::default() }
    }

    /// Gets certificates before flows need them, and forgets pods that are gone, until the process ends.
    pub(crate) async fn follow(self: Arc<Self>, ended: CancellationToken) {
        let mut views = self.ground.views.clone();
        loop {
            let view = views.borrow_and_update().clone();
            let wanted = identities(&view);
            self.ground.identities.follow(&wanted);
            self.keep(&view, &wanted);
            tokio::select! {
                () = ended.cancelled() => return,
                changed = views.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Forgets engines. An identity that comes back has new credentials, and so needs a new engine.
    fn keep(&self, view: &View, wanted: &BTreeSet<SpiffeId>) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|(pod, identity), _| view.stand_ins.contains_key(pod) && wanted.contains(identity));
    }

    /// The engine that serves a pod as `candidate` says.
    pub(crate) async fn engine(
        &self,
        namespace: &Namespace,
        candidate: &Candidate,
    ) -> Result<Inbound, (Denial, String)> {
        let identity = candidate.stand_in.clone().ok_or((Denial::Policy, String::new()))?;
        let pod = format!("{namespace}/{}", candidate.endpoint);
        let missing =
            || (Denial::Overloaded, format!("no certificate of {identity} yet; hint: does the agent answer?"));
        let credentials = self.ground.identities.credentials(&identity).ok_or_else(missing)?;
        tokio::time::timeout(CERTIFICATE_TIMEOUT, credentials.ready()).await.map_err(|_| missing())?;
        let view = self.ground.views.borrow().clone();
        let stand_in = view.stand_ins.get(&pod).filter(|stand_in| stand_in.is_spoken_for(&view));
        let stand_in = stand_in.ok_or_else(|| (Denial::NoEndpoint, pod.clone()))?;
        let ports = stand_in.ports();
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (pod, identity);
        if let Some(engine) = engines.get(&key).filter(|engine| engine.ports == ports) {
            return Ok(engine.inbound.clone());
        }
        let inbound = self.start(&key.0, credentials, &ports);
        engines.insert(key, Engine { ports, inbound: inbound.clone() });
        Ok(inbound)
    }

    fn start(&self, pod: &str, credentials: Credentials, ports: &BTreeMap<u16, SocketAddr>) -> Inbound {
        let ground = &self.ground;
        let view = ground.views.borrow().clone();
        let gateway = view.cluster().map_or_else(|| ground.name.clone(), |own| format!("{own}/{}", ground.name));
        let port =
            |(number, app): (&u16, &SocketAddr)| AppPort { number: *number, app: Some(*app), protocol: Protocol::Auto };
        Inbound::start(InboundConfig {
            directory: Arc::new(PodDirectory {
                views: ground.views.clone(),
                pod: pod.to_owned(),
                last: Mutex::default(),
            }),
            credentials,
            recorder: ground.recorder.clone(),
            life: ground.life.clone(),
            limits: Limits { listener: "stand-in", ..Limits::default() },
            ports: ports.iter().map(port).collect(),
            application: None,
            guard: Guard::new(ground.outbound.clone()),
            dialer: Dialer::unmarked(),
            server: Some(access::unmeshed(&gateway)),
        })
    }
}

/// The identities under which the view wants the gateway to speak.
fn identities(view: &View) -> BTreeSet<SpiffeId> {
    let endpoints = view.services.values().flat_map(|service| &service.endpoints);
    endpoints.filter_map(|endpoint| endpoint.stand_in.clone()).collect()
}

/// The view as the pod's sidecar would have it; of a pod that is gone it has no workload, and nothing is open.
struct PodDirectory {
    views: watch::Receiver<Arc<View>>,
    pod: String,
    /// The whole view that the last one was made of, and that one.
    last: Mutex<Option<(Arc<View>, Arc<View>)>>,
}

impl Directory for PodDirectory {
    fn view(&self) -> Arc<View> {
        let whole = self.views.borrow().clone();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, made)) = &*last
            && Arc::ptr_eq(of, &whole)
        {
            return made.clone();
        }
        let made = Arc::new(whole.stand_ins.get(&self.pod).map(|stand_in| stand_in.view(&whole)).unwrap_or_default());
        *last = Some((whole, made.clone()));
        made
    }

    fn demand<'a>(&'a self, _service: &'a ServiceName) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}
