//! Traffic from `east/web` to the service that only `west` exports: every protocol, with the caller's identity proven.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "whatever fails here is a failed test")]

use bytes::Bytes;
use fleet::call::{Call, Speak, connect};
use multicluster_tests::{REVIEWS, SMALL, Scenario, tool};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

const WEB: &str = "spiffe://east.demo/ns/default/sa/web";

fn json_lines(body: &Bytes) -> Vec<Value> {
    let text = String::from_utf8_lossy(body);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_and_grpc_cross_clusters_with_the_callers_identity() {
    let scenario = Scenario::up(SMALL).await;
    let answer = scenario.get("9080/hello?x=1").await;
    assert_eq!(
        (&answer["cluster"], &answer["pod"], &answer["path"], &answer["client_identity"], &answer["protocol"]),
        (&"west".into(), &"reviews-1".into(), &"/hello?x=1".into(), &WEB.into(), &"http/1.1".into()),
        "{answer}"
    );

    let mut forged = scenario.call("9080/");
    forged.header("x-forwarded-client-cert: By=x;URI=spiffe://east.demo/ns/default/sa/admin").unwrap();
    let reply = forged.send().await.unwrap();
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(answer["client_identity"], WEB);
    assert!(!reply.body.windows(8).any(|part| part == b"sa/admin"), "a forged identity survived: {answer}");
    let xfcc = answer["headers"]["x-forwarded-client-cert"].as_str().unwrap();
    assert!(xfcc.starts_with("By=spiffe://west.demo/ns/default/sa/reviews;Hash="), "{xfcc}");
    assert!(answer["headers"].get("x-isthmus-port").is_none(), "{answer}");

    let h2 = Call { speak: Speak::Http2, ..scenario.call("9091/two") }.send().await.unwrap();
    let answer: Value = serde_json::from_slice(&h2.body).unwrap();
    assert_eq!((&answer["protocol"], &answer["client_identity"]), (&"http/2".into(), &WEB.into()), "{answer}");

    for (method, messages) in [("Unary", 1), ("ServerStream", 3), ("BidiStream", 3)] {
        let call = Call {
            speak: Speak::Grpc,
            body: Bytes::from_static(b"hi"),
            ..scenario.call(&format!("9090/isthmus.echo.v1.Echo/{method}"))
        };
        let reply = call.send().await.unwrap_or_else(|error| panic!("{method}: {error:#}\n{}", scenario.logs()));
        assert_eq!(reply.grpc_status.as_ref().map(|(code, _)| *code), Some(0), "{method}: {reply:?}");
        let answers = json_lines(&reply.body);
        assert_eq!(answers.len(), messages, "{method}");
        assert_eq!(answers[0]["answer"]["client_identity"], WEB, "{method}");
    }

    let status = scenario.call("9080/status/418").send().await.unwrap();
    assert_eq!(status.status.unwrap(), 418, "an answer of the application stays what it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_crosses_clusters_whoever_speaks_first_and_ends_by_halves() {
    let scenario = Scenario::up(SMALL).await;
    let proxy = scenario.proxy("east/web");

    // The server speaks first: nothing is sent until its greeting has come.
    let mut first = connect(proxy, REVIEWS, 9001).await.unwrap();
    let mut greeting = String::new();
    first.read_line(&mut greeting).await.unwrap();
    assert!(greeting.contains("reviews-1"), "{greeting}");

    // Half-close: the server's bytes still come after our end.
    let mut half = connect(proxy, REVIEWS, 9000).await.unwrap();
    half.write_all(b"ping").await.unwrap();
    half.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    half.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"ping");

    // 200 flows at once, each with bytes of its own.
    let mut flows = JoinSet::new();
    for flow in 0..200_u32 {
        flows.spawn(async move {
            let mut tunnel = connect(proxy, REVIEWS, 9000).await.unwrap_or_else(|error| panic!("flow {flow}: {error}"));
            let sent: Vec<u8> = flow.to_be_bytes().repeat(4096);
            let mut received = vec![0; sent.len()];
            tunnel.write_all(&sent).await.unwrap();
            tunnel.read_exact(&mut received).await.unwrap();
            assert!(received == sent, "flow {flow} got other bytes");
        });
    }
    flows.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_go_either_way() {
    const SIZE: usize = 100 * 1024 * 1024;
    let scenario = Scenario::up(SMALL).await;
    let down = scenario.call(&format!("9080/bytes/{SIZE}")).send().await.unwrap();
    assert_eq!(down.body.len(), SIZE);
    let up = Call { method: http::Method::POST, body: vec![7; SIZE].into(), ..scenario.call("9080/sink") };
    let answer: Value = serde_json::from_slice(&up.send().await.unwrap().body).unwrap();
    assert_eq!(answer["body_bytes"], SIZE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_exported_is_unreachable_and_invisible() {
    tool("dig", "bind9-dnsutils");
    let scenario = Scenario::up(SMALL).await;
    let name = "secret.default.svc.clusterset.local";
    let reply = Call::get(scenario.proxy("east/web"), &format!("http://{name}:9080/")).unwrap().send().await.unwrap();
    assert!(reply.status.unwrap().is_server_error(), "{reply:?}");
    assert_eq!(dig(&scenario, "east", name, "A").await.0, "NXDOMAIN");
    let services = scenario.ok(&["services", "-o", "json"]).await;
    assert!(!services.contains("secret"), "{services}");

    // The same names as the resolver of an application sees them.
    let (status, answers) = dig(&scenario, "east", REVIEWS, "A").await;
    assert_eq!(status, "NOERROR");
    assert!(answers.len() == 1 && answers[0].starts_with("243."), "{answers:?}");
    assert_eq!(dig(&scenario, "west", REVIEWS, "A").await.1, answers, "one name, one address, in every cluster");
    assert_eq!(dig(&scenario, "east", REVIEWS, "MX").await, ("NOERROR".into(), Vec::new()));

    // An export is taken back while everything runs: name and service are gone, without a restart.
    let export = scenario.fleet.layout.manifests("west").join("serviceexport.default.reviews.yaml");
    scenario.ok(&["fleet", "delete", "west", "-f", &export.display().to_string()]).await;
    let gone = async {
        while dig(&scenario, "east", REVIEWS, "A").await.0 != "NXDOMAIN" {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("the name goes with the export");
}

/// Asks a cluster's shim with dig: the status and the short answers.
async fn dig(scenario: &Scenario, cluster: &str, name: &str, kind: &str) -> (String, Vec<String>) {
    let server = format!("@{}", scenario.fleet.cluster(cluster).unwrap().dns);
    let args = [&server, "-p", "15053", "+tries=1", "+time=5", name, kind];
    let output = tokio::process::Command::new("dig").args(args).output().await.expect("dig runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or(&text).to_owned();
    let answer = text.split(";; ANSWER SECTION:\n").nth(1).unwrap_or_default();
    let answers = answer.lines().take_while(|line| !line.is_empty());
    (status, answers.filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_of_a_workload_reaches_the_mesh_by_http_and_socks() {
    tool("curl", "curl");
    let scenario = Scenario::up(SMALL).await;
    let url = format!("http://{REVIEWS}:9080/curl");
    for command in [vec!["curl", "-sS", &url], vec!["sh", "-c", "unset http_proxy HTTP_PROXY; curl -sS $0", &url]] {
        let said = scenario.ok(&[&["fleet", "exec", "east/web", "--"], command.as_slice()].concat()).await;
        let answer: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_eq!((&answer["cluster"], &answer["client_identity"]), (&"west".into(), &WEB.into()), "{answer}");
    }
}
