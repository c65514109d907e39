//! Splits a YAML stream into its documents without parsing them, so that one broken document does not hide the
//! mistakes of the others. `---` and `...` at the beginning of a line mean nothing else anywhere in YAML.

/// One document of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// From 1, counting empty ones.
    pub(super) number: usize,
    /// The line of the text, from 1, at which `text` begins.
    pub(super) line: usize,
    /// Its text without the marker.
    pub(super) text: &'a str,
}

/// All documents that have any content.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut number, mut start, mut start_line, mut offset) = (1, 0, 1, 0);
    // A marker begins the first document, or the one after `...`, instead of ending an empty one.
    let mut fresh = true;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if let Some(rest) = marker(line) {
            if push(&mut documents, number, start_line, &text[start..offset]) || !fresh {
                number += 1;
            }
            fresh = line.starts_with("...");
            start = offset + (line.len() - rest.len());
            start_line = index + 1;
        }
        offset += line.len();
    }
    push(&mut documents, number, start_line, &text[start..]);
    documents
}

/// What follows a marker on its line.
fn marker(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."))?;
    rest.starts_with(['\n', '\r', ' ', '\t']).then_some(rest).or_else(|| rest.is_empty().then_some(rest))
}

fn push<'a>(documents: &mut Vec<Document<'a>>, number: usize, line: usize, text: &'a str) -> bool {
    let content = |line: &str| !line.trim_start().is_empty() && !line.trim_start().starts_with(['#', '%']);
    let found = text.lines().any(content);
    if found {
        documents.push(Document { number, line, text });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<(usize, usize)> {
        split(text).iter().map(|document| (document.number, document.line)).collect()
    }

    #[test]
    fn documents_are_counted_as_their_author_counts_them() {
        assert_eq!(numbers("a: 1\n"), [(1, 1)]);
        assert_eq!(numbers("---\na: 1\n---\nb: 1\n"), [(1, 1), (2, 3)]);
        assert_eq!(numbers("# head\n---\na: 1\n"), [(1, 2)]);
        assert_eq!(numbers("a: 1\n---\n# nothing\n---\nb: 1"), [(1, 1), (3, 4)]);
        assert_eq!(numbers("a: 1\n...\n---\nb: 1"), [(1, 1), (2, 3)]);
        assert_eq!(numbers("a: |\n  ---\n  x\n"), [(1, 1)]);
        assert_eq!(numbers(""), []);
    }
}
