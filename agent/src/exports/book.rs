//! The book of what this cluster signed: the serial counter and the last signed facts, on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::hub::{Key, Kind, Operation, Put, operation};
use api::trust::{Export, Gateway, GatewaySet, Signed};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::{ClusterCa, IssueError, verify_signed};
use mesh::{ClusterName, ServiceName};
use prost::Message;
use serde::{Deserialize, Serialize};

use super::{Step, name_of};
use crate::config::GatewayConfig;
use crate::facts::Mirror;
use crate::imports::FactKind;
use crate::state::{self, StateError};

/// Why the book cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookError {
    #[error("the book of exports cannot be kept")]
    State(#[from] StateError),
    #[error("a fact cannot be signed")]
    Sign(#[from] IssueError),
}

/// A fact of this cluster.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry<T> {
    pub(crate) signed: Signed,
    pub(crate) value: T,
}

/// What was signed last.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Book {
    path: PathBuf,
    cluster: ClusterName,
    /// The last serial that was given out; it is on disk before anything signed with it is shown to anybody.
    serial: u64,
    exports: BTreeMap<ServiceName, Entry<Export>>,
    gateways: Option<Entry<GatewaySet>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    serial: u64,
    gateways: Option<String>,
    exports: BTreeMap<ServiceName, String>,
}

impl Book {
    /// Opens the book of a cluster; an empty one if there is none.
    pub(crate) fn load(path: &Path, cluster: ClusterName) -> Result<Self, StateError> {
        let stored: Stored = state::read(path)?.unwrap_or_default();
        let mut exports = BTreeMap::new();
        for (name, text) in stored.exports {
            exports.insert(name, entry(&text).map_err(|why| state::damaged(path, &why))?);
        }
        let gateways = stored.gateways.map(|text| entry(&text)).transpose();
        let gateways = gateways.map_err(|why| state::damaged(path, &why))?;
        Ok(Self { path: path.to_owned(), cluster, serial: stored.serial, exports, gateways })
    }

    /// The exports as signed, for planning.
    pub(crate) fn exports(&self) -> BTreeMap<ServiceName, Export> {
        self.exports.iter().map(|(name, entry)| (name.clone(), entry.value.clone())).collect()
    }

    /// Whose book it is.
    pub(crate) fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The gateways as signed.
    pub(crate) fn gateways(&self) -> Option<&GatewaySet> {
        self.gateways.as_ref().map(|entry| &entry.value)
    }

    /// Takes steps: signs what is new under new serials. Save the book before showing it to anybody.
    pub(crate) fn take(&mut self, ca: &ClusterCa, steps: Vec<Step>) -> Result<(), IssueError> {
        for step in steps {
            match step {
                Step::Publish { export, .. } => {
                    let Some(name) = name_of(&export) else { continue };
                    self.serial += 1;
                    let value = Export { serial: self.serial, ..export };
                    let signed = sign(ca, FactKind::Export, value.encode_to_vec())?;
                    self.exports.insert(name, Entry { signed, value });
                }
                Step::Withdraw(name) => drop(self.exports.remove(&name)),
            }
        }
        Ok(())
    }

    /// Signs the gateways if they are others than before.
    pub(crate) fn set_gateways(&mut self, ca: &ClusterCa, gateways: &[GatewayConfig]) -> Result<(), IssueError> {
        let gateway = |it: &GatewayConfig| Gateway { name: it.name.clone(), quic_address: it.quic.clone() };
        let gateways: Vec<Gateway> = gateways.iter().map(gateway).collect();
        if self.gateways.as_ref().is_some_and(|entry| entry.value.gateways == gateways) {
            return Ok(());
        }
        self.serial += 1;
        let value = GatewaySet { cluster: self.cluster.to_string(), serial: self.serial, gateways };
        let signed = sign(ca, FactKind::Gateways, value.encode_to_vec())?;
        self.gateways = Some(Entry { signed, value });
        Ok(())
    }

    /// Adopts what the hub has from this cluster and the book has not: after the book was lost, the counter goes on above
    /// the highest serial that others have seen.
    pub(crate) fn catch_up(&mut self, ca: &ClusterCa, mirror: &Mirror) {
        let Ok(bundle) = ca.bundle(0) else { return };
        let own = |key: &Key| key.cluster == self.cluster.as_str();
        let mut found: Vec<Signed> = Vec::new();
        for kind in [Kind::Gateways, Kind::Export] {
            let values = mirror.of_kind(kind).filter(|(key, _)| own(key));
            found.extend(values.filter_map(|(_, resource)| Signed::decode(resource.value.as_slice()).ok()));
        }
        for signed in found {
            // Only what this CA signed moves the counter: the hub cannot push it.
            if verify_signed(&crate::imports::parts(&signed), &bundle).is_err() {
                continue;
            }
            if let (true, Ok(value)) = (signed.kind == "export", Export::decode(signed.payload.as_slice())) {
                let Some(name) = name_of(&value).filter(|_| value.serial > self.serial) else { continue };
                self.exports.insert(name, Entry { signed, value });
            } else if let (true, Ok(value)) = (signed.kind == "gateways", GatewaySet::decode(signed.payload.as_slice()))
                && value.serial > self.serial
            {
                self.gateways = Some(Entry { signed, value });
            }
        }
        let highest = self.exports.values().map(|entry| entry.value.serial).max().unwrap_or_default();
        let gateways = self.gateways.as_ref().map(|entry| entry.value.serial).unwrap_or_default();
        self.serial = self.serial.max(highest).max(gateways);
    }

