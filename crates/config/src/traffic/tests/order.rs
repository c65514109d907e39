//! Compilation is total, and the order of manifests does not matter.

use proptest::prelude::*;

use super::*;

/// Objects that overlap in hosts, namespaces, ages and selectors.
const OBJECTS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, creationTimestamp: '2026-01-02T00:00:00Z'}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {hosts: [reviews, '*.example.com'], http: [{delegate: {name: d}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: c, namespace: shop}
spec: {hosts: ['*.example.com', '*.svc.cluster.local'], gateways: [mesh, g], http: [{route: [{destination: {host: ratings.default}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: d}
spec: {http: [{route: [{destination: {host: ratings}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: b}
spec: {host: reviews, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: v1}, {name: v2}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: c, namespace: istio-system}
spec: {host: '*.local', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec: {hosts: [a.example.com, b.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b}
spec: {hosts: [a.example.com], resolution: STATIC, ports: [{number: 443, name: tls, protocol: TLS}], workloadSelector: {labels: {app: reviews}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm}
spec: {address: 10.9.0.9, labels: {app: reviews}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a}
spec: {egress: [{hosts: ['./*']}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: b}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
";

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_compiles_to_the_same(order in Just((0..16_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let manifests = manifests(OBJECTS);
        let shuffled: Vec<_> = order.iter().filter_map(|index| manifests.get(*index).cloned()).collect();
        prop_assert_eq!(shuffled.len(), manifests.len());
        prop_assert_eq!(compiled_from(&shuffled), compiled_from(&manifests));
    }

    #[test]
    fn any_part_of_a_configuration_compiles(kept in proptest::collection::vec(any::<bool>(), 16)) {
        let manifests = manifests(OBJECTS);
        let part: Vec<_> = manifests.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(it, _)| it).collect();
        compiled_from(&part);
    }
}
