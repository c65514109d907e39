//! `hubctl hub`.

use anyhow::Result;
use hub_client::{InitRequest, Member};
use mesh::MeshId;

use crate::cli::HubCommand;
use crate::context::Context;
use crate::failure::hub_node;
use crate::output::{self, Table, note};

pub(super) async fn run(context: &Context, command: HubCommand) -> Result<u8> {
    match command {
        HubCommand::Init { mesh_id, dir, members } => {
            let members = members.iter().map(|member| member.parse::<Member>()).collect::<Result<_, _>>()?;
            hub_client::init(&InitRequest { mesh_id: MeshId::new(mesh_id)?, dir: dir.clone(), members })?;
            note(&format!("wrote the hub's root, its nodes' certificates and {}/operator.json", dir.display()));
            note("keep ca/ and operator.json private; copy each hub-<id>/ to its node");
            Ok(0)
        }
        HubCommand::Status => status(context).await,
    }
}

/// Asks every node itself. Exit code 1 if one does not answer.
async fn status(context: &Context) -> Result<u8> {
    let operator = context.operator()?;
    let hub = operator.client()?;
    let mut table = Table::new(&["NODE", "ADDRESS", "ROLE", "TERM", "APPLIED", "REVISION", "STATE"]);
    let mut rows = Vec::new();
    let mut failed = false;
    for address in &operator.api_addresses {
        match hub.status_of(address).await {
            Ok(status) => {
                let role = if status.leader_id == status.node_id { "leader" } else { "follower" };
                let digest: String = status.state_digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
                table.row([
                    status.node_id.to_string(),
                    address.clone(),
                    role.to_owned(),
                    status.term.to_string(),
                    status.applied_index.to_string(),
                    status.revision.to_string(),
                    digest.clone(),
                ]);
                rows.push(serde_json::json!({
                    "node": status.node_id, "address": address, "role": role, "term": status.term,
                    "appliedIndex": status.applied_index, "revision": status.revision, "stateDigest": digest,
                }));
            }
            Err(error) => {
                failed = true;
                let why = hub_node(&error);
                rows.push(serde_json::json!({"address": address, "error": why}));
                table.row(["", address, &why, "", "", "", ""].map(str::to_owned));
            }
        }
    }
    output::print(context.output, &table, &rows)?;
    Ok(u8::from(failed))
}
