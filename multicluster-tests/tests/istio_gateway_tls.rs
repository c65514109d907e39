//! TLS at an ingress gateway: who must prove what, with which versions, suites, pins and revocations; names, and
//! certificates that change under load.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;

use multicluster_tests::{Certificates, Scenario, answer, curl, s_client, step, tool};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

/// `near` is behind the ingress; `vault` is an nginx in the mesh that ends TLS itself.
fn fleet(certificates: &Certificates) -> String {
    let (certificate, key) = (certificates.file("vault.crt"), certificates.file("vault.key"));
    let directory = certificates.path().display();
    format!(
        "
name: istio-gateway-tls
mesh: demo
hub: {{nodes: 1}}
clusters:
  - name: east
    gateways: 1
    ingress: [{{}}]
    workloads:
      - {{name: web, serviceAccount: web, labels: {{app: web}}}}
      - {{name: frontend, serviceAccount: frontend, labels: {{app: frontend}}}}
      - {{name: near, serviceAccount: near, labels: {{app: near, version: v1}}, ports: [{{name: http, port: 9080, protocol: http}}]}}
      - name: vault
        command: [sh, {SCRIPTS}/nginx.sh, {directory}, \"{{host}}:{{port}}\", \"ssl_certificate {certificate}; ssl_certificate_key {key};\", ssl]
        ports: [{{name: tcp, port: 9443, protocol: tcp}}]
"
    )
}

/// The certificate of `*.edge.example` serves all; what each server asks of its clients differs.
const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
    - port: {number: 443, name: https-optional, protocol: HTTPS}
      hosts: [optional.edge.example]
      tls: {mode: OPTIONAL_MUTUAL, credentialName: edge}
    - port: {number: 443, name: https-revoking, protocol: HTTPS}
      hosts: [revoking.edge.example]
      tls: {mode: MUTUAL, credentialName: revoking}
    - port: {number: 443, name: https-named, protocol: HTTPS}
      hosts: [named.edge.example]
      tls: {mode: MUTUAL, credentialName: edge, subjectAltNames: [alice.example]}
    - port: {number: 443, name: https-key, protocol: HTTPS}
      hosts: [key.edge.example]
      tls: {mode: MUTUAL, credentialName: edge, verifyCertificateSpki: ['SPKI']}
    - port: {number: 443, name: https-hash, protocol: HTTPS}
      hosts: [hash.edge.example]
      tls: {mode: MUTUAL, credentialName: edge, verifyCertificateHash: ['HASH']}
    - port: {number: 443, name: https-old, protocol: HTTPS}
      hosts: [old.edge.example]
      tls: {mode: SIMPLE, credentialName: edge, maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]}
    - port: {number: 443, name: https-new, protocol: HTTPS}
      hosts: [new.edge.example]
      tls: {mode: SIMPLE, credentialName: edge, minProtocolVersion: TLSV1_3}
    - port: {number: 443, name: https-any, protocol: HTTPS}
      hosts: ['*.edge.example']
      tls: {mode: SIMPLE, credentialName: edge}
    - port: {number: 443, name: tls-auto, protocol: TLS}
      hosts: ['*.local']
      tls: {mode: AUTO_PASSTHROUGH}
    - port: {number: 443, name: https-mesh, protocol: HTTPS}
      hosts: [mesh.example]
      tls: {mode: ISTIO_MUTUAL}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ['*.edge.example']
  gateways: [edge]
  http: [{route: [{destination: {host: near, port: {number: 9080}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: special}
spec:
  hosts: [special.edge.example]
  gateways: [edge]
  http: [{directResponse: {status: 200, body: {string: special}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mesh}
spec:
  hosts: [mesh.example]
  gateways: [mesh, edge]
  http:
    - match: [{gateways: [mesh]}]
      route: [{destination: {host: istio-ingressgateway.istio-system.svc.cluster.local, port: {number: 443}}}]
    - match: [{gateways: [edge]}]
      route: [{destination: {host: near, port: {number: 9080}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mesh}
spec:
  hosts: [mesh.example]
  location: MESH_EXTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_asks_of_each_names_clients_what_its_server_says() {
    tool("curl", "curl");
    tool("nginx", "nginx-light");
    let certificates = Certificates::new(&[
        "edge=*.edge.example",
        "vault=vault.example",
        "alice=alice.example",
        "bob=bob.example",
        "mallory=mallory.example",
    ]);
    certificates.revoke("mallory");
    let scenario = Scenario::up(&fleet(&certificates)).await;
    let at = SocketAddr::from((scenario.fleet.cluster("east").expect("east").edges[0].ip, 8443));
    scenario.apply("east", &certificates.secret("edge", "edge", true)).await;
    let revoking = [("tls.crt", "edge.crt"), ("tls.key", "edge.key"), ("ca.crt", "ca.crt"), ("ca.crl", "ca.crl")];
    scenario.apply("east", &certificates.secret_of("revoking", &revoking)).await;
    scenario.apply("east", &gateway(&certificates)).await;
    clients(&certificates, at).await;
    revoked_later(&scenario, &certificates, at).await;
    versions(at).await;
    names(&scenario, &certificates, at).await;
    mesh(&scenario, &certificates, at).await;
    auto_passthrough(&certificates, at).await;
    reload(&scenario, &certificates, at).await;
}

/// The Gateway with alice's pins.
fn gateway(certificates: &Certificates) -> String {
    let digest = "openssl dgst -sha256 -binary | openssl base64";
    let spki = format!("openssl x509 -in alice.crt -pubkey -noout | openssl pkey -pubin -outform der | {digest}");
    let hash = "openssl x509 -in alice.crt -noout -fingerprint -sha256 | cut -d= -f2";
    GATEWAY.replace("SPKI", &certificates.shell(&spki)).replace("HASH", &certificates.shell(hash))
}

/// Whether a client with this certificate, if any, is served; the echo server's answer names the client's certificate.
async fn served(certificates: &Certificates, at: SocketAddr, host: &str, client: &str) -> bool {
    let (certificate, key) = (certificates.file(&format!("{client}.crt")), certificates.file(&format!("{client}.key")));
    let shown = ["--cert", certificate.as_str(), "--key", key.as_str()];
    let said = curl(host, at, "/", certificates, if client.is_empty() { &[] } else { &shown }).await;
    said.is_ok_and(|said| answer(Ok(said)).whoami.pod == "near-1")
}

async fn clients(certificates: &Certificates, at: SocketAddr) {
    step("OPTIONAL_MUTUAL, MUTUAL with names, pins and revocations");
    for (host, allowed) in [
        ("optional.edge.example", &["", "alice", "bob", "mallory"][..]),
        ("revoking.edge.example", &["alice", "bob"]),
        ("named.edge.example", &["alice"]),
        ("key.edge.example", &["alice"]),
        ("hash.edge.example", &["alice"]),
    ] {
        for client in ["", "alice", "bob", "mallory"] {
            let expected = allowed.contains(&client);
            assert_eq!(served(certificates, at, host, client).await, expected, "{host} for {client:?}");
        }
    }
    // As Istio's task makes it; of X.509 version 1 before OpenSSL 3.2.
    let plain = "openssl req -new -newkey rsa:2048 -nodes -keyout plain.key -subj /CN=plain -out plain.csr && \
                 openssl x509 -req -sha256 -days 1 -CA ca.crt -CAkey ca.key -set_serial 7 -in plain.csr -out plain.crt";
    certificates.shell(plain);
    let version =
        certificates.shell("openssl x509 -in plain.crt -noout -text | sed -n 's/.*Version: \\([0-9]\\).*/\\1/p'");
    assert!(served(certificates, at, "optional.edge.example", "plain").await, "version {version}");
    assert!(!served(certificates, at, "named.edge.example", "plain").await, "it has no names");
    let foreign = Certificates::new(&["alice=alice.example"]);
    foreign.shell(plain);
    for end in ["crt", "key"] {
        std::fs::copy(foreign.file(&format!("plain.{end}")), certificates.file(&format!("foreign.{end}")))
            .expect("copied");
    }
    assert!(!served(certificates, at, "optional.edge.example", "foreign").await, "an authority of the same name");
    let (certificate, key) = (foreign.file("alice.crt"), foreign.file("alice.key"));
    let shown = ["--cert", certificate.as_str(), "--key", key.as_str()];
    let said = curl("optional.edge.example", at, "/", certificates, &shown).await;
    assert!(said.is_err(), "who shows a certificate must show one that holds: {said:?}");
}

async fn revoked_later(scenario: &Scenario, certificates: &Certificates, at: SocketAddr) {
    step("a new revocation list counts from the next handshake on");
    certificates.revoke("bob");
    let revoking = [("tls.crt", "edge.crt"), ("tls.key", "edge.key"), ("ca.crt", "ca.crt"), ("ca.crl", "ca.crl")];
    scenario.apply("east", &certificates.secret_of("revoking", &revoking)).await;
    assert!(!served(certificates, at, "revoking.edge.example", "bob").await);
    assert!(served(certificates, at, "revoking.edge.example", "alice").await);
}

async fn versions(at: SocketAddr) {
    step("versions and cipher suites");
    for (name, options, expected) in [
        ("old.edge.example", &["-tls1_2"][..], Some("ECDHE-ECDSA-AES256-GCM-SHA384")),
        ("old.edge.example", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], None),
        ("old.edge.example", &["-tls1_3"], None),
        ("new.edge.example", &["-tls1_3"], Some("TLSv1.3")),
        ("new.edge.example", &["-tls1_2"], None),
        ("any.edge.example", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], Some("TLSv1.2")),
        ("any.edge.example", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"], None),
        ("any.edge.example", &["-tls1_1"], None),
        ("any.edge.example", &[], Some("TLSv1.3")),
    ] {
        let said = s_client(at, name, options).await;
        let met = said.as_ref().is_ok_and(|said| expected.is_some_and(|expected| said.contains(expected)));
        assert_eq!(met, expected.is_some(), "{name} {options:?}: {said:?}");
    }
}

async fn names(scenario: &Scenario, certificates: &Certificates, at: SocketAddr) {
    step("wildcards, and the more specific host first");
    assert_eq!(answer(curl("a.edge.example", at, "/x", certificates, &[]).await).path, "/x");
    assert_eq!(curl("special.edge.example", at, "/", certificates, &[]).await.as_deref(), Ok("special"));
    let other = ["-H", "Host: named.edge.example", "-w", "%{http_code}", "-o", "/dev/null"];
    let said = curl("a.edge.example", at, "/", certificates, &other).await;
    assert_ne!(said.as_deref(), Ok("200"), "a Host that asks for a proof that the SNI did not ask for");
    let explained =
        scenario.ok(&["explain", "--from", "east/istio-ingressgateway", "--to", "https://special.edge.example"]);
    let explained = explained.await;
    assert!(explained.contains("answer with the rule's direct response"), "{explained}");
}

async fn mesh(scenario: &Scenario, certificates: &Certificates, at: SocketAddr) {
    step("ISTIO_MUTUAL: workloads of the mesh come in, by their identities; nobody else");
    let shot = scenario.shot("east/web", "http://mesh.example/in", &[]).await;
    assert_eq!((shot.status, shot.answer.path.as_str()), (200, "/in"), "{shot:?}");
    let forwarded = shot.seen("x-forwarded-client-cert");
    assert!(forwarded.contains("URI=spiffe://east.demo/ns/istio-system/sa/istio-ingressgateway"), "{forwarded}");
    let (certificate, key) = (certificates.file("alice.crt"), certificates.file("alice.key"));
    let shown = ["-k", "--cert", certificate.as_str(), "--key", key.as_str()];
    assert!(curl("mesh.example", at, "/", certificates, &shown).await.is_err(), "another authority's certificate");
    assert!(curl("mesh.example", at, "/", certificates, &["-k"]).await.is_err(), "no certificate");

    step("RateLimitPolicy at the gateway, by identity");
    let limit = "
apiVersion: isthmus.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  limits: [{match: [{authority: {exact: mesh.example}}], by: [identity], requests: 3, per: 1h}]
";
    scenario.apply("east", limit).await;
    for (workload, expected) in [("east/web", [200, 200, 200, 429]), ("east/frontend", [200, 200, 200, 429])] {
        for status in expected {
            let shot = scenario.shot(workload, "http://mesh.example/in", &[]).await;
            assert_eq!(shot.status, status, "{workload}: {shot:?}");
        }
    }
    scenario.delete("east", limit).await;
}

async fn auto_passthrough(certificates: &Certificates, at: SocketAddr) {
    step("AUTO_PASSTHROUGH: the name says service and port, and TLS ends there");
    let name = "outbound_.9443_._.vault.default.svc.cluster.local";
    let said = s_client(at, name, &["-CAfile", &certificates.file("ca.crt")]).await.expect("a handshake");
    assert!(said.contains("CN = vault") && said.contains("Verify return code: 0"), "{said}");
    let unknown = s_client(at, "outbound_.9443_._.nobody.default.svc.cluster.local", &[]).await;
    assert!(unknown.is_err(), "{unknown:?}");
}

async fn reload(scenario: &Scenario, certificates: &Certificates, at: SocketAddr) {
    step("certificates change under load: every handshake meets a whole one");
    let script = format!(
        "curl -sS -Z --http1.1 --parallel-max 8 --noproxy '*' --connect-to ::{at} --cacert ca.crt -o /dev/null \
         -w '%{{http_code}}\\n' 'https://n[1-400].edge.example/'"
    );
    let mut load = tokio::process::Command::new("sh");
    load.args(["-c", &script]).current_dir(certificates.path()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let load = load.spawn().expect("curl runs");
    let mut serials = std::collections::BTreeSet::new();
    for _ in 0..4 {
        certificates.make(&["edge=*.edge.example"]);
        scenario.apply("east", &certificates.secret("edge", "edge", true)).await;
        let said = s_client(at, "any.edge.example", &[]).await.expect("a handshake");
        serials.insert(said.split("-----END").next().unwrap_or_default().to_owned());
    }
    let output = load.wait_with_output().await.expect("curl ends");
    let statuses = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(statuses.lines().filter(|status| *status == "200").count(), 400, "{statuses}");
    assert_eq!(serials.len(), 4, "each new certificate was served");
}
