//! Hosts outside the mesh: known by ServiceEntry, reached or refused, and left through the egress gateway.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use fleet::call::connect;
use multicluster_tests::{Certificates, Scenario, Server, Shot, step, tally, tool, volley};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

const FLEET: &str = "
name: istio-egress
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    egress: [{}]
    workloads:
      - {name: web, serviceAccount: web, labels: {app: web}}
      - {name: frontend, serviceAccount: frontend, labels: {app: frontend}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_outside_are_known_reached_and_refused_as_configured() {
    tool("nginx", "nginx-light");
    tool("dig", "bind9-dnsutils");
    let certificates = Certificates::new(&["secure=secure.example"]);
    let scenario = Scenario::up(FLEET).await;
    let first = nginx(&scenario, &certificates, 1, "").await;
    let second = nginx(&scenario, &certificates, 2, "").await;
    let (certificate, key) = (certificates.file("secure.crt"), certificates.file("secure.key"));
    let tls = format!("ssl_certificate {certificate}; ssl_certificate_key {key};");
    let secure = nginx(&scenario, &certificates, 3, &tls).await;
    entries(&scenario).await;
    workload_entries(&scenario).await;
    external_names(&scenario).await;
    origination(&scenario, &certificates).await;
    registry_only(&scenario).await;
    egress(&scenario, &certificates).await;
    drop((first, second, secure));
}

/// An nginx outside the mesh, on port 8000 of an address of its own.
async fn nginx(scenario: &Scenario, certificates: &Certificates, number: u8, tls: &str) -> Server {
    let listen = scenario.outside(number, 8000);
    let script = format!("{SCRIPTS}/nginx.sh");
    let directory = certificates.path().display().to_string();
    let server = format!("{tls} add_header x-server {number} always;");
    let ssl = if tls.is_empty() { "" } else { "ssl" };
    let command = ["sh", &script, &directory, &listen.to_string(), &server, ssl];
    Server::start(scenario, &format!("nginx-{number}"), &command, listen).await
}

fn address(scenario: &Scenario, number: u8) -> String {
    scenario.outside(number, 8000).ip().to_string()
}

async fn get(scenario: &Scenario, workload: &str, host: &str) -> Shot {
    scenario.shot(workload, &format!("http://{host}/who"), &[]).await
}

async fn entries(scenario: &Scenario) {
    step("ServiceEntry: STATIC, DNS, automatic addresses");
    let configuration = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: static}
spec:
  hosts: [static.example]
  addresses: [FIRST]
  location: MESH_EXTERNAL
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8000}]
  resolution: STATIC
  endpoints: [{address: FIRST}, {address: SECOND}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named}
spec:
  hosts: [named.example]
  location: MESH_EXTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
  endpoints: [{address: static.example, ports: {http: 8000}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: in-turn}
spec:
  hosts: [in-turn.example]
  location: MESH_EXTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS_ROUND_ROBIN
  endpoints: [{address: static.example, ports: {http: 8000}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: range}
spec:
  hosts: [range.example]
  addresses: [SECOND/32]
  location: MESH_EXTERNAL
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: NONE
";
    let (first, second) = (address(scenario, 1), address(scenario, 2));
    scenario.apply("east", &configuration.replace("FIRST", &first).replace("SECOND", &second)).await;
    let shots = volley(&scenario.call_from("east/web", "http://static.example/who"), 40, 4).await;
    let servers = tally(&shots, |shot| (shot.status, shot.header("x-server").to_owned()));
    assert_eq!(servers.len(), 2, "both endpoints serve: {servers:?}");
    let named = get(scenario, "east/web", "named.example").await;
    assert_eq!((named.status, named.header("x-server")), (200, "1"), "{named:?}");
    assert!(named.body.contains("nginx over HTTP/1.1"), "{named:?}");
    let in_turn = get(scenario, "east/web", "in-turn.example").await;
    assert_eq!((in_turn.status, in_turn.header("x-server")), (200, "1"), "{in_turn:?}");

    let automatic = dig(scenario, "named.example").await;
    assert!(automatic.starts_with("240."), "a host without addresses gets one: {automatic:?}");
    assert_eq!(dig(scenario, "static.example").await, first);
    let mut tunnel = connect(scenario.proxy("east/web"), &automatic, 80).await.expect("the address is known");
    tunnel.write_all(b"GET /who HTTP/1.1\r\nhost: named.example\r\nconnection: close\r\n\r\n").await.expect("written");
    let mut reply = String::new();
    tunnel.read_to_string(&mut reply).await.expect("read");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

/// istio.io, "Kubernetes Services for Egress Traffic".
async fn external_names(scenario: &Scenario) {
    step("Services of type ExternalName: a host of a ServiceEntry, and hosts that nobody else knows");
    let configuration = "
apiVersion: v1
kind: Service
metadata: {name: known}
spec: {type: ExternalName, externalName: named.example, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec: {type: ExternalName, externalName: FIRST, ports: [{name: http, port: 8000}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain}
spec: {host: plain.default.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}}
---
apiVersion: v1
kind: Service
metadata: {name: tls}
spec: {type: ExternalName, externalName: THIRD, ports: [{name: http, port: 8000}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: tls}
spec:
  host: tls.default.svc.cluster.local
  trafficPolicy: {tls: {mode: SIMPLE, sni: secure.example, insecureSkipVerify: true}}
";
    let configuration = configuration.replace("FIRST", &address(scenario, 1)).replace("THIRD", &address(scenario, 3));
    scenario.apply("east", &configuration).await;
    for (host, server) in [("known", "1"), ("plain:8000", "1"), ("tls.default.svc.cluster.local:8000", "3")] {
        let shot = scenario.agrees("east/web", &format!("http://{host}/who"), &[]).await;
        assert_eq!((shot.status, shot.header("x-server")), (200, server), "{host}: {shot:?}");
    }
    scenario.delete("east", &configuration).await;
}

/// Asks the shim for an A record.
async fn dig(scenario: &Scenario, name: &str) -> String {
    let server = format!("@{}", scenario.fleet.cluster("east").expect("east").dns);
    let arguments = [&server, "-p", "15053", "+short", "+tries=1", "+time=5", name, "A"];
    let output = tokio::process::Command::new("dig").args(arguments).output().await.expect("dig runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn workload_entries(scenario: &Scenario) {
    step("WorkloadEntry");
    let configuration = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: legacy}
spec:
  hosts: [legacy.example]
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8000}]
  resolution: STATIC
  workloadSelector: {labels: {app: legacy}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: legacy-1}
spec: {address: SECOND, labels: {app: legacy, version: v7}}
";
    scenario.apply("east", &configuration.replace("SECOND", &address(scenario, 2))).await;
    let legacy = get(scenario, "east/web", "legacy.example").await;
    assert_eq!((legacy.status, legacy.header("x-server")), (200, "2"), "{legacy:?}");
}

const SECURE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: secure}
spec:
  hosts: [secure.example]
  location: MESH_EXTERNAL
  ports:
    - {number: 80, name: http, protocol: HTTP, targetPort: 8000}
    - {number: 443, name: https, protocol: HTTPS, targetPort: 8000}
  resolution: STATIC
  endpoints: [{address: THIRD}]
";

const ORIGINATE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: secure}
spec:
  host: secure.example
  trafficPolicy:
    portLevelSettings:
      - port: {number: PORT}
        tls: {mode: SIMPLE, caCertificates: CA, sni: secure.example}
