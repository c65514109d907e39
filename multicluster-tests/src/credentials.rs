//! Credentials that must be refused, minted with the real CAs of a fleet.

use std::time::{Duration, SystemTime};

use identity::{ClusterCa, Credentials, Svid, TrustBundles};
use mesh::SpiffeId;
use tempfile::TempDir;

use crate::Scenario;

/// What is wrong with a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadCredential {
    /// No certificate at all.
    None,
    /// The right identity, signed by a root that nobody knows.
    WrongRoot,
    /// The right identity, signed by the root of another member.
    OtherDomain,
    /// It expired a minute ago.
    Expired,
    /// It begins in an hour.
    NotYetValid,
}

impl BadCredential {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::WrongRoot, Self::OtherDomain, Self::Expired, Self::NotYetValid];
}

/// Mints credentials for one identity.
pub struct Fakes {
    id: SpiffeId,
    own: ClusterCa,
    other: ClusterCa,
    unknown: ClusterCa,
    bundles: TrustBundles,
    _directory: TempDir,
}

impl Fakes {
    /// `own` is the CA of the identity's trust domain, `other` that of another member; `bundles` verify servers.
    pub fn new(id: SpiffeId, own: ClusterCa, other: ClusterCa, bundles: TrustBundles) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let unknown = ClusterCa::create(&directory.path().join("ca"), id.trust_domain()).expect("a CA");
        Self { id, own, other, unknown, bundles, _directory: directory }
    }

    /// A credential that must be accepted.
    pub fn good(&self) -> Credentials {
        self.fixed(self.mint(&self.own, 0, 600))
    }

    /// A credential that must be refused.
    pub fn bad(&self, what: BadCredential) -> Credentials {
        match what {
            BadCredential::None => Credentials::anonymous(self.bundles.clone()),
            BadCredential::WrongRoot => self.fixed(self.mint(&self.unknown, 0, 600)),
            BadCredential::OtherDomain => self.fixed(self.mint(&self.other, 0, 600)),
            BadCredential::Expired => self.fixed(self.mint(&self.own, -120, -60)),
            BadCredential::NotYetValid => self.fixed(self.mint(&self.own, 3600, 7200)),
        }
    }

    /// A credential that is good for so many seconds.
    pub fn good_for(&self, seconds: i64) -> Credentials {
        self.fixed(self.mint(&self.own, -10, seconds))
    }

    fn fixed(&self, svid: Svid) -> Credentials {
        Credentials::fixed(svid, self.bundles.clone())
    }

    /// An SVID that is valid from and until so many seconds from now.
    fn mint(&self, ca: &ClusterCa, from: i64, until: i64) -> Svid {
        ca.issue_with_validity(&self.id, from_now(from), from_now(until)).expect("an SVID")
    }
}

fn from_now(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
}

impl Scenario {
    /// The CA of `hub`, `east` or `west`: tests run as the user who owns the fleet.
    pub fn ca(&self, whose: &str) -> ClusterCa {
        let layout = &self.fleet.layout;
        let directory = if whose == "hub" { layout.root().join("ca") } else { layout.agent(whose).join("ca") };
        ClusterCa::load(&directory).expect("the CA loads")
    }

    /// Credentials for an identity of this fleet of the clusters `east` and `west`, good and bad ones.
    pub fn fakes(&self, id: SpiffeId) -> Fakes {
        let whose = id.trust_domain().as_str().split('.').next().unwrap_or_default().to_owned();
        let other = if whose == "west" { "east" } else { "west" };
        let mut bundles = TrustBundles::default();
        for name in ["hub", "east", "west"] {
            bundles.insert(self.ca(name).bundle(1).expect("a bundle"));
        }
        Fakes::new(id, self.ca(&whose), self.ca(other), bundles)
    }
}
