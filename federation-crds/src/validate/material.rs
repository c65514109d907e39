//! Secrets with TLS material. All other Secrets are users' own and may be of any shape.

use k8s_openapi::api::core::v1::Secret;

use super::rules::Rule;
use crate::error::{FieldErrors, Mistake};
use crate::pem;

/// The type whose keys an apiserver requires.
const TLS_TYPE: &str = "kubernetes.io/tls";

/// A rule of [`pem`].
type PemRule = fn(&[u8]) -> Result<(), String>;

const CHAIN: &str = "put the certificates there in PEM, the server's own first, as openssl x509 -in <file> writes one";
const KEY: &str = "put one key without a password there in PEM, as openssl pkey -in <file> writes it";
const ROOTS: &str = "put the certificates of the authorities there in PEM, as openssl x509 -in <file> writes one";
const LISTS: &str = "put the lists there in PEM, as openssl crl -in <file> writes one";

pub(super) fn check(secret: &Secret, errors: &mut FieldErrors) {
    if secret.type_.as_deref() != Some(TLS_TYPE) {
        return;
    }
    for (name, hint, rule) in [("tls.crt", CHAIN, pem::certificates as PemRule), ("tls.key", KEY, pem::private_key)] {
        match value(secret, name) {
            None => {
                let message = format!("is required when the type is {TLS_TYPE}");
                errors.add(format!("data[{name:?}]"), message, hint);
            }
            Some(value) => errors.check(format!("data[{name:?}]"), checked(rule, &value, hint)),
        }
    }
    if let Some(roots) = value(secret, "ca.crt").filter(|roots| !roots.is_empty()) {
        errors.check("data[\"ca.crt\"]", checked(pem::certificates, &roots, ROOTS));
    }
    if let Some(list) = value(secret, "ca.crl").filter(|list| !list.is_empty()) {
        errors.check("data[\"ca.crl\"]", checked(pem::revocation_lists, &list, LISTS));
    }
}

fn checked(rule: PemRule, value: &[u8], hint: &str) -> Rule {
    rule(value).map_err(|message| Mistake::new(message, hint))
}

/// `stringData` wins over `data`, as when an apiserver stores it.
fn value(secret: &Secret, name: &str) -> Option<Vec<u8>> {
    let text = secret.string_data.as_ref().and_then(|values| values.get(name)).map(|text| text.clone().into_bytes());
    text.or_else(|| Some(secret.data.as_ref()?.get(name)?.0.clone()))
}
