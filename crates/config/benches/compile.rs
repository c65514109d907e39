//! How long it takes to compile the configuration of a large cluster: 1,000 services, 1,000 VirtualServices and 500
//! DestinationRules.

#![expect(clippy::panic, reason = "a benchmark on wrong data measures nothing")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use config::{Input, Local, compile, local};
use federation_crds::{Manifest, parse_manifests};
use mesh::{ClusterName, MeshInfo, TrustDomain};

const SERVICES: usize = 1000;

fn main() {
    divan::main();
}

fn cluster() -> (Vec<Manifest>, Local, MeshInfo) {
    let mut text = String::new();
    for number in 0..SERVICES {
        let namespace = format!("ns-{}", number % 20);
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s-{number}, namespace: {namespace}}}\n\
             spec: {{clusterIP: 10.1.{}.{}, ports: [{{name: http, port: 80}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v-{number}, namespace: \
             {namespace}}}\nspec: {{hosts: [s-{number}], http: [{{match: [{{uri: {{prefix: /api}}, headers: {{end-user: \
             {{regex: 'j.*'}}}}}}], route: [{{destination: {{host: s-{number}, subset: v2}}}}]}}, {{route: [{{destination: \
             {{host: s-{number}, subset: v1}}, weight: 90}}, {{destination: {{host: s-{number}, subset: v2}}, weight: \
             10}}], timeout: 5s, retries: {{attempts: 3, retryOn: 5xx}}}}]}}\n",
            number / 250,
            number % 250 + 1,
        );
        if number % 2 == 0 {
            let _ = write!(
                text,
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d-{number}, namespace: \
                 {namespace}}}\nspec: {{host: s-{number}, trafficPolicy: {{outlierDetection: {{consecutive5xxErrors: 5}}}}, \
                 subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n"
            );
        }
    }
    let manifests = parse_manifests(&text, "bench.yaml").unwrap_or_default();
    assert_eq!(manifests.len(), SERVICES * 5 / 2, "the manifests must be valid");
    let trust_domain = TrustDomain::new("east.demo").unwrap_or_else(|error| panic!("{error}"));
    let local = local::build(&manifests, &trust_domain);
    let mesh = MeshInfo {
        mesh_id: "demo".parse().unwrap_or_else(|error| panic!("{error}")),
        cluster: ClusterName::new("east").unwrap_or_else(|error| panic!("{error}")),
        trust_domain,
        roots: Vec::new(),
        bundle_serial: 1,
    };
    (manifests, local, mesh)
}

#[divan::bench]
fn compile_1000_services(bencher: divan::Bencher<'_, '_>) {
    let (manifests, local, mesh) = cluster();
    let input = Input { manifests: &manifests, local: &local, mesh: &mesh, imported: &BTreeMap::new() };
    bencher.bench_local(|| compile(divan::black_box(&input)).services.len());
}
