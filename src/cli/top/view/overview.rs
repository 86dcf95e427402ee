//! Draws the overview: what is wrong, the traffic, the listeners, the pools with their backends.
//!
//! In:  the status, rates, histories; the area.
//! Out: parts that share the height: problems first, the pools get what is left.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table, TableState};

use super::wrapped::wrapped;
use super::{BAD, FAINT, GOOD, SELECTED, STRONG, WARN, cell, state_style};
use crate::cli::figures::{age, bit_rate, bytes, rate};
use crate::cli::printable::printable;
use crate::cli::reported::{Backend, Listener, Pool, Severity, Status, Trouble};
use crate::cli::status::{most_frequent, quantiles, used};
use crate::cli::top::model::{Model, Traffic};

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, status: &Status) {
    let problems = problems(status, area);
    let listeners = rows(status.listeners.len().min(usize::from(area.height / 6))) + 1;
    let [wrong, traffic, resources, listening, _, pools] = Layout::vertical([
        Constraint::Length(rows(problems.len())),
        Constraint::Length(if area.height >= 40 { 6 } else { 3 }),
        Constraint::Length(1),
        Constraint::Length(listeners),
        Constraint::Length(u16::from(area.height >= 30)),
        Constraint::Min(0),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(problems), wrong);
    draw_traffic(frame, traffic, &model.traffic);
    frame.render_widget(Paragraph::new(self::resources(status)), resources);
    frame.render_widget(listeners_table(&status.listeners), listening);
    let left_off = status.left_off();
    let [pools, foot] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(u16::from(left_off.is_some()))]).areas(pools);
    let mut state = TableState::default().with_selected(model.selected);
    frame.render_stateful_widget(pools_table(model, status, pools.width), pools, &mut state);
    frame.render_widget(Line::styled(left_off.unwrap_or_default(), FAINT), foot);
}

/// The problems, with their cures where there is room; at most a third of the area.
fn problems(status: &Status, area: Rect) -> Vec<Line<'static>> {
    if status.problems.is_empty() {
        return vec![Line::styled("Nothing is wrong.", GOOD)];
    }
    let most = usize::from(area.height / 3).max(2);
    let lines_of = |with_cures| -> Vec<Vec<Line<'static>>> {
        status.problems.iter().map(|problem| of_problem(problem, area.width, with_cures)).collect()
    };
    let fits = |problems: &[Vec<Line<'_>>]| problems.iter().map(Vec::len).sum::<usize>() <= most;
    let problems = Some(lines_of(true)).filter(|lines| fits(lines)).unwrap_or_else(|| lines_of(false));
    let room = if fits(&problems) && status.problems_left_off == 0 { most } else { most - 1 };
    let (mut lines, mut more) = (Vec::new(), problems.len() + status.problems_left_off);
    for mut problem in problems {
        // The first is shown as far as it fits.
        problem.truncate(if lines.is_empty() { room } else { problem.len() });
        if lines.len() + problem.len() > room {
            break;
        }
        lines.append(&mut problem);
        more -= 1;
    }
    if more > 0 {
        lines.push(Line::styled(format!("          and {more} more: snigate status"), FAINT));
    }
    lines
}

fn of_problem(problem: &Trouble, width: u16, with_cure: bool) -> Vec<Line<'static>> {
    let style = match problem.severity {
        Severity::Critical => BAD,
        Severity::Warning => WARN,
        Severity::Notice => FAINT,
    };
    let broken = |text: &str| wrapped(&printable(text), width.saturating_sub(10));
    let message = broken(&problem.message).into_iter().enumerate().map(|(at, line)| {
        let word = if at == 0 { problem.severity.as_str() } else { "" };
        Line::from(vec![Span::styled(format!("{word:8}  "), style), Span::raw(line)])
    });
    let cure = broken(&problem.cure).into_iter().filter(|_| with_cure);
    message.chain(cure.map(|line| Line::styled(format!("          {line}"), FAINT))).collect()
}

