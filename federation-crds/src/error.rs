//! What is wrong with a manifest, said so that its author can find and mend it.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// Where the text came from, such as a file name.
    pub origin: String,
    /// Which document of the text, from 1; 0 = the text as a whole.
    pub document: usize,
    /// The line of the text: of the mistake if the parser knows it, else of the document's beginning.
    pub line: usize,
    /// `Service default/web` as far as it could be read; empty if nothing could.
    pub object: String,
    /// The field, such as `spec.ports[0].port`; empty for the object as a whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; never empty.
    pub hint: String,
}

/// `file.yaml:12 (document 2): Service default/web: spec.ports[0].port: must be 1 to 65535`, and the hint below.
impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        if self.document > 0 {
            write!(f, ":{} (document {})", self.line, self.document)?;
        }
        for part in [&self.object, &self.path].into_iter().filter(|part| !part.is_empty()) {
            write!(f, ": {part}")?;
        }
        write!(f, ": {}\n  hint: {}", self.message, self.hint)
    }
}

/// Everything that is wrong with a text; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestErrors(pub Vec<ManifestError>);

/// One error after the other, each on its own line.
impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}

/// A mistake at a field, before it is known where the object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) path: String,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// What is wrong with a value, wherever it stands, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Mistake {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        let (message, hint) = (message.into(), hint.into());
        debug_assert!(!hint.is_empty(), "{message}: there is no hint");
        Self { message, hint }
    }
}

/// Collects the mistakes of one object.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(pub(crate) Vec<FieldError>);

impl FieldErrors {
    /// Notes what is wrong with a field, and what to write instead: there is no mistake without advice.
    pub(crate) fn add(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.note(path, Mistake::new(message, hint));
    }

    /// Notes the mistake of a field.
    pub(crate) fn note(&mut self, path: impl Into<String>, mistake: Mistake) {
        self.0.push(FieldError { path: path.into(), message: mistake.message, hint: mistake.hint });
    }

    /// Notes a rule that a value breaks.
    pub(crate) fn check(&mut self, path: impl Into<String>, result: Result<(), Mistake>) {
        if let Err(mistake) = result {
            self.note(path, mistake);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
