//! What goes in and what comes out of `parse_manifests`.

mod advice;

use federation_crds::{Kind, Manifest, export_to, parse_manifests, validate_manifest_set};

const GOOD: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: reviews, labels: {app: reviews, isthmus.dev/global: "true"}}
spec:
  clusterIP: 10.1.0.7
  selector: {app: reviews}
  ports:
  - {name: http, port: 9080, targetPort: 39080, appProtocol: http}
  - {name: grpc, port: 9090, targetPort: grpc}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-1, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
endpoints:
- addresses: [127.1.2.3]
  conditions: {ready: true}
  targetRef: {kind: Pod, name: reviews-a}
ports:
- {name: http, port: 9080}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: reviews, annotations: {isthmus.dev/export-to: "west, north"}}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: ratings}
spec: {exportedLabels: {team: a}}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceImport
metadata: {name: ratings}
spec:
  type: ClusterSetIP
  ips: [243.0.0.1, "fd00::1"]
  ipFamilies: [IPv4, IPv6]
  ports: [{port: 80}]
status: {clusters: [{cluster: west}]}
"#;

#[test]
fn all_implemented_kinds_are_read_and_written_back() {
    let manifests = parse_manifests(GOOD, "good.yaml").unwrap();
    let keys: Vec<String> = manifests.iter().map(|manifest| manifest.key().to_string()).collect();
    assert_eq!(
        keys,
        [
            "Service default/reviews",
            "EndpointSlice shop/reviews-1",
            "ServiceExport default/reviews",
            "ServiceExport default/ratings",
            "ServiceImport default/ratings"
        ]
    );
    let Manifest::ServiceExport(export) = &manifests[2] else { panic!("not an export") };
    assert_eq!(export_to(export), Some(vec!["west".to_owned(), "north".to_owned()]));
    let text: Vec<String> = manifests.iter().map(|manifest| manifest.to_yaml().unwrap()).collect();
    assert_eq!(parse_manifests(&text.join("---\n"), "again.yaml").unwrap(), manifests);
}

#[test]
fn empty_documents_and_nulls_are_nothing() {
    assert_eq!(parse_manifests("", "x").unwrap(), []);
    assert_eq!(parse_manifests("---\n# only words\n---\n---\n", "x").unwrap(), []);
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: null}\nspec: {ports: [{port: 1, name: null}], selector: }\n";
    assert_eq!(parse_manifests(text, "x").unwrap().len(), 1);
}

#[test]
fn a_list_as_kubectl_prints_it_stands_for_its_items() {
    let item = |name: &str, port: &str| {
        format!(
            "- apiVersion: v1\n  kind: Service\n  metadata: {{name: {name}, uid: x, resourceVersion: \"1\"}}\n  spec: {{ports: [{{port: {port}}}]}}\n"
        )
    };
    let list =
        |items: &str| format!("apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: \"\"}}\nitems:\n{items}");
    let both = parse_manifests(&list(&(item("a", "1") + &item("b", "2"))), "x").unwrap();
    assert_eq!(
        both.iter().map(|found| found.key().to_string()).collect::<Vec<_>>(),
        ["Service default/a", "Service default/b"]
    );
    let errors = parse_manifests(&list(&(item("a", "1") + &item("b", "0") + &item("a", "1"))), "x").unwrap_err();
    let objects: Vec<(&str, &str)> =
        errors.0.iter().map(|error| (error.object.as_str(), error.path.as_str())).collect();
    assert_eq!(objects, [("Service default/b", "spec.ports[0].port"), ("Service default/a", "metadata.name")]);
    assert_eq!(parse_manifests(&list("[]").replace("items:\n[]", "items: []"), "x").unwrap(), []);
}

#[test]
fn what_istio_has_written_into_a_status_is_passed_over() {
    let object = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}\n";
    let status = "status: {observedGeneration: \"2\", validationMessages: [{level: WARNING}], conditions: [{type: Reconciled, status: \"True\"}]}\n";
    let both = [object.to_owned(), format!("{object}{status}")].map(|text| parse_manifests(&text, "x").unwrap());
    assert_eq!(both[0], both[1]);
}

