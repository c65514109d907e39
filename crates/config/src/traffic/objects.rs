//! What all objects share: who they are, how old they are, who sees them, and what is found about them.

use std::sync::Arc;

use federation_crds::{Kind, Manifest};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh::{Namespace, ObjectRef, Visibility};

use crate::analyze::codes;
use crate::finding::{Code, Finding, Severity};

pub(super) use crate::object::visibility;

/// The metadata that compilation needs of an object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) reference: Arc<ObjectRef>,
    pub(super) namespace: Namespace,
    /// Unix seconds; objects that do not say are the youngest.
    created: i64,
}

impl Object {
    /// `None` when the namespace cannot be one, which validation refuses.
    pub(super) fn of(kind: Kind, metadata: &ObjectMeta) -> Option<Self> {
        let namespace = Namespace::new(metadata.namespace.as_deref().unwrap_or("default")).ok()?;
        let reference = Arc::new(ObjectRef {
            kind: kind.as_str().to_owned(),
            namespace: namespace.to_string(),
            name: metadata.name.clone().unwrap_or_default(),
        });
        let created = metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
        Some(Self { reference, namespace, created })
    }

    /// Istio's order: oldest first, then by namespace and name.
    pub(super) fn age(&self) -> (i64, &str, &str) {
        (self.created, &self.reference.namespace, &self.reference.name)
    }
}

/// The objects of one kind in Istio's order.
pub(super) fn in_order<'a, T>(
    manifests: &'a [Manifest],
    pick: impl Fn(&'a Manifest) -> Option<&'a T>,
) -> Vec<(Object, &'a T)> {
    let mut found: Vec<_> = manifests
        .iter()
        .filter_map(|manifest| Some((Object::of(manifest.kind(), manifest.metadata())?, pick(manifest)?)))
        .collect();
    found.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
    found
}

/// Whether some namespace sees both.
pub(super) fn overlap(a: &Visibility, b: &Visibility) -> bool {
    match (a, b) {
        (Visibility::Namespaces(a), Visibility::Namespaces(b)) => !a.is_disjoint(b),
        (Visibility::Namespaces(some), _) | (_, Visibility::Namespaces(some)) => !some.is_empty(),
        _ => true,
    }
}

/// Collects what is found about one object.
pub(super) struct Notes<'a> {
    pub(super) object: Arc<ObjectRef>,
    pub(super) findings: &'a mut Vec<Finding>,
}

impl Notes<'_> {
    /// Notes a finding; its severity is its code's.
    pub(super) fn add(
        &mut self,
        code: Code,
        path: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.findings.push(Finding {
            object: ObjectRef::clone(&self.object),
            path: path.into(),
            code,
            severity: codes::info(code).map_or(Severity::Warning, |info| info.severity),
            message: message.into(),
            hint: hint.into(),
        });
    }

    /// A value that validation lets through and the model does not take. It has no effect.
    pub(super) fn not_compiled(&mut self, path: impl Into<String>, why: impl std::fmt::Display) {
        self.add(codes::NOT_COMPILED, path, why.to_string(), "correct the field; until then it has no effect");
    }
}
