//! What the sidecars of the two pods know: fixed views, real certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{ClusterCa, Credentials, TrustBundles};
use mesh::{
    AddressEntry, ClusterName, Endpoint, Labels, MeshId, MeshInfo, MtlsMode, Namespace, OutboundPolicy, Pod, Protocol,
    Service, ServicePort, SpiffeId, TrustDomain, UnknownHosts, View, Workload, WorkloadConfig, WorkloadPort,
};

/// The pod that only sends.
pub(crate) struct Client {
    /// What it may reach besides the mesh.
    pub(crate) unknown: UnknownHosts,
}

/// The pod with the application.
pub(crate) struct Server {
    pub(crate) mode: MtlsMode,
}

/// Who a sidecar is and what it knows.
pub(crate) struct Known {
    pub(crate) credentials: Credentials,
    pub(crate) view: View,
}

pub(crate) trait Kind {
    fn account(&self) -> &'static str;
    fn workload(&self) -> Workload;
}

impl Kind for Client {
    fn account(&self) -> &'static str {
        "web"
    }

    fn workload(&self) -> Workload {
        let outbound = OutboundPolicy { unknown: self.unknown.clone(), ..OutboundPolicy::default() };
        let config = Arc::new(WorkloadConfig { outbound, ..WorkloadConfig::default() });
        Workload { config, ..workload("web", MtlsMode::Permissive, Vec::new()) }
    }
}

impl Kind for Server {
    fn account(&self) -> &'static str {
        "reviews"
    }

    fn workload(&self) -> Workload {
        let port = |number, protocol, service_port| WorkloadPort {
            number,
            name: String::new(),
            protocol,
            service_ports: BTreeSet::from([service_port]),
            exports: BTreeMap::new(),
        };
        let ports = vec![port(9080, Protocol::Http, 80), port(3306, Protocol::TcpServerFirst, 3306)];
        workload("reviews", self.mode, ports)
    }
}

fn workload(account: &str, mtls: MtlsMode, ports: Vec<WorkloadPort>) -> Workload {
    Workload {
        namespace: Namespace::new("default").unwrap(),
        name: format!("{account}-1"),
        service_account: account.to_owned(),
        labels: Labels::new(),
        ports,
        mtls,
        locality: String::new(),
        config: Arc::default(),
    }
}

/// The cluster's authority.
pub(crate) struct Authority {
    _directory: tempfile::TempDir,
    ca: ClusterCa,
}

impl Authority {
    pub(crate) fn new() -> Self {
        identity::install_crypto();
        let directory = tempfile::tempdir().unwrap();
        let ca = ClusterCa::load_or_create(&directory.path().join("ca"), &trust_domain()).unwrap();
        Self { _directory: directory, ca }
    }

    pub(crate) fn pod(&self, kind: &dyn Kind) -> Known {
        let svid = self.ca.issue_self(&id(kind.account()), Duration::from_secs(3600), SystemTime::now()).unwrap();
        let bundles = TrustBundles::from(self.ca.bundle(1).unwrap());
        Known { credentials: Credentials::fixed(svid, bundles), view: view(kind.workload()) }
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::new("east.demo").unwrap()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new(trust_domain(), Namespace::new("default").unwrap(), account).unwrap()
}

fn addresses(texts: [&str; 2]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn view(workload: Workload) -> View {
    let services = [
        service("reviews", ["10.96.0.10", "fd96::10"], (80, 9080), Protocol::Http),
        service("banner", ["10.96.0.11", "fd96::11"], (3306, 3306), Protocol::TcpServerFirst),
        service("silent", ["10.96.0.12", "fd96::12"], (7000, 7000), Protocol::Auto),
        service("late", ["10.96.0.13", "fd96::13"], (7001, 7778), Protocol::Auto),
    ];
    let mesh = MeshInfo {
        mesh_id: MeshId::new("demo").unwrap(),
        cluster: ClusterName::new("east").unwrap(),
        trust_domain: trust_domain(),
        roots: Vec::new(),
        bundle_serial: 1,
    };
    let pods = addresses(["10.77.0.2", "fd77::2"]).into_iter().map(|address| {
        let services = services.iter().map(|service| service.name.clone()).collect();
        let pod = Pod { name: "reviews-1".to_owned(), identity: Some(id("reviews")) };
        (address, Arc::new(AddressEntry { address, services, pod: Some(pod) }))
    });
    View {
        revision: 1,
        mesh: Some(Arc::new(mesh)),
        addresses: pods.collect(),
        services: services.iter().map(|service| (service.name.clone(), Arc::new(service.clone()))).collect(),
        workload: Some(Arc::new(workload)),
        ..View::default()
    }
}

fn service(name: &str, own: [&str; 2], (number, port): (u16, u16), protocol: Protocol) -> Service {
    let endpoint = |address| Endpoint {
        name: "reviews-1".to_owned(),
        address,
        ports: BTreeMap::from([(number, port)]),
        identity: Some(id("reviews")),
        labels: Labels::new(),
        locality: String::new(),
        ready: true,
        other_addresses: Vec::new(),
        plain_ports: BTreeSet::new(),
        stand_in: None,
        weight: 1,
    };
    Service {
        name: format!("default/{name}").parse().unwrap(),
        global: false,
        headless: false,
        clusterset_addresses: Vec::new(),
        listeners: Default::default(),
        cluster_addresses: addresses(own),
        ports: vec![ServicePort { name: "main".to_owned(), number, protocol }],
        endpoints: addresses(["10.77.0.2", "fd77::2"]).into_iter().map(endpoint).collect(),
        export: None,
        imports: BTreeMap::new(),
        config: Arc::default(),
    }
}
