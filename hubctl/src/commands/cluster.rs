//! `hubctl drain|undrain` and `hubctl cluster leave`: asked for by an operator, or by the cluster itself.

use std::time::Duration;

use ::mesh::ClusterName;
use anyhow::{Context as _, Result};
use api::hub::{DrainClusterRequest, Kind, LeaveClusterRequest, ReadRequest};
use hub_client::{HubClient, member_client};
use serde_json::json;
use tonic::Code;

use crate::cli::{Drain, Leave, Speaker, Undrain};
use crate::context::Context;
use crate::output::{self, note};

/// How long everybody gets to see a step, before the next one.
const NOTICE: Duration = Duration::from_secs(3);

pub(super) async fn drain(context: &Context, options: Drain) -> Result<u8> {
    let cluster = ClusterName::new(options.name)?;
    let client = client(context, &options.speaker)?;
    let request = DrainClusterRequest { cluster: cluster.to_string(), over_ms: options.over.saturating_mul(1000) };
    let revision = client.drain_cluster(request).await?.revision;
    note(&format!("{cluster} gets less and less for {} s, then only what nobody else can serve", options.over));
    note(&format!("`hubctl clusters` shows it; `hubctl undrain {cluster}` ends it"));
    done(context, &cluster, "draining", revision)
}

pub(super) async fn undrain(context: &Context, options: Undrain) -> Result<u8> {
    let cluster = ClusterName::new(options.name)?;
    let revision = client(context, &options.speaker)?.undrain_cluster(cluster.as_str()).await?.revision;
    note(&format!("{cluster} gets its share again"));
    done(context, &cluster, "undrained", revision)
}

pub(super) async fn leave(context: &Context, options: Leave) -> Result<u8> {
    let cluster = ClusterName::new(options.name)?;
    let client = client(context, &options.speaker)?;
    let step = |remove| LeaveClusterRequest { cluster: cluster.to_string(), force: options.force, remove };
    let drained = drain_first(&client, &cluster).await?;
    if let Err(error) = client.leave_cluster(step(false)).await {
        if drained {
            client.undrain_cluster(cluster.as_str()).await?;
        }
        return Err(error.into());
    }
    note(&format!("{cluster}'s exports are withdrawn and its tokens void"));
    tokio::time::sleep(NOTICE).await;
    let revision = match client.leave_cluster(step(true)).await {
        Ok(change) => change.revision,
        // After the first step only this is left to be refused for: it is no member any more, the answer to an earlier
        // try was lost.
        Err(error) if error.code() == Some(Code::FailedPrecondition) => 0,
        Err(error) => return Err(error.into()),
    };
    note(&format!("{cluster} has left; connections with it end within 5 s, and its name is free"));
    done(context, &cluster, "left", revision)
}

/// Lets requests that are under way end where they are, while new ones go elsewhere. True if nobody had done so before.
async fn drain_first(client: &HubClient, cluster: &ClusterName) -> Result<bool> {
    let request = ReadRequest { kind: Kind::Drain.into(), cluster: cluster.to_string(), stale: false };
    if !client.read(request).await?.resources.is_empty() {
        return Ok(false);
    }
    client.drain_cluster(DrainClusterRequest { cluster: cluster.to_string(), over_ms: 0 }).await?;
    tokio::time::sleep(NOTICE).await;
    Ok(true)
}

fn client(context: &Context, speaker: &Speaker) -> Result<HubClient> {
    match &speaker.data {
        None => context.hub(),
        Some(directory) => member_client(directory)
            .with_context(|| format!("{} is no data directory of an agent that has joined", directory.display())),
    }
}

fn done(context: &Context, cluster: &ClusterName, state: &str, revision: u64) -> Result<u8> {
    if context.output.is_document() {
        output::document(context.output, &json!({"cluster": cluster, "state": state, "revision": revision}))?;
    }
    Ok(0)
}
