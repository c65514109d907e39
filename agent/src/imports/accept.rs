//! The decision: is this fact believed?

use std::collections::BTreeSet;
use std::sync::Arc;

use api::hub::{Key, Kind, Resource};
use api::trust::{Bundle, Export, GatewaySet, Signed};
use identity::{SignedParts, TrustBundle, root_hash, verify_signed};
use mesh::{ClusterName, Group, Namespace, ServiceName, ServicePort, TrustDomain};
use prost::Message;

use super::{Accepted, Fact, FactKind, Member, Policy, Reason, Refusal};
use crate::config::is_host_port;
use crate::exports::{MAX_GROUPS, MAX_PODS};

/// Ports of one export.
const MAX_PORTS: usize = 64;
/// Labels, and annotations, of one export.
const MAX_LABELS: usize = 64;
/// Bytes of all of them.
const MAX_LABEL_BYTES: usize = 16_384;
/// The longest session affinity, in seconds (Kubernetes: a day).
const MAX_AFFINITY: u32 = 86_400;
/// Gateways of one cluster.
const MAX_GATEWAYS: usize = 64;
/// Roots in one bundle.
const MAX_ROOTS: usize = 16;

/// Believes a resource of the hub or says why not. Resources that are no signed facts of another cluster change nothing.
pub fn accept(previous: &Accepted, policy: &Policy, resource: &Resource) -> Result<Accepted, Refusal> {
    let Some((kind, key)) = fact_key(resource.key.as_ref()) else { return Ok(previous.clone()) };
    let refuse = |reason| Refusal { kind, cluster: key.cluster.clone(), name: key.name.clone(), reason };
    let cluster: ClusterName = key.cluster.parse().map_err(|error| refuse(malformed(&error)))?;
    if cluster == policy.own {
        return Ok(previous.clone());
    }
    let signed = Signed::decode(resource.value.as_slice()).map_err(|error| refuse(malformed(&error)))?;
    if signed.kind != kind.as_str() {
        return Err(refuse(Reason::Misfiled));
    }
    let member = previous.members.get(&cluster);
    let member = match kind {
        FactKind::Bundle => accept_bundle(previous, policy, &cluster, signed),
        FactKind::Gateways => accept_gateways(member, &cluster, signed),
        FactKind::Export => accept_export(member, key, &cluster, signed),
    };
    let mut accepted = previous.clone();
    accepted.members.insert(cluster, Arc::new(member.map_err(refuse)?));
    Ok(accepted)
}

/// The hub shows a fact no longer. It is out of force but not forgotten.
pub fn withdraw(previous: &Accepted, key: &Key) -> Accepted {
    let mut accepted = previous.clone();
    let Some((kind, key)) = fact_key(Some(key)) else { return accepted };
    let member = key.cluster.parse().ok().and_then(|cluster: ClusterName| accepted.members.get_mut(&cluster));
    let Some(member) = member.map(Arc::make_mut) else { return accepted };
    match kind {
        FactKind::Bundle => member.bundle.present = false,
        FactKind::Gateways => member.gateways.iter_mut().for_each(|fact| fact.present = false),
        FactKind::Export => {
            let name: Option<ServiceName> = key.name.parse().ok();
            let fact = name.and_then(|name| member.exports.get_mut(&name));
            fact.into_iter().for_each(|fact| fact.present = false);
        }
    }
    accepted
}

fn fact_key(key: Option<&Key>) -> Option<(FactKind, &Key)> {
    let key = key?;
    match key.kind() {
        Kind::Bundle => Some((FactKind::Bundle, key)),
        Kind::Gateways => Some((FactKind::Gateways, key)),
        Kind::Export => Some((FactKind::Export, key)),
        _ => None,
    }
}

