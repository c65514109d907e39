//! The link between two real network namespaces, by `ping`, `iperf3` and sockets.
//!
//! `cargo test -p isthmus-wan --test netns_link`: needs root (or a user namespace that owns the network), `/dev/net/tun`, and
//! `ip`, `ping` and `iperf3`; it fails where they are missing, and is no part of `cargo test --workspace`.

mod ground;
mod middlebox;
mod numbers;
mod process;
