//! One door: manifests in, lines of findings out.

use std::collections::{BTreeMap, BTreeSet};

use federation_crds::parse_manifests;
use mesh::{ClusterName, MeshId, MeshInfo, TrustDomain};

use super::{ClusterManifests, analyze_mesh};

/// A service with two versions, and a client of it.
const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {ports: [{name: http, port: 9080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: reviews-v1
  namespace: default
  labels: {kubernetes.io/service-name: reviews}
  annotations: {isthmus.dev/meshed: "true", isthmus.dev/service-account: reviews, isthmus.dev/pod-labels: "app=reviews,version=v1"}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: reviews-1, namespace: default}}]
ports: [{name: http, port: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: many, namespace: default}
spec: {ports: [{name: http-a, port: 80}, {name: http-b, port: 81}]}
"#;

fn cluster(name: &str, texts: &[&str]) -> ClusterManifests {
    let manifests = texts.iter().flat_map(|text| parse_manifests(text, name).expect("valid")).collect();
    let cluster = ClusterName::new(name).expect("a name");
    let mesh_id = MeshId::new("demo").expect("an id");
    let trust_domain = TrustDomain::of_cluster(&cluster, &mesh_id);
    let mesh = MeshInfo { mesh_id, cluster, trust_domain, roots: Vec::new(), bundle_serial: 1 };
    ClusterManifests::new(mesh, manifests)
}

/// `IST0101 VirtualService default/x spec.http[0]…` of one cluster.
fn lines(clusters: &[ClusterManifests], of: &str) -> BTreeSet<String> {
    let found: BTreeMap<ClusterName, _> = analyze_mesh(clusters);
    let of = &found[&ClusterName::new(of).expect("a name")];
    of.iter()
        .map(|finding| format!("{} {} {}", finding.code, finding.object, finding.path).trim_end().to_owned())
        .collect()
}

/// The door: these objects beside [`SERVICES`] give exactly these findings.
#[track_caller]
fn check(objects: &str, expected: &[&str]) {
    let found = lines(&[cluster("east", &[SERVICES, objects])], "east");
    assert_eq!(found, expected.iter().map(|line| (*line).to_owned()).collect(), "{objects}");
}

fn virtual_service(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs, namespace: default}}\nspec: {spec}\n"
    )
}

fn rule(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: dr, namespace: default}}\nspec: {spec}\n"
    )
}

#[test]
fn a_configuration_that_fits_has_no_findings() {
    let subsets = rule("{host: reviews, subsets: [{name: v1, labels: {version: v1}}]}");
    let routes = virtual_service(
        "{hosts: [reviews], http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews, subset: v1}}]}, {route: [{destination: {host: reviews}}]}]}",
    );
    check(&format!("{subsets}---\n{routes}"), &[]);
}

#[test]
fn names_that_lead_nowhere_are_found() {
    let to = |destination: &str| {
        virtual_service(&format!("{{hosts: [reviews], http: [{{route: [{{destination: {destination}}}]}}]}}"))
    };
    let at = |field: &str| format!("IST0101 VirtualService default/vs spec.http[0].route[0].destination.{field}");
    check(&to("{host: nobody}"), &[&at("host")]);
    check(&to("{host: nobody.default.svc.clusterset.local}"), &[&at("host")]);
    check(&to("{host: reviews, subset: v9}"), &[&at("subset")]);
    check(&to("{host: reviews, port: {number: 1}}"), &[&at("port")]);
    check(&to("{host: many}"), &["IST0112 VirtualService default/vs spec.http[0].route[0].destination"]);
    check(
        &virtual_service("{hosts: [reviews], gateways: [ingress], http: [{route: [{destination: {host: reviews}}]}]}"),
        &["IST0101 VirtualService default/vs spec.gateways[0]"],
    );
    check(
        &virtual_service("{hosts: [reviews], http: [{delegate: {name: other}}]}"),
        &["IST0101 VirtualService default/vs spec.http[0].delegate"],
    );
}

#[test]
fn rules_that_get_nothing_are_found() {
    let route = "route: [{destination: {host: reviews}}]";
    let with = |first: &str, second: &str| {
        virtual_service(&format!("{{hosts: [reviews], http: [{{{first}{route}}}, {{{second}{route}}}]}}"))
    };
    let unreachable: &[&str] = &["IST0130 VirtualService default/vs spec.http[1]"];
    check(&with("", "match: [{uri: {prefix: /a}}], "), unreachable);
    check(&with("match: [{uri: {prefix: /}}], ", "match: [{uri: {exact: /a}, method: {exact: GET}}], "), unreachable);
    check(&with("match: [{headers: {a: {exact: one}}}], ", "match: [{headers: {a: {exact: two}}}], "), &[]);
    check(&with("match: [{uri: {exact: /a}}], ", "match: [{uri: {prefix: /a}}], "), &[]);
    check(
        &with("match: [{uri: {exact: /a}}], ", "match: [{uri: {exact: /a}}, {uri: {exact: /b}}], "),
        &["IST0131 VirtualService default/vs spec.http[1].match[0]"],
    );
}

