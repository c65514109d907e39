//! Fleets: a whole mesh — hub, clusters, gateways, sidecars and applications — as ordinary processes on one machine.
//!
//! What it is: the fleet file and its checks ([`file`]), a pure plan of processes and addresses ([`plan`]), the supervision
//! of real processes that survives crashes of whoever started them ([`process`], [`up`], [`down`]), and what one plays with:
//! the echo server ([`echo`]), a client for every protocol ([`call`]), port forwarding ([`forward`]) and an open-loop load
//! generator ([`load`]).
//!
//! What it is not: a security boundary. On the `loopback` ground every process runs as the same user, capture is explicit
//! (proxy variables), and any local user can connect to any listener. Identities and mTLS between the parts are real.
//!
//! **Invariant:** every process of a fleet carries the fleet's instance id in its environment and, moments after its
//! start, a pid record with its kernel start time. Signals go only to processes that match one of the two.
//!
//! **Invariant:** one fleet, one directory, one claimed `127.<n>.0.0/16` block. [`down`] leaves none of the three behind.
//!
//! Start reading at [`file::FleetFile`], then [`plan::Plan`], then [`up::up`].

pub mod block;
pub mod call;
pub mod config;
pub mod converge;
pub mod dns;
pub mod down;
pub mod echo;
pub mod enter;
pub mod file;
pub mod forward;
pub mod ground;
pub mod handle;
pub mod hint;
pub mod http;
pub mod kube_proxy;
pub mod layout;
pub mod link;
pub mod load;
pub mod manifests;
pub mod network;
pub mod plan;
pub mod process;
pub mod raise;
pub mod up;
pub mod wait;

pub use file::FleetFile;
pub use ground::Ground;
pub use handle::Fleet;
pub use hint::Hint;
pub use plan::Plan;
