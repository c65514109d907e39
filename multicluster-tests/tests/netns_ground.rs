//! The ground `netns`: up and down, names and addresses as on Kubernetes, isolation, kills, ordinary users.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_ground`, as root.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fleet::process::of_instance;
use multicluster_tests::{REVIEWS, Scenario, binaries, demand_netns, eventually, on_netns, tool};
use serde_json::Value;

/// Two clusters: `east/web` calls; `west/reviews` is exported; `east/legacy` has no sidecar.
const FILE: &str = "
name: netns
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    workloads:
      - {name: web, labels: {app: web, version: v1}}
      - {name: aside, annotations: {traffic.sidecar.istio.io/excludeOutboundPorts: '9080'}}
      - name: ratings
        replicas: 2
        ports: &ports
          - {name: http, port: 9080, protocol: http}
          - {name: tcp, port: 9000, protocol: tcp}
          - {name: first, port: 9001, protocol: tcp-server-first}
      - {name: legacy, mesh: false, ports: [{name: http, port: 8000}]}
  - name: west
    workloads:
      - {name: reviews, labels: {app: reviews, version: v2}, ports: *ports, export: true}
      - {name: secret, ports: [{name: http, port: 9080}]}
";

const WEB: &str = "spiffe://east.demo/ns/default/sa/web";

/// Runs a command in a workload, which must succeed.
async fn exec(scenario: &Scenario, workload: &str, command: &[&str]) -> String {
    scenario.ok(&[&["fleet", "exec", workload, "--"], command].concat()).await
}

/// curl in a workload, with nothing that points to a proxy; the echo server's answer.
async fn curl(scenario: &Scenario, workload: &str, url: &str) -> Value {
    let said = exec(scenario, workload, &["curl", "-sS", "-g", "--max-time", "20", url]).await;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{url}: {error}: {said}\n{}", scenario.logs()))
}

/// Sends a line over TCP from a workload and gives what comes back.
async fn netcat(scenario: &Scenario, workload: &str, host: &str, port: u16) -> String {
    let script = "import socket,sys; s=socket.create_connection((sys.argv[1],int(sys.argv[2])),20); s.settimeout(20); \
                  s.sendall(b'ping\\n'); s.shutdown(socket.SHUT_WR); f=s.makefile('rb'); sys.stdout.write(f.read().decode())";
    exec(scenario, workload, &["python3", "-c", script, host, &port.to_string()]).await
}

/// The exit code of curl from one address to another: 28 is a timeout, 7 a refusal.
async fn curl_code(scenario: &Scenario, workload: &str, url: &str) -> i32 {
    let command = ["fleet", "exec", workload, "--", "curl", "-sSk", "-g", "--max-time", "2", url];
    scenario.hubctl(&command).await.status.code().expect("curl ends")
}

fn namespaces() -> BTreeSet<String> {
    let links = std::fs::read_dir("/proc").expect("proc").flatten();
    links
        .filter_map(|entry| std::fs::read_link(entry.path().join("ns/net")).ok())
        .map(|link| link.display().to_string())
        .collect()
}

fn devices() -> String {
    let listed = Command::new("ip").args(["-br", "link"]).output().expect("ip runs");
    String::from_utf8_lossy(&listed.stdout).into_owned()
}

#[test]
fn down_leaves_no_process_namespace_device_or_mount() {
    demand_netns();
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let before = (devices(), mounts());
    let mut held = BTreeSet::new();
    let (mut instance, mut directory) = (String::new(), std::path::PathBuf::new());
    on_netns(FILE, async |scenario| {
        instance.clone_from(&scenario.fleet.state.instance);
        directory = scenario.path().to_owned();
        let pauses = scenario.fleet.plan().processes().into_iter().filter(|process| process.name.ends_with("/pause"));
        for pause in pauses {
            let record = scenario.fleet.record(&pause.name).expect("recorded");
            let link = std::fs::read_link(format!("/proc/{}/ns/net", record.pid)).expect("held");
            held.insert(link.display().to_string());
        }
        assert_eq!(held.len(), 18, "one for each pod, component, fabric, and the node");
    });
    assert!(of_instance(&instance).is_empty(), "processes are left");
    let left: Vec<_> = namespaces().intersection(&held).cloned().collect();
    assert!(left.is_empty(), "namespaces are left: {left:?}");
    assert_eq!((devices(), mounts()), before);
    assert!(!directory.exists());
}

