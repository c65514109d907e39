//! Tests over fleets in network namespaces.

use std::fs::File;
use std::os::fd::AsFd;

use fleet::{Fleet, Ground, network};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Runtime};

use crate::Scenario;

/// Fails the test, with a hint, where the ground cannot be.
pub fn demand_netns() {
    if let Err(why) = Ground::Netns.check() {
        let hint = why.downcast_ref::<fleet::Hint>().map(|why| why.hint.clone()).unwrap_or_default();
        panic!("the netns tier cannot run here: {why:#}\nhint: {hint}");
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "this test stands in a fleet's management namespace\nhint: run it as root"
    );
}

/// Brings a fleet up on the ground `netns` and runs a test over it in the fleet's management namespace, where everything that
/// tests use on loopback works as well: calls, loads, admin listeners, `hubctl`.
pub fn on_netns(file: &str, test: impl AsyncFnOnce(&Scenario) + Send) {
    demand_netns();
    let inside = || {
        let (outer, scenario) = {
            let outer = runtime();
            let scenario = outer.block_on(Scenario::up_on(Ground::Netns, file));
            (outer, scenario)
        };
        // A namespace belongs to a thread, and to those that it starts from now on: the workers of the second runtime.
        move_into(&scenario.fleet, network::NODE);
        runtime().block_on(test(&scenario));
        drop(scenario);
        drop(outer);
    };
    let ended = std::thread::scope(|scope| scope.spawn(inside).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs a test's part as a process of a namespace of the fleet would: `east/gateway-1`, `east/fabric`, `east/web-1`.
pub fn within<T: Send>(fleet: &Fleet, namespace: &str, part: impl AsyncFnOnce() -> T + Send) -> T {
    let inside = || {
        move_into(fleet, namespace);
        runtime().block_on(part())
    };
    let ended = std::thread::scope(|scope| scope.spawn(inside).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Moves the calling thread into a namespace of a fleet.
fn move_into(fleet: &Fleet, namespace: &str) {
    let file = File::open(network_file(fleet, namespace)).expect("the namespace");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
}

/// The file that stands for the network of a namespace of the fleet.
pub fn network_file(fleet: &Fleet, namespace: &str) -> String {
    let holder = fleet.record(&network::pause(namespace)).unwrap_or_else(|| panic!("no namespace {namespace}"));
    format!("/proc/{}/ns/net", holder.pid)
}
