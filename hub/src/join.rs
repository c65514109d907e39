//! The one call without a client certificate: a cluster becomes a member.
//!
//! What is checked here needs cryptography: that the bundle is signed by a root inside it, and that the caller holds
//! that root's key. The token and the names are judged by the state, in the log; a token that is good for nothing does
//! not get that far.

use api::hub::join_server::Join;
use api::hub::{JoinRequest, JoinResponse};
use aws_lc_rs::digest;
use hub_state::{Action, Refusal, TokenShown};
use identity::{verify_proof, verify_signed};
use mesh::{ClusterName, TrustDomain};
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::api::negotiate;
use crate::facts;
use crate::node::Node;
use crate::proposer::now_ms;
use crate::wire::{invalid, refused as refused_status};

/// Signed together with the token id and the request id.
const PROOF_CONTEXT: &[u8] = b"isthmus-join/1\0";
const TEXT_MAX: usize = 128;

/// `Join` of one node.
pub(crate) struct JoinService {
    pub(crate) node: Node,
    /// The hub's roots, DER.
    pub(crate) roots: Vec<Vec<u8>>,
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let version = negotiate(request.min_version, request.max_version)?;
        let claim = Claim::of(&request)?;
        self.check_token(&claim).await?;
        let join = verified(claim, request)?;
        let actor = format!("token:{}", join.token_id);
        let outcome = self.node.propose(actor, Action::Join(join)).await?;
        Ok(Response::new(JoinResponse {
            revision: outcome.revision,
            mesh_id: self.node.inner.mesh.to_string(),
            hub_trust_domain: TrustDomain::of_hub(&self.node.inner.mesh).to_string(),
            hub_roots: self.roots.clone(),
            hub_addresses: self.node.api_addresses(),
            version,
        }))
    }
}

impl JoinService {
    /// Refuses what the log would refuse, from what this node has applied: strangers shall cost no write. What it does
    /// not know may be news, and a token that has expired may have been used before: those cost a read of the leader.
    async fn check_token(&self, claim: &Claim) -> Result<(), Status> {
        let shown = TokenShown {
            id: &claim.token_id,
            secret_sha256: &claim.secret_sha256,
            cluster: &claim.cluster,
            trust_domain: &claim.trust_domain,
            request_id: &claim.request_id,
        };
        let check = || {
            self.node.replica().read(|state| {
                let known = state.tokens().contains_key(shown.id);
                (known, state.check_token(&shown, now_ms()).map(|_| ()))
            })
        };
        let refused = match check() {
            (_, Ok(())) => return Ok(()),
            (false, _) | (_, Err(Refusal::TokenExpired)) => {
                self.node.barrier().await?;
                check().1
            }
            (true, refused) => refused,
        };
        refused.map_err(|refusal| {
            self.node.inner.metrics.refused.inc();
            let reason = refusal.code();
            tracing::warn!(target: "audit", token = claim.token_id, action = "join", reason, "refused");
            refused_status(&refusal)
        })
    }
}

/// What a request says of its token and itself; nothing of it is proved.
struct Claim {
    token_id: String,
    secret_sha256: [u8; 32],
    cluster: ClusterName,
    trust_domain: TrustDomain,
    request_id: String,
}

impl Claim {
    fn of(request: &JoinRequest) -> Result<Self, Status> {
        let (token_id, secret) =
            request.token.split_once('.').ok_or_else(|| invalid("the token is not <id>.<secret>"))?;
        if token_id.len() > TEXT_MAX || secret.len() > TEXT_MAX {
            return Err(invalid("the token is too long"));
        }
        if request.request_id.is_empty() || request.request_id.chars().count() > 64 {
            return Err(invalid("request_id must have 1 to 64 characters"));
        }
        Ok(Self {
            token_id: token_id.to_owned(),
            secret_sha256: sha256(secret.as_bytes()),
            cluster: ClusterName::new(request.cluster.as_str()).map_err(invalid)?,
            trust_domain: TrustDomain::new(request.trust_domain.as_str()).map_err(invalid)?,
            request_id: request.request_id.clone(),
        })
    }
}

fn verified(claim: Claim, request: JoinRequest) -> Result<hub_state::Join, Status> {
    let signed = request.bundle.ok_or_else(|| invalid("bundle is missing"))?;
    let decoded = facts::decode(signed.encode_to_vec())?;
    let bundle = decoded.bundle.ok_or_else(|| invalid("what is signed is not a bundle"))?;
    verify_signed(&decoded.parts, &bundle)
        .map_err(|error| invalid(format!("the bundle is not signed by a root in it: {error}")))?;
    let signer = bundle.roots().iter().find(|root| sha256(root).as_slice() == decoded.parts.signer);
    let signer = signer.ok_or_else(|| invalid("the bundle's signer is not in it"))?;
    let message = [PROOF_CONTEXT, claim.token_id.as_bytes(), b"\0", claim.request_id.as_bytes()].concat();
    verify_proof(signer, &message, &request.proof)
        .map_err(|_| Status::permission_denied("the proof of possession of the root's key is not valid"))?;
    Ok(hub_state::Join {
        token_id: claim.token_id,
        secret_sha256: claim.secret_sha256,
        cluster: claim.cluster,
        trust_domain: claim.trust_domain,
        request_id: claim.request_id,
        key_fingerprint: sha256(signer),
        bundle: decoded.fact,
    })
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
