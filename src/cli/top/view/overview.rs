//! Draws the overview: what is wrong, the traffic, the listeners, the pools with their backends.
//!
//! In:  the status, rates, histories; the area.
//! Out: parts that share the height: problems first, the pools get what is left.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};

use super::{BAD, FAINT, GOOD, STRONG, WARN, cell, state_style};
use crate::cli::figures::{age, bit_rate, bytes, rate};
use crate::cli::printable::printable;
use crate::cli::reported::{Backend, Listener, Pool, Severity, Status};
use crate::cli::status::{quantiles, refused, used};
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
    frame.render_widget(pools_table(model, status, pools.width), pools);
}

/// One line for each problem, or two where there is room; at most a third of the area.
fn problems(status: &Status, area: Rect) -> Vec<Line<'static>> {
    if status.problems.is_empty() {
        return vec![Line::styled("Nothing is wrong.", GOOD)];
    }
    let most = usize::from(area.height / 3).max(2);
    let with_cure = status.problems.len() * 2 <= most;
    let mut lines = Vec::new();
    for problem in &status.problems {
        let style = match problem.severity {
            Severity::Critical => BAD,
            Severity::Warning => WARN,
            Severity::Notice => FAINT,
        };
        let word = Span::styled(format!("{:8}  ", problem.severity.as_str()), style);
        lines.push(Line::from(vec![word, cell(&problem.message)]));
        if with_cure && !problem.cure.is_empty() {
            lines.push(Line::styled(format!("          {}", printable(&problem.cure)), FAINT));
        }
    }
    let more = lines.len().saturating_sub(most) + status.problems_left_off;
    if more > 0 {
        lines.truncate(most - 1);
        lines.push(Line::styled(
            format!("          and {} more: snigate status", more + usize::from(lines.len() < most)),
            FAINT,
        ));
    }
    lines
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
        resources.resident_bytes.map(|resident| format!("memory {}", bytes(resident))),
        resources.workers.map(|workers| format!("{workers} workers")),
    ];
    Line::styled(parts.into_iter().flatten().collect::<Vec<_>>().join(", "), FAINT)
}

fn listeners_table(listeners: &[Listener]) -> Table<'static> {
    let row = |listener: &Listener| {
        let (refused, style) = match listener.accept_paused_since {
            Some(_) => ("accepting is paused".to_owned(), BAD),
            None => (refused(listener), Style::new()),
        };
        Row::new([
            Cell::new(cell(&listener.name)),
            Cell::new(cell(&listener.bind.join(", "))),
            number(listener.active.to_string()),
            number(listener.per_second.map(rate).unwrap_or_default()),
            Cell::new(Span::styled(printable(&refused).into_owned(), style)),
        ])
    };
    let widths = [
        Constraint::Length(14),
        Constraint::Length(24),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    let head = ["LISTENER", "ADDRESS", "OPEN", "NEW", "REFUSED"];
    Table::new(listeners.iter().map(row), widths).header(header(head, &[2, 3]))
}

/// The columns of the pools, most important first, with the width of the screen from which they are shown.
const COLUMNS: [(&str, Constraint, u16); 10] = [
    ("POOL", Constraint::Fill(2), 0),
    ("STATE", Constraint::Length(11), 0),
    ("SINCE", Constraint::Length(11), 0),
    ("OPEN", Constraint::Length(6), 0),
    ("NEW", Constraint::Length(8), 0),
    ("CONNECT 50/99%", Constraint::Length(16), 100),
    ("WEIGHT", Constraint::Length(10), 110),
    ("CERTIFICATE", Constraint::Length(12), 120),
    ("15 MINUTES", Constraint::Length(45), 180),
    ("WHY", Constraint::Fill(3), 0),
];
const NUMBERS: [usize; 6] = [2, 3, 4, 5, 6, 7];

fn pools_table(model: &Model, status: &Status, width: u16) -> Table<'static> {
    let shown = |least: u16| width >= least;
    let visible = |cells: [Cell<'static>; 10]| {
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
    Table::new(all.skip(model.scroll).map(visible), widths).header(visible(heads))
}

fn pool_cells(status: &Status, pool: &Pool) -> [Cell<'static>; 10] {
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
        Cell::default(),
        Cell::default(),
        Cell::default(),
        Cell::new(cell(&why.join("; "))),
    ]
}

fn backend_cells(model: &Model, status: &Status, pool: &Pool, backend: &Backend) -> [Cell<'static>; 10] {
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
