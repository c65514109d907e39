//! The hub as its clients see it: three nodes in one process, real sockets, real certificates, real files.

#![expect(clippy::large_futures, reason = "tests await whole stories")]

mod access;
mod joining;
mod leases;
mod members;
mod recovery;
mod serving;
mod support;
mod watching;
