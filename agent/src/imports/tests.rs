//! What is believed and what is not, with a hub that may lie.

use api::hub::{Key, Kind, Resource};
use api::trust::Gateway;
use identity::{ClusterCa, root_hash};
use prost::Message;
use tempfile::TempDir;

use super::*;
use crate::exports::book::sign;

/// A cluster that signs facts, and the hub's view of them.
pub(crate) struct Signer {
    _directory: TempDir,
    name: &'static str,
    ca: ClusterCa,
}

impl Signer {
    pub(crate) fn new(name: &'static str) -> Self {
        Self::with_trust_domain(name, &format!("{name}.demo"))
    }

    fn with_trust_domain(name: &'static str, trust_domain: &str) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let trust_domain = TrustDomain::new(trust_domain).expect("valid");
        let ca = ClusterCa::create(&directory.path().join("ca"), &trust_domain).expect("a CA");
        Self { _directory: directory, name, ca }
    }

    fn root(&self) -> Vec<u8> {
        self.ca.root_der().as_ref().to_vec()
    }

    fn bundle_of(&self, serial: u64, roots: Vec<Vec<u8>>) -> Bundle {
        Bundle { cluster: self.name.into(), trust_domain: self.ca.trust_domain().to_string(), serial, roots }
    }

    pub(crate) fn bundle(&self, serial: u64) -> Resource {
        self.fact(FactKind::Bundle, "", &self.bundle_of(serial, vec![self.root()]))
    }

    pub(crate) fn gateways(&self, serial: u64, address: &str) -> Resource {
        let gateway = Gateway { name: "gateway-1".into(), quic_address: address.into() };
        let set = GatewaySet { cluster: self.name.into(), serial, gateways: vec![gateway] };
        self.fact(FactKind::Gateways, "", &set)
    }

    fn export_of(&self, serial: u64, to_clusters: &[&str]) -> Export {
        Export {
            cluster: self.name.into(),
            serial,
            namespace: "default".into(),
            name: "reviews".into(),
            to_clusters: to_clusters.iter().map(|name| (*name).to_owned()).collect(),
            ..Export::default()
        }
    }

    pub(crate) fn export(&self, serial: u64) -> Resource {
        self.fact(FactKind::Export, "default/reviews", &self.export_of(serial, &[]))
    }

    fn fact(&self, kind: FactKind, name: &str, value: &impl Message) -> Resource {
        let signed = sign(&self.ca, kind, value.encode_to_vec()).expect("signed");
        resource(kind, self.name, name, &signed)
    }
}

fn resource(kind: FactKind, cluster: &str, name: &str, signed: &Signed) -> Resource {
    let kind = match kind {
        FactKind::Bundle => Kind::Bundle,
        FactKind::Gateways => Kind::Gateways,
        FactKind::Export => Kind::Export,
    };
    let key = Key { kind: kind.into(), cluster: cluster.into(), name: name.into() };
    Resource { key: Some(key), revision: 1, value: signed.encode_to_vec() }
}

pub(crate) fn policy() -> Policy {
    let reserved = ["east.demo", "hub.demo"].map(|name| TrustDomain::new(name).expect("valid"));
    Policy { own: ClusterName::new("east").expect("valid"), reserved: reserved.into(), fingerprints: None }
}

fn believe(accepted: &Accepted, resource: &Resource) -> Accepted {
    accept(accepted, &policy(), resource).unwrap_or_else(|refusal| panic!("{refusal}"))
}

#[track_caller]
fn refused(accepted: &Accepted, resource: &Resource) -> &'static str {
    accept(accepted, &policy(), resource).expect_err("it must be refused").reason.as_str()
}

/// West at bundle 1, gateways 5, export 6.
fn known(west: &Signer) -> Accepted {
    [west.bundle(1), west.gateways(5, "127.2.0.2:15443"), west.export(6)]
        .iter()
        .fold(Accepted::default(), |accepted, resource| believe(&accepted, resource))
}

