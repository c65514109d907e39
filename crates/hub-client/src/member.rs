//! A client that speaks as a member cluster, with what its agent has on disk.

use std::path::Path;
use std::time::{Duration, SystemTime};

use identity::{CaError, ClusterCa, Credentials, IssueError, TrustBundles};
use mesh::SpiffeId;

use crate::client::HubClient;
use crate::error::HubError;
use crate::member_file::{MemberFile, MemberFileError};

/// The system account of agents in a cluster's trust domain.
pub const AGENT_ACCOUNT: &str = "agent";

/// Long enough for one command at a hub whose clock is 10 minutes ahead.
const TTL: Duration = Duration::from_secs(3600);

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum MemberClientError {
    /// `hub.json` is not usable.
    #[error(transparent)]
    Member(#[from] MemberFileError),
    /// The cluster's CA is not usable.
    #[error("the cluster's own CA is not usable")]
    Ca(#[from] CaError),
    /// The CA issues nothing.
    #[error("the cluster's own CA issues no certificate")]
    Issue(#[from] IssueError),
    /// The hub's addresses are not usable.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// A client of the hub that acts as the agent whose data directory this is: it issues itself a certificate from the
/// cluster's CA there.
pub fn member_client(data_dir: &Path) -> Result<HubClient, MemberClientError> {
    let member = MemberFile::load(data_dir)?;
    let ca = ClusterCa::load(&data_dir.join("ca"))?;
    let id = SpiffeId::system(member.trust_domain.clone(), AGENT_ACCOUNT).map_err(|_| IssueError::Validity)?;
    let svid = ca.issue_self(&id, TTL, SystemTime::now())?;
    let credentials = Credentials::fixed(svid, TrustBundles::from(member.hub_bundle()?));
    Ok(HubClient::new(member.hub_addresses, credentials, member.hub_trust_domain)?)
}