/// Each case: a document, and the errors that it must give as `path: message`, with ` (hint)` where the hint matters.
#[test]
fn every_mistake_is_named_with_its_field() {
    let service = |rest: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n{rest}");
    let slice =
        |rest: &str| format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web}}\n{rest}");
    let export = |rest: &str| format!("apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n{rest}");
    let import = |rest: &str| {
        format!("apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceImport\nmetadata: {{name: web}}\nspec: {rest}")
    };
    let cases: Vec<(String, &[&str])> = vec![
        (
            service("spec: {ports: [{port: 80, nodeport: 81}]}"),
            &["spec.ports[0].nodeport: unknown field (did you mean nodePort?)"],
        ),
        (
            service("spec: {ports: [{port: \"80\", name: 7}], selectors: {}}\nstatus: 3"),
            &[
                "spec.ports[0].port: must be an integer, not the string \"80\" (write it without quotes)",
                "spec.ports[0].name: must be a string, not the number 7 (put it in quotes: \"7\")",
                "spec.selectors: unknown field (did you mean selector?)",
                "status: must be an object, not the number 3",
            ],
        ),
        (
            export("metadata: {name: web, annotations: {isthmus.dev/unmeshed: maybe}}"),
            &["metadata.annotations[\"isthmus.dev/unmeshed\"]: \"maybe\" must be one of allow, deny"],
        ),
        (
            export("metadata: {name: web, annotations: {isthmus.dev/unmeshed-service-account: old}}"),
            &[
                "metadata.annotations[\"isthmus.dev/unmeshed-service-account\"]: has no effect: gateways may not speak for pods without a sidecar (add isthmus.dev/unmeshed: allow, or leave the account out)",
            ],
        ),
        (service("spec: {ports: [{name: a}]}"), &["spec.ports[0].port: is required (add port: and a number)"]),
        (
            service("spec: {ports: [{port: 5000000000}]}"),
            &[
                "spec.ports[0].port: must be an integer, not the number 5000000000 (write a number of at most 2147483647)",
            ],
        ),
        (service("spec: {ports: [{port: 0}]}"), &["spec.ports[0].port: 0 must be a port, 1 to 65535"]),
        (
            service("spec: {ports: []}"),
            &["spec.ports: at least one port is required (only a headless Service may have none)"],
        ),
        (service(""), &["spec: is required (add spec: {selector: {…}, ports: [{port: …}]})"]),
        (
            service("spec: {ports: [{port: 1, name: a}, {port: 1, name: a}, {port: 2, protocol: tcp}]}"),
            &[
                "spec.ports[1].name: the name \"a\" is used twice",
                "spec.ports[1].port: 1/TCP is used twice",
                "spec.ports[2].protocol: \"tcp\" must be one of TCP, UDP, SCTP",
                "spec.ports[2].name: is required when there is more than one port",
            ],
        ),
        (
            service("spec: {type: Clusterip, clusterIP: 1.2.3, ports: [{port: 1, targetPort: 0}]}"),
            &[
                "spec.type: \"Clusterip\" must be one of ClusterIP, NodePort, LoadBalancer, ExternalName",
                "spec.clusterIP: \"1.2.3\" must be an IP address",
                "spec.ports[0].targetPort: 0 must be a port, 1 to 65535",
            ],
        ),
        (
            slice("addressType: IPv4\nendpoints: [{addresses: [\"::1\"]}, {addresses: []}, {addresses: [0.0.0.0]}]"),
            &[
                "endpoints[0].addresses[0]: \"::1\" must be an IPv4 address, as addressType says",
                "endpoints[1].addresses: must have 1 to 100 addresses",
                "endpoints[2].addresses[0]: \"0.0.0.0\" cannot be the address of an endpoint",
            ],
        ),
        (slice("endpoints: []"), &["addressType: is required"]),
        (
            slice("addressType: IPv4\nendpoints: [{addresses: [1.2.3.4], ready: true}]"),
            &[
                "endpoints[0].ready: unknown field (possible are addresses, conditions, deprecatedTopology, hints, hostname, nodeName, targetRef, zone)",
            ],
        ),
        (
            export("metadata: {name: web, annotations: {isthmus.dev/exportto: west}}"),
            &[
                "metadata.annotations[\"isthmus.dev/exportto\"]: means nothing here (did you mean isthmus.dev/export-to?)",
            ],
        ),
        (
            export("metadata: {name: web, annotations: {isthmus.dev/export-to: \"west,,West\"}}"),
            &[
                "metadata.annotations[\"isthmus.dev/export-to\"]: \"\" must be an RFC 1123 label: 1 to 63 lower-case letters, digits or '-', a letter or digit at both ends (write cluster names separated by commas, or leave the annotation out to export to every member)",
                "metadata.annotations[\"isthmus.dev/export-to\"]: \"West\" must be an RFC 1123 label: 1 to 63 lower-case letters, digits or '-', a letter or digit at both ends (write cluster names separated by commas, or leave the annotation out to export to every member)",
            ],
        ),
        (
            export("metadata: {name: web}\nspec: {exportTo: [a]}"),
            &["spec.exportTo: unknown field (possible are exportedLabels, exportedAnnotations)"],
        ),
        (export("metadata: {}"), &["metadata.name: is required (write metadata: {name: …})"]),
        (
            import("{type: headless, ports: [{}], ips: [a, b, c], ipFamilies: [IPv5]}"),
            &[
                "spec.type: must be one of ClusterSetIP, Headless, not the string \"headless\" (did you mean Headless?)",
                "spec.ports[0].port: is required",
                "spec.ips: has 3 items, at most 2 are allowed",
                "spec.ipFamilies[0]: must be one of IPv4, IPv6, not the string \"IPv5\" (did you mean IPv4?)",
            ],
        ),
        (
            import("{type: ClusterSetIP, ports: [], ips: [1.2.3.4, 1.2.3.5], ipFamilies: [IPv6, IPv6]}"),
            &[
                "spec.ipFamilies[1]: must differ from the first",
                "spec.ips[0]: \"1.2.3.4\" must be of the family that spec.ipFamilies[0] says",
                "spec.ips[1]: must be of the other family than the first",
                "spec.ips[1]: \"1.2.3.5\" must be of the family that spec.ipFamilies[1] says",
            ],
        ),
        (
            import("{type: Headless, ports: [], ips: [1.2.3.4]}"),
            &["spec.ips: must be absent when the type is Headless"],
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}".to_owned(),
            &[
                "kind: kind Deployment (apps/v1) is not supported yet (supported are Service, EndpointSlice, Secret, ConfigMap, ServiceExport, ServiceImport, VirtualService, DestinationRule, Gateway, ServiceEntry, WorkloadEntry, Sidecar, PeerAuthentication, RequestAuthentication, AuthorizationPolicy, RateLimitPolicy, ClusterTrafficPolicy)",
            ],
        ),
        (
            "apiVersion: v1\nkind: Servise".to_owned(),
            &["kind: kind Servise (v1) is not supported yet (did you mean Service?)"],
        ),
        (
            "apiVersion: v2\nkind: Service".to_owned(),
            &["apiVersion: v2 of Service is not a version that exists here (write apiVersion: v1)"],
        ),
        (
            "serving.knative.dev: 1".to_owned(),
            &["apiVersion: is required, as a string", "kind: is required, as a string"],
        ),
        (
            "apiVersion: serving.knative.dev/v1\nkind: Service".to_owned(),
            &[
                "kind: kind Service (serving.knative.dev/v1) is not supported yet (supported are Service, EndpointSlice, Secret, ConfigMap, ServiceExport, ServiceImport, VirtualService, DestinationRule, Gateway, ServiceEntry, WorkloadEntry, Sidecar, PeerAuthentication, RequestAuthentication, AuthorizationPolicy, RateLimitPolicy, ClusterTrafficPolicy)",
            ],
        ),
        ("- 1".to_owned(), &[": is not an object (a manifest begins with apiVersion: and kind:)"]),
    ];
    for (text, expected) in cases {
        let errors = advice::errors(&text, "x.yaml");
        let mut found: Vec<String> =
            errors.iter().map(|error| format!("{}: {} ({})", error.path, error.message, error.hint)).collect();
        let mut expected = expected.to_vec();
        found.sort();
        expected.sort_unstable();
        let fits = |found: &String, expected: &&str| {
            found.strip_prefix(expected).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
        };
        let same = found.len() == expected.len() && found.iter().zip(&expected).all(|(it, start)| fits(it, start));
        assert!(same, "{text}: found {found:#?}, expected {expected:#?}");
    }
}

