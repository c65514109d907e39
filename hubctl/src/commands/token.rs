//! `hubctl token` and `hubctl join-cluster`.

use anyhow::Result;
use api::hub::CreateTokenRequest;
use hub_client::JoinConfig;
use mesh::{ClusterName, TrustDomain};

use crate::cli::{JoinCluster, TokenCommand};
use crate::context::Context;
use crate::output::{self, Table, note};

pub(super) async fn run(context: &Context, command: TokenCommand) -> Result<u8> {
    match command {
        TokenCommand::Create { cluster, trust_domain, ttl } => {
            let cluster = ClusterName::new(cluster)?;
            let trust_domain = trust_domain.map(TrustDomain::new).transpose()?;
            create(context, cluster, trust_domain, ttl).await
        }
        TokenCommand::List => list(context).await,
        TokenCommand::Revoke { id } => {
            context.hub()?.revoke_token(&id).await?;
            note(&format!("token {id} is revoked"));
            Ok(0)
        }
    }
}

async fn create(context: &Context, cluster: ClusterName, trust_domain: Option<TrustDomain>, ttl: u64) -> Result<u8> {
    let request = CreateTokenRequest {
        cluster: cluster.to_string(),
        trust_domain: trust_domain.as_ref().map(ToString::to_string).unwrap_or_default(),
        ttl_seconds: ttl,
    };
    let token = context.hub()?.create_token(request).await?;
    let mut line = format!(
        "hubctl join-cluster {cluster} --hub {} --token {} --ca-hash {}",
        token.join_addresses.join(","),
        token.token,
        token.hub_ca_hash
    );
    if let Some(trust_domain) = &trust_domain {
        line.push_str(&format!(" --trust-domain {trust_domain}"));
    }
    line.push_str(" --data ./agent");
    if context.output.is_document() {
        output::document(
            context.output,
            &serde_json::json!({
                "id": token.id, "token": token.token, "cluster": cluster, "trustDomain": token.trust_domain,
                "expiresAtMs": token.expires_at_ms, "caHash": token.hub_ca_hash, "joinAddresses": token.join_addresses,
                "command": line,
            }),
        )?;
        return Ok(0);
    }
    note(&format!("single use, within {}; run this where the agent of {cluster} will run:", lifetime(ttl)));
    output::text(&format!("{line}\n"))?;
    Ok(0)
}

/// Seconds, or minutes if they are whole.
fn lifetime(seconds: u64) -> String {
    if seconds.is_multiple_of(60) { format!("{} min", seconds / 60) } else { format!("{seconds} s") }
}

async fn list(context: &Context) -> Result<u8> {
    let tokens = context.hub()?.list_tokens().await?.tokens;
    let mut table = Table::new(&["ID", "CLUSTER", "TRUST DOMAIN", "STATE", "EXPIRES"]);
    let mut rows = Vec::new();
    for token in tokens {
        let expires = super::mesh::when(token.expires_at_ms);
        rows.push(serde_json::json!({
            "id": token.id, "cluster": token.cluster, "trustDomain": token.trust_domain, "state": token.state,
            "expiresAtMs": token.expires_at_ms,
        }));
        table.row([token.id, token.cluster, token.trust_domain, token.state, expires]);
    }
    output::print(context.output, &table, &rows)?;
    Ok(0)
}

/// The one command of a new member.
pub(super) async fn join(context: &Context, options: JoinCluster) -> Result<u8> {
    let config = JoinConfig {
        hub: options.hub,
        token: options.token,
        ca_hash: options.ca_hash,
        cluster: ClusterName::new(options.name)?,
        trust_domain: options.trust_domain.map(TrustDomain::new).transpose()?,
        data_dir: options.data.clone(),
    };
    let joined = hub_client::join(config).await?;
    let member = &joined.member;
    if context.output.is_document() {
        output::document(context.output, member)?;
    }
    note(&format!("{} is a member of mesh {} (trust domain {})", member.cluster, member.mesh_id, member.trust_domain));
    note(&format!("its own CA and hub.json are in {}: give that directory to the agent", options.data.display()));
    Ok(0)
}
