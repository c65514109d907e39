//! What manifests compile to.

mod clusters;
mod destination_rules;
mod effect;
mod entries;
mod examples;
mod order;
mod routes;
mod sidecars;

use std::collections::{BTreeMap, BTreeSet};

use federation_crds::{Manifest, parse_manifests};
use mesh::{ClusterName, HostRoutes, HttpAction, HttpRule, MeshInfo, ServiceName, TrustDomain};

use crate::compile::{Compiled, Input, compile};
use crate::local;

/// Two services, each with a pod of version v1 and one of version v2.
const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {clusterIP: 10.0.0.1, selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 9080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: reviews-1
  labels: {kubernetes.io/service-name: reviews}
  annotations: {isthmus.dev/service-account: reviews, isthmus.dev/meshed: "true", isthmus.dev/pod-labels: "app=reviews,version=v1"}
addressType: IPv4
endpoints: [{addresses: [127.1.1.1], targetRef: {kind: Pod, name: reviews-v1-0}}]
ports: [{name: http, port: 9080}]
---
"#;

fn manifests(text: &str) -> Vec<Manifest> {
    parse_manifests(&format!("{SERVICES}{text}"), "test.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn mesh_info() -> MeshInfo {
    MeshInfo {
        mesh_id: "demo".parse().unwrap(),
        cluster: ClusterName::new("east").unwrap(),
        trust_domain: TrustDomain::new("east.demo").unwrap(),
        roots: Vec::new(),
        bundle_serial: 1,
    }
}

fn compiled_from(manifests: &[Manifest]) -> Compiled {
    let mesh = mesh_info();
    let local = local::build(manifests, &mesh.trust_domain);
    let imported = BTreeMap::from([(name("shop/cart"), crate::Imported { ports: [80].into(), ..Default::default() })]);
    compile(&Input { manifests, local: &local, mesh: &mesh, imported: &imported })
}

fn compiled(text: &str) -> Compiled {
    compiled_from(&manifests(text))
}

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

/// The routes of the service `default/<name>`; there must be one object.
fn routes(compiled: &Compiled, service: &str) -> HostRoutes {
    let routes = &compiled.services[&name(service)].routes;
    assert_eq!(routes.len(), 1, "{routes:?}");
    HostRoutes::clone(&routes[0])
}

/// Subset → weight of a rule.
fn weights(rule: &HttpRule) -> Vec<(&str, u32)> {
    let HttpAction::Route(destinations) = &rule.action else { panic!("{rule:?}") };
    destinations.iter().map(|it| (it.destination.subset.as_deref().unwrap_or(""), it.weight)).collect()
}

/// Codes and paths of what was found about configuration.
fn found(compiled: &Compiled) -> Vec<(&str, &str)> {
    compiled.findings.iter().map(|finding| (finding.code.0, finding.path.as_str())).collect()
}