#[test]
fn two_virtual_services_for_one_host_conflict_where_both_are_seen() {
    let one = virtual_service("{hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}");
    let other = one.replace("name: vs", "name: other").replace("[reviews]", "[reviews.default.svc.cluster.local]");
    // Of equal age the name decides, so `other` counts.
    check(&format!("{one}---\n{other}"), &["IST0109 VirtualService default/vs spec.hosts"]);
    let hidden = other.replace("spec: {", "spec: {exportTo: [shop], ");
    let private = one.replace("spec: {", "spec: {exportTo: [\".\"], ");
    check(&format!("{private}---\n{hidden}"), &[]);
    let tcp = other.replace("http: [{", "tcp: [{");
    check(&format!("{one}---\n{tcp}"), &[]);
    let both = tcp.replace(
        "spec: {",
        "spec: {tls: [{match: [{sniHosts: [reviews.default.svc.cluster.local]}], route: [{destination: {host: reviews}}]}], ",
    );
    let tcp_too = one.replace("http: [{", "tcp: [{");
    check(&format!("{tcp_too}---\n{both}"), &["IST0109 VirtualService default/vs spec.hosts"]);
}

#[test]
fn selectors_without_workloads_are_found() {
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: pa, namespace: default}\nspec: {selector: {matchLabels: {app: X}}, mtls: {mode: STRICT}}\n";
    check(&strict.replace('X', "reviews"), &[]);
    check(&strict.replace('X', "nobody"), &["IST0127 PeerAuthentication default/pa spec.selector.matchLabels"]);
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: default}\nspec: {selector: {istio: none}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]}\n";
    check(gateway, &["IST0101 Gateway default/gw spec.selector"]);
}

#[test]
fn clients_and_servers_that_disagree_on_mtls_are_found() {
    let pa = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: pa, namespace: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    let dr = |mode: &str| rule(&format!("{{host: reviews, trafficPolicy: {{tls: {{mode: {mode}}}}}}}"));
    let conflict: &[&str] = &["IST0113 DestinationRule default/dr spec.trafficPolicy.tls"];
    check(&format!("{}---\n{}", pa("STRICT"), dr("DISABLE")), conflict);
    check(&format!("{}---\n{}", pa("DISABLE"), dr("ISTIO_MUTUAL")), conflict);
    check(&format!("{}---\n{}", pa("STRICT"), dr("ISTIO_MUTUAL")), &[]);
    check(&format!("{}---\n{}", pa("PERMISSIVE"), dr("DISABLE")), &[]);
}

#[test]
fn objects_that_say_too_little_are_found() {
    check(&rule("{host: nobody}"), &["ISM0002 DestinationRule default/dr spec.host"]);
    check(
        &rule("{host: reviews, subsets: [{name: v9, labels: {version: v9}}]}"),
        &["ISM0006 DestinationRule default/dr spec.subsets[0].labels"],
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: plain, namespace: default}\nspec: {ports: [{port: 1}]}\n",
        &["IST0118 Service default/plain spec.ports"],
    );
    let annotated =
        rule("{host: reviews}").replace("{name: dr,", "{name: dr, annotations: {sidecar.istio.io/nonsense: x},");
    check(&annotated, &["IST0108 DestinationRule default/dr metadata.annotations[\"sidecar.istio.io/nonsense\"]"]);
}

#[test]
fn names_of_services_of_other_clusters_are_known() {
    let export = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: reviews, namespace: default}\n";
    let to = |host: &str| {
        virtual_service(&format!("{{hosts: [{host}], http: [{{route: [{{destination: {{host: {host}}}}}]}}]}}"))
    };
    let west = || cluster("west", &[SERVICES, export]);
    let found = |host: &str| lines(&[cluster("east", &[&to(host)]), west()], "east");
    assert_eq!(found("reviews.default.svc.clusterset.local"), BTreeSet::new());
    let at = "IST0101 VirtualService default/vs spec.http[0].route[0].destination.host".to_owned();
    assert_eq!(found("reviews.default.svc.cluster.local"), BTreeSet::from([at]));
}

#[test]
fn subsets_may_select_by_place_and_in_other_clusters() {
    let export = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: reviews, namespace: default}\n";
    let at = |services: &str, place: &str| {
        services.replace("annotations: {", &format!("annotations: {{isthmus.dev/locality: {place}, "))
    };
    let theirs = at(SERVICES, "eu/eu-1/b").replace("version=v1", "version=v2");
    let found = |key: &str, value: &str| {
        let dr = rule(&format!("{{host: reviews, subsets: [{{name: part, labels: {{{key}: {value}}}}}]}}"));
        let east = cluster("east", &[&at(SERVICES, "us/us-1/a"), export, &dr]);
        !lines(&[east, cluster("west", &[&theirs, export])], "east").is_empty()
    };
    for (key, values, nowhere) in [
        ("topology.istio.io/cluster", ["east", "west"], "north"),
        ("topology.kubernetes.io/region", ["us", "eu"], "ap"),
        ("topology.kubernetes.io/zone", ["us-1", "eu-1"], "eu"),
        ("topology.istio.io/subzone", ["a", "b"], "c"),
        ("version", ["v1", "v2"], "v3"),
    ] {
        assert_eq!(values.map(|value| found(key, value)), [false, false], "{key}");
        assert!(found(key, nowhere), "{key}: {nowhere}");
    }
}

