//! The hub as its clients see it: three nodes in one process, real sockets, real certificates, real files.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails, helpers too")]

mod access;
mod joining;
mod leases;
mod members;
mod recovery;
mod serving;
mod support;
mod watching;
