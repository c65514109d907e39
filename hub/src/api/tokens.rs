//! Join tokens as operators see them.

use api::hub as pb;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hub_state::{Action, NewToken};
use mesh::{ClusterName, TrustDomain};
use rand::TryRngCore;
use tonic::Status;

use super::HubService;
use crate::join::sha256;
use crate::node::Caller;
use crate::proposer::now_ms;
use crate::wire::invalid;

const TTL_DEFAULT_SECONDS: u64 = 15 * 60;
const TTL_MAX_SECONDS: u64 = 24 * 3600;

impl HubService {
    /// Draws id and secret here, on one node; the log carries the hash only.
    pub(super) async fn create(
        &self,
        caller: &Caller,
        request: pb::CreateTokenRequest,
    ) -> Result<pb::CreateTokenResponse, Status> {
        let cluster = ClusterName::new(request.cluster).map_err(invalid)?;
        let trust_domain = match request.trust_domain.as_str() {
            "" => TrustDomain::of_cluster(&cluster, &self.node.inner.mesh),
            text => TrustDomain::new(text).map_err(invalid)?,
        };
        let ttl = match request.ttl_seconds {
            0 => TTL_DEFAULT_SECONDS,
            ttl if ttl <= TTL_MAX_SECONDS => ttl,
            _ => return Err(invalid("ttl_seconds is at most 86400 (24 hours)")),
        };
        let (id, secret) = (hex(&random::<8>()?), URL_SAFE_NO_PAD.encode(random::<32>()?));
        let expires_at_ms = now_ms().saturating_add(ttl * 1000);
        let token = NewToken {
            id: id.clone(),
            secret_sha256: sha256(secret.as_bytes()),
            cluster,
            trust_domain: trust_domain.clone(),
            expires_at_ms,
        };
        self.node.propose(caller.id.to_string(), Action::CreateToken(token)).await?;
        Ok(pb::CreateTokenResponse {
            token: format!("{id}.{secret}"),
            id,
            expires_at_ms,
            hub_ca_hash: self.ca_hash.clone(),
            join_addresses: self.node.replica().nodes().into_values().map(|node| node.join).collect(),
            trust_domain: trust_domain.to_string(),
        })
    }

    pub(super) fn tokens(&self) -> Vec<pb::TokenInfo> {
        let now_ms = now_ms();
        self.node.replica().read(|state| {
            let tokens = state.tokens().iter().map(|(id, token)| pb::TokenInfo {
                id: id.clone(),
                cluster: token.cluster.to_string(),
                trust_domain: token.trust_domain.to_string(),
                expires_at_ms: token.expires_at_ms,
                state: token.state(now_ms).as_str().to_owned(),
            });
            tokens.collect()
        })
    }
}

fn random<const N: usize>() -> Result<[u8; N], Status> {
    let mut bytes = [0; N];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|_| Status::unavailable("the system gives no random numbers"))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
