//! The engine with real sockets: sidecars, applications and a gateway that pipes, all in one process.

#[cfg(test)]
mod arrival;
#[cfg(test)]
mod destinations;
#[cfg(test)]
mod http;
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
mod world;
