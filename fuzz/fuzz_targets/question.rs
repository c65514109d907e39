//! DNS questions, from the bytes of a message to the shim's answer.
#![no_main]

use std::sync::{Arc, OnceLock};

use dns::{CacheLimits, Forwarder, Metrics, Over, Shim};
use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;

/// A shim that knows one service and no upstream.
fn shim() -> &'static Shim {
    static SHIM: OnceLock<Shim> = OnceLock::new();
    SHIM.get_or_init(|| {
        let name: mesh::ServiceName = "default/reviews".parse().expect("a service");
        let addresses = vec!["243.0.0.1".parse().expect("an address")];
        let host = mesh::HostEntry { clusterset: true, ..mesh::HostEntry::of_entry(name.clone(), addresses) };
        let mut view = mesh::View::default();
        view.hosts.insert(name, Arc::new(host));
        // The shim only reads the value: the sender may go.
        let (_sender, view) = tokio::sync::watch::channel(Arc::new(view));
        let metrics = Metrics::register(&telemetry::Registry::new("fuzz"));
        let forwarder = Forwarder::new(Vec::new(), CacheLimits::default(), metrics.clone());
        Shim::new(view, mesh::Zones { cluster: true }, forwarder, metrics)
    })
}

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for over in [Over::Udp, Over::Tcp] {
        let Some(answer) = runtime.block_on(shim().handle(bytes, over)) else { continue };
        let answer = Message::from_vec(&answer).expect("what the shim writes can be read");
        assert_eq!(answer.metadata.id.to_be_bytes(), bytes[..2], "the answer belongs to the question");
        if over == Over::Udp {
            assert!(answer.to_vec().expect("written").len() <= 1232);
        }
    }
});
