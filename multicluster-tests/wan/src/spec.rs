//! What a user may set: one parser for the command line, the control socket and the fleet file.

mod conditions;
mod link;
mod pair;
mod problem;
mod units;
mod words;

pub use conditions::{BurstLoss, Conditions, KNOBS, Knob};
pub use link::{LinkSpec, NatSpec, Side};
pub use pair::WanSpec;
pub use problem::{Problem, Problems};
pub use units::{Delay, Percent, Rate, Size};
pub use words::change_of_words;
