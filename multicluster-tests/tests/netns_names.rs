//! Names in an unchanged pod on the ground `netns`: what `dig` says through the pod's own resolv.conf, and where `curl` gets.
//!
//! `cargo test -p isthmus-multicluster-tests --test netns_names`, as root.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed test")]

use std::time::Duration;

use multicluster_tests::{Scenario, eventually, on_netns, tool};
use serde_json::Value;

/// `east/web` calls; `west/db` has two pods, which get a headless Service.
const FILE: &str = "
name: names
mesh: demo
hub: {nodes: 1}
clusters:
  - name: east
    workloads:
      - {name: web, labels: {app: web, version: v1}}
      - {name: ratings, ports: &ports [{name: http, port: 9080, protocol: http}]}
  - name: west
    workloads:
      - {name: db, replicas: 2, ports: *ports}
      - {name: reviews, ports: *ports, export: true}
";

const WEB: &str = "spiffe://east.demo/ns/default/sa/web";
const ZONE: &str = "svc.clusterset.local";
const LONG: Duration = Duration::from_secs(30);

/// What a name server answered.
#[derive(Debug)]
struct Answer {
    status: String,
    /// Name, TTL, type and data of each record.
    answers: Vec<String>,
    authority: Vec<String>,
}

impl Answer {
    /// The data of the records of a type, in order.
    fn data(&self, kind: &str) -> Vec<String> {
        let data = |line: &String| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (*fields.get(3)? == kind).then(|| fields[4..].join(" "))
        };
        let mut found: Vec<String> = self.answers.iter().filter_map(data).collect();
        found.sort();
        found
    }

    fn is_negative(&self, status: &str, zone: &str) {
        assert_eq!((self.status.as_str(), self.answers.len()), (status, 0), "{self:?}");
        let soa = self.authority.iter().any(|line| line.contains(" SOA ") && line.starts_with(&format!("{zone}. 5 ")));
        assert!(soa, "the zone's SOA goes with it: {self:?}");
    }
}

fn command(workload: &str, command: &[&str]) -> Vec<String> {
    let all = [&["fleet", "exec", workload, "--"], command].concat();
    all.into_iter().map(ToOwned::to_owned).collect()
}