fn accept_bundle(
    previous: &Accepted,
    policy: &Policy,
    cluster: &ClusterName,
    signed: Signed,
) -> Result<Member, Reason> {
    let known = previous.members.get(cluster);
    if let Some(known) = known.filter(|known| known.bundle.signed.payload == signed.payload) {
        let mut member = Member::clone(known);
        member.bundle.present = true;
        return Ok(member);
    }
    let bundle = Bundle::decode(signed.payload.as_slice()).map_err(|error| malformed(&error))?;
    if bundle.cluster != cluster.as_str() {
        return Err(Reason::Misfiled);
    }
    let trust = parse_bundle(&bundle)?;
    let parts = parts(&signed);
    match known {
        Some(known) => {
            check_serial(bundle.serial, known.bundle.value.serial)?;
            if known.trust.trust_domain() != trust.trust_domain() {
                return Err(Reason::Moved);
            }
            verify_signed(&parts, &known.trust).map_err(Reason::Signature)?;
        }
        None => {
            check_first(previous, policy, cluster, &trust)?;
            verify_signed(&parts, &trust).map_err(Reason::Signature)?;
        }
    }
    let fact = Fact { signed, value: bundle, present: true };
    Ok(match known {
        Some(known) => Member { bundle: fact, trust, ..Member::clone(known) },
        None => Member { bundle: fact, trust, gateways: None, exports: Default::default() },
    })
}

/// Reads a bundle's roots.
pub(super) fn parse_bundle(bundle: &Bundle) -> Result<TrustBundle, Reason> {
    if bundle.roots.len() > MAX_ROOTS {
        return Err(Reason::Malformed(format!("it has more than {MAX_ROOTS} roots")));
    }
    let trust_domain: TrustDomain = bundle.trust_domain.parse().map_err(|error| malformed(&error))?;
    let roots = bundle.roots.iter().map(|der| der.clone().into()).collect();
    TrustBundle::new(trust_domain, bundle.serial, roots).map_err(|error| malformed(&error))
}

/// The rules for a cluster that was not known before.
fn check_first(previous: &Accepted, policy: &Policy, cluster: &ClusterName, trust: &TrustBundle) -> Result<(), Reason> {
    let trust_domain = trust.trust_domain();
    let taken = previous.members.values().any(|member| member.trust.trust_domain() == trust_domain);
    if taken || policy.reserved.contains(trust_domain) {
        return Err(Reason::TrustDomain(trust_domain.to_string()));
    }
    let Some(fingerprints) = &policy.fingerprints else { return Ok(()) };
    let hashes: BTreeSet<String> = trust.roots().iter().map(|root| root_hash(root)).collect();
    let accepted = fingerprints.get(cluster);
    // Every root must be the accepted one: a second root beside it could sign whatever it likes.
    if accepted.is_some_and(|accepted| hashes.len() == 1 && hashes.contains(accepted)) {
        return Ok(());
    }
    Err(Reason::NotAccepted(hashes.into_iter().collect::<Vec<_>>().join(" ")))
}

fn accept_gateways(known: Option<&Arc<Member>>, cluster: &ClusterName, signed: Signed) -> Result<Member, Reason> {
    let mut member = Member::clone(known.ok_or(Reason::Unknown)?);
    let seen = member.gateways.as_ref();
    if seen.is_some_and(|seen| seen.signed.payload == signed.payload) {
        member.gateways.iter_mut().for_each(|fact| fact.present = true);
        return Ok(member);
    }
    verify_signed(&parts(&signed), &member.trust).map_err(Reason::Signature)?;
    let value = GatewaySet::decode(signed.payload.as_slice()).map_err(|error| malformed(&error))?;
    if value.cluster != cluster.as_str() {
        return Err(Reason::Misfiled);
    }
    if value.gateways.len() > MAX_GATEWAYS {
        return Err(Reason::Malformed(format!("it names more than {MAX_GATEWAYS} gateways")));
    }
    if let Some(bad) = value.gateways.iter().find(|gateway| !is_host_port(&gateway.quic_address)) {
        return Err(Reason::Malformed(format!("the address {:?} is not host:port", bad.quic_address)));
    }
    if let Some(seen) = seen {
        check_serial(value.serial, seen.value.serial)?;
    }
    member.gateways = Some(Fact { signed, value, present: true });
    Ok(member)
}

