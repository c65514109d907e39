//! Tables for people, JSON and YAML for programs: the same document in both.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    Table,
    /// One JSON document.
    Json,
    /// The same document as YAML.
    Yaml,
}

impl Format {
    /// Whether a document is wanted, and not what people read.
    pub(crate) fn is_document(self) -> bool {
        self != Self::Table
    }
}

/// Rows with a header.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // An empty cell would make columns hard to tell apart.
        let cell = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// Columns as wide as their widest cell, the last one ragged.
    pub(crate) fn render(&self) -> String {
        let header = self.header.iter().map(|cell| (*cell).to_owned()).collect();
        let rows: Vec<&Vec<String>> = std::iter::once(&header).chain(&self.rows).collect();
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let line = |row: &&Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
        };
        rows.iter().map(line).collect()
    }
}

/// Prints a table, or the same content as a document.
pub(crate) fn print(format: Format, table: &Table, value: &impl Serialize) -> Result<()> {
    match format {
        Format::Table => text(&table.render()),
        Format::Json | Format::Yaml => document(format, value),
    }
}

/// Prints a document: YAML where that is asked for, else JSON.
pub(crate) fn document(format: Format, value: &impl Serialize) -> Result<()> {
    text(&written(format, value)?)
}

fn written(format: Format, value: &impl Serialize) -> Result<String> {
    // By way of a value, so that both have the same names and no type's own way of writing YAML.
    let value = serde_json::to_value(value)?;
    let mut text = match format {
        Format::Yaml => serde_saphyr::to_string(&value)?,
        Format::Table | Format::Json => serde_json::to_string_pretty(&value)?,
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Prints text as it is. A reader that went away (`| head`) is no failure.
pub(crate) fn text(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// Prints bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Progress, for whoever waits: standard error.
pub(crate) fn note(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // Nobody reads: nobody misses it.
    let _ = writeln!(stderr, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_documents_say_the_same() {
        let value = serde_json::json!({"rows": [{"name": "east", "live": true, "age": null, "on": "yes"}]});
        let yaml = written(Format::Yaml, &value).unwrap();
        assert!(yaml.contains("name: east\n"), "{yaml}");
        let back: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        let json: serde_json::Value = serde_json::from_str(&written(Format::Json, &value).unwrap()).unwrap();
        assert_eq!((&back, &json), (&value, &value));
    }

    #[test]
    fn columns_are_aligned_and_empty_cells_are_marked() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["east".into(), "live".into()]);
        table.row(["a-longer-name".into(), String::new()]);
        assert_eq!(table.render(), "NAME           STATE\neast           live\na-longer-name  -\n");
    }
}
