//! Joining: the one call with which a cluster becomes a member.
//!
//! The token line carries the hub's root hash, so the first contact needs no trust on first use. The cluster's own CA
//! is made (or found) here, its public bundle is registered, and its possession proved. Everything that must be the
//! same in a repetition is on disk before the call: the key and the request id.

mod call;
mod request_file;

use std::path::PathBuf;
use std::time::Duration;

use api::hub::{JoinRequest, JoinResponse};
use api::trust::{Bundle, Signed};
use identity::{ClusterCa, files};
use mesh::{ClusterName, MeshId, NameError, TrustDomain};
use prost::Message as _;

use crate::member_file::{MemberFile, MemberFileError};
use crate::pinned::PinnedHub;

/// The serial of the bundle that a cluster joins with; the next one is higher.
pub const FIRST_BUNDLE_SERIAL: u64 = 1;

/// What is needed to join.
#[derive(Clone)]
pub struct JoinConfig {
    /// `host:port` of join listeners, tried in turn.
    pub hub: Vec<String>,
    /// `<id>.<secret>` as `hubctl token create` printed it.
    pub token: String,
    /// `sha256:<hex>` of the hub's root certificate.
    pub ca_hash: String,
    /// The name that the token is for.
    pub cluster: ClusterName,
    /// The trust domain that the token is for; `None` = `<cluster>.<mesh-id>`.
    pub trust_domain: Option<TrustDomain>,
    /// The agent's data directory; `ca/`, `join-request` and `hub.json` are written below it.
    pub data_dir: PathBuf,
}

/// Never prints the token's secret.
impl std::fmt::Debug for JoinConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinConfig")
            .field("hub", &self.hub)
            .field("token", &token_id(&self.token))
            .field("ca_hash", &self.ca_hash)
            .field("cluster", &self.cluster)
            .field("trust_domain", &self.trust_domain)
            .field("data_dir", &self.data_dir)
            .finish()
    }
}

/// A cluster that is a member now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// What was written to `hub.json`.
    pub member: MemberFile,
    /// The hub's revision that made the cluster a member.
    pub revision: u64,
    /// The protocol version agreed on.
    pub version: u32,
}

