use std::sync::Arc;

use api::trust::{Bundle, Export, Gateway, GatewaySet, Signed};
use discovery::server::Peer;
use identity::{ClusterCa, TrustBundle};
use mesh::{HostEntry, TrustDomain};
use prost::Message;

use super::*;
use crate::imports::Fact;
use crate::listeners::ServicePortKey;
use config::{Compiled, local};

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.0.0.7, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {ports: [{name: mysql, port: 3306}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels: {kubernetes.io/service-name: web}
  annotations: {isthmus.dev/service-account: web, isthmus.dev/meshed: "true"}
addressType: IPv4
endpoints: [{addresses: [127.1.1.1], targetRef: {kind: Pod, name: web-1}}]
ports: [{name: http, port: 8080}]
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: web}
"#;

struct World {
    mesh: MeshInfo,
    local: Local,
    accepted: Accepted,
    addresses: BTreeMap<ServiceName, Vec<IpAddr>>,
    pods: BTreeMap<String, u32>,
    stale: BTreeMap<ClusterName, u64>,
    shares: BTreeMap<ClusterName, u32>,
    registrations: BTreeMap<String, Registration>,
    gateways: Vec<GatewayConfig>,
    manifests: Vec<federation_crds::Manifest>,
}

impl World {
    fn new() -> Self {
        let trust_domain = TrustDomain::new("east.demo").unwrap();
        let manifests = federation_crds::parse_manifests(MANIFESTS, "test.yaml").unwrap_or_else(|e| panic!("{e}"));
        let gateway = GatewayConfig {
            name: "gateway-1".into(),
            hbone: "127.1.0.2:15008".parse().unwrap(),
            quic: "127.1.0.2:15443".into(),
        };
        Self {
            local: local::build(&manifests, &trust_domain),
            mesh: MeshInfo {
                mesh_id: "demo".parse().unwrap(),
                cluster: "east".parse().unwrap(),
                trust_domain,
                roots: vec![vec![1]],
                bundle_serial: 1,
            },
            accepted: Accepted::default(),
            addresses: BTreeMap::new(),
            pods: BTreeMap::new(),
            stale: BTreeMap::new(),
            shares: BTreeMap::new(),
            registrations: BTreeMap::new(),
            gateways: vec![gateway],
            manifests,
        }
    }

    fn import(&mut self, cluster: &str, exports: Vec<Export>) {
        let directory = tempfile::tempdir().unwrap();
        let trust_domain = TrustDomain::new(format!("{cluster}.demo")).unwrap();
        let ca = ClusterCa::create(&directory.path().join("ca"), &trust_domain).unwrap();
        let root = ca.root_der().clone();
        let bundle = Bundle {
            cluster: cluster.into(),
            trust_domain: trust_domain.to_string(),
            serial: 3,
            roots: vec![root.as_ref().to_vec()],
        };
        let gateway = Gateway { name: "gateway-1".into(), quic_address: "127.2.0.2:15443".into() };
        let set = GatewaySet { cluster: cluster.into(), serial: 4, gateways: vec![gateway] };
        let exports = exports.into_iter().map(|export| {
            let name = format!("{}/{}", export.namespace, export.name).parse().unwrap();
            (name, Fact { signed: Signed::default(), value: export, present: true })
        });
        let member = Member {
            bundle: Fact { signed: Signed::default(), value: bundle, present: true },
            trust: TrustBundle::new(trust_domain, 3, vec![root]).unwrap(),
            gateways: Some(Fact { signed: Signed::default(), value: set, present: true }),
            exports: exports.collect(),
        };
        self.accepted.members.insert(cluster.parse().unwrap(), Arc::new(member));
    }

    fn listeners(&self, configured: &Compiled) -> BTreeMap<ServicePortKey, u16> {
        let mut ports = crate::listeners::Ports::default();
        ports.settle(&unmeshed_ports(configured, &self.accepted, &self.mesh.cluster), 0);
        ports.in_use()
    }

    fn compile(&self) -> Snapshot {
        let local = with_registered(&self.local, &self.registrations);
        let imported = imported(&self.accepted, &self.mesh.cluster);
        let input = config::Input { manifests: &self.manifests, local: &local, mesh: &self.mesh, imported: &imported };
        let configured = config::compile(&input);
        let inputs = Inputs {
            configured: &configured,
            mesh: &self.mesh,
            gateways: &self.gateways,
            local: &local,
            accepted: &self.accepted,
            addresses: &self.addresses,
            pods: &self.pods,
            stale: &self.stale,
            shares: &self.shares,
            listeners: &self.listeners(&configured),
            registrations: &self.registrations,
        };
        let snapshot = compile(&inputs, 1);
        assert_eq!(compile(&inputs, 1), snapshot, "the same inputs give the same bytes");
        snapshot
    }
}

fn export(name: &str, port: u32, created_at: u64, to_clusters: &[&str]) -> Export {
    Export {
        cluster: "west".into(),
        serial: 7,
        namespace: "default".into(),
        name: name.into(),
        ports: vec![api::trust::Port { name: "http".into(), number: port, protocol: "http".into() }],
        to_clusters: to_clusters.iter().map(|name| (*name).to_owned()).collect(),
        created_at,
        ..Export::default()
    }
}

fn service(snapshot: &Snapshot, name: &str) -> Option<Service> {
    let entry = snapshot.get(Kind::Service, name)?;
    let message = api::discovery::Service::decode(entry.bytes.as_slice()).unwrap();
    Some(Service::try_from(&message).unwrap())
}

fn host(snapshot: &Snapshot, name: &str) -> Option<HostEntry> {
    let entry = snapshot.get(Kind::HostEntry, name)?;
    Some(HostEntry::try_from(&api::discovery::HostEntry::decode(entry.bytes.as_slice()).unwrap()).unwrap())
}

#[test]
fn local_and_imported_services_become_one() {
    let mut world = World::new();
    world.import("west", vec![export("web", 81, 5, &[]), export("reviews", 9080, 5, &["east"])]);
    let snapshot = world.compile();
    let web = service(&snapshot, "default/web").unwrap();
    assert_eq!(web.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [80, 81]);
    assert_eq!((web.endpoints.len(), web.imports.len()), (1, 1));
    assert_eq!(web.export, Some(ExportPolicy::Everyone));
    let reviews = service(&snapshot, "default/reviews").unwrap();
    assert_eq!((reviews.endpoints.len(), reviews.export), (0, None));
    assert_eq!(snapshot.shared, BTreeSet::from(["default/web".to_owned(), "default/reviews".to_owned()]));
}

#[test]
fn an_export_to_another_cluster_is_invisible() {
    let mut world = World::new();
    world.import("west", vec![export("secret", 80, 5, &["north"])]);
    let snapshot = world.compile();
    assert!(service(&snapshot, "default/secret").is_none() && host(&snapshot, "default/secret").is_none());
    let cluster = api::discovery::Cluster::decode(snapshot.get(Kind::Cluster, "west").unwrap().bytes.as_slice());
    assert!(!cluster.unwrap().imported, "nothing to connect for");
}

#[test]
fn gateways_see_shared_services_only() {
    let snapshot = World::new().compile();
    let identity = SpiffeId::system(TrustDomain::new("east.demo").unwrap(), "gateway").unwrap();
    let peer = Peer::admit(identity, "gateway~isthmus-system/gateway-1".parse().unwrap()).unwrap();
    assert!(peer.may_see(&snapshot, Kind::Service, "default/web"));
    assert!(!peer.may_see(&snapshot, Kind::Service, "default/db"));
}

/// The world with other manifests.
fn world_of(text: &str) -> World {
    let manifests = federation_crds::parse_manifests(text, "test.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let local = local::build(&manifests, &TrustDomain::new("east.demo").unwrap());
    World { local, manifests, ..World::new() }
}

#[test]
fn gateways_and_nobody_else_see_the_pods_that_they_speak_for() {
    let unmeshed = MANIFESTS.replace("isthmus.dev/meshed: \"true\"", "isthmus.dev/meshed: \"false\"");
    assert_eq!(world_of(&unmeshed).compile().of_kind(Kind::StandIn).count(), 0, "not without the export's leave");
    let allowed = unmeshed.replace(
        "ServiceExport\nmetadata: {name: web}",
        "ServiceExport\nmetadata: {name: web, annotations: {isthmus.dev/unmeshed: allow}}",
    );
    let snapshot = world_of(&allowed).compile();
    let entry = snapshot.get(Kind::StandIn, "default/web-1").unwrap();
    let stand_in = api::discovery::StandIn::decode(entry.bytes.as_slice()).unwrap();
    let stand_in = StandIn::try_from(&stand_in).unwrap();
    assert_eq!(stand_in.workload.exported_port(80, false, &"west".parse().unwrap()).unwrap().number, 8080);
    let web = service(&snapshot, "default/web").unwrap();
    let named = web.endpoints[0].stand_in.as_ref().map(ToString::to_string);
    assert_eq!(named.as_deref(), Some("spiffe://east.demo/ns/default/sa/web"));
    assert!(snapshot.get(Kind::Workload, "default/web-1").is_none() && snapshot.owners.is_empty(), "it has no sidecar");
    let identity = |text: &str| format!("spiffe://east.demo/ns/{text}").parse::<SpiffeId>().unwrap();
    for (node, account, seen) in [
        ("gateway~isthmus-system/gateway-1", "isthmus-system/sa/gateway", true),
        ("dns~isthmus-system/dns", "isthmus-system/sa/dns", false),
        ("sidecar~default/web-1", "default/sa/web", false),
    ] {
        let peer = Peer::admit(identity(account), node.parse().unwrap()).unwrap();
        assert_eq!(peer.may_see(&snapshot, Kind::StandIn, "default/web-1"), seen, "{node}");
    }
}

#[test]
fn imported_services_have_listeners_only_where_a_policy_allows_unmeshed_clients() {
    let policy = |allow: &str| {
        let kind = "---\napiVersion: isthmus.dev/v1alpha1\nkind: ClusterTrafficPolicy\n";
        format!("{MANIFESTS}{kind}metadata: {{name: x}}\nspec: {{services: [reviews], unmeshedClients: {allow}}}\n")
    };
    let listeners = |text: &str| {
        let mut world = world_of(text);
        world.import("west", vec![export("reviews", 9080, 5, &[]), export("other", 9090, 5, &[])]);
        let snapshot = world.compile();
        let of = |name: &str| service(&snapshot, name).unwrap().listeners;
        assert!(of("default/other").is_empty() && of("default/web").is_empty());
        of("default/reviews")
    };
    assert!(listeners(MANIFESTS).is_empty());
    assert!(listeners(&policy("deny")).is_empty());
    assert_eq!(listeners(&policy("allow")), BTreeMap::from([(9080, 20_000)]));
}

#[test]
fn a_workload_knows_which_of_its_ports_are_exported() {
    let mut world = World::new();
    let ports = |world: &World| {
        let snapshot = world.compile();
        let entry = snapshot.get(Kind::Workload, "default/web-1").unwrap();
        let workload = api::discovery::Workload::decode(entry.bytes.as_slice()).unwrap();
        let workload = Workload::try_from(&workload).unwrap();
        workload.ports.into_iter().map(|port| (port.number, port.exports)).collect::<Vec<_>>()
    };
    assert_eq!(ports(&world), [(8080, BTreeMap::from([(80, ExportPolicy::Everyone)]))]);
    world.local.services.get_mut(&"default/web".parse().unwrap()).unwrap().export = None;
    assert_eq!(ports(&world), [(8080, BTreeMap::new())]);
}

#[test]
fn dns_names_need_an_address() {
    let mut world = World::new();
    let snapshot = world.compile();
    assert!(!host(&snapshot, "default/web").unwrap().clusterset, "exported, but the hub gave no address yet");
    assert!(!host(&snapshot, "default/db").unwrap().clusterset);
    world.addresses.insert("default/web".parse().unwrap(), vec!["243.0.0.1".parse().unwrap()]);
    world.addresses.insert("default/db".parse().unwrap(), vec!["243.0.0.2".parse().unwrap()]);
    let snapshot = world.compile();
    let web = host(&snapshot, "default/web").unwrap();
    assert!(web.clusterset);
    assert_eq!(web.addresses, ["243.0.0.1".parse::<IpAddr>().unwrap()]);
    assert!(service(&snapshot, "default/db").unwrap().clusterset_addresses.is_empty(), "it is not shared");
}

#[test]
fn a_stale_cluster_says_since_when() {
    let mut world = World::new();
    world.import("west", vec![export("reviews", 80, 5, &[])]);
    world.stale.insert("west".parse().unwrap(), 1234);
    world.shares.insert("west".parse().unwrap(), 40);
    let snapshot = world.compile();
    let cluster = api::discovery::Cluster::decode(snapshot.get(Kind::Cluster, "west").unwrap().bytes.as_slice());
    let cluster = RemoteCluster::try_from(&cluster.unwrap()).unwrap();
    assert_eq!((cluster.stale_since_ms, cluster.imported, cluster.bundle_serial), (Some(1234), true, 3));
    assert_eq!(cluster.share_percent, 40);
    assert_eq!(cluster.gateways[0].quic_address, "127.2.0.2:15443");
}

#[test]
fn the_registration_decides_whose_workload_it_is() {
    let mut world = World::new();
    let register = |account: &str| Registration {
        namespace: Namespace::new("default").unwrap(),
        account: account.into(),
        labels: BTreeMap::from([("app".into(), account.into())]),
        locality: "eu/a".into(),
    };
    world.registrations.insert("default/web-1".into(), register("other"));
    world.registrations.insert("default/client-1".into(), register("client"));
    world.registrations.insert("isthmus-system/gateway-1".into(), register("gateway"));
    let snapshot = world.compile();
    assert_eq!(snapshot.owners["default/web-1"].account(), "other");
    assert_eq!(snapshot.owners["default/client-1"].account(), "client");
    let bytes = &snapshot.get(Kind::Workload, "default/client-1").unwrap().bytes;
    let client = api::discovery::Workload::decode(bytes.as_slice()).unwrap();
    let client = mesh::Workload::try_from(&client).unwrap();
    assert_eq!((client.labels["app"].as_str(), client.locality.as_str()), ("client", "eu/a"));
    assert_eq!(snapshot.owners.len(), 2);
}

/// A headless service of west with two pods, seen from east: names for DNS, addresses that sidecars may ask about, and the
/// same addresses after one pod went.
#[test]
fn pods_of_another_clusters_headless_service_have_names_and_addresses() {
    let mut world = World::new();
    let group = api::trust::Group { service_account: "db".into(), meshed: true, healthy: 2, ..Default::default() };
    let pod = |name: &str| api::trust::Pod { name: name.into(), hostname: name.into(), group: 0 };
    let of =
        |pods: Vec<api::trust::Pod>, base: Export| Export { headless: true, groups: vec![group.clone()], pods, ..base };
    let mut seen = BTreeMap::new();
    for pods in [vec![pod("db-0"), pod("db-1")], vec![pod("db-1")]] {
        world.accepted = Accepted::default();
        world.import("west", vec![of(pods.clone(), export("store", 5432, 5, &[]))]);
        world.pods = crate::facts::pods::number(&world.pods, &world.accepted);
        let snapshot = world.compile();
        let entry = host(&snapshot, "default/store").unwrap();
        assert!(entry.clusterset && entry.headless && entry.addresses.is_empty() && entry.local.is_none());
        assert_eq!(entry.pods.len(), pods.len());
        for pod in &entry.pods {
            let hostname = pod.hostname.clone().unwrap();
            assert_eq!(seen.entry(hostname).or_insert_with(|| pod.addresses.clone()), &pod.addresses);
            for address in &pod.addresses {
                assert!(
                    snapshot.get(Kind::Address, &address.to_string()).is_some(),
                    "sidecars may ask about {address}"
                );
            }
        }
        let imported = &service(&snapshot, "default/store").unwrap().imports;
        assert_eq!(imported.values().map(|import| import.pods.len()).sum::<usize>(), pods.len());
    }
    let different: BTreeSet<_> = seen.values().flatten().collect();
    assert_eq!(different.len(), 4, "two pods, two families");
}

#[test]
fn the_oldest_export_decides_ports_and_affinity() {
    let mut world = World::new();
    let of = |port: u32, created_at: u64, seconds: u32| Export {
        session_affinity_seconds: seconds,
        ..export("cart", port, created_at, &[])
    };
    world.import("west", vec![of(80, 9, 30)]);
    world.import("north", vec![Export { cluster: "north".into(), ..of(81, 5, 60) }]);
    let cart = service(&world.compile(), "default/cart").unwrap();
    assert_eq!(cart.config.session_affinity, Some(60), "north is older");
    // Both call their port `http`: the older one's number counts.
    assert_eq!(cart.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [81]);
}