    /// What must change in the hub so that it shows the book: writes of what differs, removals of what is not in it.
    pub(crate) fn differences(&self, mirror: &Mirror) -> Vec<Operation> {
        let mut operations = Vec::new();
        if let Some(entry) = &self.gateways {
            operations.extend(self.put_if_different(Kind::Gateways, String::new(), &entry.signed, mirror));
        }
        for (name, entry) in &self.exports {
            operations.extend(self.put_if_different(Kind::Export, name.to_string(), &entry.signed, mirror));
        }
        for (key, _) in mirror.of_kind(Kind::Export) {
            let known = key.name.parse().is_ok_and(|name: ServiceName| self.exports.contains_key(&name));
            if key.cluster == self.cluster.as_str() && !known {
                operations.push(Operation { operation: Some(operation::Operation::Delete(key.clone())) });
            }
        }
        operations
    }

    fn put_if_different(&self, kind: Kind, name: String, signed: &Signed, mirror: &Mirror) -> Option<Operation> {
        let key = Key { kind: kind.into(), cluster: self.cluster.to_string(), name };
        let shown = mirror.resources.get(&(key.kind, key.cluster.clone(), key.name.clone()));
        let shown = shown.and_then(|resource| Signed::decode(resource.value.as_slice()).ok());
        if shown.is_some_and(|shown| shown.payload == signed.payload) {
            return None;
        }
        let put = Put { key: Some(key), value: signed.encode_to_vec() };
        Some(Operation { operation: Some(operation::Operation::Put(put)) })
    }

    /// Writes the book to disk. Blocking.
    pub(crate) fn save(&self) -> Result<(), StateError> {
        let text = |signed: &Signed| STANDARD.encode(signed.encode_to_vec());
        let stored = Stored {
            serial: self.serial,
            gateways: self.gateways.as_ref().map(|entry| text(&entry.signed)),
            exports: self.exports.iter().map(|(name, entry)| (name.clone(), text(&entry.signed))).collect(),
        };
        state::write(&self.path, &stored)
    }
}

/// Signs a fact with the cluster's CA.
pub(crate) fn sign(ca: &ClusterCa, kind: FactKind, payload: Vec<u8>) -> Result<Signed, IssueError> {
    let parts = ca.sign(kind.as_str(), payload)?;
    Ok(Signed { kind: parts.kind, payload: parts.payload, signature: parts.signature, signer: parts.signer })
}

fn entry<T: Message + Default>(text: &str) -> Result<Entry<T>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    let signed = Signed::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    let value = T::decode(signed.payload.as_slice()).map_err(|error| error.to_string())?;
    Ok(Entry { signed, value })
}

#[cfg(test)]
mod tests {
    use api::hub::{Resource, WatchResponse};
    use mesh::TrustDomain;

    use super::*;

    fn export(name: &str) -> Step {
        let export =
            Export { cluster: "east".into(), namespace: "default".into(), name: name.into(), ..Export::default() };
        Step::Publish { export, only_counts: false }
    }

    /// What the hub shows after the operations.
    fn shown(operations: Vec<Operation>) -> Mirror {
        let mut message = WatchResponse { revision: 5, snapshot: true, ..WatchResponse::default() };
        for operation in operations {
            if let Some(operation::Operation::Put(put)) = operation.operation {
                message.put.push(Resource { key: put.key, revision: 5, value: put.value });
            }
        }
        let mut mirror = Mirror::default();
        mirror.handle_message(message);
        mirror
    }

    #[test]
    fn serials_grow_over_restarts_and_over_a_lost_book() {
        let directory = tempfile::tempdir().expect("directory");
        let trust_domain = TrustDomain::new("east.demo").expect("valid");
        let ca = ClusterCa::create(&directory.path().join("ca"), &trust_domain).expect("a CA");
        let path = directory.path().join("exports.json");
        let east = ClusterName::new("east").expect("valid");
        let mut book = Book::load(&path, east.clone()).expect("an empty book");
        book.take(&ca, vec![export("a"), export("b")]).expect("signed");
        book.set_gateways(&ca, &[]).expect("signed");
        book.save().expect("saved");
        assert_eq!(book.exports().values().map(|export| export.serial).collect::<Vec<_>>(), [1, 2]);

        let mut restarted = Book::load(&path, east.clone()).expect("the same book");
        assert_eq!(restarted, book);
        restarted.take(&ca, vec![Step::Withdraw("default/a".parse().expect("valid")), export("b")]).expect("signed");
        assert_eq!(restarted.exports().values().map(|export| export.serial).collect::<Vec<_>>(), [4]);

        let hub = shown(restarted.differences(&Mirror::default()));
        assert!(restarted.differences(&hub).is_empty(), "the hub shows the book");
        let mut lost = Book::load(&directory.path().join("other.json"), east).expect("an empty book");
        lost.catch_up(&ca, &hub);
        assert_eq!(lost.exports(), restarted.exports());
        lost.take(&ca, vec![export("b")]).expect("signed");
        assert_eq!(lost.exports().values().map(|export| export.serial).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn the_hub_cannot_push_the_counter() {
        let directory = tempfile::tempdir().expect("directory");
        let trust_domain = TrustDomain::new("east.demo").expect("valid");
        let ca = ClusterCa::create(&directory.path().join("ca"), &trust_domain).expect("a CA");
        let other = ClusterCa::create(&directory.path().join("other"), &trust_domain).expect("a CA");
        let east = ClusterName::new("east").expect("valid");
        let mut forger = Book::load(&directory.path().join("x.json"), east.clone()).expect("empty");
        forger.serial = u64::MAX - 1;
        forger.take(&other, vec![export("a")]).expect("signed");
        let mut book = Book::load(&directory.path().join("y.json"), east).expect("empty");
        let hub = shown(forger.differences(&Mirror::default()));
        book.catch_up(&ca, &hub);
        assert_eq!(book.serial, 0);
        assert_eq!(book.differences(&hub).len(), 1, "the forged export is removed");
    }
}
