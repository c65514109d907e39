//! Views for tests that read as prose: `Mesh::east().local("reviews", 2).import("reviews", "west", 3).view()`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::*;
use crate::names::{ClusterName, MeshId, Namespace, ServiceName, SpiffeId, TrustDomain};

pub(crate) fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(Namespace::new("default").unwrap(), name).unwrap()
}

pub(crate) fn identity(trust_domain: &str, account: &str) -> SpiffeId {
    SpiffeId::new(TrustDomain::new(trust_domain).unwrap(), Namespace::new("default").unwrap(), account).unwrap()
}

/// The mesh `demo` as a proxy of the cluster `east` sees it.
#[derive(Clone)]
pub(crate) struct Mesh {
    view: View,
}

impl Mesh {
    pub(crate) fn east() -> Self {
        let trust_domain = TrustDomain::new("east.demo").unwrap();
        let mesh = MeshInfo {
            mesh_id: MeshId::new("demo").unwrap(),
            cluster: cluster("east"),
            trust_domain: trust_domain.clone(),
            roots: Vec::new(),
            bundle_serial: 1,
        };
        let gateway = LocalGateway {
            name: "gateway-1".into(),
            hbone_address: "127.0.0.2:15008".parse().unwrap(),
            identity: SpiffeId::system(trust_domain, "gateway").unwrap(),
        };
        let view = View {
            revision: 7,
            mesh: Some(Arc::new(mesh)),
            gateways: BTreeMap::from([("gateway-1".into(), Arc::new(gateway))]),
            ..View::default()
        };
        Self { view }
    }

    /// A service of the own cluster, exported to everyone.
    pub(crate) fn local(self, name: &str, endpoints: u8) -> Self {
        self.edit(name, |service| {
            service.export = Some(ExportPolicy::Everyone);
            service.endpoints = (1..=endpoints).map(|n| endpoint(name, n)).collect();
        })
    }

    /// A service of the own cluster that is not exported.
    pub(crate) fn private(self, name: &str, endpoints: u8) -> Self {
        let mesh = self.local(name, endpoints);
        mesh.edit(name, |service| service.export = None)
    }

    pub(crate) fn exported_only_to(self, name: &str, to: &str) -> Self {
        self.edit(name, |service| service.export = Some(ExportPolicy::Only([cluster(to)].into())))
    }

    pub(crate) fn not_ready(self, name: &str) -> Self {
        self.edit(name, |service| service.endpoints.iter_mut().for_each(|endpoint| endpoint.ready = false))
    }

    pub(crate) fn import(mut self, name: &str, from: &str, healthy: u32) -> Self {
        let trust_domain = TrustDomain::new(format!("{from}.demo")).unwrap();
        let remote = RemoteCluster {
            name: cluster(from),
            trust_domain,
            roots: Vec::new(),
            bundle_serial: 1,
            gateways: vec![RemoteGateway { name: "gateway-1".into(), quic_address: "127.0.1.2:15443".into() }],
            imported: true,
            stale_since_ms: None,
            share_percent: 100,
        };
        self.view.clusters.insert(cluster(from), Arc::new(remote));
        self.edit(name, |service| {
            let key = GroupKey { service_account: name.into(), labels: Labels::new(), locality: String::new() };
            let import = Import {
                serial: 1,
                ports: service.ports.clone(),
                groups: vec![Group { key, meshed: true, healthy }],
                pods: Vec::new(),
            };
            service.imports.insert(cluster(from), import);
        })
    }

    /// The local endpoints of a service lose their sidecars; gateways speak for them as `account`, if any.
    pub(crate) fn unmeshed(self, name: &str, account: Option<&str>) -> Self {
        self.edit(name, |service| {
            for endpoint in &mut service.endpoints {
                endpoint.identity = None;
                endpoint.stand_in = account.map(|account| identity("east.demo", account));
            }
        })
    }

    /// The ports of a service are of UDP.
    pub(crate) fn udp(self, name: &str) -> Self {
        self.edit(name, |service| service.ports.iter_mut().for_each(|port| port.protocol = Protocol::Udp))
    }

    /// The local endpoints of a service are all at one address.
    pub(crate) fn pods_at(self, name: &str, address: &str) -> Self {
        let address = address.parse().unwrap();
        self.edit(name, |service| service.endpoints.iter_mut().for_each(|endpoint| endpoint.address = address))
    }

    /// What another cluster exports has no sidecars; its gateways speak for it as `account`, if any.
    pub(crate) fn unmeshed_there(self, name: &str, from: &str, account: Option<&str>) -> Self {
        self.edit(name, |service| {
            let import = service.imports.get_mut(&cluster(from)).unwrap();
            for group in &mut import.groups {
                group.meshed = false;
                group.key.service_account = account.unwrap_or_default().to_owned();
            }
        })
    }

    pub(crate) fn stale(mut self, name: &str) -> Self {
        let mut remote = self.view.clusters[&cluster(name)].as_ref().clone();
        remote.stale_since_ms = Some(1);
        self.view.clusters.insert(cluster(name), Arc::new(remote));
        self
    }

    pub(crate) fn draining(mut self, name: &str, share_percent: u32) -> Self {
        let mut remote = self.view.clusters[&cluster(name)].as_ref().clone();
        remote.share_percent = share_percent;
        self.view.clusters.insert(cluster(name), Arc::new(remote));
        self
    }

    pub(crate) fn clusters(self, name: &str, rules: crate::policy::ClusterTraffic) -> Self {
        self.edit(name, |service| Arc::make_mut(&mut service.config).clusters = Some(Arc::new(rules)))
    }

    pub(crate) fn global(self, name: &str) -> Self {
        self.edit(name, |service| service.global = true)
    }

    pub(crate) fn without_gateways(mut self) -> Self {
        self.view.gateways.clear();
        self
    }

    pub(crate) fn view(self) -> View {
        self.view
    }

    fn edit(mut self, name: &str, change: impl FnOnce(&mut Service)) -> Self {
        let empty = || Service {
            name: service(name),
            global: false,
            headless: false,
            clusterset_addresses: Vec::new(),
            listeners: Default::default(),
            cluster_addresses: Vec::new(),
            ports: vec![ServicePort { name: "http".into(), number: 9080, protocol: Protocol::Http }],
            endpoints: Vec::new(),
            export: None,
            imports: BTreeMap::new(),
            config: Arc::default(),
        };
        let mut edited = self.view.services.remove(&service(name)).map_or_else(empty, |service| (*service).clone());
        change(&mut edited);
        self.view.services.insert(service(name), Arc::new(edited));
        self
    }
}

fn endpoint(name: &str, number: u8) -> Endpoint {
    Endpoint {
        name: format!("{name}-{number}"),
        address: [127, 0, 0, 20 + number].into(),
        ports: BTreeMap::from([(9080, 9080)]),
        identity: Some(identity("east.demo", name)),
        labels: Labels::from([("version".into(), format!("v{number}"))]),
        locality: String::new(),
        ready: true,
        other_addresses: Vec::new(),
        plain_ports: Default::default(),
        stand_in: None,
        weight: 1,
    }
}

/// Numbers for statistical tests (splitmix64); the seed is printed, and `ISTHMUS_SEED` repeats one.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded() -> Self {
        use std::hash::{BuildHasher, Hasher, RandomState};
        let given = std::env::var("ISTHMUS_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        println!("REPRODUCE WITH: ISTHMUS_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