fn draw_traffic(frame: &mut Frame<'_>, area: Rect, traffic: &Traffic) {
    let areas: [Rect; 3] = Layout::horizontal([Constraint::Fill(1); 3]).spacing(2).areas(area);
    let shown = |of: &VecDeque<u64>, unit: fn(u64) -> String| of.back().map(|now| unit(*now)).unwrap_or_default();
    let parts = [
        ("new connections", &traffic.connections, shown(&traffic.connections, |value| format!("{value}/s"))),
        ("to clients", &traffic.to_clients, shown(&traffic.to_clients, bit_rate)),
        ("to backends", &traffic.to_backends, shown(&traffic.to_backends, bit_rate)),
    ];
    for (area, (what, values, now)) in areas.into_iter().zip(parts) {
        let [label, bars] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        frame
            .render_widget(Line::from(vec![Span::styled(format!("{what} "), FAINT), Span::styled(now, STRONG)]), label);
        // The newest is at the right.
        let data: Vec<u64> = values.iter().rev().take(bars.width.into()).rev().copied().collect();
        let width = rows(data.len()).min(bars.width);
        let at_the_right = Rect { x: bars.x + bars.width - width, width, ..bars };
        frame.render_widget(Sparkline::default().data(data).style(GOOD), at_the_right);
    }
}

fn resources(status: &Status) -> Line<'static> {
    let resources = &status.resources;
    let plain = |count: u64| count.to_string();
    let parts = [
        used("connections", resources.connections, plain),
        used("descriptors", resources.descriptors, plain),
        used("memory", resources.memory_of_limit(), bytes),
        resources.workers.map(|workers| format!("{workers} workers")),
    ];
    Line::styled(parts.into_iter().flatten().collect::<Vec<_>>().join(", "), FAINT)
}

fn listeners_table(listeners: &[Listener]) -> Table<'static> {
    let row = |listener: &Listener| {
        let (refused, style) = match listener.accept_paused_since {
            Some(_) => ("accepting is paused".to_owned(), BAD),
            None => (most_frequent(&listener.refused), Style::new()),
        };
        Row::new([
            Cell::new(cell(&listener.name)),
            Cell::new(cell(&listener.shown_addresses())),
            number(listener.active.to_string()),
            number(listener.per_second.map(rate).unwrap_or_default()),
            Cell::new(Span::styled(printable(&refused).into_owned(), style)),
            Cell::new(cell(&most_frequent(&listener.failed))),
        ])
    };
    let widths = [
        Constraint::Length(14),
        Constraint::Length(24),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ];
    let head = ["LISTENER", "ADDRESS", "OPEN", "NEW", "REFUSED", "FAILED"];
    Table::new(listeners.iter().map(row), widths).header(header(head, &[2, 3]))
}

/// The columns of the pools, most important first, with the width of the screen from which they are shown.
const COLUMNS: [(&str, Constraint, u16); 11] = [
    ("POOL", Constraint::Fill(2), 0),
    ("STATE", Constraint::Length(11), 0),
    ("SINCE", Constraint::Length(11), 0),
    ("OPEN", Constraint::Length(6), 0),
    ("NEW", Constraint::Length(8), 0),
    ("CONNECT 50/99%", Constraint::Length(16), 100),
    ("FIRST BYTE 50/99%", Constraint::Length(18), 200),
    ("WEIGHT", Constraint::Length(10), 110),
    ("CERTIFICATE", Constraint::Length(12), 120),
    ("15 MINUTES", Constraint::Length(45), 180),
    ("WHY", Constraint::Fill(3), 0),
];
const NUMBERS: [usize; 7] = [2, 3, 4, 5, 6, 7, 8];

fn pools_table(model: &Model, status: &Status, width: u16) -> Table<'static> {
    let shown = |least: u16| width >= least;
    let visible = |cells: [Cell<'static>; 11]| {
        let cells = cells.into_iter().zip(COLUMNS).filter(move |(_, (_, _, least))| shown(*least));
        Row::new(cells.map(|(cell, _)| cell).collect::<Vec<_>>())
    };
    let all = status.pools.iter().flat_map(|pool| {
        let backends = pool.backends.iter().map(move |backend| backend_cells(model, status, pool, backend));
        std::iter::once(pool_cells(status, pool)).chain(backends)
    });
    let heads = std::array::from_fn(|at| heading(COLUMNS[at].0, NUMBERS.contains(&at)));
    let mut widths: Vec<Constraint> =
        COLUMNS.iter().filter(|(_, _, least)| shown(*least)).map(|(_, constraint, _)| *constraint).collect();
    if width < 110 {
        // An address is shown whole; why it fails stands among the problems, too.
        widths[0] = Constraint::Length(21);
    }
    Table::new(all.map(visible), widths).header(visible(heads)).row_highlight_style(SELECTED)
}

