//! Collects findings: what is said about an object, with the severity that its code has.

use federation_crds::{Manifest, ManifestKey};
use mesh::ObjectRef;

use super::codes;
use crate::finding::{Code, Finding, Severity};

/// Everything that was found so far.
#[derive(Debug, Default)]
pub(super) struct Found(pub(super) Vec<Finding>);

/// What is said about one field.
pub(super) struct Said<'a> {
    /// The field; empty for the object as a whole.
    pub(super) path: &'a str,
    /// What is wrong.
    pub(super) message: String,
    /// What to do.
    pub(super) hint: &'a str,
}

impl Found {
    pub(super) fn note(&mut self, object: ObjectRef, code: Code, said: Said<'_>) {
        let severity = codes::info(code).map_or(Severity::Warning, |info| info.severity);
        let (path, message, hint) = (said.path.to_owned(), said.message, said.hint.to_owned());
        self.0.push(Finding { object, path, code, severity, message, hint });
    }

    pub(super) fn about(&mut self, manifest: &Manifest, code: Code, said: Said<'_>) {
        self.note(object_ref(&manifest.key()), code, said);
    }
}

/// The object as decisions and findings name it.
pub(super) fn object_ref(key: &ManifestKey) -> ObjectRef {
    ObjectRef { kind: key.kind.to_string(), namespace: key.namespace.clone(), name: key.name.clone() }
}
