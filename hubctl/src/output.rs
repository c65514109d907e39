//! Tables for people, JSON for programs.

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

/// Prints a table or the same content as JSON.
pub(crate) fn print(format: Format, table: &Table, value: &impl Serialize) -> Result<()> {
    match format {
        Format::Table => text(&table.render()),
        Format::Json => json(value),
    }
}

/// Prints JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    text(&format!("{}\n", serde_json::to_string_pretty(value)?))
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
    fn columns_are_aligned_and_empty_cells_are_marked() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["east".into(), "live".into()]);
        table.row(["a-longer-name".into(), String::new()]);
        assert_eq!(table.render(), "NAME           STATE\neast           live\na-longer-name  -\n");
    }
}
