//! JSON Web Tokens and key sets: the first line is a token, the rest a key set.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// A time in the seeds' lifetimes.
const NOW: u64 = 1_800_000_000;

fuzz_target!(|bytes: &[u8]| {
    let (token, keys) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &b"{}"[..]),
    };
    let _valid = proxy::guard::verifies(&String::from_utf8_lossy(token), keys, NOW);
});
