//! What all kinds have in common: who an object is, and how old.

use std::collections::BTreeSet;

use federation_crds::Kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh::{Namespace, ObjectRef, Visibility};

use crate::analyze::codes;
use crate::finding::{Code, Finding, Severity};

/// The object as findings and origins name it.
pub(crate) fn reference(kind: Kind, metadata: &ObjectMeta) -> ObjectRef {
    ObjectRef {
        kind: kind.as_str().to_owned(),
        namespace: namespace(metadata).to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

/// Its namespace.
pub(crate) fn namespace(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or("default")
}

/// Sorts the oldest first, then by namespace and name; objects without a creation time are the youngest.
pub(crate) fn age(metadata: &ObjectMeta) -> (i64, &str, &str) {
    let created = metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
    (created, namespace(metadata), metadata.name.as_deref().unwrap_or_default())
}

/// A finding about a field of an object, as bad as its code says.
pub(crate) fn finding(object: &ObjectRef, path: impl Into<String>, code: Code, message: impl Into<String>) -> Finding {
    Finding {
        object: object.clone(),
        path: path.into(),
        code,
        severity: codes::info(code).map_or(Severity::Error, |info| info.severity),
        message: message.into(),
        hint: String::new(),
    }
}

impl Finding {
    /// With the advice what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// `exportTo`; absent means everyone.
pub(crate) fn visibility(export_to: &[String], own: &Namespace) -> Visibility {
    if export_to.is_empty() || export_to.iter().any(|name| name == "*") {
        return Visibility::Everywhere;
    }
    let named = export_to.iter().filter_map(|name| match name.as_str() {
        "." => Some(own.clone()),
        "~" => None,
        name => Namespace::new(name).ok(),
    });
    Visibility::Namespaces(named.collect::<BTreeSet<_>>())
}