/// Runs dig in `east/web`, with the pod's search list.
async fn dig(scenario: &Scenario, question: &[&str]) -> Answer {
    let options = ["dig", "+search", "+tries=1", "+time=6", "+noall", "+comments", "+answer", "+authority"];
    let command = command("east/web", &[&options[..], question].concat());
    let said = scenario.ok(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let status = said.split_once("status: ").and_then(|(_, rest)| rest.split(',').next()).unwrap_or("none").to_owned();
    let (mut answers, mut authority, mut section) = (Vec::new(), Vec::new(), "");
    for line in said.lines() {
        match line.strip_prefix(";; ") {
            Some(title) => section = title,
            None if line.is_empty() || line.starts_with(';') => (),
            None => {
                let record = line.split_whitespace().collect::<Vec<_>>().join(" ");
                if section.starts_with("ANSWER") { answers.push(record) } else { authority.push(record) }
            }
        }
    }
    Answer { status, answers, authority }
}

/// The same until it says what is expected: manifests take a moment.
async fn dig_until(scenario: &Scenario, question: &[&str], expected: impl Fn(&Answer) -> bool) -> Answer {
    eventually(&format!("{question:?}"), LONG, async || {
        let answer = dig(scenario, question).await;
        if expected(&answer) { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
    .await
}

/// curl in `east/web`; the echo server's answer.
async fn curl(scenario: &Scenario, url: &str) -> Value {
    let command = command("east/web", &["curl", "-sS", "-g", "--max-time", "20", url]);
    let said = scenario.ok(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{url}: {error}: {said}\n{}", scenario.logs()))
}

/// A headless Service whose pods have host names, and its EndpointSlice.
fn headless(scenario: &Scenario, name: &str, of: &str) -> String {
    let mut endpoints = String::new();
    let (cluster, workload) = of.split_once('/').expect("cluster and workload");
    let pods = scenario.fleet.cluster(cluster).expect("the cluster").pods.iter().filter(|pod| pod.workload == workload);
    for (index, pod) in pods.enumerate() {
        endpoints += &format!(
            "- {{addresses: [{}], hostname: {workload}-{index}, targetRef: {{kind: Pod, name: {}}}}}\n",
            pod.ip, pod.name
        );
    }
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: None, ports: [{{name: http, port: 9080}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  labels: {{kubernetes.io/service-name: {name}}}\n  \
         annotations: {{isthmus.dev/meshed: \"true\", isthmus.dev/service-account: {workload}}}\naddressType: IPv4\n\
         endpoints:\n{endpoints}ports: [{{name: http, port: 9080}}]\n"
    )
}

async fn apply(scenario: &Scenario, cluster: &str, file: &str, manifests: &str) {
    let path = scenario.write(file, manifests);
    scenario.ok(&["fleet", "apply", cluster, "-f", &path]).await;
}

#[test]
fn pods_of_a_headless_service_in_another_cluster_are_reached_by_name() {
    tool("curl", "curl");
    tool("dig", "bind9-dnsutils");
    on_netns(FILE, async |scenario| {
        let export = "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: shards}\n";
        apply(scenario, "west", "shards.yaml", &(headless(scenario, "shards", "west/db") + export)).await;
        let service = format!("shards.default.{ZONE}.");
        let all = dig_until(scenario, &[&service, "A"], |answer| answer.data("A").len() == 2).await;
        assert!(all.answers.iter().all(|line| line.contains(" 5 IN A 242.")), "{all:?}");
        assert_eq!(dig(scenario, &[&service, "AAAA"]).await.data("AAAA").len(), 2);
        for index in 0..2 {
            let pod = format!("db-{index}.west.{service}");
            for kind in ["A", "AAAA"] {
                let found = dig(scenario, &[&pod, kind]).await;
                assert_eq!(found.data(kind).len(), 1, "{found:?}");
                let host = match kind {
                    "A" => found.data(kind)[0].clone(),
                    _ => format!("[{}]", found.data(kind)[0]),
                };
                for host in [pod.trim_end_matches('.').to_owned(), host] {
                    let answer = curl(scenario, &format!("http://{host}:9080/{kind}")).await;
                    let seen = (&answer["cluster"], &answer["pod"], &answer["client_identity"]);
                    let expected = (&"west".into(), &format!("db-{}", index + 1).into(), &WEB.into());
                    assert_eq!(seen, expected, "{host}: {answer}");
                }
            }
        }
        let ports = dig(scenario, &[&format!("_http._tcp.{service}"), "SRV"]).await.data("SRV");
        let expected: Vec<String> = (0..2).map(|index| format!("0 50 9080 db-{index}.west.{service}")).collect();
        assert_eq!(ports, expected);
        dig(scenario, &[&format!("west.{service}"), "A"]).await.is_negative("NOERROR", "clusterset.local");
        dig(scenario, &[&format!("db-0.{service}"), "A"]).await.is_negative("NXDOMAIN", "clusterset.local");
        dig(scenario, &[&format!("db-9.west.{service}"), "A"]).await.is_negative("NXDOMAIN", "clusterset.local");
    });
}

#[test]
fn names_are_answered_as_on_kubernetes() {
    tool("dig", "bind9-dnsutils");
    on_netns(FILE, async |scenario| {
        let external = "---\napiVersion: v1\nkind: Service\nmetadata: {name: alias}\n\
                        spec: {type: ExternalName, externalName: ratings.default.svc.cluster.local}\n";
        apply(scenario, "east", "near.yaml", &(headless(scenario, "near", "east/ratings") + external)).await;
        let pod = scenario.fleet.pod("east/ratings").expect("a pod").1.ip.to_string();
        dig_until(scenario, &["near.default.svc.cluster.local.", "A"], |answer| answer.data("A") == [pod.clone()])
            .await;
        let east = scenario.fleet.cluster("east").expect("east");
        let ratings = east.services.iter().find(|service| service.name == "ratings").expect("ratings");
        let [four, six] = ratings.cluster_ips[..] else { panic!("{:?}", ratings.cluster_ips) };
        for name in ["ratings", "ratings.default", "ratings.default.svc", "ratings.default.svc.cluster.local"] {
            assert_eq!(dig(scenario, &[name, "A"]).await.data("A"), [four.to_string()], "{name}");
            assert_eq!(dig(scenario, &[name, "AAAA"]).await.data("AAAA"), [six.to_string()], "{name}");
        }
        for kind in ["A", "AAAA"] {
            let found = dig(scenario, &[&format!("reviews.default.{ZONE}"), kind]).await;
            assert_eq!(found.data(kind).len(), 1, "ndots does not get in the way: {found:?}");
        }
        let target = "0 100 9080 ratings.default.svc.cluster.local.";
        assert_eq!(dig(scenario, &["_http._tcp.ratings", "SRV"]).await.data("SRV"), [target]);
        let target = format!("0 100 9080 reviews.default.{ZONE}.");
        assert_eq!(dig(scenario, &[&format!("reviews.default.{ZONE}."), "SRV"]).await.data("SRV"), [target]);
        assert_eq!(dig(scenario, &["dns-version.clusterset.local.", "TXT"]).await.data("TXT"), ["\"1.0.0\""]);
        assert_eq!(dig(scenario, &["dns-version.cluster.local.", "TXT"]).await.data("TXT"), ["\"1.1.0\""]);
        assert_eq!(dig(scenario, &["ratings-0.near", "A"]).await.data("A"), [pod.clone()]);
        let dashed = format!("{}.default.pod.cluster.local.", pod.replace('.', "-"));
        assert_eq!(dig(scenario, &[&dashed, "A"]).await.data("A"), [pod.clone()]);
        let alias = dig(scenario, &["alias", "A"]).await;
        assert_eq!(alias.data("CNAME"), ["ratings.default.svc.cluster.local."], "{alias:?}");
        assert_eq!(alias.data("A"), [four.to_string()], "{alias:?}");
        let names = dig(scenario, &["-x", &four.to_string()]).await.data("PTR");
        assert_eq!(names, ["ratings.default.svc.cluster.local."]);
        dig(scenario, &["none.default.svc.cluster.local.", "A"]).await.is_negative("NXDOMAIN", "cluster.local");
        dig(scenario, &["ratings.default.svc.cluster.local.", "MX"]).await.is_negative("NOERROR", "cluster.local");
        dig(scenario, &[&format!("none.default.{ZONE}."), "A"]).await.is_negative("NXDOMAIN", "clusterset.local");
        dig(scenario, &[&format!("reviews.default.{ZONE}."), "MX"]).await.is_negative("NOERROR", "clusterset.local");
        assert_eq!(dig(scenario, &["www.example.test.", "A"]).await.status, "REFUSED", "nobody to ask");
    });
}

/// A name server for `a.example.test` alone, with a TTL of a second; writes its process id where it is told.
const UPSTREAM: &str = "
import os, socket, struct, sys
open(sys.argv[1], 'w').write(str(os.getpid()))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 5300))
while True:
    q, peer = s.recvfrom(4096)
    end = q.index(b'\\0', 12) + 5
    name, kind = q[12:end-4].lower(), struct.unpack('>H', q[end-4:end-2])[0]
    known = name == b'\\x01a\\x07example\\x04test\\0'
    answer = b'\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\x01\\0\\x04\\xc0\\0\\x02\\x07' if known and kind == 1 else b''
    flags = 0x8180 if known else 0x8183
    s.sendto(q[:2] + struct.pack('>HHHHH', flags, 1, 1 if answer else 0, 0, 0) + q[12:end] + answer, peer)
";

#[test]
fn an_upstream_that_dies_leaves_stale_answers() {
    tool("dig", "bind9-dnsutils");
    on_netns(FILE, async |scenario| {
        let file = scenario.fleet.layout.component("east", "dns").join("dns.yaml");
        let text = std::fs::read_to_string(&file).expect("the shim's configuration");
        assert!(text.contains("forward: []"), "{text}");
        std::fs::write(&file, text.replace("forward: []", "forward: [\"127.0.0.1:5300\"]")).expect("written");
        let (script, number) = (scenario.write("upstream.py", UPSTREAM), scenario.beside("upstream.pid"));
        let mut upstream = tokio::process::Command::new(multicluster_tests::binaries().join("hubctl"));
        upstream
            .arg("--fleet")
            .arg(scenario.path())
            .args(["fleet", "exec", "east/dns", "--", "python3", &script])
            .arg(&number);
        let mut upstream = upstream.kill_on_drop(true).spawn().expect("hubctl runs");
        scenario.ok(&["fleet", "kill", "east/dns"]).await;
        scenario.ok(&["fleet", "start", "east/dns"]).await;
        let name = "a.example.test.";
        let fresh = dig_until(scenario, &[name, "A"], |answer| answer.status == "NOERROR").await;
        assert_eq!(fresh.answers, ["a.example.test. 1 IN A 192.0.2.7"]);
        let process = std::fs::read_to_string(&number).expect("the upstream said who it is");
        let killed = std::process::Command::new("kill").args(["-9", &process]).status().expect("kill runs");
        assert!(killed.success());
        upstream.wait().await.expect("it ends");
        let stale =
            dig_until(scenario, &[name, "A"], |answer| answer.answers == ["a.example.test. 30 IN A 192.0.2.7"]).await;
        assert_eq!(stale.status, "NOERROR");
        let unknown = dig(scenario, &["b.example.test.", "A"]).await;
        assert_eq!(unknown.status, "SERVFAIL", "nothing is known of it: {unknown:?}");
        // What is ours needs nobody.
        assert_eq!(dig(scenario, &[&format!("reviews.default.{ZONE}"), "A"]).await.data("A").len(), 1);
    });
}
