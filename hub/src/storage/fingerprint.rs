//! A checksum over a set of rows that can be kept up to date row by row.

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

/// The sum of the hashes of all rows: independent of their order, and changed in time proportional to what changed.
/// It finds damage, not malice: whoever can write the rows can write the sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint([u64; 4]);

impl Fingerprint {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let hash = hash(key, value);
        self.0.iter_mut().zip(hash).for_each(|(sum, part)| *sum = sum.wrapping_add(part));
    }

    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        let hash = hash(key, value);
        self.0.iter_mut().zip(hash).for_each(|(sum, part)| *sum = sum.wrapping_sub(part));
    }
}

fn hash(key: &[u8], value: &[u8]) -> [u64; 4] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(key.len() as u64).to_be_bytes());
    context.update(key);
    context.update(value);
    let digest = context.finish();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.as_ref().chunks_exact(8)) {
        *word = bytes.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    }
    words
}

/// SHA-256 over rows in key order; equal on nodes that applied the same log.
pub(super) fn digest_of<'a>(rows: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for (key, value) in rows {
        for part in [key, value] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}
