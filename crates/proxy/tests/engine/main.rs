//! The engine with real sockets: sidecars, applications and a gateway that pipes, all in one process.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests play clients, which nobody captures"))]

#[cfg(test)]
mod arrival;
#[cfg(test)]
mod destinations;
#[cfg(test)]
mod envoy;
#[cfg(test)]
mod far;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod http;
#[cfg(test)]
mod hygiene;
#[cfg(test)]
mod hygiene_h2;
#[cfg(test)]
mod inbound;
#[cfg(test)]
mod origin;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod remote;
#[cfg(test)]
mod security;
#[cfg(test)]
mod tcp;

#[cfg(test)]
mod udp;
#[cfg(test)]
mod world;
