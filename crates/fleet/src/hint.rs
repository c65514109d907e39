//! Errors that tell their reader what to do next.

use std::fmt;

/// An error with a way out: `hubctl` prints the message after `error:` and the hint after `hint:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// What failed, to whom.
    pub message: String,
    /// What the reader can do about it.
    pub hint: String,
}

impl Hint {
    /// Builds an `anyhow` error that carries a hint.
    pub fn error(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { message: message.into(), hint: hint.into() })
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hint {}
