//! Who is who: SPIFFE identities, the cluster's certificate authority, trust bundles, and the TLS and QUIC
//! configurations that rest on them.
//!
//! What it is not: a client of anything. It reads no network; whoever learns a new certificate or a new bundle (the
//! `discovery` client, the agent, the hub) publishes it through the two watches of [`Credentials`], and every
//! configuration made from them follows without being rebuilt.
//!
//! The rules that everything here serves:
//!
//! * **A peer is verified only against the bundle of the trust domain that it claims.** There is no flat pool of roots:
//!   the certificate's one URI SAN is parsed strictly, its trust domain picks the bundle, and only that bundle's roots
//!   are anchors ([`validate_chain`]).
//! * **Nothing outlives its proof.** Session resumption, tickets and early data are off on every side, and
//!   [`Credentials::expiry`] says when an open connection must end because the peer's certificate expired or its bundle
//!   no longer validates it.
//! * **Private keys stay where they were made.** No `Debug` or `Display` shows one, and files that hold one are 0600.
//! * **Time is an argument** of everything that decides; the clock is read only by the handshakes (through rustls) and by
//!   the loop in [`Credentials::expiry`].
//!
//! Start reading at [`validate_chain`] (what makes a peer acceptable), then [`Credentials`] (how configurations stay
//! live), then [`ClusterCa`] (where certificates come from).

mod crypto;
mod leaf;

mod bundle;
mod chain;
mod policy;

mod ca;
mod signed;
mod svid;

mod credentials;
mod expiry;
mod handshakes;
mod pinned;
mod places;
mod resolver;
mod tls;
mod verifier;

pub mod bootstrap;
pub mod files;

pub use bundle::{BundleError, TrustBundle, TrustBundles, root_hash};
pub use ca::{CaError, ClusterCa, IssueError, NOT_BEFORE_ALLOWANCE, ROOT_LIFETIME};
pub use chain::{PeerError, PeerIdentity, PeerUsage, peer_identity, validate_chain};
pub use credentials::{Credentials, TlsConfigError};
pub use crypto::{install_crypto, provider};
pub use expiry::EndReason;
pub use handshakes::{HandshakeBounds, Handshakes, Pending, in_turn};
pub use pinned::pinned_client_config;
pub use places::Places;
pub use policy::PeerPolicy;
pub use signed::{SIGNED_CONTEXT, SignatureError, SignedParts, verify_proof, verify_signed};
pub use svid::{KeyRequest, Svid, SvidError};
pub use tls::{DUMMY_SERVER_NAME, TlsError, accept_tls, accept_tls_open, connect_tls, quic_peer};

#[cfg(test)]
mod testing;
