//! Metadata: names, namespaces, labels and annotations.

use std::collections::BTreeMap;

use super::rules;
use crate::error::FieldErrors;
use crate::manifest::{Kind, Manifest};
use crate::suggest;
use crate::{
    EXPORT_TO_ANNOTATION, GLOBAL_LABEL, LOCALITY_ANNOTATION, MESHED_ANNOTATION, MTLS_ANNOTATION, POD_LABELS_ANNOTATION,
    SERVICE_ACCOUNT_ANNOTATION, UNMESHED_ACCOUNT_ANNOTATION, UNMESHED_ANNOTATION,
};

/// What our own labels and annotations begin with.
const OWN_PREFIX: &str = "isthmus.dev/";

/// The size that all annotations of an object may have together, in bytes (Kubernetes).
const ANNOTATIONS_MAX: usize = 256 * 1024;

pub(super) fn check(manifest: &Manifest, errors: &mut FieldErrors) {
    let metadata = manifest.metadata();
    match metadata.name.as_deref() {
        None | Some("") => {
            let hint = match metadata.generate_name {
                Some(_) => "write metadata.name: generateName has no meaning in a file",
                None => "write metadata: {name: …}",
            };
            errors.add("metadata.name", "is required", hint);
        }
        Some(name) => errors.check(
            "metadata.name",
            match manifest.kind() {
                // Exports and imports are matched to Services by their names.
                Kind::Service | Kind::ServiceExport | Kind::ServiceImport => rules::label_1035(name),
                _ => rules::subdomain(name),
            },
        ),
    }
    if let Some(namespace) = &metadata.namespace {
        errors.check("metadata.namespace", rules::label(namespace));
    }
    if let Some(labels) = &metadata.labels {
        check_labels(labels, "metadata.labels", errors);
        check_own(labels, "metadata.labels", own_labels(manifest.kind()), errors);
    }
    if let Some(annotations) = &metadata.annotations {
        check_annotations(annotations, "metadata.annotations", errors);
        check_own(annotations, "metadata.annotations", own_annotations(manifest.kind()), errors);
    }
}

fn own_labels(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Service => &[GLOBAL_LABEL],
        _ => &[],
    }
}

fn own_annotations(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::EndpointSlice => &[
            MESHED_ANNOTATION,
            SERVICE_ACCOUNT_ANNOTATION,
            POD_LABELS_ANNOTATION,
            MTLS_ANNOTATION,
            LOCALITY_ANNOTATION,
        ],
        Kind::ServiceExport => &[EXPORT_TO_ANNOTATION, UNMESHED_ANNOTATION, UNMESHED_ACCOUNT_ANNOTATION],
        _ => &[],
    }
}

/// A name with our prefix that means nothing is a slip: ignored, it would leave a default in force that nobody wanted.
fn check_own(names: &BTreeMap<String, String>, path: &str, known: &[&str], errors: &mut FieldErrors) {
    let unknown = names.keys().filter(|name| name.starts_with(OWN_PREFIX) && !known.contains(&name.as_str()));
    for name in unknown {
        let hint = suggest::hint(name, known.iter().copied());
        errors.add(format!("{path}[{name:?}]"), "means nothing here", &hint);
    }
}

/// Keys and values of labels, or of a selector.
pub(super) fn check_labels(labels: &BTreeMap<String, String>, path: &str, errors: &mut FieldErrors) {
    for (key, value) in labels {
        errors.check(format!("{path}[{key:?}]"), rules::qualified_name(key));
        errors.check(format!("{path}[{key:?}]"), rules::label_value(value));
    }
}

/// Keys of annotations and their size; their values are free.
pub(super) fn check_annotations(annotations: &BTreeMap<String, String>, path: &str, errors: &mut FieldErrors) {
    for key in annotations.keys() {
        errors.check(format!("{path}[{key:?}]"), rules::qualified_name(&key.to_lowercase()));
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > ANNOTATIONS_MAX {
        errors.add(
            path,
            format!("have {size} bytes together, at most {ANNOTATIONS_MAX} are allowed"),
            "move what is large into a ConfigMap",
        );
    }
}
