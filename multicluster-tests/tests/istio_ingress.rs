//! Requests that enter the mesh through an ingress gateway, asked for by programs that nobody here wrote.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use fleet::call::Call;
use multicluster_tests::{Certificates, Scenario, Server, Shot, answer, curl, eventually, shoot, step, tool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

/// The ingress is in east; `reviews` is only in west, `near` in east.
const FLEET: &str = "
name: istio-ingress
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 1
    ingress: [{ports: [{port: 31400, targetPort: 31400}]}]
    workloads:
      - {name: near, serviceAccount: near, labels: {app: near, version: v1}, ports: [{name: http, port: 9080, protocol: http}, {name: tcp, port: 9000, protocol: tcp}]}
  - name: west
    gateways: 1
    workloads:
      - {name: reviews, serviceAccount: reviews, labels: {app: reviews, version: v2}, export: true, ports: [{name: http, port: 9080, protocol: http}]}
";

/// What stands behind the Gateway of the example.
const SHOP: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.yourdomain.com]
  gateways: [my-gateway]
  http:
    - match: [{uri: {prefix: /near}}]
      route: [{destination: {host: near, port: {number: 9080}}}]
    - route: [{destination: {host: reviews.default.svc.clusterset.local, port: {number: 9080}}}]
";

const INGRESS: &str = "spiffe://east.demo/ns/istio-system/sa/istio-ingressgateway-service-account";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingress_gateway_serves_hosts_by_sni_from_secrets() {
    tool("curl", "curl");
    tool("nginx", "nginx-light");
    tool("h2load", "nghttp2-client");
    let certificates =
        Certificates::new(&["shop=*.yourdomain.com", "client=client.example", "through=through.example"]);
    let scenario = Scenario::up(FLEET).await;
    let ip = scenario.fleet.cluster("east").expect("east").edges[0].ip;
    let at = |port| SocketAddr::from((ip, port));
    https(&scenario, &certificates, at(8443)).await;
    reload(&scenario, &certificates, at(8443)).await;
    plain(&scenario, at(8080)).await;
    mutual(&scenario, &certificates, at(8443)).await;
    passthrough(&scenario, &certificates, at(8443)).await;
    opaque(&scenario, at(31400)).await;
}

