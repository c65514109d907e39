//! Clients inside a pod of a netns fleet: what they dial is captured, as an application's connections are.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use fleet::Fleet;
use fleet::network::pause;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::Scenario;

/// A runtime whose threads stand in the network namespace of one pod. Dropping it ends what runs on it.
#[derive(Debug)]
pub struct Inside(Option<Runtime>);

impl Inside {
    /// Enters the namespace of a pod (`east/web-1`) or any other namespace of the fleet.
    pub fn of(fleet: &Fleet, namespace: &str) -> Self {
        let holder = fleet.record(&pause(namespace)).expect("the namespace is held");
        let namespace = Arc::new(File::open(format!("/proc/{}/ns/net", holder.pid)).expect("the namespace"));
        let enter = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().on_thread_start(enter).build();
        Self(Some(runtime.expect("a runtime")))
    }

    /// For spawning: what runs on it dials from the pod.
    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("there until it is dropped").handle()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // May be dropped inside another runtime, where nothing may be waited for.
            runtime.shutdown_background();
        }
    }
}

impl Scenario {
    /// The IPv4 address of a name as a pod resolves it.
    pub async fn resolve(&self, pod: &str, name: &str, port: u16) -> SocketAddr {
        let said = self.ok(&["fleet", "exec", pod, "--", "getent", "ahostsv4", name]).await;
        let address: Option<IpAddr> = said.split_whitespace().next().and_then(|word| word.parse().ok());
        SocketAddr::new(address.unwrap_or_else(|| panic!("{name} resolves to {said:?}")), port)
    }
}
