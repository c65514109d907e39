//! What becomes of each field of each kind. The tables in `support/` are the source; docs/config/support.md is made from
//! them and from the schemas, and a field that no line covers fails a test.

use federation_crds::{Kind, fields};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It is in force.
    Yes,
    /// It is in force, with a finding that names what replaces it.
    Deprecated,
    /// It is accepted, and a finding says that it has no effect.
    NoEffect,
    /// The object is refused, with a hint.
    Refused,
}

impl Support {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "yes" => Self::Yes,
            "deprecated" => Self::Deprecated,
            "no effect" => Self::NoEffect,
            "refused" => Self::Refused,
            _ => return None,
        })
    }

    /// As the table says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "implemented",
            Self::Deprecated => "implemented, deprecated",
            Self::NoEffect => "accepted, no effect (finding)",
            Self::Refused => "refused",
        }
    }
}

/// One line of the support table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The field, such as `spec.http[].match[].uri`.
    pub field: String,
    /// What becomes of it.
    pub support: Support,
    /// What there is to say about it.
    pub note: String,
}

/// A line of a table, expanded.
enum Line {
    Field(Row),
    /// Everything below the first is as it is below the second.
    As(String, String),
}

/// The table of a kind; empty for kinds of Kubernetes.
fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::VirtualService => include_str!("support/VirtualService.txt"),
        Kind::DestinationRule => include_str!("support/DestinationRule.txt"),
        Kind::Gateway => include_str!("support/Gateway.txt"),
        Kind::ServiceEntry => include_str!("support/ServiceEntry.txt"),
        Kind::WorkloadEntry => include_str!("support/WorkloadEntry.txt"),
        Kind::Sidecar => include_str!("support/Sidecar.txt"),
        Kind::PeerAuthentication => include_str!("support/PeerAuthentication.txt"),
        Kind::RequestAuthentication => include_str!("support/RequestAuthentication.txt"),
        Kind::AuthorizationPolicy => include_str!("support/AuthorizationPolicy.txt"),
        Kind::RateLimitPolicy => include_str!("support/RateLimitPolicy.txt"),
        Kind::ClusterTrafficPolicy => include_str!("support/ClusterTrafficPolicy.txt"),
        _ => "",
    }
}

/// The kinds that the table is about.
pub fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| !table(*kind).is_empty())
}

/// The rows of a kind, in the table's order. `Err` names lines that say nothing understandable, fields of the schema that
/// no line covers, and lines about fields that do not exist.
pub fn rows(kind: Kind) -> Result<Vec<Row>, Vec<String>> {
    let mut wrong = Vec::new();
    let mut lines = Vec::new();
    for text in table(kind).lines().filter(|line| !line.trim().is_empty()) {
        match parse(text) {
            Some(parsed) => lines.extend(parsed),
            None => wrong.push(format!("{kind}: {text:?} is no line of the table")),
        }
    }
    let schema = fields(kind);
    let covered = |field: &str| lines.iter().any(|line| line.covers(field, &lines));
    wrong.extend(
        schema.iter().filter(|field| !covered(field)).map(|field| format!("{kind}: {field} is not in the table")),
    );
    let exists = |path: &str| schema.iter().any(|field| field == path || below(field, path).is_some());
    let mut rows = Vec::new();
    for line in lines {
        let row = line.into_row();
        if !exists(&row.field) {
            wrong.push(format!("{kind}: {} is not in the schema", row.field));
        }
        rows.push(row);
    }
    if wrong.is_empty() { Ok(rows) } else { Err(wrong) }
}

/// What follows `path` in `field`, if the field is below it.
fn below<'a>(field: &'a str, path: &str) -> Option<&'a str> {
    field.strip_prefix(path).filter(|rest| rest.starts_with(['.', '[', '{']))
}

impl Line {
    fn covers(&self, field: &str, all: &[Self]) -> bool {
        match self {
            // What has no effect as a whole has none in parts.
            Self::Field(row) => {
                row.field == field || (row.support == Support::NoEffect && below(field, &row.field).is_some())
            }
            Self::As(path, base) => below(field, path).is_some_and(|rest| {
                // What it stands for is shorter, so this ends.
                let same = format!("{base}{rest}");
                all.iter().any(|line| line.covers(&same, all))
            }),
        }
    }

    fn into_row(self) -> Row {
        match self {
            Self::Field(row) => row,
            Self::As(field, base) => Row { field, support: Support::Yes, note: format!("as {base}") },
        }
    }
}

/// `path: word; note` or `path: as path`; `{a,b}` in a path is each of them.
fn parse(text: &str) -> Option<Vec<Line>> {
    let (path, rest) = text.split_once(": ")?;
    if let Some(base) = rest.strip_prefix("as ") {
        return Some(vec![Line::As(path.to_owned(), base.to_owned())]);
    }
    let (word, note) = rest.split_once("; ").unwrap_or((rest, ""));
    let support = Support::parse(word)?;
    let row = |field| Line::Field(Row { field, support, note: note.to_owned() });
    Some(expand(path).into_iter().map(row).collect())
}

/// Every path that a path with lists in braces stands for. Empty braces are the keys of a map.
fn expand(path: &str) -> Vec<String> {
    let open = path.match_indices('{').map(|(at, _)| at).find(|at| !path[*at..].starts_with("{}"));
    let Some(open) = open else { return vec![path.to_owned()] };
    let Some(length) = closing(&path[open..]) else { return vec![path.to_owned()] };
    let (before, list, after) = (&path[..open], &path[open + 1..open + length], &path[open + length + 1..]);
    let choices = list.split(',').map(|choice| format!("{before}{choice}{after}"));
    choices.flat_map(|path| expand(&path)).collect()
}

/// Where the list that begins the text ends; maps inside it are not its end.
fn closing(text: &str) -> Option<usize> {
    text.char_indices().skip(1).find(|(at, c)| *c == '}' && !text[..*at].ends_with('{')).map(|(at, _)| at)
}

/// docs/config/support.md.
pub fn document() -> Result<String, Vec<String>> {
    let mut text = String::from(
        "# What becomes of each field\n\nMade from `crates/config/src/support` and the schemas; a test fails when a field is missing here or when this page \
         is out of date\n(`ISTHMUS_WRITE_DOCS=1 cargo test -p isthmus-config --test docs` writes it anew). A field that is not listed does not \
         exist: an object with it is refused.\n\n`[]` is each element of a list, `{}` each key of a map. Texts that are compared (`exact`, `prefix`, \
         `regex`) are one field.\n",
    );
    for kind in kinds() {
        text.push_str(&format!("\n## {kind}\n\n| field | | |\n|---|---|---|\n"));
        for row in rows(kind)? {
            text.push_str(&format!("| `{}` | {} | {} |\n", row.field, row.support.as_str(), row.note));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_braces_stand_for_each_of_them() {
        assert_eq!(expand("a.{b{},c[]}.{d,e}"), ["a.b{}.d", "a.b{}.e", "a.c[].d", "a.c[].e"]);
        assert_eq!(expand("a{}"), ["a{}"]);
    }

    #[test]
    fn every_field_of_every_schema_is_in_the_table() {
        let wrong: Vec<String> = kinds().filter_map(|kind| rows(kind).err()).flatten().collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
