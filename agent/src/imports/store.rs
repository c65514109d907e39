//! What was believed, on disk: `data_dir/state/imports.json`, replaced and fsynced with every change, before the change
//! is used.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use api::trust::{Bundle, Export, GatewaySet, Signed};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mesh::{ClusterName, ServiceName};
use prost::Message;
use serde::{Deserialize, Serialize};

use super::accept::parse_bundle;
use super::{Accepted, Fact, Member};
use crate::state::{self, StateError};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    members: BTreeMap<ClusterName, StoredMember>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMember {
    bundle: StoredFact,
    #[serde(default)]
    gateways: Option<StoredFact>,
    #[serde(default)]
    exports: BTreeMap<ServiceName, StoredFact>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFact {
    /// Base64 of the `Signed`.
    signed: String,
    present: bool,
}

/// Loads what was believed before; nothing if there is no file.
pub(crate) fn load(path: &Path) -> Result<Accepted, StateError> {
    let stored: Stored = state::read(path)?.unwrap_or_default();
    let mut accepted = Accepted::default();
    for (cluster, stored) in stored.members {
        let member = restore(stored).map_err(|why| state::damaged(path, &why))?;
        accepted.members.insert(cluster, Arc::new(member));
    }
    Ok(accepted)
}

/// Keeps what is believed now.
pub(crate) fn save(path: &Path, accepted: &Accepted) -> Result<(), StateError> {
    let member = |member: &Member| StoredMember {
        bundle: keep(&member.bundle),
        gateways: member.gateways.as_ref().map(keep),
        exports: member.exports.iter().map(|(name, fact)| (name.clone(), keep(fact))).collect(),
    };
    let members = accepted.members.iter().map(|(cluster, it)| (cluster.clone(), member(it))).collect();
    state::write(path, &Stored { members })
}

fn keep<T>(fact: &Fact<T>) -> StoredFact {
    StoredFact { signed: STANDARD.encode(fact.signed.encode_to_vec()), present: fact.present }
}

fn restore(stored: StoredMember) -> Result<Member, String> {
    let bundle: Fact<Bundle> = fact(stored.bundle)?;
    let trust = parse_bundle(&bundle.value).map_err(|reason| reason.to_string())?;
    let gateways: Option<Fact<GatewaySet>> = stored.gateways.map(fact).transpose()?;
    let mut exports: BTreeMap<ServiceName, Fact<Export>> = BTreeMap::new();
    for (name, stored) in stored.exports {
        exports.insert(name, fact(stored)?);
    }
    Ok(Member { bundle, trust, gateways, exports })
}

fn fact<T: Message + Default>(stored: StoredFact) -> Result<Fact<T>, String> {
    let bytes = STANDARD.decode(stored.signed).map_err(|error| error.to_string())?;
    let signed = Signed::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    let value = T::decode(signed.payload.as_slice()).map_err(|error| error.to_string())?;
    Ok(Fact { signed, value, present: stored.present })
}
