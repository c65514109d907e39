//! Walks an untyped value and collects what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;

use mesh::NameError;
use serde_json::{Map, Value};

/// One mistake in a fleet file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `clusters[0].workloads[1].replicas`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
    /// How to mend it.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    hint: {}", self.field, self.message, self.hint)
    }
}

/// One mapping of the file, with the place where it stands.
pub(super) struct Reader<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Reader<'a> {
    /// Opens a mapping and reports the fields that it must not have.
    pub(super) fn open(
        path: &str,
        value: &'a Value,
        allowed: &[&str],
        problems: &mut Vec<Problem>,
    ) -> Option<Reader<'a>> {
        let Some(map) = value.as_object() else {
            let place = if path.is_empty() { "(the file)" } else { path };
            let hint = format!("write the fields {}", allowed.join(", "));
            report(problems, place, format!("expected fields, found {}", kind(value)), hint);
            return None;
        };
        let reader = Reader { path: path.to_owned(), map };
        for name in map.keys().filter(|name| !allowed.contains(&name.as_str())) {
            let hint = match nearest(name, allowed) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the fields here are {}", allowed.join(", ")),
            };
            report(problems, &reader.at(name), "unknown field".to_owned(), hint);
        }
        Some(reader)
    }

    /// The full path of a field of this mapping.
    pub(super) fn at(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// The raw value of a field; `null` counts as absent.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// Reports that a field is missing.
    pub(super) fn missing(&self, field: &str, hint: &str, problems: &mut Vec<Problem>) {
        report(problems, &self.at(field), "the field is required".to_owned(), hint.to_owned());
    }

    /// A text; numbers and booleans are refused with the advice to quote them.
    pub(super) fn text(&self, field: &str, problems: &mut Vec<Problem>) -> Option<String> {
        let value = self.get(field)?;
        text(&self.at(field), value, problems)
    }

    /// A whole number between two bounds.
    pub(super) fn number(&self, field: &str, (low, high): (u64, u64), problems: &mut Vec<Problem>) -> Option<u64> {
        let value = self.get(field)?;
        match value.as_u64() {
            Some(number) if (low..=high).contains(&number) => Some(number),
            _ => {
                let found = if value.is_number() { value.to_string() } else { kind(value).to_owned() };
                let hint = format!("write a whole number from {low} to {high}");
                report(
                    problems,
                    &self.at(field),
                    format!("expected a number from {low} to {high}, found {found}"),
                    hint,
                );
                None
            }
        }
    }

    /// True or false.
    pub(super) fn flag(&self, field: &str, problems: &mut Vec<Problem>) -> Option<bool> {
        let value = self.get(field)?;
        if value.as_bool().is_none() {
            let message = format!("expected true or false, found {}", kind(value));
            report(problems, &self.at(field), message, "write true or false without quotes".to_owned());
        }
        value.as_bool()
    }

    /// A list; absent is empty.
    pub(super) fn list(&self, field: &str, problems: &mut Vec<Problem>) -> Vec<(String, &'a Value)> {
        let Some(value) = self.get(field) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            let message = format!("expected a list, found {}", kind(value));
            report(problems, &self.at(field), message, "begin each item with `- `".to_owned());
            return Vec::new();
        };
        items.iter().enumerate().map(|(index, item)| (format!("{}[{index}]", self.at(field)), item)).collect()
    }

    /// A mapping of texts.
    pub(super) fn texts(&self, field: &str, problems: &mut Vec<Problem>) -> Option<BTreeMap<String, String>> {
        let value = self.get(field)?;
        let Some(map) = value.as_object() else {
            let message = format!("expected key: value pairs, found {}", kind(value));
            report(problems, &self.at(field), message, "for example {app: web, version: v1}".to_owned());
            return None;
        };
        let pair = |(key, value): (&String, &Value)| {
            Some((key.clone(), text(&format!("{}.{key}", self.at(field)), value, problems)?))
        };
        Some(map.iter().filter_map(pair).collect())
    }
}

/// A text at a path.
pub(super) fn text(path: &str, value: &Value, problems: &mut Vec<Problem>) -> Option<String> {
    if !value.is_string() {
        let message = format!("expected text, found {}", kind(value));
        report(problems, path, message, "put quotes around it if it is meant as text".to_owned());
    }
    value.as_str().map(str::to_owned)
}

/// Turns a refused name into a problem of its field.
pub(super) fn name<T>(path: &str, parsed: Result<T, NameError>, problems: &mut Vec<Problem>) -> Option<T> {
    parsed
        .map_err(|error| {
            let message = format!("{} {:?} is not valid", error.what, error.value);
            report(problems, path, message, error.why.to_owned());
        })
        .ok()
}

/// Records one problem.
pub(super) fn report(problems: &mut Vec<Problem>, field: &str, message: String, hint: String) {
    problems.push(Problem { field: field.to_owned(), message, hint });
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// The allowed name that is at most two edits away.
fn nearest<'a>(name: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let near = |candidate: &&&str| distance(&name.to_lowercase(), &candidate.to_lowercase()) <= 2;
    allowed.iter().filter(near).min_by_key(|candidate| distance(name, candidate)).copied()
}

/// Levenshtein distance, one row at a time.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}