async fn https(scenario: &Scenario, certificates: &Certificates, at: SocketAddr) {
    step("ingress-gateway.yaml: HTTPS by SNI");
    scenario.apply("east", &certificates.secret("tls-cert", "shop", false)).await;
    scenario.apply_example("east", "ingress-gateway.yaml").await;
    scenario.apply("east", SHOP).await;
    let host = "shop.yourdomain.com";
    for (flags, protocol) in [(&["--http1.1"][..], "1.1"), (&["--http2"], "2")] {
        let said = curl(host, at, "/near/x", certificates, &[flags, &["-w", " %{http_version}"]].concat()).await;
        let said = said.expect("curl succeeds");
        let (body, version) = said.rsplit_once(' ').expect("a version");
        let answer = answer(Ok(body.to_owned()));
        assert_eq!((answer.whoami.pod.as_str(), version), ("near-1", protocol));
        assert_eq!(answer.client_identity, INGRESS);
        assert_eq!(answer.headers["x-forwarded-proto"], "https");
    }

    step("the ingress of east reaches what only west exports");
    let far = answer(curl(host, at, "/far", certificates, &["-H", "X-Forwarded-For: 1.2.3.4"]).await);
    assert_eq!((far.whoami.cluster.as_str(), far.client_identity.as_str()), ("west", INGRESS));
    let forwarded = &far.headers["x-forwarded-for"];
    assert!(forwarded.starts_with("1.2.3.4,127."), "{forwarded}");

    step("other names find nobody");
    let status = ["-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(curl("other.yourdomain.com", at, "/", certificates, &status).await.as_deref(), Ok("404"));
    assert_eq!(curl("other.example", at, "/", certificates, &["-k"]).await, Err(35), "no certificate for this SNI");

    step("h2load over TLS");
    let url = format!("https://{host}/near");
    let run = Command::new("h2load")
        .args(["-n", "500", "-c", "5", "-m", "5", "--connect-to", &at.to_string(), &url])
        .output()
        .await;
    let said = String::from_utf8_lossy(&run.expect("h2load runs").stdout).into_owned();
    assert!(said.contains("500 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
}

/// What certificate a server shows to openssl for an SNI.
async fn serial(at: SocketAddr, name: &str) -> String {
    let script = format!(
        "openssl s_client -connect {at} -servername {name} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    let output = Command::new("sh").args(["-c", &script]).output().await.expect("openssl runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn reload(scenario: &Scenario, certificates: &Certificates, at: SocketAddr) {
    step("a new certificate is served without a restart");
    let before = serial(at, "shop.yourdomain.com").await;
    assert!(before.starts_with("serial="), "{before}");
    certificates.make(&["shop=*.yourdomain.com"]);
    scenario.apply("east", &certificates.secret("tls-cert", "shop", false)).await;
    eventually("openssl sees the new certificate", Duration::from_secs(5), async || {
        let now = serial(at, "shop.yourdomain.com").await;
        if now.starts_with("serial=") && now != before { Ok(()) } else { Err(now) }
    })
    .await;
}

async fn plain(scenario: &Scenario, at: SocketAddr) {
    step("HTTP, and the redirect to HTTPS");
    let gateway = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: plain}
spec:
  selector: {istio: ingressgateway}
  servers:
    - {port: {number: 80, name: http, protocol: HTTP}, hosts: [plain.example]}
    - {port: {number: 80, name: http-moved, protocol: HTTP}, hosts: [moved.example], tls: {httpsRedirect: true}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: plain}
spec:
  hosts: [plain.example, moved.example]
  gateways: [default/plain]
  http: [{match: [{uri: {prefix: /x}}], rewrite: {uri: /rewritten}, route: [{destination: {host: near, port: {number: 9080}}}]}]
";
    scenario.apply("east", gateway).await;
    let get = async |host: &str| -> Shot {
        let mut call = Call::get(at, &format!("http://{host}/x")).expect("a URL");
        call.within = Duration::from_secs(10);
        shoot(&call).await
    };
    let served = get("plain.example").await;
    assert_eq!((served.status, served.answer.path.as_str()), (200, "/rewritten"), "{served:?}");
    let moved = get("moved.example").await;
    assert_eq!((moved.status, moved.header("location")), (301, "https://moved.example/x"));
    assert_eq!(get("unknown.example").await.status, 404);
}

async fn mutual(scenario: &Scenario, certificates: &Certificates, at: SocketAddr) {
    step("MUTUAL");
    let gateway = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: mutual}
spec:
  selector: {istio: ingressgateway}
  servers:
    - port: {number: 443, name: https-mutual, protocol: HTTPS}
      hosts: [mutual.yourdomain.org]
      tls: {mode: MUTUAL, credentialName: mutual-cert, minProtocolVersion: TLSV1_3}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mutual}
spec:
  hosts: [mutual.yourdomain.org]
  gateways: [mutual]
  http: [{route: [{destination: {host: near, port: {number: 9080}}}]}]
";
    certificates.make(&["mutual=mutual.yourdomain.org"]);
    scenario.apply("east", &certificates.secret("mutual-cert", "mutual", true)).await;
    scenario.apply("east", gateway).await;
    let (certificate, key) = (certificates.file("client.crt"), certificates.file("client.key"));
    let client = ["--cert", certificate.as_str(), "--key", key.as_str()];
    let host = "mutual.yourdomain.org";
    let answered = answer(curl(host, at, "/", certificates, &client).await);
    assert_eq!(answered.whoami.pod, "near-1");
    assert!(curl(host, at, "/", certificates, &[]).await.is_err(), "without a certificate");
    let old = [&client[..], &["--tls-max", "1.2"]].concat();
    assert!(curl(host, at, "/", certificates, &old).await.is_err(), "TLS 1.2");
    answer(curl("shop.yourdomain.com", at, "/near", certificates, &[]).await);
}

async fn passthrough(scenario: &Scenario, certificates: &Certificates, at: SocketAddr) {
    step("PASSTHROUGH to an nginx that ends TLS itself");
    let listen = scenario.outside(1, 9443);
    let (certificate, key) = (certificates.file("through.crt"), certificates.file("through.key"));
    let tls = format!("ssl_certificate {certificate}; ssl_certificate_key {key};");
    let script = format!("{SCRIPTS}/nginx.sh");
    let directory = certificates.path().display().to_string();
    let command = ["sh", &script, &directory, &listen.to_string(), &tls, "ssl"];
    let _nginx = Server::start(scenario, "nginx", &command, listen).await;
    let configuration = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: through}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: [through.example], tls: {mode: PASSTHROUGH}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: through}
spec:
  hosts: [nginx.example]
  ports: [{number: 9443, name: tls, protocol: TLS}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: ADDRESS}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: through}
spec:
  hosts: [through.example]
  gateways: [through]
  tls: [{match: [{port: 443, sniHosts: [through.example]}], route: [{destination: {host: nginx.example, port: {number: 9443}}}]}]
";
    scenario.apply("east", &configuration.replace("ADDRESS", &listen.ip().to_string())).await;
    let said = curl("through.example", at, "/who", certificates, &[]).await;
    assert!(said.as_ref().is_ok_and(|said| said.starts_with("nginx over HTTP/1.1 through.example")), "{said:?}");
}

async fn opaque(scenario: &Scenario, at: SocketAddr) {
    step("TCP");
    let configuration = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: opaque}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 31400, name: tcp, protocol: TCP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: opaque}
spec:
  hosts: ['*']
  gateways: [opaque]
  tcp: [{match: [{port: 31400}], route: [{destination: {host: near, port: {number: 9000}}}]}]
";
    scenario.apply("east", configuration).await;
    let echoed = eventually("the port is open", Duration::from_secs(5), async || {
        let mut stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
        stream.write_all(b"ping").await.map_err(|error| error.to_string())?;
        stream.shutdown().await.map_err(|error| error.to_string())?;
        let mut received = String::new();
        stream.read_to_string(&mut received).await.map_err(|error| error.to_string())?;
        Ok(received)
    })
    .await;
    assert_eq!(echoed, "ping");
}
