use mesh::MtlsMode;

use super::*;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop, labels: {isthmus.dev/global: "true"}}
spec:
  clusterIP: 10.1.2.3
  ports:
  - {name: http, port: 80, targetPort: 9080}
  - {name: db, port: 3306, appProtocol: mysql}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: reviews-1
  namespace: shop
  labels: {kubernetes.io/service-name: reviews}
  annotations:
    isthmus.dev/service-account: reviews
    isthmus.dev/meshed: "true"
    isthmus.dev/pod-labels: "app=reviews,version=v1"
    isthmus.dev/mtls: strict
addressType: IPv4
endpoints:
- addresses: [127.1.1.1]
  conditions: {ready: true}
  zone: a
  targetRef: {kind: Pod, name: reviews-v1-0}
- addresses: [127.1.1.2]
  conditions: {ready: false}
  targetRef: {kind: Pod, name: reviews-v1-1}
ports:
- {name: http, port: 9080}
- {name: db, port: 33306}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata:
  name: reviews
  namespace: shop
  annotations: {isthmus.dev/export-to: "west, north"}
"#;

fn local(text: &str) -> Local {
    let manifests = federation_crds::parse_manifests(text, "test.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    build(&manifests, &TrustDomain::new("east.demo").unwrap())
}

#[test]
fn a_service_has_its_ports_endpoints_and_export() {
    let local = local(MANIFESTS);
    assert_eq!(local.problems, Vec::<String>::new());
    let service = &local.services[&"shop/reviews".parse::<ServiceName>().unwrap()];
    assert!(service.global && !service.headless);
    assert_eq!(service.addresses, ["10.1.2.3".parse::<IpAddr>().unwrap()]);
    let protocols: Vec<_> = service.ports.iter().map(|port| (port.number, port.protocol)).collect();
    assert_eq!(protocols, [(80, Protocol::Http), (3306, Protocol::TcpServerFirst)]);
    let endpoint = &service.endpoints[0];
    assert_eq!(endpoint.ports, BTreeMap::from([(80, 9080), (3306, 33306)]));
    assert_eq!(endpoint.identity.as_ref().unwrap().to_string(), "spiffe://east.demo/ns/shop/sa/reviews");
    assert_eq!((endpoint.labels["version"].as_str(), endpoint.locality.as_str()), ("v1", "a"));
    assert_eq!(service.endpoints.iter().map(|endpoint| endpoint.ready).collect::<Vec<_>>(), [true, false]);
    let clusters: Vec<_> = service.export.as_ref().unwrap().to_clusters.iter().map(ClusterName::as_str).collect();
    assert_eq!(clusters, ["north", "west"]);
}

#[test]
fn a_pod_of_both_families_is_one_endpoint_whichever_slice_comes_first() {
    let slice = MANIFESTS.split("---\n").find(|document| document.contains("EndpointSlice")).unwrap();
    for name in ["reviews-0", "reviews-2"] {
        let other = slice.replace("name: reviews-1", &format!("name: {name}")).replace("IPv4", "IPv6");
        let other = other.replace("127.1.1.1", "fd00::1").replace("127.1.1.2", "fd00::2");
        let local = local(&format!("{MANIFESTS}---\n{other}"));
        assert_eq!(local.problems, Vec::<String>::new());
        let service = &local.services[&"shop/reviews".parse::<ServiceName>().unwrap()];
        let addresses: Vec<Vec<String>> =
            service.endpoints.iter().map(|pod| pod.addresses().map(|it| it.to_string()).collect()).collect();
        assert_eq!(addresses, [["127.1.1.1", "fd00::1"], ["127.1.1.2", "fd00::2"]], "{name}");
    }
}

#[test]
fn a_meshed_pod_is_a_workload() {
    let local = local(MANIFESTS);
    let workload = &local.workloads["shop/reviews-v1-0"];
    assert_eq!((workload.service_account.as_str(), workload.mtls), ("reviews", MtlsMode::Strict));
    let ports: Vec<_> = workload.ports.iter().map(|port| (port.number, port.protocol, &port.service_ports)).collect();
    let (http, db) = (BTreeSet::from([80]), BTreeSet::from([3306]));
    assert_eq!(ports, [(9080, Protocol::Http, &http), (33306, Protocol::TcpServerFirst, &db)]);
}

#[test]
fn without_a_sidecar_there_is_no_identity_and_no_workload() {
    let local = local(&MANIFESTS.replace("meshed: \"true\"", "meshed: \"false\""));
    assert!(local.workloads.is_empty());
    assert!(local.services.values().all(|service| service.endpoints.iter().all(|it| it.identity.is_none())));
}

#[test]
fn gateways_speak_for_pods_without_a_sidecar_as_the_export_says() {
    let with = |annotations: &str| {
        let text = MANIFESTS.replace("meshed: \"true\"", "meshed: \"false\"");
        let local = local(&text.replace("{isthmus.dev/export-to: \"west, north\"}", annotations));
        let endpoints = local.services.values().flat_map(|service| &service.endpoints);
        let named: BTreeSet<String> =
            endpoints.filter_map(|endpoint| endpoint.stand_in.as_ref()).map(ToString::to_string).collect();
        (named.into_iter().collect::<Vec<_>>().join(" "), local.stand_ins.into_keys().collect::<Vec<_>>())
    };
    let pods = || vec!["shop/reviews-v1-0".to_owned(), "shop/reviews-v1-1".to_owned()];
    let cases = [
        ("{}", "", vec![]),
        ("{isthmus.dev/unmeshed: deny}", "", vec![]),
        ("{isthmus.dev/unmeshed: allow}", "spiffe://east.demo/ns/shop/sa/reviews", pods()),
        (
            "{isthmus.dev/unmeshed: allow, isthmus.dev/unmeshed-service-account: front}",
            "spiffe://east.demo/ns/shop/sa/front",
            pods(),
        ),
    ];
    for (annotations, identity, expected) in cases {
        assert_eq!(with(annotations), (identity.to_owned(), expected), "{annotations}");
    }
    // A pod with a sidecar speaks for itself, whatever the export allows.
    let meshed = local(&MANIFESTS.replace("{isthmus.dev/export-to: \"west, north\"}", "{isthmus.dev/unmeshed: allow}"));
    assert!(meshed.stand_ins.is_empty() && meshed.workloads.len() == 2);
    assert!(meshed.services.values().all(|service| service.endpoints.iter().all(|it| it.stand_in.is_none())));
}

#[test]
fn a_workload_entry_behind_a_service_is_a_workload_or_one_that_gateways_speak_for() {
    let with = |spec: &str| {
        local(&format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{name: billing, namespace: shop}}
spec: {{selector: {{app: billing}}, ports: [{{name: http, port: 80}}, {{name: db, port: 3306}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: vm-1, namespace: shop}}
spec: {{address: 10.30.0.7, ports: {{http: 8080}}, {spec}}}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {{name: billing, namespace: shop, annotations: {{isthmus.dev/unmeshed: allow}}}}
"#
        ))
    };
    let ports = |workload: &Workload| {
        let ports = workload.ports.iter().map(|port| (port.number, port.service_ports.iter().copied().collect()));
        ports.collect::<Vec<(u16, Vec<u16>)>>()
    };
    let meshed = with("labels: {app: billing}, serviceAccount: bills");
    let workload = &meshed.workloads["shop/vm-1"];
    assert_eq!(
        (workload.service_account.as_str(), ports(workload)),
        ("bills", vec![(3306, vec![3306]), (8080, vec![80])])
    );
    assert!(meshed.stand_ins.is_empty());
    for (spec, account) in [
        ("labels: {app: billing}", "default"),
        ("serviceAccount: bills, labels: {app: billing, security.istio.io/tlsMode: disabled}", "bills"),
    ] {
        let plain = with(spec);
        let stand_in = &plain.stand_ins["shop/vm-1"];
        assert_eq!(
            (stand_in.address.to_string(), ports(&stand_in.workload).len()),
            ("10.30.0.7".to_owned(), 2),
            "{spec}"
        );
        let endpoint = &plain.services.values().next().unwrap().endpoints[0];
        let named = format!("spiffe://east.demo/ns/shop/sa/{account}");
        assert_eq!(endpoint.stand_in.as_ref().map(ToString::to_string), Some(named), "{spec}");
        assert!(plain.workloads.is_empty() && endpoint.identity.is_none());
    }
}

#[test]
fn what_does_not_fit_is_left_out_and_named() {
    let orphan = local(&MANIFESTS.replace("service-name: reviews", "service-name: ratings"));
    assert!(orphan.problems[0].contains("reviews-1") && orphan.problems[0].contains("ratings"));
    let unmarked = local(&MANIFESTS.replace("app=reviews,version=v1", "app"));
    assert!(unmarked.problems[0].contains(POD_LABELS), "{:?}", unmarked.problems);
    assert!(unmarked.services.values().all(|service| service.endpoints.is_empty()));
}

#[test]
fn an_export_says_what_the_service_and_it_say_and_what_cannot_be_exported_is_refused() {
    let text = r#"
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec: {sessionAffinity: ClientIP, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: cart}
spec: {exportedLabels: {team: a}, exportedAnnotations: {note: b}}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: alias}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: nobody}
"#;
    let local = local(text);
    let of = |name: &str| &local.services[&format!("default/{name}").parse::<ServiceName>().unwrap()];
    let export = of("cart").export.as_ref().unwrap();
    assert_eq!((export.labels["team"].as_str(), export.annotations["note"].as_str()), ("a", "b"));
    let affinities = [of("cart"), of("plain"), of("alias")].map(|service| service.session_affinity);
    assert_eq!(affinities, [Some(60), Some(10_800), None]);
    assert_eq!(of("alias").export, None);
    let invalid: Vec<String> =
        local.invalid_exports.iter().map(|(name, why)| format!("{name} {}", why.reason())).collect();
    assert_eq!(invalid, ["default/alias InvalidServiceType", "default/nobody NoService"]);
}

