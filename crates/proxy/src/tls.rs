//! TLS that is not the mesh's own: originated towards servers outside, ended at ingress and egress gateways.
//!
//! [`Originator`] is the client's side (`DestinationRule.trafficPolicy.tls`), [`ServerConfigs`] the server's
//! (`Gateway.servers[].tls`). Both read certificates from the view's secrets or from files and look at them anew for
//! each handshake, so that what was renewed is used by the next connection; connections that are open go on.

mod origin;

pub use origin::Originator;
