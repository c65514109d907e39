//! UDP: every datagram comes back.

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

pub(super) async fn serve(socket: UdpSocket, shutdown: CancellationToken) {
    let mut datagram = vec![0; 65_536];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut datagram) => received,
            () = shutdown.cancelled() => return,
        };
        // Such as that an earlier answer found nobody: the next datagram may be another client's.
        if let Ok((length, from)) = received {
            let _ = socket.send_to(&datagram[..length], from).await;
        }
    }
}
