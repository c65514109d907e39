//! The control socket: one JSON object a line, one answer a line.
//!
//! ```text
//! > {"command": "show"}
//! > {"command": "set", "change": {"left-to-right": {"delay": "40ms", "loss": "1%"}, "nat": "left:198.51.100.1"}}
//! > {"command": "rebind", "what": "port"}
//! < {"result": "status", "seed": 7, "link": {…}, "left-to-right": {…}, …}
//! < {"result": "refused", "problems": [{"field": "left-to-right.loss", "message": "…", "hint": "…"}]}
//! ```

mod client;
mod server;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::emulator::{EmulatorError, Handle};
use crate::link::Status;
use crate::nat::Rebind;
use crate::spec::Problem;

pub use client::{ControlError, ask};
pub use server::serve;

/// The longest line of either side, in bytes.
const LINE_MAX: usize = 64 << 10;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// All that can be seen.
    Show {},
    /// Other conditions, all of them or none.
    Set {
        /// As [`LinkSpec::changed`](crate::LinkSpec::changed) takes it.
        change: Map<String, Value>,
    },
    /// Other ports or addresses for translated flows.
    Rebind {
        /// Which.
        what: Rebind,
    },
}

/// What it hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Answer {
    /// It was done, and this is how things stand.
    Status(Box<Status>),
    /// It was not, and nothing has changed.
    Refused {
        /// Every mistake.
        problems: Vec<Problem>,
    },
}

impl Request {
    /// Carries the request out; waits for the link, which answers between two packets.
    fn execute(self, handle: &Handle) -> Answer {
        let result = match self {
            Self::Show {} => handle.status(),
            Self::Set { change } => handle.set(change),
            Self::Rebind { what } => handle.rebind(what),
        };
        let problems = match result {
            Ok(status) => return Answer::Status(Box::new(status)),
            Err(EmulatorError::Refused(problems)) => problems.0,
            Err(error) => vec![from_error("(link)", &error.to_string())],
        };
        Answer::Refused { problems }
    }
}

/// A problem from a message that may end in a hint.
fn from_error(field: &str, text: &str) -> Problem {
    let (message, hint) = text.split_once("\n    hint: ").unwrap_or((text, "see the log of isthmus-wan"));
    Problem::new(field, message, hint)
}
