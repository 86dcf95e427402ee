//! Prints rows in aligned columns.
//!
//! In:  a header and rows of cells, each with its style.
//! Out: lines whose columns are as wide as their widest cell, two spaces apart; without trailing spaces.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

use super::printable::printable;

pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

struct Column {
    head: &'static str,
    align: Align,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    /// For numbers.
    Right,
}

/// A value of a table.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Text that may come from outside.
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self { text: printable(text.as_ref()).into_owned(), style: Style::new() }
    }

    pub(super) fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        let columns = columns.iter().map(|&(head, align)| Column { head, align }).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row with one cell for each column.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the header and the rows, each line after `indent`.
    ///
    /// # Errors
    /// Fails if `out` cannot be written.
    pub(super) fn write(&self, indent: &str, out: &mut dyn Write) -> io::Result<()> {
        let head: Vec<Cell> = self.columns.iter().map(|column| Cell::new(column.head).styled(FAINT)).collect();
        let lines = || std::iter::once(&head).chain(&self.rows);
        let widest = |at: usize| lines().filter_map(|cells| cells.get(at)).map(|cell| cell.text.width()).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| widest(at).unwrap_or_default()).collect();
        for cells in lines() {
            out.write_all(indent.as_bytes())?;
            let last = cells.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or_default();
            for (at, (Cell { text, style }, column)) in cells.iter().zip(&self.columns).enumerate().take(last + 1) {
                let padding = " ".repeat(widths[at].saturating_sub(text.width()));
                let (before, after) = match column.align {
                    Align::Left if at == last => ("", ""),
                    Align::Left => ("", &*padding),
                    Align::Right => (&*padding, ""),
                };
                let gap = if at == last { "" } else { "  " };
                write!(out, "{before}{style}{text}{style:#}{after}{gap}")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

// Colours mean the same in every command: the terminal's own shades of them, so that they suit its background.

pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(super) const FAINT: Style = Style::new().dimmed();
pub(super) const STRONG: Style = Style::new().bold();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("NAME", Align::Left), ("OPEN", Align::Right), ("WHY", Align::Left)]);
        table.row([Cell::new("größe"), Cell::new("7"), Cell::new("")]);
        table.row([Cell::new("b"), Cell::new("12345").styled(BAD), Cell::new("a\u{1b}[2Jb")]);
        let mut out = anstream::StripStream::new(Vec::new());
        table.write("  ", &mut out).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        assert_eq!(text, "  NAME    OPEN  WHY\n  größe      7\n  b      12345  a\\u{1b}[2Jb\n");
    }
}