#[test]
fn names_and_addresses_behave_as_on_kubernetes() {
    tool("curl", "curl");
    on_netns(FILE, async |scenario| {
        let east = scenario.fleet.cluster("east").expect("east");
        let ratings = east.services.iter().find(|service| service.name == "ratings").expect("ratings");
        let pod = east.pods.iter().find(|pod| pod.name == "ratings-2").expect("a pod");
        let [four, six] = ratings.cluster_ips[..] else { panic!("{:?}", ratings.cluster_ips) };
        let local = [
            "http://ratings:9080/short".to_owned(),
            "http://ratings.default:9080/namespace".to_owned(),
            "http://ratings.default.svc:9080/svc".to_owned(),
            "http://ratings.default.svc.cluster.local:9080/fqdn".to_owned(),
            format!("http://{four}:9080/cluster-ip"),
            format!("http://[{six}]:9080/cluster-ip"),
            format!("http://{}:9080/pod-ip", pod.ip),
            format!("http://[{}]:9080/pod-ip", fleet::network::ipv6(pod.ip)),
        ];
        for url in &local {
            let answer = curl(scenario, "east/web", url).await;
            assert_eq!(
                (&answer["cluster"], &answer["client_identity"]),
                (&"east".into(), &WEB.into()),
                "{url}: {answer}"
            );
        }
        let answer = curl(scenario, "east/web", &format!("http://{REVIEWS}:9080/clusterset")).await;
        assert_eq!((&answer["cluster"], &answer["client_identity"]), (&"west".into(), &WEB.into()), "{answer}");
        for (host, cluster) in [("ratings", "east"), (REVIEWS, "west")] {
            let echoed = netcat(scenario, "east/web", host, 9000).await;
            assert!(echoed.contains("ping"), "{host}: {echoed}");
            let greeted = netcat(scenario, "east/web", host, 9001).await;
            assert!(greeted.contains(cluster) && greeted.contains("ping"), "{host}: {greeted}");
        }
        headless(scenario).await;
        // Without a sidecar: plain text, and cluster IPs as kube-proxy has them.
        for url in [format!("http://{four}:9080/"), format!("http://[{six}]:9080/"), format!("http://{}:9080/", pod.ip)]
        {
            let answer = curl(scenario, "east/legacy", &url).await;
            assert_eq!(
                (&answer["cluster"], &answer["client_identity"]),
                (&"east".into(), &"".into()),
                "{url}: {answer}"
            );
        }
        // What its annotations leave out is not captured, and so plain; everything else is.
        let answer = curl(scenario, "east/aside", &format!("http://{}:9080/", pod.ip)).await;
        assert_eq!((&answer["pod"], &answer["client_identity"]), (&"ratings-2".into(), &"".into()), "{answer}");
        assert!(netcat(scenario, "east/aside", REVIEWS, 9000).await.contains("ping"));
        let answer = curl(scenario, "east/web", "http://legacy:8000/unmeshed").await;
        assert_eq!(answer["pod"], "legacy-1", "{answer}");
    });
}

