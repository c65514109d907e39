//! Who may do what: roles follow from the SPIFFE id that TLS proved, and nothing else.

use mesh::{ClusterName, MeshId, SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::command::Refusal;
use crate::key::{Key, Kind};

/// What a caller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A person or tool that administers the mesh.
    Operator,
    /// The agent of one cluster.
    Agent(ClusterName),
    /// Another node of the hub.
    Hub,
}

/// What is done to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Create or replace.
    Put,
    /// Remove.
    Delete,
}

impl Role {
    /// The role that an identity has; `cluster_of` says which member owns a trust domain. `None`: no role at all.
    pub fn of(
        id: &SpiffeId,
        mesh: &MeshId,
        cluster_of: impl FnOnce(&TrustDomain) -> Option<ClusterName>,
    ) -> Option<Self> {
        if *id.trust_domain() == TrustDomain::of_hub(mesh) {
            return match () {
                () if id.is_system("hub") => Some(Self::Hub),
                () if id.is_system("operator") => Some(Self::Operator),
                () => None,
            };
        }
        if id.is_system("agent") { cluster_of(id.trust_domain()).map(Self::Agent) } else { None }
    }
}

/// Whether a caller of this role may do this to this key through a transaction.
///
/// An agent writes its own cluster's bundle, gateways and exports. An operator removes whole clusters. Clusters appear
/// by joining; addresses and leases are the hub's own.
pub fn authorize(role: &Role, verb: Verb, key: &Key) -> Result<(), Refusal> {
    let allowed = match (role, verb, key.kind()) {
        (Role::Agent(own), _, Kind::Gateways | Kind::Export) => key.cluster() == Some(own),
        // Without its bundle a member could not even say that it wants it back.
        (Role::Agent(own), Verb::Put, Kind::Bundle) => key.cluster() == Some(own),
        (Role::Operator, Verb::Delete, Kind::Cluster) => true,
        _ => false,
    };
    if allowed { Ok(()) } else { Err(Refusal::Forbidden { key: key.clone() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn all_keys(name: &str) -> Vec<Key> {
        let service: mesh::ServiceName = "default/web".parse().unwrap();
        let cluster = cluster(name);
        vec![
            Key::Cluster(cluster.clone()),
            Key::Bundle(cluster.clone()),
            Key::Gateways(cluster.clone()),
            Key::Export(cluster.clone(), service.clone()),
            Key::Address(service),
            Key::Lease(cluster),
        ]
    }

    fn allowed(role: &Role, verb: Verb, of: &str) -> Vec<Kind> {
        let keys = all_keys(of);
        keys.iter().filter(|key| authorize(role, verb, key).is_ok()).map(Key::kind).collect()
    }

    #[test]
    fn an_agent_writes_the_signed_kinds_of_its_own_cluster_only() {
        let east = Role::Agent(cluster("east"));
        assert_eq!(allowed(&east, Verb::Put, "east"), [Kind::Bundle, Kind::Gateways, Kind::Export]);
        assert_eq!(allowed(&east, Verb::Delete, "east"), [Kind::Gateways, Kind::Export]);
        assert_eq!(allowed(&east, Verb::Put, "west"), []);
        assert_eq!(allowed(&east, Verb::Delete, "west"), []);
    }

    #[test]
    fn an_operator_deletes_clusters_and_writes_nothing() {
        assert_eq!(allowed(&Role::Operator, Verb::Delete, "east"), [Kind::Cluster]);
        assert_eq!(allowed(&Role::Operator, Verb::Put, "east"), []);
        assert_eq!(allowed(&Role::Hub, Verb::Put, "east"), []);
        assert_eq!(allowed(&Role::Hub, Verb::Delete, "east"), []);
    }

    #[test]
    fn a_role_follows_from_the_trust_domain_and_the_account() {
        let mesh = MeshId::new("demo").unwrap();
        let role = |id: &str| {
            let known = |td: &TrustDomain| (td.as_str() == "east.demo").then(|| cluster("east"));
            Role::of(&id.parse().unwrap(), &mesh, known)
        };
        assert_eq!(role("spiffe://hub.demo/ns/isthmus-system/sa/operator"), Some(Role::Operator));
        assert_eq!(role("spiffe://hub.demo/ns/isthmus-system/sa/hub"), Some(Role::Hub));
        assert_eq!(role("spiffe://hub.demo/ns/isthmus-system/sa/agent"), None);
        assert_eq!(role("spiffe://hub.demo/ns/default/sa/operator"), None);
        assert_eq!(role("spiffe://east.demo/ns/isthmus-system/sa/agent"), Some(Role::Agent(cluster("east"))));
        assert_eq!(role("spiffe://east.demo/ns/isthmus-system/sa/operator"), None);
        assert_eq!(role("spiffe://east.demo/ns/isthmus-system/sa/hub"), None);
        assert_eq!(role("spiffe://east.demo/ns/default/sa/agent"), None);
        assert_eq!(role("spiffe://west.demo/ns/isthmus-system/sa/agent"), None);
    }
}
