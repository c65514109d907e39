//! Black holes: of everything, in one direction, of one gateway.

use multicluster_tests::Scenario;
use tokio::time::sleep;

use crate::gateways::until_unusable;
use crate::story::{Budget, Phase, fault};
use crate::traffic::{Beside, Traffic, wan};
use crate::{on_wan, secs};

#[test]
fn everything_is_lost_for_five_seconds() {
    on_wan(async |scenario| {
        let traffic = Traffic::start(scenario, Beside::FlowsAndBulk).await;
        let budget = Budget { failed_during: 0.0, avoided: None, requests: secs(5), flows: secs(5) };
        fault("black hole of everything, 5 s", budget, traffic, secs(5), |traffic, phase| {
            traffic.wan(if phase == Phase::Fault { "blackhole=on" } else { "blackhole=off" });
        })
        .await;
    });
}

/// Requests that are due more than 10 s before the end cannot be answered in time; flows live on.
#[test]
fn everything_is_lost_for_a_minute() {
    on_wan(async |scenario| {
        let traffic = Traffic::start(scenario, Beside::FlowsAndBulk).await;
        let budget = Budget { failed_during: 100.0, avoided: None, requests: secs(10), flows: secs(10) };
        fault("black hole of everything, 60 s", budget, traffic, secs(60), |traffic, phase| {
            traffic.wan(if phase == Phase::Fault { "blackhole=on" } else { "blackhole=off" });
        })
        .await;
    });
}

#[test]
fn one_direction_is_lost() {
    on_wan(async |scenario| {
        for direction in ["east-to-west", "west-to-east"] {
            let traffic = Traffic::start(scenario, Beside::FlowsAndBulk).await;
            let budget = Budget { failed_during: 0.0, avoided: None, requests: secs(5), flows: secs(5) };
            fault(&format!("black hole {direction}, 5 s"), budget, traffic, secs(5), |traffic, phase| {
                let state = if phase == Phase::Fault { "on" } else { "off" };
                traffic.wan(&format!("{direction} blackhole={state}"));
            })
            .await;
        }
    });
}

/// One of west's gateways hears and says nothing across the WAN, but lives.
#[test]
fn quick_one_gateway_is_cut_off() {
    on_wan(async |scenario| {
        let budget = Budget { failed_during: 1.0, avoided: Some(secs(2)), requests: secs(1), flows: secs(10) };
        one_is_cut_off(scenario, "one gateway of two cut off, 10 s", budget).await;
    });
}

/// Silence is judged by the round trip: up to 250 ms it must not take longer.
#[test]
fn one_gateway_is_cut_off_far_away() {
    on_wan(async |scenario| {
        wan(scenario, "delay=125ms");
        // Round trips that were measured before fade with a few more.
        sleep(secs(10)).await;
        let budget = Budget { failed_during: 1.0, avoided: Some(secs(2)), requests: secs(2), flows: secs(10) };
        one_is_cut_off(scenario, "one gateway of two cut off at 250 ms, 10 s", budget).await;
    });
}

async fn one_is_cut_off(scenario: &Scenario, name: &str, budget: Budget) {
    let traffic = Traffic::start(scenario, Beside::FlowsAndBulk).await;
    let east = scenario.fleet.cluster("east").expect("east").gateways[0].ip.octets();
    let network = format!("{}.{}.{}.0/24", east[0], east[1], east[2]);
    let rules = format!(
        "table inet cut {{\nchain in {{\ntype filter hook input priority 0;\nip saddr {network} drop\n}}\n\
         chain out {{\ntype filter hook output priority 0;\nip daddr {network} drop\n}}\n}}\n"
    );
    let fault = fault(name, budget, traffic, secs(10), |traffic, phase| {
        let nft = match phase {
            Phase::Fault => rules.as_str(),
            Phase::Healed => "delete table inet cut",
        };
        run_inside(traffic.scenario, "west/gateway-2", &["nft", nft]);
    });
    let ((), ejected) = tokio::join!(fault, until_unusable(scenario, "gateway-2"));
    println!("{name}: no connection to it takes flows any more after {:.1} s", ejected.as_secs_f64());
    // Connections that carry nothing are asked only when those in use have gone silent.
    assert!(ejected <= secs(4), "{name}: ejected after {ejected:?}");
}

fn run_inside(scenario: &Scenario, namespace: &str, command: &[&str]) {
    let entering = scenario.fleet.enter_here(namespace).expect("the namespace is there");
    let words: Vec<&str> = entering.iter().map(String::as_str).chain(command.iter().copied()).collect();
    let output = std::process::Command::new(words[0]).args(&words[1..]).output().expect("runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
