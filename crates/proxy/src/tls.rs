//! TLS that is not the mesh's own: originated towards servers outside, ended at ingress and egress gateways.
//!
//! [`Originator`] is the client's side (`DestinationRule.trafficPolicy.tls`), [`ServerConfigs`] the server's
//! (`Gateway.servers[].tls`). Both read certificates from the view's secrets or from files and look at them anew for
//! each handshake, so that what was renewed is used by the next connection; connections that are open go on.

mod hello;
mod material;
mod names;
mod origin;
mod server;
mod trust;
mod unusual;

pub use hello::{Hello, read_hello};
pub use material::MaterialError;
pub use names::client_cert_header;
pub use origin::Originator;
pub use server::ServerConfigs;

use crate::outbound::Captured;

impl<T: Captured> Captured for tokio_rustls::server::TlsStream<T> {
    fn abort(&self) {
        self.get_ref().0.abort();
    }
}

#[cfg(test)]
mod tests;