fn west(accepted: &Accepted) -> &Member {
    &accepted.members[&ClusterName::new("west").expect("valid")]
}

#[test]
fn what_a_cluster_signs_is_believed_and_updated() {
    let signer = Signer::new("west");
    let accepted = known(&signer);
    assert_eq!(west(&accepted).exports.len(), 1);
    let newer = believe(&accepted, &signer.export(9));
    assert_eq!(west(&newer).exports.values().next().unwrap().value.serial, 9);
    assert_eq!(believe(&newer, &signer.export(9)), newer, "the same again changes nothing");
}

#[test]
fn the_hub_cannot_roll_a_cluster_back() {
    let signer = Signer::new("west");
    let accepted = believe(&known(&signer), &signer.bundle(2));
    assert_eq!(refused(&accepted, &signer.bundle(1)), "replayed");
    assert_eq!(refused(&accepted, &signer.gateways(4, "127.2.0.3:15443")), "replayed");
    assert_eq!(refused(&accepted, &signer.export(5)), "replayed");
    let other = signer.fact(FactKind::Export, "default/reviews", &signer.export_of(6, &["east"]));
    assert_eq!(refused(&accepted, &other), "equivocated");
}

#[test]
fn a_withdrawn_export_keeps_its_serial_also_after_a_restart() {
    let signer = Signer::new("west");
    let accepted = known(&signer);
    let mut gone = accepted.clone();
    for resource in [signer.export(6), signer.gateways(5, "127.2.0.2:15443")] {
        gone = withdraw(&gone, resource.key.as_ref().unwrap());
    }
    assert!(!west(&gone).exports.values().next().unwrap().present);
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("imports.json");
    store::save(&path, &gone).expect("saved");
    let restarted = store::load(&path).expect("loaded");
    assert_eq!(restarted, gone);
    assert_eq!(refused(&restarted, &signer.export(5)), "replayed");
    assert_eq!(refused(&restarted, &signer.gateways(4, "127.2.0.9:15443")), "replayed");
    assert_eq!(believe(&restarted, &signer.export(7)).members.len(), 1);
}

#[test]
fn a_bundle_must_be_signed_by_the_one_before_it() {
    let (signer, attacker) = (Signer::new("west"), Signer::new("west"));
    let accepted = known(&signer);
    assert_eq!(refused(&accepted, &attacker.bundle(2)), "signature");
    assert_eq!(refused(&accepted, &attacker.gateways(9, "127.6.6.6:15443")), "signature");
    assert_eq!(refused(&accepted, &attacker.export(9)), "signature");

    let both = signer.bundle_of(2, vec![signer.root(), attacker.root()]);
    let rotated = believe(&accepted, &signer.fact(FactKind::Bundle, "", &both));
    assert_eq!(west(&rotated).gateways, west(&accepted).gateways, "a rotation takes nothing away");
    assert!(accept(&rotated, &policy(), &attacker.export(9)).is_ok(), "a root of the new bundle may sign");
}

#[test]
fn a_withdrawn_bundle_is_not_replaced_by_a_stranger() {
    let (signer, attacker) = (Signer::new("west"), Signer::new("west"));
    let gone = withdraw(&known(&signer), signer.bundle(1).key.as_ref().unwrap());
    assert!(!west(&gone).bundle.present);
    assert_eq!(west(&gone).offered_to(&policy().own).count(), 0);
    assert_eq!(refused(&gone, &attacker.bundle(2)), "signature");
    assert!(west(&believe(&gone, &signer.bundle(1))).bundle.present);
}

#[test]
fn nobody_takes_a_trust_domain_that_belongs_to_another() {
    let accepted = known(&Signer::new("west"));
    for trust_domain in ["east.demo", "hub.demo", "west.demo"] {
        let north = Signer::with_trust_domain("north", trust_domain);
        assert_eq!(refused(&accepted, &north.bundle(1)), "trust-domain", "{trust_domain}");
    }
    let signer = Signer::new("west");
    let moved = Bundle { trust_domain: "elsewhere.demo".into(), ..signer.bundle_of(2, vec![signer.root()]) };
    let reason = refused(&known(&signer), &signer.fact(FactKind::Bundle, "", &moved));
    assert!(["moved", "malformed"].contains(&reason), "{reason}");
}