";

async fn origination(scenario: &Scenario, certificates: &Certificates) {
    step("TLS origination by the sidecar");
    scenario.apply("east", &SECURE.replace("THIRD", &address(scenario, 3))).await;
    let rule = ORIGINATE.replace("CA", &certificates.file("ca.crt")).replace("PORT", "80");
    scenario.apply("east", &rule).await;
    let shot = get(scenario, "east/web", "secure.example").await;
    assert!(shot.status == 200 && shot.body.contains("nginx over HTTP/1.1 secure.example"), "{shot:?}");

    step("and not to a server whose certificate is another one's");
    scenario.apply("east", &rule.replace("sni: secure.example", "subjectAltNames: [other.example]")).await;
    assert_eq!(get(scenario, "east/web", "secure.example").await.status, 503);
    scenario.delete("east", &rule).await;
}

async fn registry_only(scenario: &Scenario) {
    step("REGISTRY_ONLY");
    let unknown = scenario.outside(1, 8000).to_string();
    assert_eq!(get(scenario, "east/web", &unknown).await.status, 200, "ALLOW_ANY is the default");
    let sidecar = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress: [{hosts: ['./static.example', './secure.example', './range.example', 'istio-system/*']}]
";
    scenario.apply("east", sidecar).await;
    let refused = scenario.shot("east/web", "http://unknown.example/", &[]).await;
    assert_eq!(refused.status, 502, "{refused:?}");
    assert_eq!(get(scenario, "east/web", "static.example").await.status, 200);
    let known = get(scenario, "east/web", &scenario.outside(2, 8000).to_string()).await;
    assert_eq!(
        (known.status, known.header("x-server")),
        (200, "2"),
        "an address of an entry that resolves nothing: {known:?}"
    );
    assert_eq!(get(scenario, "east/web", &unknown).await.status, 502, "an address that no entry has");
    assert_eq!(get(scenario, "east/web", "named.example").await.status, 502, "not among the hosts of the Sidecar");
}

async fn egress(scenario: &Scenario, certificates: &Certificates) {
    step("the egress gateway originates TLS, for those on the list");
    let configuration = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [secure.example]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: secure}
spec:
  hosts: [secure.example]
  gateways: [mesh, egress]
  http:
    - match: [{gateways: [mesh], port: 80}]
      route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]
    - match: [{gateways: [egress], port: 80}]
      route: [{destination: {host: secure.example, port: {number: 443}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: leave, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]}]
";
    scenario.apply("east", configuration).await;
    let rule = ORIGINATE.replace("CA", &certificates.file("ca.crt")).replace("PORT", "443");
    scenario.apply("east", &rule).await;
    let web = get(scenario, "east/web", "secure.example").await;
    assert!(web.status == 200 && web.body.contains("nginx over HTTP/1.1 secure.example"), "{web:?}");
    assert_eq!(get(scenario, "east/frontend", "secure.example").await.status, 403, "not on the list");
}
