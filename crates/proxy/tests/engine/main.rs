//! The engine with real sockets: sidecars, applications and a gateway that pipes, all in one process.

mod http;
mod remote;
mod security;
mod tcp;
mod world;
