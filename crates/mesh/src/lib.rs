//! names

mod names;
pub use names::*;
