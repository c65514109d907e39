//! The wire: protobuf messages and services of the hub, the agent, discovery and the tunnel.
//!
//! What it is not: a domain model. Types here mirror the `.proto` files in `proto/`; [`mod@wire`] converts them from and
//! to the types of the `mesh` crate and does nothing else. Start with `proto/isthmus/*.proto`.

#![expect(missing_docs, reason = "generated messages carry the comments of the .proto files, which not every item has")]

pub mod wire;

#[allow(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    rustdoc::all,
    reason = "generated code"
)]
mod generated {
    pub mod trust {
        pub mod v1 {
            tonic::include_proto!("isthmus.trust.v1");
        }
    }
    pub mod hub {
        pub mod v1 {
            tonic::include_proto!("isthmus.hub.v1");
        }
    }
    pub mod tunnel {
        pub mod v1 {
            tonic::include_proto!("isthmus.tunnel.v1");
        }
    }
    pub mod agent {
        pub mod v1 {
            tonic::include_proto!("isthmus.agent.v1");
        }
    }
    pub mod discovery {
        pub mod v1 {
            tonic::include_proto!("isthmus.discovery.v1");
        }
    }
}

/// The agent's certificate authority.
pub use generated::agent::v1 as agent;
/// The resources of discovery.
pub use generated::discovery::v1 as discovery;
/// The hub's services and resources.
pub use generated::hub::v1 as hub;
/// Facts that clusters sign: bundles, gateways, exports.
pub use generated::trust::v1 as trust;
/// The tunnel header and its answer.
pub use generated::tunnel::v1 as tunnel;

/// The lowest protocol version this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The highest protocol version this build speaks.
pub const PROTOCOL_MAX: u32 = 1;
/// ALPN of the QUIC tunnel between gateways.
pub const TUNNEL_ALPN: &[u8] = b"isthmus-tunnel/1";
/// ALPN of the same tunnel over TCP: HTTP/2 whose CONNECT streams carry what QUIC streams do.
pub const TUNNEL_TCP_ALPN: &[u8] = b"isthmus-tunnel-h2/1";
/// Request header that carries the tunnel header on HBONE.
pub const TUNNEL_HEADER: &str = "x-isthmus-tunnel";
/// Response header that carries the tunnel reply on HBONE.
pub const TUNNEL_REPLY: &str = "x-isthmus-reply";
/// The longest encoded tunnel header or reply, in bytes.
pub const TUNNEL_HEADER_MAX: usize = 8 * 1024;
