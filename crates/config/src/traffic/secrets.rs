//! Secrets that clients originate TLS with.

use std::collections::BTreeSet;
use std::sync::Arc;

use federation_crds::Manifest;
use mesh::Secret;

use crate::compile::{Compiled, Input, SharedSecret};

/// Lets workloads have the Secret `<namespace>/<name>`; one that does not exist was noted where it is named.
pub(super) fn share(
    input: &Input<'_>,
    namespace: &str,
    name: &str,
    readers: BTreeSet<String>,
    compiled: &mut Compiled,
) {
    let key = format!("{namespace}/{name}");
    if let Some(shared) = compiled.secrets.get_mut(&key) {
        return shared.readers.extend(readers);
    }
    let found = input.manifests.iter().find_map(|manifest| match manifest {
        Manifest::Secret(secret) => Some(secret).filter(|secret| {
            secret.metadata.namespace.as_deref() == Some(namespace) && secret.metadata.name.as_deref() == Some(name)
        }),
        _ => None,
    });
    let Some(found) = found else { return };
    // Istio reads the keys of `kubectl create secret tls`, and those of generic Secrets.
    let value = |names: [&str; 2]| {
        let data = found.data.as_ref();
        let bytes = names.iter().find_map(|name| data.and_then(|data| data.get(*name)).map(|bytes| bytes.0.clone()));
        let text = || names.iter().find_map(|name| found.string_data.as_ref().and_then(|data| data.get(*name)));
        bytes.or_else(|| text().map(|text| text.clone().into_bytes())).unwrap_or_default()
    };
    let secret = Secret {
        name: key.clone(),
        certificate: value(["tls.crt", "cert"]),
        private_key: value(["tls.key", "key"]),
        ca: value(["ca.crt", "cacert"]),
        crl: value(["ca.crl", "crl"]),
    };
    compiled.secrets.insert(key, SharedSecret { secret: Arc::new(secret), readers });
}