/// A DNS server has both.
#[test]
fn a_number_may_be_a_port_of_tcp_and_of_udp() {
    let names = |tcp: u16| {
        format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{name: names}}
spec:
  ports:
  - {{name: dns, port: 53, protocol: UDP, appProtocol: http}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
  - {{name: other, port: 54, protocol: SCTP}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: names-1
  labels: {{kubernetes.io/service-name: names}}
  annotations: {{isthmus.dev/meshed: "true"}}
addressType: IPv4
endpoints: [{{addresses: [127.1.1.1], targetRef: {{kind: Pod, name: names-0}}}}]
ports:
- {{name: dns, port: 5353, protocol: UDP}}
- {{name: dns-tcp, port: {tcp}, protocol: TCP}}
"#
        )
    };
    let same = local(&names(5353));
    assert_eq!(same.problems, ["Service default/names: port 54 is not carried; only TCP and UDP are"]);
    let service = &same.services[&"default/names".parse::<ServiceName>().unwrap()];
    let ports: Vec<_> = service.ports.iter().map(|port| (port.number, port.protocol.is_udp())).collect();
    assert_eq!(ports, [(53, false), (53, true)]);
    assert_eq!(service.endpoints[0].ports, BTreeMap::from([(53, 5353)]));
    let workload = &same.workloads["default/names-0"];
    let ports: Vec<_> = workload.ports.iter().map(|port| (port.number, port.protocol.is_udp())).collect();
    assert_eq!(ports, [(5353, false), (5353, true)]);
    assert_eq!(workload.port_over(53, true).map(|port| port.protocol), Some(Protocol::Udp));
    assert!(workload.port(53).is_some_and(|port| !port.protocol.is_udp()));
    let torn = local(&names(53)).problems;
    assert!(torn.iter().any(|problem| problem.contains("TCP port 53 and UDP port 53")), "{torn:?}");
}
