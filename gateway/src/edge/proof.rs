//! Whether a client has proven what a server asks of its clients.
//!
//! The name in a ClientHello chooses the server that lets a connection in, but its requests may name any host: that of a
//! server with stricter demands, too. And demands may have grown since the handshake. So every request is looked at.

use identity::PeerIdentity;
use mesh::{Listener, Server, ServerTls, ServerTlsMode};

use super::connection::{Link, chosen};

/// Whether a request for `host` may be served on the connection: by the server that the host belongs to, and by the one
/// that let the connection in, as they are now.
pub(super) fn suffices(link: &Link, listener: &Listener, host: &str) -> bool {
    let owner = chosen(listener, Some(host));
    let entered = link.server.as_ref().and_then(|_| chosen(listener, link.sni.as_deref()));
    owner.into_iter().chain(entered).all(|server| is_proven(link, server))
}

/// Whether bytes of the connection may go to a server behind mTLS of the mesh that ended before.
pub(super) fn is_proven(link: &Link, server: &Server) -> bool {
    let Some(tls) = &server.tls else { return true };
    match tls.mode {
        ServerTlsMode::IstioMutual => link.peer.as_ref().is_some_and(|peer| admits(tls, peer)),
        ServerTlsMode::Mutual => {
            let shown = link.server.as_ref().and_then(|server| server.tls.as_ref());
            shown.is_some_and(|shown| asks_the_same(shown, tls))
        }
        _ => true,
    }
}

/// Whether a peer of the mesh is one of those that a server wants.
pub(super) fn admits(tls: &ServerTls, peer: &PeerIdentity) -> bool {
    tls.subject_alt_names.is_empty() || tls.subject_alt_names.contains(&peer.id.to_string())
}

fn asks_the_same(one: &ServerTls, other: &ServerTls) -> bool {
    let roots = one.client_ca == other.client_ca && (one.client_ca.is_some() || one.certificates == other.certificates);
    one.mode == other.mode
        && roots
        && one.subject_alt_names == other.subject_alt_names
        && one.certificate_hashes == other.certificate_hashes
        && one.spki_hashes == other.spki_hashes
}
