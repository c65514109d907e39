//! What is wrong with a text, each mistake with advice.

use federation_crds::{ManifestError, parse_manifests};

/// The errors of a text; none if it is valid. Each must say what to write instead, and not with the words of its message.
pub(crate) fn errors(text: &str, origin: &str) -> Vec<ManifestError> {
    let errors = parse_manifests(text, origin).err().map_or_else(Vec::new, |errors| errors.0);
    for error in &errors {
        assert!(!error.hint.trim().is_empty(), "without a hint: {error}\n{text}");
        assert!(!error.message.contains(&error.hint), "the hint says what the message says: {error}\n{text}");
    }
    errors
}

/// The errors of a text as `path: message`.
pub(crate) fn messages(text: &str) -> Vec<String> {
    errors(text, "test.yaml").iter().map(|error| format!("{}: {}", error.path, error.message)).collect()
}
