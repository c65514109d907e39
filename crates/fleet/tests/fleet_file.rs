//! Fleet files: what is accepted, and what is said about what is not.

#![expect(clippy::panic, reason = "a test that cannot go on says why and ends")]

use fleet::FleetFile;
use fleet::file::{Export, FileError, PortProtocol};

const HEAD: &str = "name: demo\nclusters:\n  - name: east\n";

/// The problems of a text as `field: message`.
fn problems(text: &str) -> Vec<String> {
    match FleetFile::parse(text) {
        Err(FileError::Fields(problems)) => {
            assert!(problems.iter().all(|problem| !problem.hint.is_empty()), "every problem has a hint: {problems:?}");
            problems.into_iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
        }
        Err(other) => vec![other.to_string()],
        Ok(file) => panic!("accepted: {file:?}"),
    }
}

#[test]
fn every_mistake_names_its_field() {
    let workload = |fields: &str| format!("{HEAD}    workloads:\n      - {{name: web, {fields}}}\n");
    let cases: Vec<(String, &str)> = vec![
        ("clusters: [{name: east}]".into(), "name: the field is required"),
        ("name: demo".into(), "clusters: the field is required"),
        ("[]".into(), "(the file): expected fields, found a list"),
        (format!("{HEAD}hub: {{nodes: 2}}"), "hub.nodes: 2 is not an odd number of voters"),
        (format!("{HEAD}hub: {{nodes: 7}}"), "hub.nodes: expected a number from 1 to 5, found 7"),
        (format!("{HEAD}hub: {{node: 3}}"), "hub.node: unknown field"),
        (format!("{HEAD}ground: kind"), "ground: unknown ground \"kind\""),
        (format!("{HEAD}mesh: Demo"), "mesh: mesh id \"Demo\" is not valid"),
        ("name: demo\nclusters: [{name: hub}]".into(), "clusters[0].name: a cluster cannot be called hub"),
        ("name: demo\nclusters: [{name: a}, {name: a}]".into(), "clusters: cluster \"a\" is listed twice"),
        (format!("{HEAD}    gateways: 0"), "clusters[0].gateways: expected a number from 1 to 7, found 0"),
        (format!("{HEAD}    gateways: two"), "clusters[0].gateways: expected a number from 1 to 7, found text"),
        (workload("serviceaccount: web"), "clusters[0].workloads[0].serviceaccount: unknown field"),
        (workload("labels: {version: 1}"), "clusters[0].workloads[0].labels.version: expected text, found a number"),
        (workload("labels: {a b: v}"), "clusters[0].workloads[0].labels.a b: label key \"a b\" is not valid"),
        (workload("labels: {a: v/w}"), "clusters[0].workloads[0].labels.a: label value \"v/w\" is not valid"),
        (workload("locality: eu//a"), "clusters[0].workloads[0].locality: \"eu//a\" is no locality"),
        (workload("locality: a/b/c/d"), "clusters[0].workloads[0].locality: \"a/b/c/d\" is no locality"),
        (
            workload("mesh: false, annotations: {a: b}"),
            "clusters[0].workloads[0].annotations: a workload without a sidecar has no use for them",
        ),
        (format!("{HEAD}    ingress: [{{role: x}}]"), "clusters[0].ingress[0].role: unknown field"),
        (
            format!("{HEAD}    ingress: [{{name: dns}}]"),
            "clusters[0].ingress[0].name: \"dns\" is the name of another component",
        ),
        (
            format!("{HEAD}    ingress: [{{}}, {{}}]"),
            "clusters[0].ingress: gateway \"istio-ingressgateway\" is listed twice",
        ),
        (
            format!("{HEAD}    egress: [{{labels: {{istio: 1}}}}]"),
            "clusters[0].egress[0].labels.istio: expected text, found a number",
        ),
        (
            format!("{HEAD}    egress: [{{ports: [{{name: a}}]}}]"),
            "clusters[0].egress[0].ports[0].port: the field is required",
        ),
        (
            format!("{HEAD}    egress: [{{ports: [{{port: 8443}}]}}]"),
            "clusters[0].egress[0].ports: port tcp-8443 (8443 to 8443) is listed twice",
        ),
        (
            format!("{HEAD}    egress: [{{ports: [{{port: 5, targetPort: 15008}}]}}]"),
            "clusters[0].egress[0].ports: port 15008 is taken",
        ),
        (workload("mesh: 'no'"), "clusters[0].workloads[0].mesh: expected true or false, found text"),
        (workload("replicas: 300"), "clusters[0].workloads[0].replicas: expected a number from 1 to 230, found 300"),
        (workload("command: []"), "clusters[0].workloads[0].command: the command is empty"),
        (workload("ports: [{name: a}]"), "clusters[0].workloads[0].ports[0].port: the field is required"),
        (
            workload("ports: [{name: a, port: 80, protocol: htpt}]"),
            "clusters[0].workloads[0].ports[0].protocol: unknown protocol \"htpt\"",
        ),
        (workload("ports: [{name: a, port: 15008}]"), "clusters[0].workloads[0].ports: port 15008 is taken"),
        (
            workload("ports: [{name: a, port: 80}, {name: a, port: 81}]"),
            "clusters[0].workloads[0].ports: port a (81) is listed twice",
        ),
        (workload("export: yes please"), "clusters[0].workloads[0].export: expected true, false or a list of clusters"),
        (
            workload("export: [west], ports: [{port: 80}]"),
            "clusters[0].workloads[0].export: there is no cluster \"west\"",
        ),
        (
            workload("export: true"),
            "clusters[0].workloads[0].export: a workload without ports has no Service to export",
        ),
        (
            format!(
                "{HEAD}    workloads: [{{name: a, service: s, ports: [{{port: 80}}]}}, {{name: b, service: s, ports: [{{port: 81}}]}}]"
            ),
            "clusters[0].workloads: workloads \"a\" and \"b\" share a service but differ",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(problems(&text), [expected], "for\n{text}");
    }
}

#[test]
fn a_second_document_is_refused_without_advice_to_programmers() {
    let error = FleetFile::parse("name: x\n---\nname: y\n").expect_err("refused").to_string();
    assert!(error.contains("a fleet file is one document") && !error.contains("from_str"), "{error}");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = "name: demo\nhub: {nodes: 4}\nclusters:\n  - nam: east\n    gateways: 99\n";
    assert_eq!(
        problems(text),
        [
            "hub.nodes: 4 is not an odd number of voters",
            "clusters[0].nam: unknown field",
            "clusters[0].name: the field is required",
            "clusters[0].gateways: expected a number from 1 to 7, found 99",
        ]
    );
    let told = FleetFile::parse(text).expect_err("mistakes").to_string();
    assert!(told.starts_with("the fleet file has 4 mistakes:\n"), "{told}");
    assert!(told.contains("hint: did you mean `name`?"), "{told}");
}

#[test]
fn a_short_file_has_the_usual_defaults() {
    let text = format!("{HEAD}    workloads: [{{name: web, ports: [{{port: 80}}]}}]");
    let file = FleetFile::parse(&text).expect("valid");
    assert_eq!((file.mesh.as_str(), file.hub_nodes, file.clusters[0].gateways), ("demo", 3, 1));
    let web = &file.clusters[0].workloads[0];
    assert_eq!((web.namespace.as_str(), web.service_account.as_str(), web.service.as_str()), ("default", "web", "web"));
    assert_eq!((web.replicas, web.mesh, &web.export), (1, true, &Export::No));
    assert_eq!((web.ports[0].name.as_str(), web.ports[0].protocol), ("http", PortProtocol::Http));
}

#[test]
fn gateways_of_the_edge_are_called_as_istio_calls_them() {
    let text = format!(
        "{HEAD}    ingress: [{{ports: [{{port: 31400}}, {{port: 443, targetPort: 9443}}]}}]\n    egress: [{{}}]"
    );
    let file = FleetFile::parse(&text).expect("valid");
    let [ingress, egress] = &file.clusters[0].edges[..] else { panic!("two gateways") };
    assert_eq!((ingress.name.as_str(), ingress.labels["istio"].as_str()), ("istio-ingressgateway", "ingressgateway"));
    assert_eq!((egress.name.as_str(), egress.labels["istio"].as_str()), ("istio-egressgateway", "egressgateway"));
    let ports = |edge: &fleet::file::EdgeSpec| -> Vec<String> {
        edge.ports.iter().map(|port| format!("{} {} {}", port.name, port.port, port.target)).collect()
    };
    assert_eq!(ports(ingress), ["http2 80 8080", "tcp-31400 31400 31400", "https 443 9443"]);
    assert_eq!(ports(egress), ["http2 80 8080", "https 443 8443"]);
}

#[test]
fn the_committed_examples_are_valid() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/fleets");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).expect("the examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            FleetFile::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
}
