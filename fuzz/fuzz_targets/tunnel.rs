//! Tunnel headers, replies and path events, whoever sends them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::tunnel::{EventDecoder, from_header_value, header_of, read_frame, reply_of};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = http::HeaderValue::from_bytes(bytes) {
        let header = from_header_value::<api::tunnel::Header>(&value);
        if let Ok(header) = &header {
            let _converted = mesh::TunnelRequest::try_from(header);
            // What was read is written and read as the same.
            let again = proxy::tunnel::to_header_value(header).expect("what was short enough to read can be written");
            assert!(from_header_value::<api::tunnel::Header>(&again).is_ok_and(|again| again == *header));
        }
        let _reply = from_header_value::<api::tunnel::Reply>(&value);
        let _headers = (header_of(&http::HeaderMap::new()), reply_of(&http::HeaderMap::new()));
    }
    let mut reader = bytes;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _frame = runtime.block_on(read_frame::<api::tunnel::Header, _>(&mut reader));
    let (mut whole, mut pieces) = (EventDecoder::default(), EventDecoder::default());
    whole.push(bytes);
    let mut events = Vec::new();
    while let Ok(Some(event)) = whole.next_event() {
        events.push(event);
    }
    let mut cut = Vec::new();
    for chunk in bytes.chunks(3) {
        pieces.push(chunk);
        while let Ok(Some(event)) = pieces.next_event() {
            cut.push(event);
        }
    }
    assert_eq!(events, cut, "however the chunks fall");
});