/// A headless name stands for its pods, not for an address of its own.
async fn headless(scenario: &Scenario) {
    let pod = &scenario.fleet.pod("east/ratings-1").expect("a pod").1;
    let object = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: direct}}\nspec: {{clusterIP: None, ports: [{{name: http, port: 9080}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: direct-1\n  labels: {{kubernetes.io/service-name: direct}}\n  \
         annotations: {{isthmus.dev/meshed: \"true\", isthmus.dev/service-account: ratings}}\naddressType: IPv4\n\
         endpoints: [{{addresses: [{ip}], targetRef: {{kind: Pod, name: ratings-1}}}}]\nports: [{{name: http, port: 9080}}]\n",
        ip = pod.ip
    );
    let path = scenario.write("headless.yaml", &object);
    scenario.ok(&["fleet", "apply", "east", "-f", &path]).await;
    let lookup = ["getent", "ahostsv4", "direct"];
    eventually("the shim knows the headless name", Duration::from_secs(20), async || {
        let output = scenario.hubctl(&[&["fleet", "exec", "east/web", "--"], &lookup[..]].concat()).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if said.contains(&pod.ip.to_string()) { Ok(()) } else { Err(said) }
    })
    .await;
    let answer = curl(scenario, "east/web", "http://direct:9080/headless").await;
    assert_eq!((&answer["pod"], &answer["client_identity"]), (&"ratings-1".into(), &WEB.into()), "{answer}");
}

#[test]
fn nothing_crosses_between_clusters_but_gateways_and_agents() {
    tool("curl", "curl");
    on_netns(FILE, async |scenario| {
        let plan = scenario.fleet.plan();
        let (east, west) =
            (scenario.fleet.cluster("east").expect("east"), scenario.fleet.cluster("west").expect("west"));
        let secret = scenario.fleet.pod("west/secret").expect("a pod").1.ip;
        let six = fleet::network::ipv6(secret);
        let hub = plan.hub[0].ip;
        // From a workload without a sidecar, so that only the network answers.
        for url in [
            format!("http://{secret}:9080/"),
            format!("http://[{six}]:9080/"),
            format!("https://{secret}:15008/"),
            format!("http://{secret}:15020/healthz"),
            format!("https://{}:15010/", west.agent),
            format!("https://{}:15008/", west.gateways[0].ip),
            format!("https://{hub}:7443/"),
            format!("https://{hub}:7444/"),
        ] {
            assert_ne!(curl_code(scenario, "east/legacy", &url).await, 0, "{url}");
            assert_eq!(curl_code(scenario, "east/legacy", &url).await, 28, "{url}: dropped, not refused");
        }
        // Nor from those that may cross, to anything else.
        assert_eq!(curl_code(scenario, "east/gateway-1", &format!("http://{secret}:9080/")).await, 28);
        assert_eq!(curl_code(scenario, "east/agent", &format!("https://{}:15010/", west.agent)).await, 28);
        // The management namespace reaches both, and is no way from one to the other.
        assert_eq!(curl_code(scenario, "node", &format!("http://{secret}:15020/healthz")).await, 0);
        let through = ["ip", "route", "add", &format!("{secret}/32"), "via", &network_node()];
        let routed = scenario.hubctl(&[&["fleet", "exec", "east/legacy", "--"], &through[..]].concat()).await;
        assert!(!routed.status.success(), "the node is no neighbour of a pod");
        // Somebody else's workload cannot speak through a sidecar's explicit proxy.
        let web = scenario.fleet.pod("east/web").expect("a pod").1;
        assert_eq!(curl_code(scenario, "east/legacy", &format!("http://{}/", web.proxy())).await, 7);
        let refused = counters(scenario, "east/fabric", "refused").await;
        assert!(refused > 0, "the fabric counted nothing");
        assert!(counters(scenario, "east/fabric", "leaving").await > 0 && !east.gateways.is_empty());
    });
}

fn network_node() -> String {
    fleet::network::NODE_ADDRESS.to_string()
}

/// Packets of a named counter of a fabric.
async fn counters(scenario: &Scenario, fabric: &str, name: &str) -> u64 {
    let said = exec(scenario, fabric, &["nft", "-j", "list", "counter", "inet", "fabric", name]).await;
    let listed: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let found =
        listed["nftables"].as_array().into_iter().flatten().find_map(|entry| entry["counter"]["packets"].as_u64());
    found.unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn requests_work_again_after_kills() {
    tool("curl", "curl");
    on_netns(FILE, async |scenario| {
        let url = format!("http://{REVIEWS}:9080/again");
        assert_eq!(curl(scenario, "east/web", &url).await["cluster"], "west");
        for process in ["east/web-1/sidecar", "west/reviews-1/sidecar", "east/gateway-1", "west/gateway-1", "east/dns"]
        {
            scenario.ok(&["fleet", "kill", process]).await;
            let status = scenario.hubctl(&["fleet", "status"]).await;
            assert!(!status.status.success(), "{process} is seen to be gone");
            scenario.ok(&["fleet", "start", process]).await;
            let what = format!("a request after {process}");
            let ok = eventually(&what, Duration::from_secs(30), async || {
                let command = ["fleet", "exec", "east/web", "--", "curl", "-sS", "--max-time", "5", &url];
                let output = scenario.hubctl(&command).await;
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                if output.status.success() && said.contains(WEB) { Ok(()) } else { Err(format!("{output:?}")) }
            });
            ok.await;
        }
        // A pod that loses its namespace is made anew, with what ran in it.
        for process in ["pause", "sidecar"] {
            scenario.ok(&["fleet", "kill", &format!("east/web-1/{process}")]).await;
        }
        for process in ["pause", "sidecar"] {
            scenario.ok(&["fleet", "start", &format!("east/web-1/{process}")]).await;
        }
        eventually("a request of the new pod", Duration::from_secs(30), async || {
            let command = ["fleet", "exec", "east/web", "--", "curl", "-sS", "--max-time", "5", &url];
            let output = scenario.hubctl(&command).await;
            if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
        })
        .await;
    });
}

/// As uid 1000, which owns nothing here: namespaces inside a user namespace.
#[test]
fn an_ordinary_user_brings_a_fleet_up() {
    demand_netns();
    tool("curl", "curl");
    let home = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777)).expect("everyone's");
    let file = home.path().join("fleet.yaml");
    std::fs::write(&file, FILE).expect("written");
    // A target directory below root's home is closed to everyone else.
    let programs = home.path().join("bin");
    std::fs::create_dir(&programs).expect("made");
    for entry in std::fs::read_dir(binaries()).expect("a target directory") {
        let (name, path) = entry.map(|e| (e.file_name(), e.path())).expect("readable");
        if path.is_file() && path.extension().is_none() {
            let place = programs.join(name);
            std::fs::hard_link(&path, &place).or_else(|_| std::fs::copy(&path, &place).map(drop)).expect("placed");
        }
    }
    let hubctl = |args: &[&str]| {
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "1000", "--regid", "1000", "--clear-groups", "--no-new-privs", "hubctl"]).args(args);
        command.env("PATH", path).env("HOME", home.path()).env("TMPDIR", home.path()).current_dir(home.path());
        let output = command.output().expect("setpriv runs");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let fleet = home.path().join("f");
    let text = |path: &Path| path.display().to_string();
    let (up, said) = hubctl(&["fleet", "up", "-f", &text(&file), "--ground", "netns", "--dir", &text(&fleet)]);
    assert!(up, "{said}\nhint: are user namespaces allowed to an ordinary user?");
    let url = format!("http://{REVIEWS}:9080/user");
    let (reached, answer) = hubctl(&["fleet", "exec", "east/web", "--", "curl", "-sS", "--max-time", "20", &url]);
    let (called, reply) = hubctl(&["fleet", "call", "east/web", &url]);
    let (down, last) = hubctl(&["fleet", "down"]);
    assert!(reached && answer.contains(WEB), "{answer}");
    assert!(called && reply.contains(WEB), "{reply}");
    assert!(down && !fleet.exists(), "{last}");
}
