//! What a server has to offer at one revision, and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::SpiffeId;
use prost::Message;

use crate::types::{Kind, NodeId, Role, version_of};

/// One resource, encoded once for all clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Hash of the bytes.
    pub version: String,
    /// The encoded message.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// Encodes a message.
    pub fn of(message: &impl Message) -> Self {
        let bytes = message.encode_to_vec();
        Self { version: version_of(&bytes), bytes }
    }
}

/// Everything that an agent serves, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every change; also after a restart of the agent.
    pub revision: u64,
    /// Resources by kind and name.
    pub resources: BTreeMap<Kind, BTreeMap<String, Arc<Entry>>>,
    /// The identity that the sidecar of a workload must prove to be given that workload's facts.
    pub owners: BTreeMap<String, SpiffeId>,
    /// Services that are exported or imported: all that gateways get.
    pub shared: BTreeSet<String>,
    /// Of each secret the workloads whose configuration names it; nobody else sees it.
    pub secret_readers: BTreeMap<String, BTreeSet<String>>,
    /// Of each entry the namespaces that see it; one that is missing here is seen by all.
    pub entry_readers: BTreeMap<String, BTreeSet<String>>,
}

impl Snapshot {
    /// The resources of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&String, &Arc<Entry>)> {
        self.resources.get(&kind).into_iter().flatten()
    }

    /// One resource.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Entry>> {
        self.resources.get(&kind)?.get(name)
    }

    /// Adds a resource.
    pub fn insert(&mut self, kind: Kind, name: String, message: &impl Message) {
        self.resources.entry(kind).or_default().insert(name, Arc::new(Entry::of(message)));
    }
}

/// A client of the server: who TLS says it is, and what it says it is. Only made by [`Peer::admit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Proven by TLS.
    pub identity: SpiffeId,
    /// Supported by the identity.
    pub node: NodeId,
}

/// Why a client may not be what it says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// A system role without the system identity.
    #[error("{identity} may not be a {role}; hint: register the workload with the account isthmus-system/{role}")]
    Role {
        /// Who TLS says it is.
        identity: SpiffeId,
        /// What it claims to be.
        role: &'static str,
    },
    /// A sidecar that names a workload of another namespace.
    #[error("{identity} may not be the sidecar of {workload}: that workload is in another namespace")]
    Namespace {
        /// Who TLS says it is.
        identity: SpiffeId,
        /// The workload that it claims.
        workload: String,
    },
}

impl Peer {
    /// Checks a claimed role against the TLS identity: gateways and DNS shims are system accounts, a sidecar belongs
    /// to its workload's namespace (its account is compared when the workload is served).
    pub fn admit(identity: SpiffeId, node: NodeId) -> Result<Self, NotAdmitted> {
        match node.role.system_account() {
            Some(account) if !identity.is_system(account) => {
                Err(NotAdmitted::Role { identity, role: node.role.as_str() })
            }
            None if node.workload.split('/').next() != Some(identity.namespace().as_str()) => {
                Err(NotAdmitted::Namespace { identity, workload: node.workload })
            }
            _ => Ok(Self { identity, node }),
        }
    }

    /// Whether a resource may be shown: what the role may see, of workloads only the own one by its own account, and
    /// to gateways only services that clusters share, secrets only to the workloads that need them.
    pub fn may_see(&self, snapshot: &Snapshot, kind: Kind, name: &str) -> bool {
        if !self.node.role.may_see(kind) {
            return false;
        }
        match (kind, self.node.role) {
            (Kind::Workload, _) => self.node.workload == name && snapshot.owners.get(name) == Some(&self.identity),
            (Kind::Service, Role::Gateway) => snapshot.shared.contains(name),
            (Kind::Secret, _) => {
                // What Gateways name is for `edge~<workload>`: a sidecar that a selector happens to fit runs none of it.
                let reads = |readers: &BTreeSet<String>| {
                    readers.contains(&self.node.workload) || readers.contains(&self.node.to_string())
                };
                snapshot.owners.get(&self.node.workload) == Some(&self.identity)
                    && snapshot.secret_readers.get(name).is_some_and(reads)
            }
            (Kind::Entry, _) => snapshot
                .entry_readers
                .get(name)
                .is_none_or(|readers| readers.contains(self.identity.namespace().as_str())),
            _ => true,
        }
    }
}