fn pool_cells(status: &Status, pool: &Pool) -> [Cell<'static>; 11] {
    let state = pool.state.as_deref().unwrap_or_default();
    let queue = pool.queue.filter(|queue| queue.waiting > 0);
    let queue = queue.map(|queue| format!("{} of {} wait in the queue", queue.waiting, queue.size));
    let why = pool.why.as_deref().filter(|_| state != "up");
    let why: Vec<&str> = queue.as_deref().into_iter().chain(why).collect();
    [
        Cell::new(Span::styled(printable(&pool.name).into_owned(), STRONG)),
        Cell::new(Span::styled(printable(&state.replace('_', " ")).into_owned(), state_style(state))),
        number(status.ago(pool.since.as_deref()).map(age).unwrap_or_default()),
        number(pool.active.unwrap_or_default().to_string()),
        number(pool.per_second.map(rate).unwrap_or_default()),
        number(quantiles(pool.connect_ms)),
        number(quantiles(pool.first_byte_ms)),
        Cell::default(),
        Cell::default(),
        Cell::default(),
        Cell::new(cell(&why.join("; "))),
    ]
}

fn backend_cells(model: &Model, status: &Status, pool: &Pool, backend: &Backend) -> [Cell<'static>; 11] {
    let state = &*backend.state;
    let name = if backend.name.is_empty() { &backend.address } else { &backend.name };
    let expires = backend.certificate.as_ref().and_then(|certificate| status.until(certificate.expires.as_deref()));
    let expires = expires.map(|left| if left.is_zero() { "expired".to_owned() } else { age(left) });
    let weight = format!("{}{}", backend.weight, if backend.backup { " backup" } else { "" });
    let history = model.history.get(&(pool.name.clone(), backend.name.clone()));
    let why = backend.trouble().filter(|_| !matches!(state, "up" | "unchecked"));
    [
        Cell::new(cell(&format!("  {name}"))),
        Cell::new(Span::styled(printable(state).into_owned(), state_style(state))),
        number(status.ago(backend.since.as_deref()).map(age).unwrap_or_default()),
        number(backend.active.to_string()),
        number(backend.per_second.map(rate).unwrap_or_default()),
        number(quantiles(backend.connect_ms)),
        number(quantiles(backend.first_byte_ms)),
        number(weight),
        number(expires.unwrap_or_default()),
        Cell::new(Span::styled(history.map(|values| bars(values)).unwrap_or_default(), GOOD)),
        Cell::new(cell(why.unwrap_or_default())),
    ]
}

/// The newest 45 values as one line of bars; nothing happened where there is a space.
fn bars(values: &[u64]) -> String {
    let newest = &values[values.len().saturating_sub(45)..];
    let most = newest.iter().copied().max().unwrap_or_default().max(1);
    let bar = |value: &u64| match value * 8 / most {
        0 if *value == 0 => ' ',
        level => ['▁', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][usize::try_from(level).unwrap_or(8).min(8)],
    };
    newest.iter().map(bar).collect()
}

fn header<const N: usize>(heads: [&'static str; N], numbers: &[usize]) -> Row<'static> {
    Row::new(heads.into_iter().enumerate().map(|(at, head)| heading(head, numbers.contains(&at))).collect::<Vec<_>>())
}

fn heading(head: &'static str, is_number: bool) -> Cell<'static> {
    let alignment = if is_number { Alignment::Right } else { Alignment::Left };
    Cell::new(Text::styled(head, FAINT).alignment(alignment))
}

fn number(text: String) -> Cell<'static> {
    Cell::new(Text::from(text).alignment(Alignment::Right))
}

fn rows(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
