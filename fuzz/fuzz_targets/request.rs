//! A request against real rules: `<method> <path> <authority> [<sni>]` in the first line, headers in the others.
#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use mesh::{
    AccessRequest, ConnectionFacts, Entry, Host, HttpRequest, InboundPolicy, Namespace, RouteRequest, Service, View,
    Workload, WorkloadConfig,
};

const MANIFESTS: &str = include_str!("../rules.yaml");

struct World {
    view: View,
    inbound: Arc<InboundPolicy>,
}

/// What the rules compile to, seen by `default/web-1`.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let manifests = federation_crds::parse_manifests(MANIFESTS, "rules.yaml").expect("the rules are valid");
        let trust_domain = mesh::TrustDomain::new("east.demo").expect("a trust domain");
        let local = config::local::build(&manifests, &trust_domain);
        let info = mesh::MeshInfo {
            mesh_id: mesh::MeshId::new("demo").expect("a mesh id"),
            cluster: mesh::ClusterName::new("east").expect("a cluster"),
            trust_domain,
            roots: Vec::new(),
            bundle_serial: 1,
        };
        let imported = BTreeMap::new();
        let input = config::Input { manifests: &manifests, local: &local, mesh: &info, imported: &imported };
        let compiled = config::compile(&input);
        let services = local.services.iter().map(|(name, service)| {
            let service = Service {
                name: name.clone(),
                global: service.global,
                headless: service.headless,
                clusterset_addresses: Vec::new(),
                listeners: Default::default(),
                cluster_addresses: service.addresses.clone(),
                ports: service.ports.clone(),
                endpoints: service.endpoints.clone(),
                export: None,
                imports: BTreeMap::new(),
                config: Arc::new(compiled.services.get(name).cloned().unwrap_or_default()),
            };
            (name.clone(), Arc::new(service))
        });
        let (key, workload) = local.workloads.iter().next().expect("a workload");
        let config: Arc<WorkloadConfig> = Arc::new(compiled.workloads.get(key).cloned().unwrap_or_default());
        let workload = Workload { config: config.clone(), ..workload.clone() };
        let view = View {
            revision: 1,
            services: services.collect(),
            entries: compiled.entries.into_iter().map(|(name, entry)| (name, Arc::new(entry))).collect(),
            mesh: Some(Arc::new(info)),
            workload: Some(Arc::new(workload)),
            ..View::default()
        };
        World { view, inbound: Arc::new(config.inbound.clone()) }
    })
}

fuzz_target!(|text: &str| {
    let world = world();
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (method, path, authority, sni) = (word(), word(), word(), word());
    let mut headers = http::HeaderMap::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), value.trim().parse::<http::HeaderValue>()) {
            headers.append(name, value);
        }
    }
    let peer = "10.0.0.1".parse().expect("an address");
    let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let remote = mesh::remote_ip(forwarded, peer, 2);
    use mesh::PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes};
    for how in [Base, MergeSlashes, DecodeAndMergeSlashes] {
        if let Some(normal) = mesh::normalize_path(path, how) {
            // An application that normalises once more must not come to another path than the policies.
            let again = mesh::normalize_path(&normal, how);
            assert_eq!(again.as_deref(), Some(&*normal), "{path:?} {how:?}");
        }
    }
    if let (Ok(method), Ok(target)) = (method.parse::<http::Method>(), path.parse::<http::Uri>()) {
        let version = if sni.is_empty() { http::Version::HTTP_11 } else { http::Version::HTTP_2 };
        let rules = mesh::HeadRules { most_headers: mesh::HEADERS_MAX, paths: Base };
        let head = mesh::RequestHead { method: &method, target: &target, version, headers: &headers, rules };
        if let Ok(admitted) = mesh::admit_request(&head) {
            // What is let through says once where it goes and where it ends, and hides nothing that others rely on.
            assert!(!admitted.authority.as_str().contains('@') && !admitted.authority.host().is_empty());
            let once = |name: &str| headers.get_all(name).iter().count() <= 1;
            assert!(once("host") && once("content-length") && once("transfer-encoding"));
            assert!(!(headers.contains_key("content-length") && headers.contains_key("transfer-encoding")));
            assert!(admitted.nominated.iter().all(|name| name != "host" && !name.as_str().starts_with("x-forwarded")));
        }
    }
    let request = HttpRequest { method, scheme: "http", authority, path_and_query: path, headers: &headers };
    let name = request.host();
    let host = Host::parse(&name, &Namespace::new("default").expect("a namespace"));
    let connection = ConnectionFacts {
        source_ip: Some(peer),
        remote_ip: Some(remote),
        destination_ip: None,
        sni: Some(sni).filter(|sni| !sni.is_empty()),
        udp: false,
    };
    let entropy = text.len() as u64;
    for http in [Some(&request), None] {
        let asked = RouteRequest { host: &host, port: 9080, http, connection, claims: None, entry: Entry::Workload, entropy };
        let decision = mesh::route(&world.view, &asked);
        let _edits = mesh::rewrite(&decision, &request);
        let asked = AccessRequest { peer: None, port: 9080, http, claims: None, connection };
        let _access = mesh::authorize(&world.inbound, &asked);
        let _limits = mesh::limits(&world.inbound, &asked);
    }
});