fn accept_export(
    known: Option<&Arc<Member>>,
    key: &Key,
    cluster: &ClusterName,
    signed: Signed,
) -> Result<Member, Reason> {
    let mut member = Member::clone(known.ok_or(Reason::Unknown)?);
    let name: ServiceName = key.name.parse().map_err(|error| malformed(&error))?;
    let seen = member.exports.get(&name);
    if seen.is_some_and(|seen| seen.signed.payload == signed.payload) {
        member.exports.get_mut(&name).into_iter().for_each(|fact| fact.present = true);
        return Ok(member);
    }
    verify_signed(&parts(&signed), &member.trust).map_err(Reason::Signature)?;
    let value = Export::decode(signed.payload.as_slice()).map_err(|error| malformed(&error))?;
    if value.cluster != cluster.as_str() || value.namespace != name.namespace().as_str() || value.name != name.name() {
        return Err(Reason::Misfiled);
    }
    check_export(&value)?;
    if let Some(seen) = seen {
        check_serial(value.serial, seen.value.serial)?;
    }
    member.exports.insert(name, Fact { signed, value, present: true });
    Ok(member)
}

fn check_export(export: &Export) -> Result<(), Reason> {
    if export.groups.len() > MAX_GROUPS || export.ports.len() > MAX_PORTS {
        return Err(Reason::Malformed(format!("it has more than {MAX_GROUPS} groups or {MAX_PORTS} ports")));
    }
    if export.pods.len() > MAX_PODS {
        return Err(Reason::Malformed(format!("it names more than {MAX_PODS} pods")));
    }
    let texts = || export.labels.iter().chain(&export.annotations);
    let bytes: usize = texts().map(|(key, value)| key.len() + value.len()).sum();
    if export.labels.len().max(export.annotations.len()) > MAX_LABELS || bytes > MAX_LABEL_BYTES {
        return Err(Reason::Malformed(format!("it has more than {MAX_LABELS} labels or annotations, or long ones")));
    }
    if export.session_affinity_seconds > MAX_AFFINITY {
        return Err(Reason::Malformed(format!("its session affinity is longer than {MAX_AFFINITY} s")));
    }
    for pod in &export.pods {
        let group = usize::try_from(pod.group).ok().filter(|index| *index < export.groups.len());
        // A hostname becomes part of a name in DNS.
        let label = pod.hostname.is_empty() || Namespace::new(pod.hostname.as_str()).is_ok();
        if group.is_none() || !label || pod.name.is_empty() || pod.name.len() > 253 {
            return Err(Reason::Malformed(format!("the pod {:?} has no group or no name", pod.name)));
        }
    }
    export
        .ports
        .iter()
        .try_for_each(|port| ServicePort::try_from(port).map(drop))
        .map_err(|error| malformed(&error))?;
    export.groups.iter().try_for_each(|group| Group::try_from(group).map(drop)).map_err(|error| malformed(&error))
}

/// A different payload must have a higher serial.
fn check_serial(serial: u64, seen: u64) -> Result<(), Reason> {
    match serial.cmp(&seen) {
        std::cmp::Ordering::Less => Err(Reason::Replayed { serial, seen }),
        std::cmp::Ordering::Equal => Err(Reason::Equivocated(serial)),
        std::cmp::Ordering::Greater => Ok(()),
    }
}

pub(crate) fn parts(signed: &Signed) -> SignedParts {
    SignedParts {
        kind: signed.kind.clone(),
        payload: signed.payload.clone(),
        signature: signed.signature.clone(),
        signer: signed.signer.clone(),
    }
}

fn malformed(error: &impl ToString) -> Reason {
    Reason::Malformed(error.to_string())
}
