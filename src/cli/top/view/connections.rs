//! Draws the list of connections.
//!
//! In:  a page of connections, the search and the order.
//! Out: a table that fills the area.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Row, Table, TableState};

use super::{BAD, FAINT, SELECTED, cell};
use crate::cli::figures::{age, bytes, counted};
use crate::cli::printable::printable;
use crate::cli::reported::Connection;
use crate::cli::top::model::List;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, list: &List) {
    let [summary, table] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let line = match &list.failed {
        Some(why) => Line::styled(format!("no list: {}", printable(why)), BAD),
        None => Line::styled(self::summary(list), FAINT),
    };
    frame.render_widget(line, summary);
    let shown = |column: &Column| area.width >= column.least;
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| shown(column)).collect();
    let head = Row::new(columns.iter().map(|column| Cell::new(aligned(Text::styled(column.head, FAINT), column))));
    let rows = list.rows.iter().map(|connection| {
        Row::new(columns.iter().map(|column| {
            let text = (column.value)(connection);
            Cell::new(aligned(Text::from(cell(&text)), column))
        }))
    });
    let rows = Table::new(rows, columns.iter().map(|column| column.width)).header(head).row_highlight_style(SELECTED);
    let mut state = TableState::default().with_selected(list.selected.checked_sub(list.before));
    frame.render_stateful_widget(rows, table, &mut state);
}

fn summary(list: &List) -> String {
    let selected = match list.matching {
        0 => String::new(),
        _ => format!(", number {} selected", list.selected + 1),
    };
    let search = match &*list.search {
        "" => String::new(),
        text => format!(" with \"{}\"", printable(text)),
    };
    format!("{}{search}{selected}, sorted by {}", counted(list.matching, "connection"), list.sort.as_str())
}

struct Column {
    head: &'static str,
    width: Constraint,
    alignment: Alignment,
    /// The width of the screen from which it is shown.
    least: u16,
    value: fn(&Connection) -> String,
}

fn aligned(text: Text<'static>, column: &Column) -> Text<'static> {
    text.alignment(column.alignment)
}

fn given(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

const fn column(
    head: &'static str,
    width: Constraint,
    alignment: Alignment,
    least: u16,
    value: fn(&Connection) -> String,
) -> Column {
    Column { head, width, alignment, least, value }
}

const COLUMNS: [Column; 10] = [
    column("ID", Constraint::Length(8), Alignment::Left, 100, |of| of.id.trim_start_matches('0').to_owned()),
    column("AGE", Constraint::Length(11), Alignment::Right, 0, |of| age(Duration::from_millis(of.age_ms))),
    column("STATE", Constraint::Length(10), Alignment::Left, 110, |of| of.state.clone()),
    column("CLIENT", Constraint::Length(21), Alignment::Left, 0, |of| of.client.clone()),
    column("NAME", Constraint::Fill(2), Alignment::Left, 0, |of| given(of.sni.as_ref())),
    column("LISTENER", Constraint::Length(12), Alignment::Left, 160, |of| of.listener.clone()),
    column("ROUTE", Constraint::Fill(1), Alignment::Left, 140, |of| given(of.route.as_ref())),
    column("BACKEND", Constraint::Fill(2), Alignment::Left, 0, |of| given(of.backend.as_ref())),
    column("TO BACKEND", Constraint::Length(10), Alignment::Right, 100, |of| bytes(of.bytes_to_backend)),
    column("TO CLIENT", Constraint::Length(9), Alignment::Right, 0, |of| bytes(of.bytes_to_client)),
];
