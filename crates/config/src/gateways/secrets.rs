//! Secrets with TLS material, and the workloads that may have them.

use std::collections::BTreeSet;
use std::sync::Arc;

use federation_crds::{Manifest, Secret, pem};

use crate::analyze::codes;
use crate::compile::{Compiled, Input, SharedSecret};
use crate::finding::Code;
use crate::object;

/// What a Secret is named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A certificate and its key.
    Pair,
    /// Roots.
    Roots,
}

/// The reader that is a workload as a gateway: a sidecar that a Gateway's selector fits as well gets none of its Secrets.
/// Istio, too, gives Gateways to gateways only. The name is the node id that gateways have in discovery.
pub(super) fn edge(workload: &str) -> String {
    format!("edge~{workload}")
}

/// Hands a Secret, by `<namespace>/<name>`, to the proxy of a workload, by `<namespace>/<pod>`; `false` if there is no
/// such Secret.
pub fn share_secret(input: &Input<'_>, key: &str, reader: &str, compiled: &mut Compiled) -> bool {
    if !compiled.secrets.contains_key(key) {
        let Some(secret) = find(input, key) else { return false };
        let shared = SharedSecret { secret: Arc::new(material(key, secret)), readers: BTreeSet::new() };
        compiled.secrets.insert(key.to_owned(), shared);
    }
    if let Some(shared) = compiled.secrets.get_mut(key) {
        shared.readers.insert(reader.to_owned());
    }
    true
}

/// As [`share_secret`]; returns what is wrong.
pub(super) fn share(
    input: &Input<'_>,
    key: &str,
    reader: &str,
    need: Need,
    compiled: &mut Compiled,
) -> Option<(Code, String)> {
    if !share_secret(input, key, reader, compiled) {
        return Some((codes::REFERENCED_RESOURCE_NOT_FOUND, format!("there is no Secret {key}")));
    }
    let secret = &compiled.secrets.get(key)?.secret;
    let wrong = match need {
        Need::Pair => {
            let certificate = shape("tls.crt", &secret.certificate, pem::certificates);
            certificate.or_else(|| shape("tls.key", &secret.private_key, pem::private_key))
        }
        Need::Roots => shape("ca.crt", &secret.ca, pem::certificates),
    };
    wrong.map(|wrong| (codes::INVALID_CREDENTIAL, format!("Secret {key} {wrong}")))
}

/// What is wrong with a value at first sight.
fn shape(name: &str, value: &[u8], rule: impl Fn(&[u8]) -> Result<(), String>) -> Option<String> {
    if value.is_empty() {
        return Some(format!("has no {name}"));
    }
    rule(value).err().map(|why| format!("has a {name} that {why}"))
}

pub(super) fn exists(input: &Input<'_>, key: &str) -> bool {
    find(input, key).is_some()
}

fn find<'a>(input: &Input<'a>, key: &str) -> Option<&'a Secret> {
    let (namespace, name) = key.split_once('/')?;
    input.manifests.iter().find_map(|manifest| match manifest {
        Manifest::Secret(secret) => {
            let metadata = &secret.metadata;
            let own = object::namespace(metadata) == namespace && metadata.name.as_deref() == Some(name);
            own.then_some(secret.as_ref())
        }
        _ => None,
    })
}

/// Kubernetes' names (`tls.crt` …) or Istio's generic ones (`cert` …).
fn material(key: &str, secret: &Secret) -> mesh::Secret {
    let first = |names: [&str; 2]| names.into_iter().find_map(|name| value(secret, name)).unwrap_or_default();
    mesh::Secret {
        name: key.to_owned(),
        certificate: first(["tls.crt", "cert"]),
        private_key: first(["tls.key", "key"]),
        ca: first(["ca.crt", "cacert"]),
        crl: first(["ca.crl", "crl"]),
    }
}

/// `stringData` wins over `data`, as when an apiserver stores it.
fn value(secret: &Secret, name: &str) -> Option<Vec<u8>> {
    let text = secret.string_data.as_ref().and_then(|values| values.get(name)).map(|text| text.clone().into_bytes());
    let value = text.or_else(|| Some(secret.data.as_ref()?.get(name)?.0.clone()));
    value.filter(|value| !value.is_empty())
}
