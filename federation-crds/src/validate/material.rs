//! Secrets with TLS material. All other Secrets are users' own and may be of any shape.

use k8s_openapi::api::core::v1::Secret;

use crate::error::FieldErrors;
use crate::pem;

/// The type whose keys an apiserver requires.
const TLS_TYPE: &str = "kubernetes.io/tls";

pub(super) fn check(secret: &Secret, errors: &mut FieldErrors) {
    if secret.type_.as_deref() != Some(TLS_TYPE) {
        return;
    }
    for (name, rule) in
        [("tls.crt", pem::certificates as fn(&[u8]) -> Result<(), String>), ("tls.key", pem::private_key)]
    {
        match value(secret, name) {
            None => errors.add(format!("data[{name:?}]"), format!("is required when the type is {TLS_TYPE}")),
            Some(value) => errors.check(format!("data[{name:?}]"), rule(&value)),
        }
    }
    if let Some(roots) = value(secret, "ca.crt").filter(|roots| !roots.is_empty()) {
        errors.check("data[\"ca.crt\"]", pem::certificates(&roots));
    }
    if let Some(list) = value(secret, "ca.crl").filter(|list| !list.is_empty()) {
        errors.check("data[\"ca.crl\"]", pem::revocation_lists(&list));
    }
}

/// `stringData` wins over `data`, as when an apiserver stores it.
fn value(secret: &Secret, name: &str) -> Option<Vec<u8>> {
    let text = secret.string_data.as_ref().and_then(|values| values.get(name)).map(|text| text.clone().into_bytes());
    text.or_else(|| Some(secret.data.as_ref()?.get(name)?.0.clone()))
}
