use std::collections::BTreeMap;

use mesh::{GatewayConfig, MeshInfo, ServerProtocol, ServerTlsMode, TlsMaterial, TlsVersion, TrustDomain};

use crate::compile::{Compiled, Input};
use crate::local;

/// The ingress gateway, with 80 → 8080 and 443 → 8443, and a workload beside a sidecar.
const CLUSTER: &str = "
apiVersion: v1
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec: {ports: [{name: http2, port: 80}, {name: https, port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: ingress
  namespace: istio-system
  labels: {kubernetes.io/service-name: istio-ingressgateway}
  annotations: {isthmus.dev/meshed: \"true\", isthmus.dev/pod-labels: \"istio=ingressgateway,app=istio-ingressgateway\"}
addressType: IPv4
endpoints: [{addresses: [127.1.1.1], targetRef: {kind: Pod, name: ingress-0}}]
ports: [{name: http2, port: 8080}, {name: https, port: 8443}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web
  labels: {kubernetes.io/service-name: web}
  annotations: {isthmus.dev/meshed: \"true\", isthmus.dev/pod-labels: app=web}
addressType: IPv4
endpoints: [{addresses: [127.1.1.2], targetRef: {kind: Pod, name: web-0}}]
ports: [{name: http, port: 8080}]
";

const INGRESS: &str = "istio-system/ingress-0";

fn mesh_info() -> MeshInfo {
    MeshInfo {
        mesh_id: "demo".parse().unwrap(),
        cluster: "east".parse().unwrap(),
        trust_domain: TrustDomain::new("east.demo").unwrap(),
        roots: Vec::new(),
        bundle_serial: 1,
    }
}

/// Compiles objects for the cluster above, in the order that they are written and in the reverse one.
fn compile(objects: &str) -> Compiled {
    let text = format!("{CLUSTER}---\n{objects}");
    let mut manifests =
        federation_crds::parse_manifests(&text, "test.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let mesh = mesh_info();
    let compile = |manifests: &[federation_crds::Manifest]| {
        let local = local::build(manifests, &mesh.trust_domain);
        assert_eq!(local.problems, Vec::<String>::new());
        crate::compile(&Input { manifests, local: &local, mesh: &mesh, imported: &BTreeMap::new() })
    };
    let compiled = compile(&manifests);
    manifests.reverse();
    assert_eq!(compile(&manifests), compiled, "the order matters");
    compiled
}

fn ingress(compiled: &Compiled) -> &GatewayConfig {
    let config = compiled.workloads.get(INGRESS).and_then(|config| config.gateway.as_ref());
    config.unwrap_or_else(|| panic!("the ingress gateway has no configuration"))
}

fn codes(compiled: &Compiled) -> Vec<(&str, &str)> {
    compiled.findings.iter().map(|finding| (finding.code.0, finding.path.as_str())).collect()
}

fn gateway(name: &str, servers: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\n\
         spec:\n  selector: {{istio: ingressgateway}}\n  servers: {servers}\n"
    )
}

fn http(number: u16, hosts: &str) -> String {
    format!("{{port: {{number: {number}, name: http-{number}, protocol: HTTP}}, hosts: [{hosts}]}}")
}

fn virtual_service(namespace: &str, name: &str, gateways: &str, hosts: &str, more: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  gateways: [{gateways}]\n  hosts: [{hosts}]\n  {more}\n  http: [{{route: [{{destination: {{host: web.default.svc.cluster.local}}}}]}}]\n"
    )
}

fn pair(name: &str) -> String {
    secret(
        name,
        &format!("tls.crt: {}, tls.key: {}, ca.crt: {}", pem("CERTIFICATE"), pem("PRIVATE KEY"), pem("CERTIFICATE")),
    )
}

/// The shape of PEM; what is in it is opaque to the compiler.
fn pem(label: &str) -> String {
    format!("\"-----BEGIN {label}-----\\nMIIB\\n-----END {label}-----\\n\"")
}

fn secret(name: &str, data: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\nstringData: {{{data}}}\n"
    )
}

/// As in the examples of Istio that must work unchanged.
const INGRESS_GATEWAY: &str = r#"apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: my-gateway
spec:
  selector:
    istio: ingressgateway
  servers:
    - port:
        number: 443
        name: https
        protocol: HTTPS
      tls:
        mode: SIMPLE
        credentialName: tls-cert
      hosts:
        - "*.yourdomain.com"
"#;

#[test]
fn the_example_of_an_ingress_gateway_means_what_it_says() {
    let compiled = compile(&[INGRESS_GATEWAY, &pair("tls-cert")].concat());
    assert_eq!(codes(&compiled), []);
    assert_eq!(compiled.workloads.keys().collect::<Vec<_>>(), [INGRESS]);
    let [listener] = ingress(&compiled).listeners.as_slice() else { panic!("not one listener") };
    assert_eq!((listener.port, listener.target_port, listener.bind), (443, 8443, None));
    let server = &listener.servers[0];
    assert_eq!((server.gateway.as_str(), server.protocol), ("default/my-gateway", ServerProtocol::Http));
    assert_eq!((server.hosts[0].host.as_str(), server.hosts[0].namespace.as_ref()), ("*.yourdomain.com", None));
    let tls = server.tls.as_ref().unwrap();
    assert_eq!(tls.mode, ServerTlsMode::Simple);
    assert_eq!(tls.certificates, [TlsMaterial::Secret("istio-system/tls-cert".to_owned())]);
    let shared = &compiled.secrets["istio-system/tls-cert"];
    assert!(shared.secret.private_key.starts_with(b"-----BEGIN PRIVATE KEY"));
    assert_eq!(shared.readers.iter().collect::<Vec<_>>(), [&format!("edge~{INGRESS}")]);
}

#[test]
fn a_missing_secret_is_found_and_the_server_stays() {
    let compiled = compile(INGRESS_GATEWAY);
    assert_eq!(codes(&compiled), [("IST0101", "spec.servers[0].tls.credentialName")]);
    assert_eq!(ingress(&compiled).listeners[0].servers.len(), 1);
    assert!(compiled.secrets.is_empty());
}

#[test]
fn clients_are_verified_by_the_secret_or_the_one_beside_it() {
    let mutual = INGRESS_GATEWAY.replace("SIMPLE", "MUTUAL");
    let own = compile(&[mutual.as_str(), &pair("tls-cert")].concat());
    let tls = |compiled: &Compiled| ingress(compiled).listeners[0].servers[0].tls.clone().unwrap();
    assert_eq!((tls(&own).mode, tls(&own).client_ca), (ServerTlsMode::Mutual, None));
    let beside = secret("tls-cert-cacert", &format!("cacert: {}", pem("CERTIFICATE")));
    let beside = compile(&[mutual.as_str(), &pair("tls-cert"), &beside].concat());
    let name = "istio-system/tls-cert-cacert";
    assert_eq!(tls(&beside).client_ca, Some(TlsMaterial::Secret(name.to_owned())));
    assert!(beside.secrets[name].secret.ca.starts_with(b"-----BEGIN CERTIFICATE"));
    let without = secret("tls-cert", &format!("cert: {}, key: {}", pem("CERTIFICATE"), pem("PRIVATE KEY")));
    let without = compile(&[mutual.as_str(), &without].concat());
    assert_eq!(codes(&without), [("IST0161", "spec.servers[0].tls.credentialName")]);
    let swapped = secret("tls-cert", &format!("tls.crt: {}, tls.key: {}", pem("PRIVATE KEY"), pem("CERTIFICATE")));
    let swapped = compile(&[INGRESS_GATEWAY, &swapped].concat());
    assert_eq!(codes(&swapped), [("IST0161", "spec.servers[0].tls.credentialName")]);
}

#[test]
fn gateways_of_any_namespace_are_merged_by_port() {
    let compiled = compile(
        &[
            gateway("a", &format!("[{}, {}]", http(80, "a.example.com"), http(8888, "'*'"))),
            gateway("b", &format!("[{}]", http(80, "b.example.com")))
                .replace("{name: b}", "{name: b, namespace: shop}"),
        ]
        .concat(),
    );
    let listeners: Vec<_> = ingress(&compiled)
        .listeners
        .iter()
        .map(|it| {
            (it.port, it.target_port, it.servers.iter().map(|server| server.gateway.as_str()).collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(listeners, [(80, 8080, vec!["default/a", "shop/b"]), (8888, 8888, vec!["default/a"])]);
    assert_eq!(codes(&compiled), [("IST0162", "spec.servers[1].port.number")]);
    let target = compile(&[gateway("a", &format!("[{}]", http(8080, "a.example.com")))].concat());
    assert_eq!(codes(&target), [], "the Service leads there, by another number");
}

#[test]
fn servers_that_conflict_are_left_out() {
    let tls = |hosts: &str| {
        format!("{{port: {{number: 443, name: tls, protocol: TLS}}, hosts: [{hosts}], tls: {{mode: PASSTHROUGH}}}}")
    };
    let tcp = "{port: {number: 443, name: tcp, protocol: TCP}, hosts: ['*']}";
    let cases = [
        ("two plain HTTP servers share a port", http(80, "a.io"), http(80, "a.io"), 2),
        ("two TLS servers of other hosts share a port", tls("a.io"), tls("b.io"), 2),
        ("two TLS servers of one host do not", tls("a.io"), tls("a.io"), 1),
        ("TCP does not share a port with TLS", tcp.to_owned(), tls("a.io"), 1),
        ("TCP does not share a port with TCP", tcp.to_owned(), tcp.to_owned(), 1),
        ("HTTP does not share a port with TLS", http(443, "a.io"), tls("a.io"), 1),
        ("two ports of the Service do not lead to one", http(80, "a.io"), http(8080, "b.io"), 1),
    ];
    for (name, one, other, expected) in cases {
        let compiled = compile(&[gateway("a", &format!("[{one}]")), gateway("b", &format!("[{other}]"))].concat());
        let servers: usize = ingress(&compiled).listeners.iter().map(|listener| listener.servers.len()).sum();
        assert_eq!(servers, expected, "{name}");
        let conflicts = codes(&compiled).iter().filter(|(code, _)| *code == "IST0145").count();
        assert_eq!(conflicts, 2 - expected, "{name}");
    }
}

#[test]
fn selectors_find_gateways() {
    let cases = [("{istio: ingressgateway}", true), ("{istio: egressgateway}", false), ("{}", true)];
    for (selector, expected) in cases {
        let text = gateway("a", &format!("[{}]", http(80, "'*'"))).replace("{istio: ingressgateway}", selector);
        let compiled = compile(&text);
        assert_eq!(compiled.workloads.contains_key(INGRESS), expected, "{selector}");
        assert!(!compiled.workloads.contains_key("default/web-0"), "{selector}");
    }
}

/// Server host, VirtualService (namespace, gateways, hosts, more) → hosts that it is bound for.
#[test]
fn virtual_services_are_bound_by_gateway_host_and_namespace() {
    let cases = [
        ("the host of both", "a.io", ("default", "gw", "a.io", ""), vec!["a.io"]),
        ("below a wildcard", "'*.a.io'", ("default", "gw", "x.a.io, a.io", ""), vec!["x.a.io"]),
        ("any host", "'*'", ("default", "gw", "a.io, '*.b.io'", ""), vec!["a.io", "*.b.io"]),
        ("the narrower host", "a.io", ("default", "gw", "'*'", ""), vec!["a.io"]),
        ("another host", "a.io", ("default", "gw", "b.io", ""), vec![]),
        ("another gateway", "a.io", ("default", "other", "a.io", ""), vec![]),
        ("the mesh alone", "a.io", ("default", "mesh", "a.io", ""), vec![]),
        ("a gateway of another namespace", "a.io", ("shop", "default/gw", "a.io", ""), vec!["a.io"]),
        ("a short name is of the own namespace", "a.io", ("shop", "gw", "a.io", ""), vec![]),
        ("hosts for the own namespace", "./a.io", ("shop", "default/gw", "a.io", ""), vec![]),
        ("hosts for the own namespace, from it", "./a.io", ("default", "gw", "a.io", ""), vec!["a.io"]),
        ("hosts for one namespace", "shop/a.io", ("shop", "default/gw", "a.io", ""), vec!["a.io"]),
        ("hosts for another namespace", "shop/a.io", ("default", "gw", "a.io", ""), vec![]),
        ("hosts for all namespaces", "'*/a.io'", ("shop", "default/gw", "a.io", ""), vec!["a.io"]),
        ("not exported", "a.io", ("default", "gw", "a.io", "exportTo: ['.']"), vec![]),
        ("exported to the gateway", "a.io", ("default", "gw", "a.io", "exportTo: [istio-system]"), vec!["a.io"]),
    ];
    for (name, host, (namespace, gateways, hosts, more), expected) in cases {
        let objects = [
            gateway("gw", &format!("[{}]", http(80, host))),
            virtual_service(namespace, "routes", gateways, hosts, more),
        ];
        let compiled = compile(&objects.concat());
        let routes = &ingress(&compiled).listeners[0].servers[0].routes;
        let found: Vec<_> = routes.iter().map(|virtual_host| virtual_host.host.as_str()).collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn the_older_of_two_virtual_services_for_a_host_comes_first() {
    let dated = |name: &str, year: u32| {
        virtual_service("default", name, "gw", "a.io", "")
            .replace("{name:", &format!("{{creationTimestamp: \"{year}-01-01T00:00:00Z\", name:"))
    };
    let compiled =
        compile(&[gateway("gw", &format!("[{}]", http(80, "a.io"))), dated("a", 2025), dated("b", 2024)].concat());
    let routes = &ingress(&compiled).listeners[0].servers[0].routes;
    assert_eq!(routes.iter().map(|it| it.routes.origin.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
}

/// Port and TLS of a server → what it speaks and how TLS ends.
#[test]
fn protocols_and_modes_are_istios() {
    use ServerProtocol::{Http, Tcp};
    use ServerTlsMode::{AutoPassthrough, IstioMutual, Passthrough, Simple};
    let files = "{mode: SIMPLE, serverCertificate: /c, privateKey: /k}";
    let cases = [
        ("HTTP", "{httpsRedirect: true}", (Http, None, true)),
        ("HTTP2", "null", (Http, None, false)),
        ("GRPC", "null", (Http, None, false)),
        ("HTTPS", files, (Http, Some(Simple), false)),
        ("HTTPS", "{mode: PASSTHROUGH}", (Tcp, Some(Passthrough), false)),
        ("HTTPS", "{mode: ISTIO_MUTUAL}", (Http, Some(IstioMutual), false)),
        ("TLS", files, (Tcp, Some(Simple), false)),
        ("TLS", "{mode: AUTO_PASSTHROUGH}", (Tcp, Some(AutoPassthrough), false)),
        ("TCP", "null", (Tcp, None, false)),
        ("MONGO", "null", (Tcp, None, false)),
    ];
    for (protocol, tls, expected) in cases {
        let server = format!("[{{port: {{number: 80, name: x, protocol: {protocol}}}, hosts: ['*'], tls: {tls}}}]");
        let compiled = compile(&gateway("gw", &server));
        let server = ingress(&compiled).listeners[0].servers[0].clone();
        let found = (server.protocol, server.tls.as_ref().map(|tls| tls.mode), server.https_redirect);
        assert_eq!(found, expected, "{protocol} {tls}");
    }
}

#[test]
fn versions_ciphers_and_hashes_are_handed_on() {
    let tls = "{mode: SIMPLE, serverCertificate: /c, privateKey: /k, minProtocolVersion: TLSV1_2, maxProtocolVersion: TLSV1_3, \
               cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256, AES128-SHA], verifyCertificateHash: ['AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB']}";
    let server = format!("[{{port: {{number: 443, name: x, protocol: HTTPS}}, hosts: ['*'], tls: {tls}}}]");
    let compiled = compile(&gateway("gw", &server));
    let tls = ingress(&compiled).listeners[0].servers[0].tls.clone().unwrap();
    assert_eq!((tls.min_version, tls.max_version), (Some(TlsVersion::V12), Some(TlsVersion::V13)));
    assert_eq!(tls.cipher_suites, ["ECDHE-RSA-AES128-GCM-SHA256"]);
    assert_eq!(tls.certificate_hashes, ["ab".repeat(32)]);
    assert_eq!(codes(&compiled), [("ISM0001", "spec.servers[0].tls.cipherSuites[1]")]);
}