#[test]
fn external_names_lead_somewhere_and_have_no_rules_of_their_own() {
    let alias = |name: &str, ports: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: alias, namespace: default}}\nspec: {{type: ExternalName, externalName: {name}{ports}}}\n"
        )
    };
    let (own, outside) =
        (alias("reviews.default.svc.cluster.local", ", ports: [{port: 9080}]"), alias("httpbin.org", ""));
    let route = |host: &str| {
        virtual_service(&format!(
            "{{hosts: [{host}], http: [{{route: [{{destination: {{host: alias, subset: v1}}}}]}}]}}"
        ))
    };
    let subsets = |host: &str| rule(&format!("{{host: {host}, subsets: [{{name: v1, labels: {{version: v1}}}}]}}"));
    let both = |alias: &str, host: &str| format!("{alias}---\n{}---\n{}", subsets(host), route(host));
    check(&both(&own, "reviews"), &[]);
    check(&both(&outside, "alias"), &[]);
    let unused = ["ISM0002 DestinationRule default/dr spec.host", "ISM0002 VirtualService default/vs spec.hosts[0]"];
    let subset = "IST0101 VirtualService default/vs spec.http[0].route[0].destination.subset";
    check(&both(&own, "alias"), &[unused[0], unused[1], subset]);
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: se, namespace: default}\nspec: {hosts: [httpbin.org], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}\n";
    check(&format!("{entry}---\n{outside}---\n{}", subsets("alias")), &unused[..1]);
    let nowhere = ["IST0101 Service default/alias spec.externalName"];
    check(&alias("nobody.default.svc.cluster.local", ""), &nowhere);
    check(&alias("reviews.default.svc.clusterset.local", ""), &nowhere);
    let translated =
        alias("httpbin.org", ", ports: [{port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: 81}]");
    check(&translated, &["ISM0001 Service default/alias spec.ports[0].targetPort"]);
}

#[test]
fn what_services_say_is_in_force_or_found() {
    let service = |annotations: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: told, namespace: default, annotations: {{{annotations}}}}}\nspec: {{ports: [{{name: http, port: 80}}]{spec}}}\n"
        )
    };
    check(&service("", ", internalTrafficPolicy: Cluster, trafficDistribution: PreferClose"), &[]);
    check(&service("", ", trafficDistribution: PreferSameZone"), &[]);
    check(
        &service("", ", trafficDistribution: PreferSameNode"),
        &["ISM0001 Service default/told spec.trafficDistribution"],
    );
    check(&service("", ", internalTrafficPolicy: Local"), &["ISM0001 Service default/told spec.internalTrafficPolicy"]);
    let annotation = "networking.istio.io/traffic-distribution";
    check(&service(&format!("{annotation}: PreferClose"), ""), &[]);
    let found = format!("ISM0001 Service default/told metadata.annotations[{annotation:?}]");
    check(&service(&format!("{annotation}: PreferMine"), ""), &[&found]);
    // On another kind it means nothing.
    let misplaced =
        rule("{host: reviews}").replace("{name: dr,", &format!("{{name: dr, annotations: {{{annotation}: x}},"));
    check(&misplaced, &[&format!("IST0108 DestinationRule default/dr metadata.annotations[{annotation:?}]")]);
    let to_told = virtual_service("{hosts: [reviews], http: [{route: [{destination: {host: told}}]}]}");
    let exported =
        |to: &str| format!("{}---\n{to_told}", service(&format!("networking.istio.io/exportTo: {to:?}"), ""));
    check(&exported("other, default"), &[]);
    check(&exported("."), &[]);
    for to in ["other", "~"] {
        check(&exported(to), &["IST0101 VirtualService default/vs spec.http[0].route[0].destination.host"]);
    }
}

#[test]
fn exports_that_differ_are_found_in_both_clusters() {
    let export = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {name: reviews, namespace: default}\n";
    let other = SERVICES.replace("{name: http, port: 9080}", "{name: grpc, port: 9080}");
    let clusters = [cluster("east", &[SERVICES, export]), cluster("west", &[&other, export])];
    let expected = BTreeSet::from(["IST0165 ServiceExport default/reviews".to_owned()]);
    assert_eq!((lines(&clusters, "east"), lines(&clusters, "west")), (expected.clone(), expected));
    let dr =
        |version: &str| rule(&format!("{{host: reviews, subsets: [{{name: a, labels: {{version: {version}}}}}]}}"));
    let clusters = [cluster("east", &[SERVICES, export, &dr("v1")]), cluster("west", &[SERVICES, export, &dr("v2")])];
    assert_eq!(lines(&clusters, "east"), BTreeSet::from(["ISM0005 DestinationRule default/dr spec".to_owned()]));
}
