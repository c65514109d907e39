//! Decisions about tunnels between gateways: which transport, which connection, how eagerly a flow is sent, how much may
//! be under way, and who is cut off when readers are slow. All pure; the clock is an argument.

mod congestion;
mod connection;
mod flow;
mod knock;
mod stalled;
mod transport;

pub use congestion::{CongestionSeen, WanCongestion};
pub use connection::{ConnectionLoad, datagrams_may_wait, pick_connection, window_share};
pub use flow::{BULK_BYTES, Carried, ClassHints, FlowClass};
pub use knock::{KNOCK_EVERY, Knocks};
pub use stalled::{STALL_MIN, STALL_URGENT, StalledFlow, stalled_to_reset};
pub use transport::{RETURN_AFTER, RETURN_AFTER_MAX, SETTLE, TCP_DELAY, Transport, TransportChoice, TransportSeen};