#[test]
fn a_fact_under_another_name_is_refused() {
    let (signer, north) = (Signer::new("west"), Signer::new("north"));
    let accepted = believe(&known(&signer), &north.bundle(1));
    let signed = |kind, value: &Export| sign(&signer.ca, kind, value.encode_to_vec()).expect("signed");
    let export = signed(FactKind::Export, &signer.export_of(9, &[]));
    let elsewhere = resource(FactKind::Export, "west", "default/ratings", &export);
    assert_eq!(refused(&accepted, &elsewhere), "misfiled");
    let as_gateways = resource(FactKind::Gateways, "west", "", &export);
    assert_eq!(refused(&accepted, &as_gateways), "misfiled");
    let as_north = resource(FactKind::Export, "north", "default/reviews", &export);
    assert_eq!(refused(&accepted, &as_north), "signature");
}

#[test]
fn nothing_is_believed_of_an_unknown_cluster() {
    let signer = Signer::new("west");
    assert_eq!(refused(&Accepted::default(), &signer.export(1)), "unknown-cluster");
    assert_eq!(refused(&Accepted::default(), &signer.gateways(1, "127.2.0.2:1")), "unknown-cluster");
    let garbage = Resource { value: b"\xff\xff".to_vec(), ..signer.bundle(1) };
    assert_eq!(refused(&Accepted::default(), &garbage), "malformed");
    assert_eq!(refused(&known(&signer), &signer.gateways(9, "nowhere")), "malformed");
}

#[test]
fn with_manual_acceptance_a_cluster_begins_with_the_accepted_root() {
    let (signer, attacker) = (Signer::new("west"), Signer::new("west"));
    let cluster = ClusterName::new("west").expect("valid");
    let nobody = Policy { fingerprints: Some(BTreeMap::new()), ..policy() };
    let refusal = accept(&Accepted::default(), &nobody, &signer.bundle(1)).expect_err("not accepted");
    assert_eq!(refusal.reason, Reason::NotAccepted(root_hash(&signer.root())));
    let west_only = Policy { fingerprints: Some(BTreeMap::from([(cluster, root_hash(&signer.root()))])), ..policy() };
    assert!(accept(&Accepted::default(), &west_only, &signer.bundle(1)).is_ok());
    assert!(accept(&Accepted::default(), &west_only, &attacker.bundle(1)).is_err());
    let smuggled = signer.fact(FactKind::Bundle, "", &signer.bundle_of(1, vec![signer.root(), attacker.root()]));
    assert!(accept(&Accepted::default(), &west_only, &smuggled).is_err(), "a second root beside the accepted one");
}

#[test]
fn an_export_to_others_is_not_offered_whatever_the_hub_shows() {
    let signer = Signer::new("west");
    let export = |serial, to: &[&str]| signer.fact(FactKind::Export, "default/reviews", &signer.export_of(serial, to));
    let own = policy().own;
    let to_others = believe(&known(&signer), &export(7, &["north"]));
    assert_eq!(west(&to_others).offered_to(&own).count(), 0);
    assert_eq!(west(&believe(&to_others, &export(8, &["north", "east"]))).offered_to(&own).count(), 1);
}

#[test]
fn own_facts_are_no_imports() {
    let east = Signer::new("east");
    assert_eq!(believe(&Accepted::default(), &east.bundle(1)), Accepted::default());
}

#[test]
fn a_damaged_store_is_an_error_and_not_an_empty_one() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("imports.json");
    assert_eq!(store::load(&path).expect("none is fine"), Accepted::default());
    std::fs::write(&path, "{").expect("written");
    assert!(store::load(&path).is_err());
}
