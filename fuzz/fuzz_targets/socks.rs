//! The SOCKS5 handshake of a client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;

#[path = "../../sidecar/src/socks.rs"]
#[allow(dead_code)]
mod socks;

fuzz_target!(|bytes: &[u8]| {
    if let Some((from, payload)) = socks::read_datagram(bytes) {
        let mut again = Vec::new();
        socks::put_datagram(&from, payload, &mut again);
        assert!(socks::read_datagram(&again).is_some_and(|(_, same)| same == payload));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut near, mut far) = tokio::io::duplex(4096);
        let (sent, _) = tokio::join!(
            async {
                let sent = far.write_all(bytes).await;
                let _half = far.shutdown().await;
                let mut answer = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut far, &mut answer).await;
                sent
            },
            async {
                let accepted = socks::accept(&mut near).await;
                drop(near);
                accepted
            }
        );
        let _ = sent;
    });
});
