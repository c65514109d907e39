//! Streams of capsules: datagrams for an application, capsules that are passed on, and datagrams that were never sealed.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proxy::capsule::{Capsules, put_capsule};
use proxy::sealed::{End, MATERIAL, keys};

fuzz_target!(|bytes: &[u8]| {
    let datagrams = |chunk: usize| {
        let (mut capsules, mut seen) = (Capsules::default(), Vec::new());
        for chunk in bytes.chunks(chunk) {
            capsules.push(chunk);
            loop {
                match capsules.next_datagram() {
                    Ok(Some(payload)) => seen.push(payload),
                    Ok(None) => break,
                    // The stream is of no more use.
                    Err(error) => return (seen, Err(error)),
                }
            }
        }
        (seen, Ok(capsules.is_at_boundary()))
    };
    assert_eq!(datagrams(usize::MAX), datagrams(3), "however the chunks fall");
    let (mut whole, mut again) = (Capsules::default(), Capsules::default());
    whole.push(bytes);
    while let Ok(Some(capsule)) = whole.next_capsule() {
        let mut written = BytesMut::new();
        put_capsule(capsule.kind, &capsule.value, &mut written);
        again.push(&written);
        assert_eq!(again.next_capsule(), Ok(Some(capsule)), "what is passed on is the same");
        assert_eq!(again.incomplete(), 0);
    }
    let (_, mut opener) = keys(End::Client, |_, label| Ok([label[label.len() - 1]; MATERIAL])).expect("keys");
    assert_eq!(opener.open(bytes), None, "nobody sealed it");
});
