//! What signed messages say, checked before they may enter the log.
//!
//! The hub needs not be believed, importers check every signature themselves; it checks so that rubbish stops at the
//! door, and so that its own verifier never takes roots that the cluster's old root did not sign.

use std::collections::{BTreeMap, BTreeSet};

use api::trust as pb;
use hub_state::{Facts, Key, Operation, Role, SignedFact, Statement, Verb, authorize};
use identity::{SignedParts, TrustBundle, verify_signed};
use mesh::{ClusterName, Namespace, ServiceName, TrustDomain};
use prost::Message as _;
use tonic::Status;

use crate::wire::invalid;

/// More roots than a rotation ever needs.
const ROOTS_MAX: usize = 8;
/// Groups per export, as the message says.
const GROUPS_MAX: usize = 32;

/// A decoded signed message.
pub(crate) struct Decoded {
    pub(crate) fact: SignedFact,
    pub(crate) parts: SignedParts,
    /// The roots, if it is a bundle.
    pub(crate) bundle: Option<TrustBundle>,
}

/// Decodes an encoded `trust.v1.Signed`.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<Decoded, Status> {
    let signed = pb::Signed::decode(bytes.as_slice()).map_err(|_| invalid("the value is not a Signed message"))?;
    let (facts, bundle) = match signed.kind.as_str() {
        "bundle" => {
            let (facts, bundle) = decode_bundle(&signed.payload)?;
            (facts, Some(bundle))
        }
        "gateways" => (decode_gateways(&signed.payload)?, None),
        "export" => (decode_export(&signed.payload)?, None),
        _ => return Err(invalid("the signed kind is not bundle, gateways or export")),
    };
    let parts =
        SignedParts { kind: signed.kind, payload: signed.payload, signature: signed.signature, signer: signed.signer };
    Ok(Decoded { fact: SignedFact { bytes, facts }, parts, bundle })
}

/// The roots in a stored bundle.
pub(crate) fn stored_bundle(fact: &SignedFact) -> Option<TrustBundle> {
    decode(fact.bytes.clone()).ok()?.bundle
}

/// The operations of a transaction, authorised and with their signatures checked. `bundle_of` looks up the bundle that
/// is stored for a cluster; it is asked once per cluster, and nothing is locked while signatures are checked.
pub(crate) fn operations(
    operations: Vec<api::hub::Operation>,
    role: &Role,
    bundle_of: impl Fn(&ClusterName) -> Option<SignedFact>,
) -> Result<Vec<Operation>, Status> {
    use api::hub::operation::Operation as Wire;
    let mut result = Vec::with_capacity(operations.len());
    let mut trusted = Trusted { bundle_of, stored: BTreeMap::new(), fresh: BTreeMap::new() };
    for operation in operations {
        match operation.operation.ok_or_else(|| invalid("an operation is empty"))? {
            Wire::Put(put) => {
                let key = crate::wire::key(put.key)?;
                // Before the signature: a stranger learns nothing about another cluster's bundle.
                authorize(role, Verb::Put, &key).map_err(|refusal| crate::wire::refused(&refusal))?;
                let decoded = decode(put.value)?;
                trusted.verify(&key, &decoded)?;
                result.push(Operation::Put { key, fact: decoded.fact });
            }
            Wire::Delete(key) => result.push(Operation::Delete { key: crate::wire::key(Some(key))? }),
        }
    }
    Ok(result)
}

/// The roots that signatures in one transaction are checked against.
struct Trusted<F> {
    bundle_of: F,
    /// As stored, by cluster.
    stored: BTreeMap<ClusterName, TrustBundle>,
    /// Put earlier in the same transaction, and signed by a stored root; counts for what is not a bundle itself.
    fresh: BTreeMap<ClusterName, TrustBundle>,
}

impl<F: Fn(&ClusterName) -> Option<SignedFact>> Trusted<F> {
    fn verify(&mut self, key: &Key, decoded: &Decoded) -> Result<(), Status> {
        let cluster = &decoded.fact.facts.cluster;
        if !self.stored.contains_key(cluster) {
            let stored = (self.bundle_of)(cluster).as_ref().and_then(stored_bundle);
            let stored =
                stored.ok_or_else(|| Status::failed_precondition(format!("cluster {cluster} is not a member")))?;
            self.stored.insert(cluster.clone(), stored);
        }
        let by = |bundles: &BTreeMap<_, TrustBundle>| {
            bundles.get(cluster).is_some_and(|bundle| verify_signed(&decoded.parts, bundle).is_ok())
        };
        if !by(&self.stored) && (decoded.bundle.is_some() || !by(&self.fresh)) {
            return Err(invalid(format!("{key} is not signed by a root of cluster {cluster}")));
        }
        if let Some(bundle) = &decoded.bundle {
            self.fresh.insert(cluster.clone(), bundle.clone());
        }
        Ok(())
    }
}

fn decode_bundle(payload: &[u8]) -> Result<(Facts, TrustBundle), Status> {
    let bundle = pb::Bundle::decode(payload).map_err(|_| invalid("the payload is not a Bundle"))?;
    if bundle.roots.len() > ROOTS_MAX {
        return Err(invalid(format!("a bundle has at most {ROOTS_MAX} roots")));
    }
    let trust_domain = TrustDomain::new(bundle.trust_domain).map_err(invalid)?;
    let roots = bundle.roots.into_iter().map(Into::into).collect();
    let trusted = TrustBundle::new(trust_domain.clone(), bundle.serial, roots).map_err(invalid)?;
    let statement = Statement::Bundle { trust_domain };
    Ok((facts(bundle.cluster, bundle.serial, statement)?, trusted))
}

fn decode_gateways(payload: &[u8]) -> Result<Facts, Status> {
    let gateways = pb::GatewaySet::decode(payload).map_err(|_| invalid("the payload is not a GatewaySet"))?;
    facts(gateways.cluster, gateways.serial, Statement::Gateways)
}

fn decode_export(payload: &[u8]) -> Result<Facts, Status> {
    let export = pb::Export::decode(payload).map_err(|_| invalid("the payload is not an Export"))?;
    if export.groups.len() > GROUPS_MAX {
        return Err(invalid(format!("an export has at most {GROUPS_MAX} groups")));
    }
    let namespace = Namespace::new(export.namespace).map_err(invalid)?;
    let service = ServiceName::new(namespace, export.name).map_err(invalid)?;
    let to_clusters = export.to_clusters.into_iter().map(ClusterName::new).collect::<Result<BTreeSet<_>, _>>();
    let statement = Statement::Export { service, to_clusters: to_clusters.map_err(invalid)? };
    facts(export.cluster, export.serial, statement)
}

fn facts(cluster: String, serial: u64, statement: Statement) -> Result<Facts, Status> {
    Ok(Facts { cluster: ClusterName::new(cluster).map_err(invalid)?, serial, statement })
}
