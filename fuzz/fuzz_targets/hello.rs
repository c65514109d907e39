//! The first bytes of a connection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::sni::{self, Hello};

fuzz_target!(|bytes: &[u8]| {
    let _spoken = proxy::detect::classify(bytes);
    let whole = sni::parse(bytes);
    // However the packets fall: what is known of a prefix stays true.
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let part = sni::parse(&bytes[..cut]);
        assert!(part == Hello::Partial || part == whole, "{part:?} of {cut} bytes, {whole:?} of {}", bytes.len());
    }
    let mut reader = bytes;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    if let Ok(hello) = runtime.block_on(proxy::tls::read_hello(&mut reader)) {
        assert!(bytes.starts_with(&hello.first), "every byte is given back");
        // Routing by one reader and certificates by the other must not disagree.
        if let (Some(sni), true) = (hello.sni, bytes.len() <= sni::HELLO_MAX) {
            assert_eq!(whole, Hello::Named(sni.trim_end_matches('.').to_owned()));
        }
    }
});
