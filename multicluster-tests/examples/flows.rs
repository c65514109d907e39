//! Very many flows through one pair of gateways: `cargo run --release --example flows -- [count] [rate]`, by default 5,000
//! flows, 2,000 new ones a second. Each needs two descriptors here and in the sidecars; what the limit allows is said.

#![expect(clippy::expect_used, reason = "whatever fails here is a failed measurement")]

use multicluster_tests::{Flows, REVIEWS, SMALL, Scenario};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(measure());
}

async fn measure() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>().expect("a number"));
    let count = usize::try_from(arguments.next().unwrap_or(5000)).expect("a count");
    let rate = arguments.next().unwrap_or(2000);
    println!("descriptors: {:?}", telemetry::raise_descriptor_limit());
    let scenario = Scenario::up(SMALL).await;
    scenario.get("9080/warm").await;
    let processes = ["east/web-1/sidecar", "east/gateway-1", "west/gateway-1", "west/reviews-1/sidecar"];
    let before = processes.map(|process| scenario.memory(process).resident);
    let flows = Flows { proxy: scenario.proxy("east/web"), target: format!("{REVIEWS}:9000"), count, rate };
    let report = flows.run().await;
    println!("{report:?}");
    for (process, before) in processes.iter().zip(before) {
        let peak = scenario.memory(process).peak;
        println!("{process}: {} MiB idle, {} MiB at most", before >> 20, peak >> 20);
    }
}