#[test]
fn all_documents_are_looked_at_and_nothing_is_half_read() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 1}]}\n---\nkind: [\n---\napiVersion: v1\nkind: Service\nmetadata: {name: Bad, namespace: shop}\nspec: {ports: [{port: 1}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 2}]}\n";
    let errors = parse_manifests(text, "dir/web.yaml").unwrap_err();
    let places: Vec<(usize, &str, &str)> =
        errors.0.iter().map(|error| (error.document, error.object.as_str(), error.path.as_str())).collect();
    assert_eq!(
        places,
        [(2, "", ""), (3, "Service shop/Bad", "metadata.name"), (4, "Service default/good", "metadata.name")]
    );
    let shown = errors.to_string();
    assert!(
        shown.contains(
            "dir/web.yaml:7 (document 3): Service shop/Bad: metadata.name: \"Bad\" must be an RFC 1035 label"
        ),
        "{shown}"
    );
    assert!(shown.contains("the same object stands in document 1\n  hint: remove one of the two"), "{shown}");
}

#[test]
fn a_duplicate_key_is_no_valid_yaml() {
    let found = advice::messages("apiVersion: v1\nkind: Service\nkind: Service\n");
    assert!(found[0].starts_with(": is not valid YAML"), "{found:?}");
    assert!(!found[0].contains("Policy"), "advice to programmers: {found:?}");
}

#[test]
fn one_object_in_two_files_is_one_too_many() {
    let manifests = parse_manifests(GOOD, "a.yaml").unwrap();
    assert_eq!(validate_manifest_set([("a.yaml", manifests.as_slice())]), Ok(()));
    let errors = validate_manifest_set([("a.yaml", &manifests[..]), ("b.yaml", &manifests[..1])]).unwrap_err();
    assert_eq!(errors.0.len(), 1);
    assert_eq!(errors.0[0].object, "Service default/reviews");
    assert_eq!(errors.0[0].message, "the same object stands in a.yaml");
    assert_eq!(manifests[0].kind(), Kind::Service);
}
