//! A wide area network between two network namespaces, in one process: what Linux' `netem` and a middlebox would do, for
//! kernels without `sch_netem`.
//!
//! Each side has a TUN device. A packet that is routed into one is delayed, lost, reordered, duplicated, queued at a rate,
//! measured against an MTU, filtered or translated as the [`Conditions`] of its direction say, and comes out of the other.
//!
//! What it is not: a model of a radio or of competing traffic. Nothing is emulated that is not set.
//!
//! Invariants:
//!
//! * [`Link`] is pure: time is an argument, randomness comes from a seed, and the same packets at the same times meet the same fate.
//! * Counters add up, at any time and in each direction: received + duplicated = delivered + dropped + queued.
//! * Memory is bounded: the queue by what is set, the packets on their way by [`BACKLOG_MAX`], translations by [`MAPPINGS_MAX`].
//! * A change is applied as a whole, between two packets, or refused with every mistake named.
//!
//! Start reading at [`Conditions`], then [`Link`]; the shell around it is [`Emulator`].

mod chance;
mod checksum;
mod control;
mod counters;
mod device;
mod direction;
mod emulator;
mod fragment;
mod icmp;
mod lateness;
mod link;
mod namespace;
mod nat;
mod packet;
mod priority;
mod spec;

pub use control::{Answer, ControlError, Request, ask, serve};
pub use counters::{Counters, Drop, Tally};
pub use device::{DeviceError, DeviceSpec};
pub use direction::BACKLOG_MAX;
pub use emulator::{Emulator, EmulatorError, Handle, StartError};
pub use lateness::Lateness;
pub use link::{Link, Status};
pub use namespace::{Namespace, NamespaceError};
pub use nat::{MAPPINGS_MAX, Rebind, RebindError};
pub use spec::{
    BurstLoss, Conditions, Delay, KNOBS, Knob, LinkSpec, NatSpec, Percent, Problem, Problems, Rate, Side, Size,
    WanSpec, change_of_words,
};