/// Why a cluster did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// An argument cannot be right; nothing was sent.
    #[error("{what}\nhint: copy the line that `hubctl token create` printed")]
    Argument {
        /// Which one, and why.
        what: String,
    },
    /// A name is not valid.
    #[error("the cluster's trust domain cannot be derived")]
    Name(#[from] NameError),
    /// The directory belongs to another membership.
    #[error("{} already belongs to {found}\nhint: use another data directory for {wanted}", path.display())]
    OtherMember {
        /// `hub.json` of that membership.
        path: PathBuf,
        /// `<cluster> of <mesh>` that it names.
        found: String,
        /// What this call was to join.
        wanted: String,
    },
    /// A file could not be read or written.
    #[error("the data directory is not usable")]
    File(#[from] files::FileError),
    /// The cluster's own CA could not be made, loaded or used.
    #[error("the cluster's certificate authority failed")]
    Ca(#[from] identity::CaError),
    /// The cluster's own CA did not sign.
    #[error("the cluster's certificate authority signed nothing")]
    Sign(#[from] identity::IssueError),
    /// `hub.json` could not be written.
    #[error(transparent)]
    Member(#[from] MemberFileError),
    /// The peer is not the hub that the token line speaks of.
    #[error("{address} is not the hub of this token: {why}\nhint: if the hub was set up anew, create a new token")]
    NotTheHub {
        /// Who answered.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// No join listener answered.
    #[error("no hub node answered within {} s (last tried {address}): {why}\nhint: check the addresses after --hub", within.as_secs())]
    Unreachable {
        /// The one tried last.
        address: String,
        /// How long.
        within: Duration,
        /// What it met.
        why: String,
    },
    /// The hub answered, and the answer is no.
    #[error(
        "the hub refused: {message}\nhint: make a token for this cluster with `hubctl token create --cluster <name>` and use it once"
    )]
    Refused {
        /// gRPC's class of the refusal.
        code: tonic::Code,
        /// The hub's own words.
        message: String,
    },
    /// No common protocol version.
    #[error("the hub speaks protocol version {theirs}, this build {min} to {max}\nhint: upgrade the older side", min = api::PROTOCOL_MIN, max = api::PROTOCOL_MAX)]
    Version {
        /// What the hub chose.
        theirs: u32,
    },
    /// The hub's answer contradicts what TLS has shown.
    #[error("the hub's answer is not believable: {why}")]
    Answer {
        /// The contradiction.
        why: String,
    },
}

/// The message whose signature by the cluster's root key proves possession of it.
pub fn join_proof_message(token_id: &str, request_id: &str) -> Vec<u8> {
    [b"isthmus-join/1\0".as_slice(), token_id.as_bytes(), b"\0", request_id.as_bytes()].concat()
}

/// Makes the cluster a member and writes `hub.json`. Repeating it with the same token is no second use: key and
/// request id are found on disk again.
pub async fn join(config: JoinConfig) -> Result<Joined, JoinError> {
    check(&config)?;
    let hub = call::find_hub(&config).await?;
    let mesh_id = hub.mesh_id()?;
    let trust_domain =
        config.trust_domain.clone().unwrap_or_else(|| TrustDomain::of_cluster(&config.cluster, &mesh_id));
    refuse_other_membership(&config, &mesh_id, &trust_domain)?;
    let request = request(&config, &trust_domain)?;
    let response = call::join(&config, &hub, request).await?;
    let joined = believe(&config, &hub, mesh_id, trust_domain, response)?;
    joined.member.save(&config.data_dir)?;
    Ok(joined)
}

fn token_id(token: &str) -> &str {
    token.split_once('.').map_or("?", |(id, _)| id)
}

fn check(config: &JoinConfig) -> Result<(), JoinError> {
    let wrong = |what: &str| Err(JoinError::Argument { what: what.to_owned() });
    if !config.token.split_once('.').is_some_and(|(id, secret)| !id.is_empty() && !secret.is_empty()) {
        return wrong("the token is not <id>.<secret>");
    }
    let hex = config.ca_hash.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return wrong("the hub's CA hash is not sha256:<64 hex digits>");
    }
    if config.hub.is_empty() {
        return wrong("no address of the hub is given");
    }
    match config.hub.iter().find(|address| !crate::init::is_host_port(address)) {
        Some(address) => wrong(&format!("hub address {address:?} is not host:port")),
        None => Ok(()),
    }
}

fn refuse_other_membership(config: &JoinConfig, mesh_id: &MeshId, trust_domain: &TrustDomain) -> Result<(), JoinError> {
    let path = MemberFile::path(&config.data_dir);
    if !path.exists() {
        return Ok(());
    }
    let member = MemberFile::load(&config.data_dir)?;
    let same = member.cluster == config.cluster && member.mesh_id == *mesh_id && member.trust_domain == *trust_domain;
    if same {
        return Ok(());
    }
    let found = format!("{} ({}) of mesh {}", member.cluster, member.trust_domain, member.mesh_id);
    let wanted = format!("{} ({trust_domain}) of mesh {mesh_id}", config.cluster);
    Err(JoinError::OtherMember { path, found, wanted })
}

fn request(config: &JoinConfig, trust_domain: &TrustDomain) -> Result<JoinRequest, JoinError> {
    files::create_private_dir(&config.data_dir)?;
    let ca = ClusterCa::load_or_create(&config.data_dir.join("ca"), trust_domain)?;
    let id = token_id(&config.token);
    let request_id = request_file::request_id(&config.data_dir, id)?;
    let bundle = Bundle {
        cluster: config.cluster.to_string(),
        trust_domain: trust_domain.to_string(),
        serial: FIRST_BUNDLE_SERIAL,
        roots: vec![ca.root_der().to_vec()],
    };
    let signed = ca.sign("bundle", bundle.encode_to_vec())?;
    Ok(JoinRequest {
        token: config.token.clone(),
        cluster: config.cluster.to_string(),
        trust_domain: trust_domain.to_string(),
        proof: ca.prove(&join_proof_message(id, &request_id))?,
        request_id,
        bundle: Some(Signed {
            kind: signed.kind,
            payload: signed.payload,
            signature: signed.signature,
            signer: signed.signer,
        }),
        min_version: api::PROTOCOL_MIN,
        max_version: api::PROTOCOL_MAX,
    })
}

/// What the hub says about itself must agree with what TLS has shown about it.
fn believe(
    config: &JoinConfig,
    hub: &PinnedHub,
    mesh_id: MeshId,
    trust_domain: TrustDomain,
    response: JoinResponse,
) -> Result<Joined, JoinError> {
    let wrong = |why: &str| Err(JoinError::Answer { why: why.to_owned() });
    if !(api::PROTOCOL_MIN..=api::PROTOCOL_MAX).contains(&response.version) {
        return Err(JoinError::Version { theirs: response.version });
    }
    if response.mesh_id != mesh_id.as_str() || response.hub_trust_domain != hub.trust_domain.as_str() {
        return wrong("it names another mesh than its certificate");
    }
    if !response.hub_roots.iter().any(|root| root.as_slice() == hub.root.as_ref()) {
        return wrong("its roots do not include the one that the token line names");
    }
    if response.hub_addresses.is_empty() || !response.hub_addresses.iter().all(|a| crate::init::is_host_port(a)) {
        return wrong("it gives no usable API addresses");
    }
    let member = MemberFile {
        mesh_id,
        cluster: config.cluster.clone(),
        trust_domain,
        hub_trust_domain: hub.trust_domain.clone(),
        // Only the pinned root: others would be trusted on the word of this one answer.
        hub_roots_pem: files::certs_to_pem([&hub.root]),
        hub_addresses: response.hub_addresses,
    };
    Ok(Joined { member, revision: response.revision, version: response.version })
}

#[cfg(test)]
mod tests;
