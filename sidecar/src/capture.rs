//! Transparent capture: which connections of a network namespace go through the sidecar, as one nftables ruleset.
//!
//! [`Options`] say what is captured, in the words of Istio's annotations; [`ruleset`] turns them into text for `nft -f -`,
//! and does nothing else; [`apply`] and [`remove`] hand text to `nft` in the current network namespace. Where datagrams are
//! captured, they also lead those that the ruleset marks to the loopback interface, through `ip`.
//!
//! **Invariant:** the whole ruleset is one table that is replaced in one transaction: no connection ever sees half of it,
//! applying it twice changes nothing, and removing the table leaves nothing.

mod annotations;
mod options;
mod ruleset;
mod run;

pub use annotations::{AnnotationError, INTERCEPTION_MODE, read_annotations};
pub use options::{Captured, Interface, Options, OptionsError, Setting};
pub use ruleset::{TABLE, UDP_MARK, removal, ruleset};
pub use run::{NftError, apply, remove};
