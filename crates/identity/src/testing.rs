//! Fixtures of this crate's tests.
