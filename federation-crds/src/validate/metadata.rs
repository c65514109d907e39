//! Metadata: names, namespaces, labels and annotations.

use std::collections::BTreeMap;

use super::rules;
use crate::error::FieldErrors;
use crate::manifest::{Kind, Manifest};

/// The size that all annotations of an object may have together, in bytes (Kubernetes).
const ANNOTATIONS_MAX: usize = 256 * 1024;

pub(super) fn check(manifest: &Manifest, errors: &mut FieldErrors) {
    let metadata = manifest.metadata();
    match metadata.name.as_deref() {
        None | Some("") => {
            let hint = if metadata.generate_name.is_some() { "generateName has no meaning in a file" } else { "" };
            errors.add_with_hint("metadata.name", "is required", hint);
        }
        Some(name) => errors.check(
            "metadata.name",
            match manifest.kind() {
                // Exports and imports are matched to Services by their names.
                Kind::Service | Kind::ServiceExport | Kind::ServiceImport => rules::label_1035(name),
                Kind::EndpointSlice => rules::subdomain(name),
            },
        ),
    }
    if let Some(namespace) = &metadata.namespace {
        errors.check("metadata.namespace", rules::label(namespace));
    }
    if let Some(labels) = &metadata.labels {
        check_labels(labels, "metadata.labels", errors);
    }
    if let Some(annotations) = &metadata.annotations {
        check_annotations(annotations, "metadata.annotations", errors);
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
        errors.add(path, format!("have {size} bytes together, at most {ANNOTATIONS_MAX} are allowed"));
    }
}
