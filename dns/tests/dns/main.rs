//! The shim over real sockets, with upstreams that the tests play themselves.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

mod forward;
mod shim;
mod support;
mod tcp;
