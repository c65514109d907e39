//! DNS questions, from the bytes of a message to the shim's answer.
#![no_main]

use std::sync::{Arc, OnceLock};

use dns::{Asked, Forwarder, Metrics, Shim};
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
        Shim::new(view, mesh::Zones { cluster: true }, Forwarder::new(Vec::new()), Metrics::register(&telemetry::Registry::new("fuzz")))
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::from_vec(bytes) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for question in &message.queries {
        let asked =
            Asked { question: question.clone(), recursion_desired: true, checking_disabled: false, dnssec_ok: false };
        let _reply = runtime.block_on(shim().answer(&asked));
    }
});
